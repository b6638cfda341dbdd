//! How a command prints its result: text for people, or JSON for programs (`--json`).

use serde::Serialize;
use serde_json::Value;

/// The format of a command's result on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Json,
}

impl Output {
    /// Prints one document: indented JSON, or whatever `text` prints.
    pub(crate) fn print<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&T),
    ) -> serde_json::Result<()> {
        match self {
            Self::Text => text(document),
            Self::Json => println!("{}", serde_json::to_string_pretty(document)?),
        }
        Ok(())
    }

    /// Prints one item of a stream on one line.
    pub(crate) fn print_line(self, item: &Value, text: impl FnOnce(&Value) -> String) {
        match self {
            Self::Text => println!("{}", text(item)),
            Self::Json => println!("{item}"),
        }
    }
}
