//! Where the keys are that what is stored is encrypted with.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::{Deserialize, Serialize};

use crate::domain::encryption::{Encryption, KeyRing, KeyRingText};

/// Longest run of the command.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Largest key ring.
const KEY_RING_MAX_BYTES: u64 = 1 << 20;

/// Encryption of bodies, state, recordings and failure texts, in the store and in messages. Off
/// without a source of keys.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncryptionConfig {
    /// A TOML file with `primary`, the id of the key that is used for what is new, and `[keys]`: ids, and
    /// 32 bytes in Base64 each.
    pub key_file: Option<PathBuf>,
    /// A program that prints the same, with its arguments; it has 30 s.
    pub key_command: Vec<String>,
    /// The keys, as read at the start.
    #[serde(skip)]
    pub(crate) ring: Option<Arc<KeyRing>>,
}

impl EncryptionConfig {
    pub(super) fn find_problems(&self, problems: &mut Vec<String>) {
        if self.key_file.is_some() && !self.key_command.is_empty() {
            problems.push(
                "encryption: key_file and key_command are both set: keep one of them".to_owned(),
            );
        }
    }

    /// Reads the keys, unless that was done.
    pub(super) fn read(&mut self, place: &str, problems: &mut Vec<String>) {
        let (name, text) = match (&self.key_file, &self.key_command[..]) {
            _ if self.ring.is_some() => return,
            (Some(file), []) => ("key_file", read_file(file)),
            (None, [program, arguments @ ..]) => ("key_command", run(program, arguments)),
            _ => return,
        };
        match text.and_then(|text| parse(&text)) {
            Ok(ring) => self.ring = Some(Arc::new(ring)),
            Err(problem) => problems.push(format!("{place}encryption.{name}: {problem}")),
        }
    }

    /// What seals and opens values with these keys, for one store.
    pub fn encryption(&self) -> Arc<Encryption> {
        Arc::new(self.ring.clone().map_or_else(Encryption::default, Encryption::with))
    }
}

fn read_file(file: &Path) -> Result<String, String> {
    let shown = file.display();
    std::fs::read_to_string(file).map_err(|error| format!("cannot read {shown}: {error}"))
}

/// What the program prints.
fn run(program: &str, arguments: &[String]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| format!("cannot start `{program}`: {error}"))?;
    let output = child.stdout.take();
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = output.map(|output| output.take(KEY_RING_MAX_BYTES).read_to_string(&mut text));
        // Once the limit is reached, the receiver is gone.
        let _ = sender.send(read.transpose().map(|_| text));
    });
    let Ok(text) = received.recv_timeout(COMMAND_LIMIT) else {
        let (_, _) = (child.kill(), child.wait());
        return Err(format!("`{program}` has not ended within {} s", COMMAND_LIMIT.as_secs()));
    };
    let status = child.wait().map_err(|error| format!("`{program}`: {error}"))?;
    if !status.success() {
        return Err(format!("`{program}` failed: {status}"));
    }
    text.map_err(|error| format!("`{program}` did not print text: {error}"))
}

fn parse(text: &str) -> Result<KeyRing, String> {
    // Not the error's own words: they quote the text.
    let read = Figment::from(Toml::string(text)).extract::<KeyRingText>();
    let text = read.map_err(|_| {
        "not a key ring: expected `primary = \"<id>\"` and `[keys]` with `<id> = \"<32 bytes in Base64>\"`"
            .to_owned()
    })?;
    KeyRing::new(text).map_err(|problem| problem.0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use crate::config::Config;

    const RING: &str =
        "primary = \"2026\"\n[keys]\n2026 = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n";

    fn config(toml: &str) -> Result<Config, String> {
        Config::from_toml(toml).map_err(|error| error.0.join("\n"))
    }

    fn primary(config: &Config) -> Option<String> {
        config.encryption.ring.as_ref().map(|ring| ring.primary_id().to_owned())
    }

    #[test]
    fn keys_come_from_a_file_or_a_command() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(RING.as_bytes()).unwrap();
        let path = file.path().display();
        let read = config(&format!("encryption.key_file = \"{path}\"")).unwrap();
        assert_eq!(primary(&read).as_deref(), Some("2026"));
        assert!(read.encryption.encryption().is_on());
        let shown = serde_json::to_string(&read).unwrap() + &format!("{read:?}");
        assert!(!shown.contains("AAAA"), "{shown}");
        let read = config(&format!("encryption.key_command = [\"cat\", \"{path}\"]")).unwrap();
        assert_eq!(primary(&read).as_deref(), Some("2026"));
        assert!(!config("").unwrap().encryption.encryption().is_on());
    }

    #[test]
    fn a_problem_names_the_setting_and_no_key() {
        for (toml, expected) in [
            ("key_file = \"/missing\"", "encryption.key_file: cannot read /missing"),
            ("key_file = \"/missing\"\nkey_command = [\"cat\"]", "are both set"),
            ("key_command = [\"/missing\"]", "encryption.key_command: cannot start `/missing`"),
            ("key_command = [\"false\"]", "`false` failed: exit status: 1"),
            ("key_command = [\"echo\", \"secret\"]", "not a key ring"),
            ("key_command = [\"printf\", \"primary = 'a'\\n[keys]\\na = 'secret'\"]", "32 bytes"),
        ] {
            let problem = config(&format!("[encryption]\n{toml}")).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("secret"), "{problem}");
        }
    }
}
