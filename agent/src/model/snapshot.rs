//! Snapshot: the engine's state, part by part, to bytes and back. What is saved in one order is loaded in the
//! same; no part is told apart by name, so a snapshot is good for the build that made it and says so.
//!
//! Saving allocates nothing: the reactor does it between two inputs.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Number of the layout; goes up whenever a part is added, changed or moved.
const LAYOUT: u32 = 3 | (crate::kernel_log::rules::count() as u32) << 16;

/// Why a snapshot cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Another build made it.
    #[error(
        "the engine snapshot has layout {found}, this build reads {LAYOUT}; replay it with the version that made it"
    )]
    Layout {
        /// Its layout.
        found: u32,
    },
    /// A part does not decode.
    #[error("the engine snapshot is damaged: {0}")]
    Damaged(postcard::Error),
}

/// Takes parts in and fills a buffer.
#[derive(Debug)]
pub struct Saver<'a> {
    buffer: &'a mut [u8],
    used: usize,
    full: bool,
}

impl<'a> Saver<'a> {
    /// Starts at the front of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        let mut saver = Self { buffer, used: 0, full: false };
        saver.put(&LAYOUT);
        saver
    }

    /// Appends a part.
    pub fn put<T: Serialize>(&mut self, part: &T) {
        match postcard::to_slice(part, &mut self.buffer[self.used..]) {
            Ok(bytes) => self.used += bytes.len(),
            Err(_) => self.full = true,
        }
    }

    /// Bytes used; `None` when the buffer was too small for the whole.
    pub fn finish(self) -> Option<usize> {
        (!self.full).then_some(self.used)
    }
}

/// Hands parts out.
#[derive(Debug)]
pub struct Loader<'a>(&'a [u8]);

impl<'a> Loader<'a> {
    /// Starts at the front of a snapshot.
    ///
    /// # Errors
    /// It is of another layout, or no snapshot.
    pub fn new(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        let mut loader = Self(bytes);
        match loader.take()? {
            LAYOUT => Ok(loader),
            found => Err(SnapshotError::Layout { found }),
        }
    }

    /// The next part.
    ///
    /// # Errors
    /// The bytes do not hold it.
    pub fn take<T: Deserialize<'a>>(&mut self) -> Result<T, SnapshotError> {
        let (part, rest) = postcard::take_from_bytes(self.0).map_err(SnapshotError::Damaged)?;
        self.0 = rest;
        Ok(part)
    }
}

/// Arrays of any length as sequences, for `#[serde(with)]`; serde itself stops at 32 elements.
pub mod array {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// As a slice.
    ///
    /// # Errors
    /// The serialiser's.
    pub fn serialize<S: Serializer, const N: usize>(array: &[u64; N], serializer: S) -> Result<S::Ok, S::Error> {
        array.as_slice().serialize(serializer)
    }

    /// From a sequence of just that length.
    ///
    /// # Errors
    /// Another length, or the deserialiser's.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u64; N], D::Error> {
        let found = Vec::<u64>::deserialize(deserializer)?;
        found.try_into().map_err(|found: Vec<u64>| D::Error::invalid_length(found.len(), &"the array's length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_in_order() {
        let mut buffer = [0; 64];
        let mut saver = Saver::new(&mut buffer);
        saver.put(&7u64);
        saver.put(&Some(true));
        let used = saver.finish().expect("room for all");
        let mut loader = Loader::new(&buffer[..used]).expect("this layout");
        assert_eq!((loader.take(), loader.take()), (Ok(7u64), Ok(Some(true))));
        assert!(matches!(loader.take::<u64>(), Err(SnapshotError::Damaged(_))), "no more");
    }

    #[test]
    fn a_small_buffer_and_another_layout_are_told() {
        let mut small = [0; 4];
        let mut saver = Saver::new(&mut small);
        saver.put(&[u64::MAX; 4]);
        assert_eq!(saver.finish(), None);
        assert_eq!(Loader::new(&[9]).unwrap_err(), SnapshotError::Layout { found: 9 });
    }
}
