//! The contract of the lines. In: one line of `faultline --json`. Out: its value, or what breaks
//! `schema/lines.json`.
//!
//! Own validator of the part of JSON Schema (2020-12) that the file uses: a hundred lines instead of the forty
//! crates that a complete one brings into every VM. A keyword that it does not know is an error, so the schema
//! cannot quietly grow out of it.

use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// The schema as committed.
pub const TEXT: &str = include_str!("../schema/lines.json");

static SCHEMA: LazyLock<Result<Value, String>> =
    LazyLock::new(|| serde_json::from_str(TEXT).map_err(|e| e.to_string()));

/// Reads a line and holds it against the schema.
///
/// # Errors
/// Not JSON, or not as the schema says; the message names the place in the line.
pub fn check(line: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("not a JSON line: {line}"))?;
    let schema = SCHEMA.as_ref().map_err(|error| anyhow::anyhow!("schema/lines.json: {error}"))?;
    let wrong = Validator { root: schema }.errors(schema, &value, "line");
    if wrong.is_empty() { Ok(value) } else { bail!("breaks schema/lines.json: {}\n  {line}", wrong.join("; ")) }
}

struct Validator<'a> {
    root: &'a Value,
}

impl Validator<'_> {
    fn errors(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let Some(keywords) = schema.as_object() else { return vec![format!("{at}: the schema is not an object")] };
        keywords.iter().flat_map(|(word, rule)| self.keyword(word, rule, keywords, value, at)).collect()
    }

    fn keyword(&self, word: &str, rule: &Value, all: &Map<String, Value>, value: &Value, at: &str) -> Vec<String> {
        let wrong =
            |bad: bool, what: &str| if bad { vec![format!("{at}: {what} {rule}, got {value}")] } else { vec![] };
        match word {
            "$schema" | "$defs" | "title" | "description" => vec![],
            "$ref" => self.reference(rule, value, at),
            "oneOf" => self.one_of(rule, value, at),
            "const" => wrong(rule != value, "expected"),
            "enum" => wrong(rule.as_array().is_none_or(|list| !list.contains(value)), "expected one of"),
            "type" => wrong(!has_type(rule, value), "expected type"),
            "minimum" => wrong(value.as_f64() < rule.as_f64(), "at least"),
            "maximum" => wrong(value.as_f64() > rule.as_f64(), "at most"),
            "minLength" => wrong(
                value.as_str().is_some_and(|s| (s.chars().count() as u64) < rule.as_u64().unwrap_or(0)),
                "length at least",
            ),
            "format" => wrong(rule != "date-time" || !value.as_str().is_some_and(is_utc_time), "expected format"),
            "required" => missing(rule, value, at),
            "properties" => self.properties(rule, value, at),
            "additionalProperties" => self.additional(rule, all.get("properties"), value, at),
            "items" => elements(value).flat_map(|(n, item)| self.errors(rule, item, &format!("{at}[{n}]"))).collect(),
            _ => vec![format!("{at}: the validator does not know the keyword {word}")],
        }
    }

    fn reference(&self, rule: &Value, value: &Value, at: &str) -> Vec<String> {
        let target = rule.as_str().and_then(|text| self.root.pointer(text.strip_prefix('#')?));
        target.map_or_else(|| vec![format!("{at}: the schema has no {rule}")], |schema| self.errors(schema, value, at))
    }

    /// Exactly one branch must fit. The message is that of the branch that came closest: first by what tells branches
    /// apart, then by the number of complaints.
    fn one_of(&self, rule: &Value, value: &Value, at: &str) -> Vec<String> {
        let results: Vec<_> = elements(rule).map(|(_, schema)| self.errors(schema, value, at)).collect();
        match results.iter().filter(|errors| errors.is_empty()).count() {
            1 => vec![],
            0 => results.into_iter().min_by_key(|errors| (is_another(errors, at), errors.len())).unwrap_or_default(),
            several => vec![format!("{at}: {several} branches of oneOf fit")],
        }
    }

    fn properties(&self, rule: &Value, value: &Value, at: &str) -> Vec<String> {
        let (Some(rules), Some(object)) = (rule.as_object(), value.as_object()) else { return vec![] };
        let both = rules.iter().filter_map(|(key, schema)| Some((key, schema, object.get(key)?)));
        both.flat_map(|(key, schema, value)| self.errors(schema, value, &format!("{at}.{key}"))).collect()
    }

    fn additional(&self, rule: &Value, known: Option<&Value>, value: &Value, at: &str) -> Vec<String> {
        let Some(object) = value.as_object() else { return vec![] };
        let unknown = object.iter().filter(|(key, _)| known.is_none_or(|k| k.get(key).is_none()));
        let judge = |(key, value): (&String, &Value)| match rule {
            Value::Bool(true) => vec![],
            Value::Bool(false) => vec![format!("{at}: unknown key {key}")],
            schema => self.errors(schema, value, &format!("{at}.{key}")),
        };
        unknown.flat_map(judge).collect()
    }
}

/// Whether the complaints say that a line is of another type or sensor altogether.
fn is_another(errors: &[String], at: &str) -> bool {
    let (kind, sensor) = (format!("{at}.type: "), format!("{at}.sensor: "));
    errors.iter().any(|error| error.starts_with(&kind) || error.starts_with(&sensor))
}

fn elements(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn missing(rule: &Value, value: &Value, at: &str) -> Vec<String> {
    let Some(object) = value.as_object() else { return vec![] };
    let keys = elements(rule).filter_map(|(_, key)| key.as_str());
    keys.filter(|key| !object.contains_key(*key)).map(|key| format!("{at}: no key {key}")).collect()
}

fn has_type(rule: &Value, value: &Value) -> bool {
    if rule.is_array() {
        return elements(rule).any(|(_, one)| has_type(one, value));
    }
    match rule.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => false,
    }
}

/// `2026-01-31T12:34:56.789Z`, with any number of digits of the second.
fn is_utc_time(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let Some(rest) = text.strip_suffix('Z').filter(|t| t.is_ascii() && t.len() >= SHAPE.len()) else { return false };
    let (head, fraction) = rest.split_at(SHAPE.len());
    let fits = head.bytes().zip(SHAPE).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == *s });
    let digits = |f: &str| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit());
    fits && (fraction.is_empty() || fraction.strip_prefix('.').is_some_and(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: &str = r#"{"type":"loss","time":"2026-01-31T12:34:56.789Z","sensor":null,"count":0,"reason":"limited","from_ns":1,"to_ns":2}"#;

    fn complaint(line: &str) -> String {
        check(line).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_line_as_it_should_be_passes() {
        assert_eq!(complaint(LOSS), "");
    }

    #[test]
    fn every_way_to_drift_is_named() {
        for (from, to, said) in [
            ("\"count\":0,", "", "no key count"),
            ("\"count\":0", "\"count\":-1", "line.count: at least 0"),
            ("\"count\":0", "\"count\":\"0\"", "line.count: expected type"),
            ("\"count\":0", "\"count\":0,\"colour\":1", "unknown key colour"),
            ("limited", "bad_luck", "line.reason: expected one of"),
            ("12:34:56.789Z", "12:34:56.789+01:00", "line.time: expected format"),
            ("\"loss\"", "\"losses\"", "line.type"),
        ] {
            let complaint = complaint(&LOSS.replace(from, to));
            assert!(complaint.contains(said), "{said}: {complaint}");
        }
    }

    #[test]
    fn the_schema_uses_only_known_keywords() {
        fn known(validator: &Validator<'_>, schema: &Value) -> Vec<String> {
            // A value of no type meets every keyword of the schemas that apply to it; the parts are walked here.
            let mut errors = validator.errors(schema, &Value::Null, "");
            for part in ["$defs", "properties"] {
                let inner = schema.get(part).and_then(Value::as_object);
                errors.extend(inner.into_iter().flatten().flat_map(|(_, schema)| known(validator, schema)));
            }
            errors
        }
        let root: Value = serde_json::from_str(TEXT).unwrap();
        let errors = known(&Validator { root: &root }, &root);
        assert!(!errors.iter().any(|e| e.contains("does not know") || e.contains("the schema has no")), "{errors:?}");
    }
}
