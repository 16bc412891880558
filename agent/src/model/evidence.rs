//! Evidence: the facts a verdict rests on, as a short list of names and values of fixed size, so that a
//! signal can be made without allocation.

use faultline_common::event::COMM_LEN;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::entity::comm_text;

/// Most facts one verdict carries.
pub const MAX: usize = 10;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number; the unit is in the fact's name.
    Number(u64),
    /// A yes or no.
    Flag(bool),
    /// A word of the program.
    Word(&'static str),
    /// A task's name.
    Comm([u8; COMM_LEN]),
}

/// A list of up to [`MAX`] named values; further ones are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    facts: [(&'static str, Value); MAX],
    len: usize,
}

impl Evidence {
    /// No facts yet.
    pub const EMPTY: Self = Self { facts: [("", Value::Number(0)); MAX], len: 0 };

    /// Adds a fact, or replaces the value of one with the same name.
    pub fn set(&mut self, name: &'static str, value: Value) {
        if let Some(fact) = self.facts[..self.len].iter_mut().find(|f| f.0 == name) {
            fact.1 = value;
        } else if self.len < MAX {
            self.facts[self.len] = (name, value);
            self.len += 1;
        }
    }

    /// Chained [`Self::set`] of a number.
    #[must_use]
    #[inline]
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.set(name, Value::Number(value));
        self
    }

    /// Chained [`Self::set`] of a flag.
    #[must_use]
    #[inline]
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.set(name, Value::Flag(value));
        self
    }

    /// Chained [`Self::set`] of a word.
    #[must_use]
    #[inline]
    pub fn word(mut self, name: &'static str, value: &'static str) -> Self {
        self.set(name, Value::Word(value));
        self
    }

    /// Chained [`Self::set`] of a task's name.
    #[must_use]
    #[inline]
    pub fn comm(mut self, name: &'static str, value: [u8; COMM_LEN]) -> Self {
        self.set(name, Value::Comm(value));
        self
    }

    /// The facts in the order they were added.
    pub fn facts(&self) -> &[(&'static str, Value)] {
        &self.facts[..self.len]
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len))?;
        for (name, value) in self.facts() {
            match value {
                Value::Number(n) => map.serialize_entry(name, n)?,
                Value::Flag(b) => map.serialize_entry(name, b)?,
                Value::Word(w) => map.serialize_entry(name, w)?,
                Value::Comm(c) => map.serialize_entry(name, &comm_text(c))?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_replaces_and_never_overflows() {
        let mut e = Evidence::EMPTY.number("a", 1).flag("b", true);
        e.set("a", Value::Number(2));
        for name in ["c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
            e.set(name, Value::Number(0));
        }
        assert_eq!(e.facts().len(), MAX);
        assert_eq!(e.facts()[0], ("a", Value::Number(2)));
        assert!(serde_json::to_string(&e).is_ok_and(|s| s.starts_with(r#"{"a":2,"b":true,"c":0"#)));
    }
}
