//! Overrides from the environment: `POSTRIDER_` and the key, with two underscores between its parts
//! (`POSTRIDER_HTTP__LISTEN`).
//!
//! What the key wants decides how the text is read, so digits can be text, and a list may be written
//! with commas. `…_FILE` reads the value from a file. A variable that means nothing is a warning with
//! the nearest name that does: an orchestrator may have set it for another program. Bounds: a file
//! has at most 64 KiB.

use std::collections::BTreeMap;
use std::ffi::OsString;

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use serde_json::Value as Json;

use super::Config;
use super::SubjectConfig;
use super::namespaces;
use super::sources::{complete_status, insert, value_at};
use crate::stage::settings::read_secret_file;

const PREFIX: &str = "POSTRIDER_";
const FILE_SUFFIX: &str = "_FILE";
/// TOML that overrides the file: for keys that no name of a variable can express.
pub(super) const OVERRIDES: &str = "POSTRIDER_OVERRIDES";
/// Variables that the program reads beside the configuration.
pub const OTHER_VARIABLES: [&str; 9] = [
    "POSTRIDER_CONFIG",
    "POSTRIDER_LOG_FORMAT",
    "POSTRIDER_TOKEN",
    "POSTRIDER_TOKEN_FILE",
    "POSTRIDER_URL",
    "POSTRIDER_CA_FILE",
    "POSTRIDER_CERT_FILE",
    "POSTRIDER_KEY_FILE",
    OVERRIDES,
];
/// Variables of the project's own tests.
const TEST_PREFIX: &str = "POSTRIDER_TEST_";

/// The environment, or that of a test.
#[derive(Debug, Default)]
pub(super) struct Variables {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Variables {
    /// The environment of this process.
    pub(super) fn of_process() -> Self {
        Self::of(std::env::vars_os())
    }

    pub(super) fn of(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut variables = Self::default();
        for (name, value) in all {
            // A name that is not text is not ours.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => _ = variables.values.insert(name, value),
                Err(_) if is_ours(&name) => {
                    variables.problems.push(format!("{name}: is not text (UTF-8)"));
                }
                Err(_) => {}
            }
        }
        variables
    }

    /// A variable that is set and not empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Whether a variable is meant for this program: in any case.
fn is_ours(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

/// A value from the environment.
#[derive(Debug)]
pub(super) struct Override {
    /// The variable.
    pub(super) variable: String,
    /// Its key, part by part.
    pub(super) path: Vec<String>,
    /// Its value as the key wants it.
    pub(super) value: Value,
}

/// What a variable means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// Its text is the value of this key.
    Text(Vec<String>),
    /// The value of this key is in the file that it names.
    File(Vec<String>),
    /// Its text is this secret.
    Secret(Vec<String>),
}

/// The overrides of a file's values, the problems and the warnings.
pub(super) fn overrides(
    variables: &Variables,
    file: &Dict,
) -> (Vec<Override>, Vec<String>, Vec<String>) {
    let (mut problems, mut warnings) = (variables.problems.clone(), Vec::new());
    let mut all = well_known(variables, file, &mut problems);
    all.extend(inline(variables, &mut problems));
    let shape = serde_json::to_value(Config::default()).expect("settings are plain values");
    let names = Names { shape: &shape, file };
    let mut seen: BTreeMap<Vec<String>, &str> = BTreeMap::new();
    for (name, text) in &variables.values {
        if !is_ours(name) || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some(meaning) = names.meaning(&name[PREFIX.len()..]) else {
            if !is_foreign(name, text, file) {
                warnings.push(names.unknown(name));
            }
            continue;
        };
        let found = match meaning {
            Meaning::Text(path) => Ok((read(&path, text), path)),
            Meaning::Secret(mut path) => {
                path.push("env".to_owned());
                Ok((Value::from(name.as_str()), path))
            }
            Meaning::File(path) => {
                read_secret_file(text.as_ref()).map(|text| (read(&path, &text), path))
            }
        };
        match found {
            Ok((value, path)) => {
                if let Some(other) = seen.insert(path.clone(), name) {
                    problems.push(format!("{}: {other} and {name} both set it", path.join(".")));
                }
                all.push(Override { variable: name.clone(), path, value });
            }
            Err(problem) => problems.push(format!("{name}: {problem}")),
        }
    }
    (all, problems, warnings)
}

/// A part of the file that has sections: the top level, or a namespace.
struct Place<'a> {
    /// Empty, or that of a namespace with a dot at its end.
    key: String,
    tree: &'a Dict,
}

fn places(file: &Dict) -> Vec<Place<'_>> {
    let further = file.get(namespaces::SECTION).and_then(Value::as_dict);
    let further = further.into_iter().flatten().filter_map(|(name, value)| {
        Some(Place { key: format!("{}.{name}.", namespaces::SECTION), tree: value.as_dict()? })
    });
    std::iter::once(Place { key: String::new(), tree: file }).chain(further).collect()
}

impl Place<'_> {
    /// The sections of its stages.
    fn stages(&self) -> impl Iterator<Item = String> {
        let stages = self.tree.get("stages").and_then(Value::as_dict);
        let names = stages.into_iter().flat_map(|stages| stages.keys());
        names.map(|name| format!("stages.{name}"))
    }
}

/// Names of variables that orchestrators set for a service called `postrider`, of the tests, and
/// those that a secret of the configuration names.
fn is_foreign(name: &str, text: &str, file: &Dict) -> bool {
    let upper = name.to_ascii_uppercase();
    let of_service = upper.ends_with("_SERVICE_HOST")
        || upper.contains("_SERVICE_PORT")
        || (upper.contains("_PORT_") && (upper.contains("_TCP") || upper.contains("_UDP")))
        || (upper.ends_with("_PORT") && text.contains("://"));
    of_service || upper.starts_with(TEST_PREFIX) || names_secret(file, name)
}

/// Whether a secret is read from this variable.
fn names_secret(file: &Dict, name: &str) -> bool {
    let stages = places(file).into_iter().filter_map(|place| place.tree.get("stages")?.as_dict());
    let stages = stages.flat_map(|stages| stages.values());
    let secrets = stages.filter_map(|stage| stage.as_dict()?.get("secrets")?.as_dict());
    let sources = secrets.flat_map(|secrets| secrets.values());
    let mut names = sources.filter_map(|source| source.as_dict()?.get("env")?.as_str());
    names.any(|one| one == name)
}

/// Variables that many deployments set for other programs as well, and the keys that they stand
/// for. `MAX_RETRY_ATTEMPTS` and `RETRY_DELAY_SECONDS` override the file for every stage.
fn well_known(variables: &Variables, file: &Dict, problems: &mut Vec<String>) -> Vec<Override> {
    let mut all = Vec::new();
    let mut set = |variable: &str, key: &str, value: Value| {
        let path = key.split('.').map(str::to_owned).collect();
        all.push(Override { variable: variable.to_owned(), path, value });
    };
    for (name, key) in [("DATABASE_URL", "store.url"), ("AMQP_URL", "broker.url")] {
        let in_file = format!("{name}{FILE_SUFFIX}");
        match (variables.get(name), variables.get(&in_file)) {
            (Some(_), Some(_)) => problems.push(format!("{key}: {name} and {in_file} both set it")),
            (Some(url), None) => set(name, key, url.into()),
            (None, Some(place)) => match read_secret_file(place.as_ref()) {
                Ok(url) => set(&in_file, key, url.into()),
                Err(problem) => problems.push(format!("{in_file}: {problem}")),
            },
            (None, None) => {}
        }
    }
    let mut everywhere = Vec::new();
    for place in places(file) {
        let sections = place.stages().chain(["defaults".to_owned()]);
        everywhere.extend(sections.map(|section| format!("{}{section}", place.key)));
    }
    if let Some(text) = variables.get("MAX_RETRY_ATTEMPTS") {
        match text.parse::<u32>() {
            Ok(attempts) => {
                for place in &everywhere {
                    let key = format!("{place}.retry.max_attempts");
                    set("MAX_RETRY_ATTEMPTS", &key, attempts.into());
                }
            }
            Err(error) => problems
                .push(format!("MAX_RETRY_ATTEMPTS: `{text}` is not a number of attempts: {error}")),
        }
    }
    if let Some(text) = variables.get("RETRY_DELAY_SECONDS") {
        match text.parse::<f64>() {
            Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => {
                let initial_ms = (seconds * 1_000.0) as u64;
                for place in &everywhere {
                    let key = format!("{place}.retry.initial_ms");
                    set("RETRY_DELAY_SECONDS", &key, initial_ms.into());
                }
            }
            _ => problems.push(format!(
                "RETRY_DELAY_SECONDS: `{text}` is not a number of seconds between 0 and 86400"
            )),
        }
    }
    all
}

/// The values of [`OVERRIDES`], one by one.
fn inline(variables: &Variables, problems: &mut Vec<String>) -> Vec<Override> {
    let Some(text) = variables.get(OVERRIDES) else { return Vec::new() };
    match Toml::from_str::<Dict>(text) {
        Ok(tree) => {
            let mut leaves = Vec::new();
            collect_leaves(&tree, &[], &mut leaves);
            let leaves = leaves.into_iter();
            leaves
                .map(|(path, value)| Override { variable: OVERRIDES.to_owned(), path, value })
                .collect()
        }
        Err(error) => {
            problems.push(format!("{OVERRIDES}: must be TOML: {}", error.message()));
            Vec::new()
        }
    }
}

fn collect_leaves(tree: &Dict, path: &[String], leaves: &mut Vec<(Vec<String>, Value)>) {
    for (key, value) in tree {
        let path = [path, std::slice::from_ref(key)].concat();
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => collect_leaves(inner, &path, leaves),
            value => leaves.push((path, value.clone())),
        }
    }
}

/// A text as the key wants it: as it is, as a TOML or JSON value, or as a list; as it is when
/// nothing fits, which is then reported with the key.
fn read(path: &[String], text: &str) -> Value {
    let toml = || Toml::from_str::<Dict>(&format!("value = {text}")).ok()?.remove("value");
    let json =
        || serde_json::from_str::<Json>(text).ok().and_then(|json| Value::serialize(json).ok());
    let number = || text.trim().parse::<u64>().ok().map(Value::from);
    let list = || {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Some(Value::from(items.map(Value::from).collect::<Vec<_>>()))
    };
    let as_it_is = Value::from(text);
    let forms: [&dyn Fn() -> Option<Value>; 5] =
        [&|| Some(as_it_is.clone()), &toml, &json, &number, &list];
    let fitting = forms.iter().filter_map(|form| form()).find(|value| Config::fits(path, value));
    fitting.unwrap_or(as_it_is)
}

impl Config {
    /// Whether a key can have this value.
    fn fits(path: &[String], value: &Value) -> bool {
        let mut tree = Dict::new();
        complete_status(&mut tree, path);
        insert(&mut tree, path, value.clone());
        Self::extract(&tree).1.is_empty()
    }
}

/// The names that a variable can have.
struct Names<'a> {
    /// The default configuration: its keys.
    shape: &'a Json,
    /// The values of the file: names that its author chose.
    file: &'a Dict,
}

impl Names<'_> {
    /// What a variable means, by its name without the prefix.
    fn meaning(&self, name: &str) -> Option<Meaning> {
        let parts: Vec<&str> = name.split("__").collect();
        let stem = name
            .len()
            .checked_sub(FILE_SUFFIX.len())
            .filter(|at| {
                name.is_char_boundary(*at) && name[*at..].eq_ignore_ascii_case(FILE_SUFFIX)
            })
            .map(|at| name[..at].split("__").collect::<Vec<_>>());
        let of_stem = stem.and_then(|stem| self.path(&stem));
        match (self.path(&parts), of_stem) {
            // A setting may be called `…_file`, if the file has it.
            (Some((path, Kind::Setting)), Some((stem, _))) if !self.in_file(&path) => {
                Some(Meaning::File(stem))
            }
            (Some((_, Kind::Secret)), Some((mut stem, _))) => {
                stem.push("file".to_owned());
                Some(Meaning::Text(stem))
            }
            (Some((path, Kind::Secret)), None) => Some(Meaning::Secret(path)),
            (Some((path, _)), _) => Some(Meaning::Text(path)),
            (None, Some((stem, _))) => Some(Meaning::File(stem)),
            (None, None) => None,
        }
    }

    /// The key that the parts of a name stand for.
    fn path(&self, parts: &[&str]) -> Option<(Vec<String>, Kind)> {
        let (first, rest) = parts.split_first()?;
        if !first.eq_ignore_ascii_case(namespaces::SECTION) {
            return self.path_in(Vec::new(), parts);
        }
        let (name, rest) = rest.split_first()?;
        let section = namespaces::SECTION.to_owned();
        let name = self.chosen(std::slice::from_ref(&section), name, '-');
        self.path_in(vec![section, name], rest)
    }

    /// The same, in the sections at `base`: those of the top level, or of a namespace.
    fn path_in(&self, base: Vec<String>, parts: &[&str]) -> Option<(Vec<String>, Kind)> {
        let (first, rest) = parts.split_first()?;
        let section = first.to_ascii_lowercase();
        let shape = self.shape.get(&section)?;
        let path = [base, vec![section.clone()]].concat();
        // A whole section is no value, and neither is that of a stage or a kind.
        if rest.is_empty() && shape.is_object() {
            return None;
        }
        let named = |name: &str| [path.clone(), vec![self.chosen(&path, name, '-')]].concat();
        match (section.as_str(), rest) {
            ("stages" | "subjects", [_]) => None,
            ("stages", [name, rest @ ..]) => self.below(named(name), &self.shape["defaults"], rest),
            ("subjects", [name, rest @ ..]) => {
                let path = named(name);
                let filled = SubjectConfig::default().filled(path.last()?);
                self.below(path, &serde_json::to_value(filled).ok()?, rest)
            }
            _ => self.below(path, shape, rest),
        }
    }

    fn below(&self, path: Vec<String>, shape: &Json, rest: &[&str]) -> Option<(Vec<String>, Kind)> {
        let Some((part, after)) = rest.split_first() else { return Some((path, Kind::Key)) };
        let join = |name: String| [path.clone(), vec![name]].concat();
        match path.last().map(String::as_str) {
            Some("settings") => {
                let name = self.chosen(&path, &rest.join("__"), '_');
                (!name.is_empty()).then(|| (join(name), Kind::Setting))
            }
            Some("secrets") => match after.split_last().map(|(last, name)| (*last, name)) {
                Some((source @ ("ENV" | "env" | "FILE" | "file"), name)) => {
                    let name = [&[*part][..], name].concat().join("__");
                    let place = join(self.chosen(&path, &name, '_'));
                    Some(([place, vec![source.to_ascii_lowercase()]].concat(), Kind::Key))
                }
                _ => Some((join(self.chosen(&path, &rest.join("__"), '_')), Kind::Secret)),
            },
            Some("transitions") => {
                let place = join(self.chosen(&path, part, '.'));
                let transition = serde_json::json!({ "status": "", "from": null });
                self.below(place, &transition, after)
            }
            _ => {
                let key = part.to_ascii_lowercase();
                self.below(join(key.clone()), shape.get(&key)?, after)
            }
        }
    }

    /// A name that an author chose: as the file writes it, if it does; else as it is, and in lower
    /// case if it is all capitals. Names of variables cannot contain `separator`.
    fn chosen(&self, path: &[String], part: &str, separator: char) -> String {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
        let known = value_at(self.file, path).and_then(Value::as_dict);
        let names = || known.into_iter().flat_map(|known| known.keys());
        if let Some(exact) = names().find(|name| *name == part) {
            return exact.clone();
        }
        let mut similar = names().filter(|name| plain(name) == plain(part));
        if let (Some(one), None) = (similar.next(), similar.next()) {
            return one.clone();
        }
        let as_written = part.contains(|one: char| one.is_ascii_lowercase()) && separator == '_';
        if as_written {
            part.to_owned()
        } else {
            part.to_ascii_lowercase().replace('_', separator.encode_utf8(&mut [0; 4]))
        }
    }

    fn in_file(&self, path: &[String]) -> bool {
        value_at(self.file, path).is_some()
    }

    /// The warning about a variable that means nothing.
    fn unknown(&self, name: &str) -> String {
        let all = self.all();
        let hint = match nearest(name, all.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("use {PREFIX}<SECTION>__<KEY>, or {OVERRIDES} with TOML"),
        };
        format!("{name}: unknown environment variable, ignored: {hint}")
    }

    /// Every name without a part that an author chooses, and those of the file's stages.
    fn all(&self) -> Vec<String> {
        let mut names: Vec<String> = OTHER_VARIABLES.map(str::to_owned).to_vec();
        let prefix = PREFIX.trim_end_matches('_');
        for place in places(self.file) {
            let at = |key: &str| {
                let name = format!("{prefix}.{}{key}", place.key).to_ascii_uppercase();
                let name = name.trim_end_matches('.').replace('-', "_");
                name.replacen('.', "_", 1).replace('.', "__")
            };
            collect_names(&at(""), self.shape, &mut names);
            for stage in place.stages() {
                collect_names(&at(&stage), &self.shape["defaults"], &mut names);
            }
        }
        names
    }
}

/// What kind of value a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Key,
    Setting,
    Secret,
}

fn collect_names(prefix: &str, shape: &Json, names: &mut Vec<String>) {
    for (key, value) in shape.as_object().into_iter().flatten() {
        let separator = if format!("{prefix}_") == PREFIX { "_" } else { "__" };
        let name = format!("{prefix}{separator}{}", key.to_ascii_uppercase());
        match value.as_object() {
            // Their keys are chosen by authors.
            Some(inner) if inner.is_empty() || key == "transitions" => {}
            Some(_) => collect_names(&name, value, names),
            None => names.push(name),
        }
    }
}

/// The name that is most like `name`, if one is; underscores count once, and case not at all.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-', '.'], "");
    let wanted = plain(name);
    let distances = known.into_iter().map(|one| (strsim::levenshtein(&wanted, &plain(one)), one));
    let (distance, near) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= (wanted.chars().count() / 3).max(1)).then_some(near)
}

#[cfg(test)]
mod tests;
