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

/// Evidence as it is, for the engine's snapshot: unlike the printed form, it can be read back.
pub mod exact {
    use std::{
        collections::BTreeSet,
        sync::{Mutex, PoisonError},
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeSeq};

    use super::{COMM_LEN, Evidence, Value};

    #[derive(Serialize, Deserialize)]
    enum Exact<'a> {
        Number(u64),
        Flag(bool),
        Word(&'a str),
        Comm([u8; COMM_LEN]),
    }

    /// As a sequence of names and values.
    ///
    /// # Errors
    /// The serialiser's.
    pub fn serialize<S: Serializer>(evidence: &Evidence, serializer: S) -> Result<S::Ok, S::Error> {
        let mut facts = serializer.serialize_seq(Some(evidence.len))?;
        for (name, value) in evidence.facts() {
            let value = match value {
                Value::Number(n) => Exact::Number(*n),
                Value::Flag(b) => Exact::Flag(*b),
                Value::Word(w) => Exact::Word(w),
                Value::Comm(c) => Exact::Comm(*c),
            };
            facts.serialize_element(&(name, value))?;
        }
        facts.end()
    }

    /// From [`serialize`]'s sequence.
    ///
    /// # Errors
    /// The deserialiser's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Evidence, D::Error> {
        let mut evidence = Evidence::EMPTY;
        for (name, value) in Vec::<(&str, Exact<'_>)>::deserialize(deserializer)? {
            let value = match value {
                Exact::Number(n) => Value::Number(n),
                Exact::Flag(b) => Value::Flag(b),
                Exact::Word(w) => Value::Word(word(w)),
                Exact::Comm(c) => Value::Comm(c),
            };
            evidence.set(word(name), value);
        }
        Ok(evidence)
    }

    /// Words of a snapshot that are kept for ever; only a replay reads snapshots, and a forged one must not fill
    /// the memory.
    const WORDS: usize = 1024;

    /// The word as one that lives as long as the program.
    fn word(text: &str) -> &'static str {
        static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(text) {
            Some(word) => word,
            None if known.len() >= WORDS => "unknown",
            None => {
                let word: &'static str = Box::leak(text.into());
                known.insert(word);
                word
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_form_comes_back() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Kept(#[serde(with = "exact")] Evidence);
        let evidence = Evidence::EMPTY.number("a", 1).flag("b", true).word("by", "burst").comm("c", [255; COMM_LEN]);
        let bytes = postcard::to_stdvec(&Kept(evidence)).expect("plain values serialise");
        let Kept(read) = postcard::from_bytes(&bytes).expect("what was written");
        assert_eq!(read, evidence);
    }

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
