//! Reads JSON strictly: one set of rules for every text that enters the host, whether it comes over
//! HTTP, from the broker or from a stage. Pure.
//!
//! Beyond RFC 8259, a key may occur only once in an object: programs disagree about which of two
//! values counts. Numbers keep every digit (feature `exact-numbers`).
//!
//! Bounds: [`VALUES_MAX`] values in a text, counted before any of them is built, and the nesting
//! depth of `serde_json`, 128.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt::{self, Formatter};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Number, Value};

use crate::domain::steps::count_json_read;

/// Most values in one text: numbers, strings, literals, lists and objects together.
pub const VALUES_MAX: usize = 100_000;
/// About what a parsed value needs in memory, beside the bytes of its text.
pub const VALUE_BYTES: usize = 64;

/// About what a parsed value and all within it need in memory.
pub fn memory_bytes(value: &Value) -> u64 {
    let within: u64 = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(memory_bytes).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| key.len() as u64 + memory_bytes(value)).sum()
        }
    };
    VALUE_BYTES as u64 + within
}

/// Parses a text that passes [`check`].
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    let text = check(bytes)?;
    count_json_read();
    serde_json::from_str(text)
}

/// Returns the text if it is valid JSON without repeated keys and within the bounds. Builds nothing.
pub fn check(bytes: &[u8]) -> Result<&str, Error> {
    count_json_read();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    reader.deserialize_any(&Checker::default())?;
    reader.end()?;
    std::str::from_utf8(bytes).map_err(Error::custom)
}

/// Visits every value, and keeps only how many there were.
#[derive(Default)]
struct Checker {
    values: Cell<usize>,
}

impl Checker {
    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() <= VALUES_MAX {
            return Ok(());
        }
        Err(E::custom(format_args!("more than {VALUES_MAX} values")))
    }
}

impl<'de> DeserializeSeed<'de> for &Checker {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Checker {
    type Value = ();

    fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.count()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.count()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.count()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.count()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.count()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.count()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.count()?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    // With exact numbers, serde_json presents a number as a map with one key: it passes, too.
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        self.count()?;
        let mut seen = Keys::default();
        while let Some(key) = fields.next_key_seed(Key)? {
            if let Some(key) = seen.add(key) {
                return Err(A::Error::custom(format_args!("the key `{key}` occurs twice")));
            }
            fields.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// The keys of an object. Most objects have few, for which nothing is allocated or hashed.
#[derive(Default)]
struct Keys<'de> {
    few: [Cow<'de, str>; 8],
    len: usize,
    more: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Adds a key, or returns it if it was there.
    fn add(&mut self, key: Cow<'de, str>) -> Option<Cow<'de, str>> {
        if self.few[..self.len].contains(&key) {
            return Some(key);
        }
        if let Some(free) = self.few.get_mut(self.len) {
            *free = key;
            self.len += 1;
            return None;
        }
        self.more.replace(key)
    }
}

/// A key, borrowed from the text where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// A number as its significant digits and a power of ten, exact and the same for every notation:
/// `20`, `20.0` and `2e1` are all `2` × 10¹.
#[derive(Debug, PartialEq, Eq)]
pub struct Decimal {
    is_negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    exponent: i64,
}

impl From<&Number> for Decimal {
    fn from(number: &Number) -> Self {
        let text = number.to_string();
        let (is_negative, text) =
            text.strip_prefix('-').map_or((false, text.as_str()), |rest| (true, rest));
        let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0').trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        let zeros = all.len() - all.trim_end_matches('0').len();
        // A power beyond 64 bits is as good as infinite.
        let limit = if power.starts_with('-') { i64::MIN } else { i64::MAX };
        let power: i64 = power.parse().unwrap_or(limit);
        let exponent = power.saturating_sub_unsigned(fraction.len() as u64);
        Self { is_negative, digits, exponent: exponent.saturating_add_unsigned(zeros as u64) }
    }
}

impl Decimal {
    /// The number, if it is a whole number of at least 0 that fits.
    pub fn whole(&self) -> Option<u64> {
        let zeros = usize::try_from(self.exponent).ok().filter(|zeros| *zeros < 20)?;
        match (self.is_negative, self.digits.as_str()) {
            (_, "") => Some(0),
            (true, _) => None,
            (false, digits) => format!("{digits}{:0<zeros$}", "").parse().ok(),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let (sign, digits) = (if self.is_negative { "-" } else { "" }, &self.digits);
        write!(formatter, "{sign}{digits}e{}", self.exponent)
    }
}

/// A whole number of at least 0, also where it is written with a point: `2.0` is 2 (JSON Schema,
/// "integer").
pub fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| Decimal::from(value.as_number()?).whole())
}

/// The text that is the same for every notation of the same value: keys in order, no white space,
/// numbers as [`Decimal`]. It is for comparing, not for reading.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Number(number) => text.push_str(&Decimal::from(number).to_string()),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in fields {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests;
