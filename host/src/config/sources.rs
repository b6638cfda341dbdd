//! The sources of a configuration: a file, then the environment. They become one tree of values that
//! knows where each value comes from.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};

use super::environment::{self, Override, Variables};
use super::subjects::default_table;
use super::{ConfigError, DEFAULT_FILE, namespaces};

/// The values of all sources.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Values by section.
    pub(super) tree: Dict,
    /// The variable that set a key.
    pub(super) variables: BTreeMap<String, String>,
    /// Variables that could not be read.
    pub(super) problems: Vec<String>,
    /// Variables that set nothing.
    pub(super) warnings: Vec<String>,
}

impl Sources {
    /// A file, or the default file where it exists, and the environment.
    pub(super) fn read(file: Option<&Path>, variables: &Variables) -> Result<Self, ConfigError> {
        let figment = match file {
            Some(file) if !file.is_file() => {
                return Err(ConfigError(vec![format!("{}: file not found", file.display())]));
            }
            Some(file) => Figment::from(Toml::file_exact(file)),
            None => Figment::from(Toml::file(DEFAULT_FILE)),
        };
        let mut sources = Self::of(&figment)?;
        sources.override_with(variables);
        Ok(sources)
    }

    /// Adds the environment.
    pub(super) fn override_with(&mut self, variables: &Variables) {
        let (overrides, problems, warnings) = environment::overrides(variables, &self.tree);
        self.problems.extend(problems);
        self.warnings.extend(warnings);
        for one in overrides {
            self.set(one);
        }
    }

    /// A TOML text.
    pub(super) fn of_text(text: &str) -> Result<Self, ConfigError> {
        Self::of(&Figment::from(Toml::string(text)))
    }

    fn of(figment: &Figment) -> Result<Self, ConfigError> {
        let tree = figment.extract().map_err(|errors| {
            ConfigError(errors.into_iter().map(|error| error.to_string()).collect())
        })?;
        Ok(Self { tree, ..Self::default() })
    }

    fn set(&mut self, Override { variable, path, value }: Override) {
        complete_status(&mut self.tree, &path);
        insert(&mut self.tree, &path, value);
        self.variables.insert(path.join("."), variable);
    }

    /// `problems`, each with the variable that set its key.
    pub(super) fn with_variables(&self, problems: Vec<String>) -> Vec<String> {
        let variable_of = |problem: &str| {
            let key = problem.split(": ").next().unwrap_or_default();
            let mut all = self.variables.iter();
            all.find(|(path, _)| key == path.as_str() || key.starts_with(&format!("{path}.")))
        };
        let with_variable = |problem: String| match variable_of(&problem) {
            Some((_, variable)) => format!("{problem} (set by {variable})"),
            None => problem,
        };
        problems.into_iter().map(with_variable).collect()
    }
}

/// Before a part of a kind's status table is set: it is a whole, so the others must be there.
pub(super) fn complete_status(tree: &mut Dict, path: &[String]) {
    let (place, name) = match path {
        [subjects, name, status, ..] if subjects == "subjects" && status == "status" => {
            (&path[..3], name)
        }
        [section, _, subjects, name, status, ..]
            if section == namespaces::SECTION && subjects == "subjects" && status == "status" =>
        {
            (&path[..5], name)
        }
        _ => return,
    };
    if value_at(tree, place).is_none() {
        let table = Value::serialize(default_table(name)).expect("tables are plain values");
        insert(tree, place, table);
    }
}

/// The value at a path.
pub(super) fn value_at(
    tree: &Dict,
    path: impl IntoIterator<Item = impl AsRef<str>>,
) -> Option<&Value> {
    let mut path = path.into_iter();
    let first = tree.get(path.next()?.as_ref())?;
    path.try_fold(first, |value, key| value.as_dict()?.get(key.as_ref()))
}

/// Sets the value at a path. A value on the way that is not a table is replaced by one.
pub(super) fn insert(tree: &mut Dict, path: &[String], value: Value) {
    let [key, rest @ ..] = path else { return };
    if rest.is_empty() {
        tree.insert(key.clone(), value);
        return;
    }
    let inner = tree.entry(key.clone()).or_insert_with(|| Value::from(Dict::new()));
    if !matches!(inner, Value::Dict(..)) {
        *inner = Value::from(Dict::new());
    }
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

/// `over` on top of `under`: tables are merged, anything else is replaced.
pub(super) fn merge(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Dict(tag, mut under), Value::Dict(_, over)) => {
            for (key, value) in over {
                let merged = match under.remove(&key) {
                    Some(below) => merge(below, value),
                    None => value,
                };
                under.insert(key, merged);
            }
            Value::Dict(tag, under)
        }
        (_, over) => over,
    }
}
