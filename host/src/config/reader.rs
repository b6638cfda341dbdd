//! Turns the tree of values into typed sections, and reports what does not fit.
//!
//! An invalid value is reported, taken out, and the section is read again, so that one error hides
//! no other: neither in its section nor in what is validated afterwards.

use std::collections::BTreeMap;

use figment::error::Kind;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::environment::nearest;
use super::features;
use super::sources::merge;
use super::subjects::built_in;
use super::{SECTIONS, StageConfig, SubjectConfig};

/// Reads sections one by one.
pub(super) struct Reader<'a> {
    pub(super) tree: &'a Dict,
    pub(super) problems: Vec<String>,
}

impl Reader<'_> {
    pub(super) fn refuse_unknown_sections(&mut self) {
        let unknown = self.tree.keys().filter(|key| !SECTIONS.contains(&key.as_str()));
        self.problems.extend(unknown.map(|key| unknown_key(key, key, &SECTIONS)));
        let missing = features::SECTIONS
            .iter()
            .filter(|(section, _)| self.tree.contains_key(*section))
            .filter_map(|(section, feature)| feature.problem(section));
        self.problems.extend(missing);
    }

    pub(super) fn value<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        match self.tree.get(key) {
            Some(value) => self.read(key, value.clone()).unwrap_or(default),
            None => default,
        }
    }

    pub(super) fn section<T: DeserializeOwned + Default>(&mut self, key: &str) -> T {
        self.value(key, T::default())
    }

    pub(super) fn stages(&mut self, defaults: &StageConfig) -> BTreeMap<String, StageConfig> {
        let named = match self.tree.get("stages") {
            None => return BTreeMap::new(),
            Some(Value::Dict(_, named)) => named,
            Some(_) => {
                self.problems.push("stages: must be a table: [stages.<name>]".to_owned());
                return BTreeMap::new();
            }
        };
        let below = Value::serialize(defaults).expect("settings are plain values");
        let mut stages = BTreeMap::new();
        for (name, value) in named {
            let place = format!("stages.{name}");
            if !matches!(value, Value::Dict(..)) {
                self.problems.push(format!("{place}: must be a table: [{place}]"));
                continue;
            }
            if let Some(stage) = self.read(&place, merge(below.clone(), value.clone())) {
                stages.insert(name.clone(), stage);
            }
        }
        stages
    }

    pub(super) fn subjects(&mut self) -> BTreeMap<String, SubjectConfig> {
        let mut subjects = built_in();
        match self.tree.get("subjects") {
            None => {}
            Some(Value::Dict(_, named)) => {
                for (name, value) in named {
                    let place = format!("subjects.{name}");
                    if !matches!(value, Value::Dict(..)) {
                        self.problems.push(format!("{place}: must be a table: [{place}]"));
                        continue;
                    }
                    if let Some(config) = self.read::<SubjectConfig>(&place, value.clone()) {
                        subjects.insert(name.clone(), config.filled(name));
                    }
                }
            }
            Some(_) => {
                self.problems.push("subjects: must be a table: [subjects.<name>]".to_owned());
            }
        }
        subjects
    }

    /// Reads a value; none when nothing of it can be used.
    fn read<T: DeserializeOwned>(&mut self, place: &str, mut value: Value) -> Option<T> {
        loop {
            let errors = match value.deserialize::<T>() {
                Ok(read) => return Some(read),
                Err(errors) => errors,
            };
            let mut removed = false;
            for error in errors {
                let mut path = error.path.clone();
                if let Kind::UnknownField(field, _) = &error.kind
                    && path.last() != Some(field)
                {
                    path.push(field.clone());
                }
                // A part of a secret's source is of no use.
                if let Some(at) = path.iter().position(|part| part == "secrets") {
                    path.truncate(at + 2);
                }
                self.problems.push(explain(place, &path, &error.kind));
                removed |= remove(&mut value, &path);
            }
            if !removed {
                return None;
            }
        }
    }
}

/// Removes the value at a path, or the innermost one on the way to it. False if that is the whole.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let [key, rest @ ..] = path else { return false };
    match value {
        Value::Dict(_, inner) => {
            let deeper = inner.get_mut(key).is_some_and(|one| remove(one, rest));
            deeper || inner.remove(key).is_some()
        }
        Value::Array(_, inner) => {
            let Some(at) = key.parse().ok().filter(|at| *at < inner.len()) else { return false };
            if !remove(&mut inner[at], rest) {
                inner.remove(at);
            }
            true
        }
        _ => false,
    }
}

/// What is wrong with the value at `path` inside `place`.
fn explain(place: &str, path: &[String], kind: &Kind) -> String {
    let key = path.iter().fold(place.to_owned(), |key, part| {
        if part.parse::<usize>().is_ok() {
            format!("{key}[{part}]")
        } else {
            format!("{key}.{part}")
        }
    });
    // The invalid value may be the secret itself.
    if path.iter().any(|part| part == "secrets") {
        return format!("{key}: must be {{ env = \"NAME\" }} or {{ file = \"/path\" }}");
    }
    match kind {
        Kind::UnknownField(field, known) => unknown_key(&key, field, known),
        Kind::UnknownVariant(found, known) => {
            format!("{key}: `{found}` must be {}", one_of(known))
        }
        Kind::InvalidType(_, expected) if expected == "a string" => {
            format!("{key}: must be text: put the value in quotes")
        }
        Kind::InvalidType(found, expected) => {
            format!("{key}: must be {}, not {found}", plain(expected))
        }
        Kind::MissingField(field) => format!("{key}: `{field}` is missing"),
        other => format!("{key}: {other}"),
    }
}

fn unknown_key(key: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("{key}: unknown key: did you mean `{near}`?"),
        None if known.is_empty() => format!("{key}: unknown key"),
        None => format!("{key}: unknown key: use one of {}", known.join(", ")),
    }
}

fn one_of(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|one| format!("`{one}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// What serde calls an expected type, in words.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list in [ ]",
        "a map" => "a table",
        "path string" => "a path in quotes",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}
