//! What `config.get` answers: the operator's settings, and secrets. A secret's value never leaves
//! the host in text or in what is stored.
//!
//! Where a stage's words leave it (log lines, failures, trap messages, backtraces), a secret's
//! value is replaced by `***`. Events and state that contain one are refused: the message becomes a
//! dead letter with the code `secret-leak`. This carries no guarantee against a stage that encodes
//! a secret on purpose; it keeps field_errors, which look like the value itself or like JSON, out of
//! logs and databases. Calls to the outside are not searched: a secret is there to be sent to whom
//! the operator granted.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use crate::stage::outcome::{Emitted, Failure, Outcome};
use crate::stage::state::StateWrites;

/// Code of a message whose events or state contain a secret.
pub const SECRET_LEAK: &str = "secret-leak";
/// Shorter values are not searched for in events and state: they would be found everywhere.
pub const LEAK_MIN_BYTES: usize = 8;
/// Larger files are no secrets.
const FILE_MAX_BYTES: u64 = 64 << 10;
const MASK: &str = "***";

/// Where the host finds a secret, once, when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSource {
    /// An environment variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// A file; one line end after the value does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl SecretSource {
    /// The value, or what is wrong.
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
            (None, Some(file)) => {
                let place = file.display();
                let unreadable = |error: std::io::Error| format!("{place} cannot be read: {error}");
                let size = std::fs::metadata(file).map_err(unreadable)?.len();
                if size > FILE_MAX_BYTES {
                    return Err(format!("{place} has {size} bytes; the limit is {FILE_MAX_BYTES}"));
                }
                let bytes = std::fs::read(file).map_err(unreadable)?;
                let text = String::from_utf8(bytes).map_err(|_| format!("{place} is not text"))?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                line.strip_suffix('\r').unwrap_or(line).to_owned()
            }
            _ => return Err("give either `env` or `file`".to_owned()),
        };
        if value.is_empty() { Err("the secret is empty".to_owned()) } else { Ok(value) }
    }
}

/// Secrets by name, as they were read at the start. Shows only how many there are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, String>);

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
    /// Reads them all; every problem with the key of its secret below `key`.
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

/// What a stage's `config.get` answers.
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
    /// Settings, and secrets beside them.
    pub fn new(settings: &BTreeMap<String, String>, secrets: &Secrets) -> Self {
        let both =
            settings.iter().chain(&secrets.0).map(|(name, value)| (name.clone(), value.clone()));
        let mut secrets: Vec<Secret> =
            secrets.0.iter().map(|(name, value)| Secret::new(name, value)).collect();
        // One that holds another is masked first, as a whole.
        secrets.sort_by_key(|secret| {
            std::cmp::Reverse(secret.forms.iter().map(|form| form.text.len()).max())
        });
        Self { values: both.collect(), secrets }
    }

    /// What the stage is answered.
    pub fn get(&self, name: &str) -> Option<&String> {
        self.values.get(name)
    }

    /// Whether what is answered under this name is a secret.
    pub fn is_secret(&self, name: &str) -> bool {
        self.secrets.iter().any(|secret| secret.name == name)
    }

    /// Length of the longest secret.
    pub fn secret_max_bytes(&self) -> usize {
        self.secrets
            .iter()
            .flat_map(|secret| &secret.forms)
            .map(|form| form.text.len())
            .max()
            .unwrap_or(0)
    }

    /// A text of the stage without any secret's value.
    pub fn redact<'a>(&self, text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
        let mut text = text.into();
        for form in self.secrets.iter().flat_map(|secret| &secret.forms) {
            if form.finder.find(text.as_bytes()).is_some() {
                text = text.replace(&form.text, MASK).into();
            }
        }
        text
    }

    /// A log line without any secret's value.
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

    /// What leaves a stage: texts without secrets, and nothing stored that holds one.
    #[must_use]
    pub fn guard(&self, outcome: Outcome, writes: &StateWrites) -> Outcome {
        if self.secrets.is_empty() {
            return outcome;
        }
        let clean = |text: String| self.redact(text).into_owned();
        match outcome {
            Outcome::Done(emitted) => match self.leak(&emitted, writes) {
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

    /// Says which secret is where.
    fn leak(&self, emitted: &[Emitted], writes: &StateWrites) -> Option<String> {
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
                .find_map(|bytes| self.held_by(bytes))
        };
        if let Some((place, name)) =
            emitted.iter().enumerate().find_map(|(place, event)| Some((place, in_event(event)?)))
        {
            return Some(format!(
                "the returned event number {} contains the secret `{name}`",
                place + 1
            ));
        }
        let in_write = |(key, value): (&String, &Option<bytes::Bytes>)| {
            self.held_by(key.as_bytes())
                .or_else(|| value.as_ref().and_then(|value| self.held_by(value)))
        };
        let name = writes.iter().find_map(in_write)?;
        Some(format!("the state that the stage wrote contains the secret `{name}`"))
    }

    fn held_by(&self, bytes: &[u8]) -> Option<&str> {
        let holds =
            |form: &Form| form.text.len() >= LEAK_MIN_BYTES && form.finder.find(bytes).is_some();
        self.secrets
            .iter()
            .find(|secret| secret.forms.iter().any(holds))
            .map(|secret| secret.name.as_str())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(secrets: &[(&str, &str)]) -> Settings {
        let secrets =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::new(&BTreeMap::from([("mode".to_owned(), "on".to_owned())]), &Secrets(secrets))
    }

    fn emitted(data: &str) -> Emitted {
        Emitted::new("a.b", "application/json", data.to_owned())
    }

    const KEY: &str = "sk-0123456789";

    #[test]
    fn a_stage_is_answered_both_and_nobody_else_sees_a_secret() {
        let settings = settings(&[("key", KEY)]);
        assert_eq!(
            (settings.get("mode").map(String::as_str), settings.get("key").map(String::as_str)),
            (Some("on"), Some(KEY))
        );
        assert_eq!(format!("{settings:?}"), "2 settings, 1 of them secret");
        assert!(
            !format!("{:?}", Secrets(BTreeMap::from([("key".to_owned(), KEY.to_owned())])))
                .contains(KEY)
        );
        assert_eq!(settings.redact(format!("a {KEY} and {KEY}")), "a *** and ***");
        assert!(matches!(settings.redact("nothing"), Cow::Borrowed("nothing")));
    }

    #[test]
    fn the_longest_secret_is_masked_first_and_json_is_read() {
        let settings =
            settings(&[("inner", "0123456789"), ("key", KEY), ("quoted", "a\"b\\c\nd-and-more")]);
        assert_eq!(settings.redact(KEY), "***");
        let json = serde_json::json!({ "said": "a\"b\\c\nd-and-more" }).to_string();
        assert_eq!(settings.redact(&json), r#"{"said":"***"}"#);
        assert!(matches!(
            settings.guard(Outcome::Done(vec![emitted(&json)]), &StateWrites::new()),
            Outcome::Failed(_)
        ));
        // Quotes at the ends of a value belong to it.
        let quoted = self::settings(&[("q", "\"quoted-secret\"")]);
        assert_eq!(quoted.redact(r#"x "quoted-secret" \"quoted-secret\" y"#), "x *** *** y");
    }

    #[test]
    fn no_outcome_carries_a_secret() {
        let settings = settings(&[("key", KEY), ("pin", "1234")]);
        let failed = Failure {
            retryable: true,
            code: format!("c-{KEY}"),
            message: format!("m {KEY} 1234"),
            retry_after_ms: Some(1),
        };
        let trapped = Outcome::Trapped {
            kind: "unreachable".into(),
            message: KEY.into(),
            backtrace: Some(format!("at {KEY}")),
        };
        let limit = Outcome::LimitExceeded {
            limit: crate::stage::handler::Limit::StateKey,
            message: KEY.into(),
        };
        for outcome in [Outcome::Failed(failed), trapped, limit, Outcome::Unavailable(KEY.into())] {
            let guarded = format!("{:?}", settings.guard(outcome, &StateWrites::new()));
            assert!(
                guarded.contains(MASK) && !guarded.contains(KEY) && !guarded.contains("1234"),
                "{guarded}"
            );
        }
    }

    #[test]
    fn what_would_be_stored_with_a_secret_is_refused() {
        let settings = settings(&[("key", KEY), ("pin", "1234")]);
        let leaks = |emitted: Vec<Emitted>, writes: StateWrites| match settings
            .guard(Outcome::Done(emitted), &writes)
        {
            Outcome::Failed(Failure { retryable: false, code, message, .. }) => {
                assert!(
                    code == SECRET_LEAK && message.contains("`key`") && !message.contains(KEY),
                    "{message}"
                );
                true
            }
            _ => false,
        };
        let held = format!("x{KEY}y");
        let write = |key: &str, value: &str| {
            StateWrites::from([(key.to_owned(), Some(value.to_owned().into()))])
        };
        assert!(leaks(vec![emitted("{}"), emitted(&held)], StateWrites::new()));
        assert!(leaks(
            vec![Emitted { subject: Some(held.clone()), ..emitted("") }],
            StateWrites::new()
        ));
        assert!(leaks(
            vec![Emitted { attributes: vec![("a".into(), held.clone())], ..emitted("") }],
            StateWrites::new()
        ));
        assert!(leaks(
            vec![Emitted { event_type: held.clone(), ..emitted("") }],
            StateWrites::new()
        ));
        assert!(leaks(vec![], write("k", &held)) && leaks(vec![], write(&held, "v")));
        assert!(leaks(vec![], StateWrites::from([(held, None)])));
        // A short one would be found everywhere.
        assert!(!leaks(vec![emitted("1234")], write("1234", "1234")));
    }

    #[test]
    fn a_secret_is_read_once_and_every_problem_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let place = folder.path().join(name);
            std::fs::write(&place, content).unwrap();
            SecretSource { file: Some(place), env: None }
        };
        let sources = BTreeMap::from([
            ("lf".to_owned(), file("lf", b"value\n")),
            ("crlf".to_owned(), file("crlf", b"value\r\n")),
            ("two".to_owned(), file("two", b"value\n\n")),
        ]);
        let mut problems = Vec::new();
        let read = Secrets::read(&sources, "k", &mut problems);
        assert_eq!(read.0.values().collect::<Vec<_>>(), ["value", "value", "value\n"]);
        assert!(problems.is_empty(), "{problems:?}");
        let wrong = BTreeMap::from([
            ("a-neither".to_owned(), SecretSource::default()),
            (
                "b-unset".to_owned(),
                SecretSource { env: Some("POSTRIDER_TEST_NO_SUCH_SECRET".into()), file: None },
            ),
            (
                "c-absent".to_owned(),
                SecretSource { env: None, file: Some(folder.path().join("absent")) },
            ),
            ("d-empty".to_owned(), file("empty", b"\n")),
            ("e-binary".to_owned(), file("binary", &[0xff, 0xfe])),
            ("f-huge".to_owned(), file("huge", &vec![b'x'; 65 << 10])),
        ]);
        let read = Secrets::read(&wrong, "stages.x.secrets", &mut problems);
        assert!(read.0.is_empty() && problems.len() == 6, "{problems:#?}");
        assert!(
            problems[1].starts_with("stages.x.secrets.b-unset: the environment variable"),
            "{problems:?}"
        );
    }
}
