//! Memory-mapped BPF arrays. In: the descriptor of a `BPF_F_MMAPABLE` array. Out: reads and writes of its
//! cells as single aligned `u64`, without system calls and without any power that bpf() would ask for.
#![expect(unsafe_code, reason = "maps kernel memory that the kernel goes on writing")]

use std::{
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped array of `u64` cells.
#[derive(Debug)]
pub struct MappedArray {
    start: NonNull<AtomicU64>,
    cells: usize,
    bytes: usize,
}

// SAFETY: the mapping is shared memory that is only accessed through atomics, and it lives as long as the value.
unsafe impl Send for MappedArray {}
// SAFETY: as above; every access is an atomic load or store.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps `elements` elements of `T`, whose size must be a multiple of 8 bytes (the kernel's own stride).
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn new<T>(fd: impl AsFd, elements: usize, page_size: usize) -> nix::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let used = size_of::<T>() * elements;
        let bytes = used.next_multiple_of(page_size.max(1));
        let length = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh shared mapping of a descriptor we were given; the kernel checks its length.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { start: start.cast(), cells: used / 8, bytes })
    }

    /// The cell at an index, counted in `u64`; `None` outside the array.
    fn cell(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: inside the mapping, page-aligned start, so aligned for u64; lives as long as `self`.
        (index < self.cells).then(|| unsafe { self.start.add(index).as_ref() })
    }

    /// Reads a cell; 0 outside the array.
    pub fn get(&self, index: usize) -> u64 {
        self.cell(index).map_or(0, |c| c.load(Ordering::Relaxed))
    }

    /// Writes a cell; nothing outside the array.
    pub fn set(&self, index: usize, value: u64) {
        if let Some(cell) = self.cell(index) {
            cell.store(value, Ordering::Release);
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used after this.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}
