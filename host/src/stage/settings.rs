//! Settings and secrets of a stage, as `config.get` returns them. A secret's value never leaves the
//! host in texts, events or state.
//!
//! In texts of a stage (log lines, errors, trap messages, backtraces) a secret's value is replaced
//! by `***`. Events and state that contain one are refused: the message becomes a dead letter with
//! the code `secret-leak`. This is no guarantee against a stage that encodes a secret on purpose; it
//! keeps accidents, where the value appears as it is or as JSON, out of logs and databases. HTTP
//! calls are not searched: a stage sends secrets to the hosts that the operator granted. Bounds: a
//! secret file has at most 64 KiB.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use crate::stage::delivery_log::{DeliveryLog, log_delivery};
use crate::stage::outcome::{Emitted, Failure, Outcome};
use crate::stage::state_writes::StateWrites;

/// Code of a message whose events or state contain a secret.
pub const SECRET_LEAK: &str = "secret-leak";
/// Shorter secrets are not searched for in events and state: they would match by chance.
pub const LEAK_MIN_BYTES: usize = 8;
/// Largest secret file.
const FILE_MAX_BYTES: u64 = 64 << 10;
const MASK: &str = "***";

/// Where the host reads a secret when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSource {
    /// An environment variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// A file; one line break after the value is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// The text in a file, without one line break at its end; or the problem in words.
pub fn read_secret_file(file: &Path) -> Result<String, String> {
    let place = file.display();
    let unreadable = |error: std::io::Error| format!("{place} cannot be read: {error}");
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > FILE_MAX_BYTES {
        return Err(format!("{place} has {size} bytes; the limit is {FILE_MAX_BYTES}"));
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{place} is not text"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

impl SecretSource {
    /// The value, or the problem in words.
    fn read(&self) -> Result<String, String> {
        let value = match (&self.env, &self.file) {
            (Some(name), None) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => {
                    format!("the environment variable `{name}` is not set")
                }
                std::env::VarError::NotUnicode(_) => {
                    format!("the environment variable `{name}` is not text")
                }
            })?,
            (None, Some(file)) => read_secret_file(file)?,
            _ => return Err("give either `env` or `file`".to_owned()),
        };
        if value.is_empty() { Err("the secret is empty".to_owned()) } else { Ok(value) }
    }
}

/// Secrets by name, as read at the start. `Debug` shows only their number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub(super) BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl FromIterator<(String, String)> for Secrets {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(secrets: T) -> Self {
        Self(secrets.into_iter().collect())
    }
}

impl Secrets {
    /// With more secrets, which take precedence.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(self.0.clone().into_iter().chain(more).collect())
    }

    /// Whether every secret was read.
    pub fn has_all(&self, sources: &BTreeMap<String, SecretSource>) -> bool {
        sources.keys().all(|name| self.0.contains_key(name))
    }

    /// Reads all secrets. Adds every problem to `problems`, each with its key below `key`.
    pub fn read(
        sources: &BTreeMap<String, SecretSource>,
        key: &str,
        problems: &mut Vec<String>,
    ) -> Self {
        let mut read = BTreeMap::new();
        for (name, source) in sources {
            match source.read() {
                Ok(value) => _ = read.insert(name.clone(), value),
                Err(problem) => problems.push(format!("{key}.{name}: {problem}")),
            }
        }
        Self(read)
    }
}

/// Settings and secrets by name, as `config.get` returns them.
#[derive(Default)]
pub struct Settings {
    values: HashMap<String, String>,
    secrets: Vec<Secret>,
}

struct Secret {
    name: String,
    /// The value, and the value as JSON writes it where that differs. Longest first.
    forms: Vec<Form>,
}

struct Form {
    text: String,
    finder: Finder<'static>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} settings, {} of them secret", self.values.len(), self.secrets.len())
    }
}

/// Settings without secrets.
impl FromIterator<(String, String)> for Settings {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(settings: T) -> Self {
        Self { values: settings.into_iter().collect(), secrets: Vec::new() }
    }
}

impl Settings {
    /// Settings and secrets; a secret takes precedence over a setting of its name.
    pub fn new(settings: &BTreeMap<String, String>, secrets: &Secrets) -> Self {
        let both =
            settings.iter().chain(&secrets.0).map(|(name, value)| (name.clone(), value.clone()));
        let mut secrets: Vec<Secret> =
            secrets.0.iter().map(|(name, value)| Secret::new(name, value)).collect();
        // The longest first: a secret may contain another one.
        secrets.sort_by_key(|secret| {
            std::cmp::Reverse(secret.forms.iter().map(|form| form.text.len()).max())
        });
        Self { values: both.collect(), secrets }
    }

    /// The setting or secret of this name.
    pub fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    /// Whether this name is that of a secret.
    pub fn is_secret(&self, name: &str) -> bool {
        self.secrets.iter().any(|secret| secret.name == name)
    }

    /// Bytes of the longest secret.
    pub fn secret_max_bytes(&self) -> usize {
        self.secrets
            .iter()
            .flat_map(|secret| &secret.forms)
            .map(|form| form.text.len())
            .max()
            .unwrap_or(0)
    }

    /// `text` with every secret masked.
    pub fn redact<'a>(&self, text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
        let mut text = text.into();
        for form in self.secrets.iter().flat_map(|secret| &secret.forms) {
            if form.finder.find(text.as_bytes()).is_some() {
                text = text.replace(&form.text, MASK).into();
            }
        }
        text
    }

    /// A log line with every secret masked.
    pub fn redact_line(
        &self,
        message: String,
        fields: Vec<(String, String)>,
    ) -> (String, Vec<(String, String)>) {
        if self.secrets.is_empty() {
            return (message, fields);
        }
        let clean = |text: String| self.redact(text).into_owned();
        (
            clean(message),
            fields.into_iter().map(|(name, value)| (clean(name), clean(value))).collect(),
        )
    }

    /// The outcome with secrets masked in its texts; a failure if an event or a write contains one, which
    /// is logged. `log` none: a dry run.
    #[must_use]
    pub fn guard(
        &self,
        outcome: Outcome,
        writes: &StateWrites,
        log: Option<&DeliveryLog>,
    ) -> Outcome {
        if self.secrets.is_empty() {
            return outcome;
        }
        let clean = |text: String| self.redact(text).into_owned();
        match outcome {
            Outcome::Done(emitted) => match self.leak(&emitted, writes, log) {
                None => Outcome::Done(emitted),
                Some(message) => Outcome::Failed(Failure::reject(SECRET_LEAK, message)),
            },
            Outcome::Failed(failure) => Outcome::Failed(Failure {
                code: clean(failure.code),
                message: clean(failure.message),
                ..failure
            }),
            Outcome::Trapped { kind, message, backtrace } => {
                Outcome::Trapped { kind, message: clean(message), backtrace: backtrace.map(clean) }
            }
            Outcome::LimitExceeded { limit, message } => {
                Outcome::LimitExceeded { limit, message: clean(message) }
            }
            Outcome::Unavailable(reason) => Outcome::Unavailable(clean(reason)),
        }
    }

    /// Where a secret is, in words. Its name is for the log: people who see the failures of a stage
    /// need not know what secrets it has.
    fn leak(
        &self,
        emitted: &[Emitted],
        writes: &StateWrites,
        log: Option<&DeliveryLog>,
    ) -> Option<String> {
        let in_event = |event: &Emitted| {
            let attributes = event
                .attributes
                .iter()
                .flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
            let texts = [
                event.event_type.as_bytes(),
                event.content_type.as_bytes(),
                event.subject.as_deref().unwrap_or("").as_bytes(),
            ];
            std::iter::once(&event.data[..])
                .chain(texts)
                .chain(attributes)
                .find_map(|bytes| self.secret_in(bytes))
        };
        if let Some((place, name)) =
            emitted.iter().enumerate().find_map(|(place, event)| Some((place, in_event(event)?)))
        {
            return Some(leaked(&format!("the returned event number {}", place + 1), name, log));
        }
        let in_write = |(key, value): (&String, &Option<bytes::Bytes>)| {
            self.secret_in(key.as_bytes())
                .or_else(|| value.as_ref().and_then(|value| self.secret_in(value)))
        };
        let name = writes.iter().find_map(in_write)?;
        Some(leaked("the state that the stage wrote", name, log))
    }

    /// Whether a text or a value contains a secret.
    pub fn has_secret_in(&self, bytes: &[u8]) -> bool {
        self.secret_in(bytes).is_some()
    }

    fn secret_in(&self, bytes: &[u8]) -> Option<&str> {
        let holds =
            |form: &Form| form.text.len() >= LEAK_MIN_BYTES && form.finder.find(bytes).is_some();
        self.secrets
            .iter()
            .find(|secret| secret.forms.iter().any(holds))
            .map(|secret| secret.name.as_str())
    }
}

fn leaked(place: &str, secret: &str, log: Option<&DeliveryLog>) -> String {
    if let Some(log) = log {
        log_delivery!(WARN, log, secret, "{place} contains a secret, so the message is refused");
    } else {
        tracing::warn!(secret, "{place} contains a secret, so the message is refused");
    }
    format!("{place} contains a secret of the stage: the host's log names it")
}

impl Secret {
    fn new(name: &str, value: &str) -> Self {
        let in_json = serde_json::Value::from(value).to_string();
        let in_json = in_json
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
            .unwrap_or(&in_json)
            .to_owned();
        let mut texts = vec![in_json, value.to_owned()];
        texts.dedup();
        let forms = texts
            .into_iter()
            .map(|text| Form { finder: Finder::new(text.as_bytes()).into_owned(), text })
            .collect();
        Self { name: name.to_owned(), forms }
    }
}
