//! How a command prints its result: text for people, or JSON for programs (`--json`).
//!
//! `out!`, `outln!` and `errln!` replace `print!`, `println!` and `eprintln!`, which panic when the
//! reader has closed the pipe.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use serde_json::Value;

/// Prints to standard output.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::to_stdout(format_args!($($text)*)) };
}

/// Prints a line to standard output.
macro_rules! outln {
    () => { out!("\n") };
    ($($text:tt)*) => { out!("{}\n", format_args!($($text)*)) };
}

/// Prints a line to standard error.
macro_rules! errln {
    ($($text:tt)*) => { $crate::output::to_stderr(format_args!("{}\n", format_args!($($text)*))) };
}

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
            Self::Json => outln!("{}", serde_json::to_string_pretty(document)?),
        }
        Ok(())
    }

    /// Prints one item of a stream on one line.
    pub(crate) fn print_line(self, item: &Value, text: impl FnOnce(&Value) -> String) {
        match self {
            Self::Text => outln!("{}", text(item)),
            Self::Json => outln!("{item}"),
        }
    }
}

pub(crate) fn to_stdout(text: Arguments<'_>) {
    end_on_error(io::stdout().lock().write_fmt(text));
}

pub(crate) fn to_stderr(text: Arguments<'_>) {
    end_on_error(io::stderr().lock().write_fmt(text));
}

/// Whether a command failed because the reader of its output closed the pipe.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    error.downcast_ref().is_some_and(is_broken)
}

/// Ends the program quietly when the reader has closed the pipe, as in `postrider orders list | head`.
fn end_on_error(written: io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            // Standard error may be what failed.
            let _ = writeln!(io::stderr(), "postrider: cannot write the output: {error}");
            std::process::exit(1);
        }
    }
}
