//! `dlq edit`: opens the payload of a dead letter in an editor, prints the diff, and replays it.
//!
//! Replays only valid JSON that differs from the original. If the text is not valid JSON, its file
//! is kept so that no edit is lost.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use console::style;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::{EditArgs, confirm, show};
use crate::output::Output;

pub(super) async fn run(args: &EditArgs, output: Output) -> Result<ExitCode> {
    let EditArgs { target, id, event_type, yes } = args;
    let dead_letter = target.get(&format!("/dead-letters/{id}")).await?;
    ensure!(
        dead_letter["status"] == "open",
        "dead letter {id} is already {}",
        dead_letter["status"].as_str().unwrap_or("settled")
    );
    let before = format!("{:#}\n", dead_letter["data"]);
    let (after, data) = edited(&before)?;
    let is_edited = data != dead_letter["data"];
    if !is_edited && event_type.is_none() {
        errln!(
            "the payload is unchanged; nothing was replayed (to replay it as it is: `dlq replay {id}`)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    if output == Output::Text {
        print_diff(&before, &after);
    }
    if !*yes && !confirm(&format!("replay dead letter {id} with this payload?"))? {
        errln!("cancelled: nothing was replayed");
        return Ok(ExitCode::FAILURE);
    }
    let mut body = json!({});
    if is_edited {
        body["data"] = data;
    }
    if let Some(event_type) = event_type {
        body["type"] = event_type.as_str().into();
    }
    let answer = target.post(&format!("/dead-letters/{id}/replay"), &body).await?;
    output.print(&answer, show::settled)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the edited text and its JSON value. On a terminal, invalid JSON can be edited again.
fn edited(before: &str) -> Result<(String, Value)> {
    let mut file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile()?;
    file.write_all(before.as_bytes())?;
    file.flush()?;
    loop {
        open_editor(file.path())?;
        // Editors may replace the file, so it is read by its path.
        let after = std::fs::read_to_string(file.path())
            .with_context(|| format!("cannot read {}", file.path().display()))?;
        match serde_json::from_str(&after) {
            Ok(data) => return Ok((after, data)),
            Err(error) => {
                let edit_again = console::user_attended()
                    && confirm(&format!("invalid JSON: {error}. Edit again?"))?;
                if !edit_again {
                    let (_, kept) = file.keep()?;
                    bail!(
                        "invalid JSON: {error}; nothing was replayed, the text is in {}",
                        kept.display()
                    );
                }
            }
        }
    }
}

fn open_editor(path: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|editor| !editor.trim().is_empty());
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let words =
        shlex::split(&editor).with_context(|| format!("$EDITOR: cannot parse `{editor}`"))?;
    let (program, arguments) = words.split_first().context("$EDITOR is empty")?;
    let status = std::process::Command::new(program).args(arguments).arg(path).status();
    let status = status.with_context(|| format!("cannot start `{program}`: set $EDITOR"))?;
    ensure!(status.success(), "`{editor}` exited with {status}; nothing was replayed");
    Ok(())
}

fn print_diff(before: &str, after: &str) {
    for change in TextDiff::from_lines(before, after).iter_all_changes() {
        let line = change.value().trim_end_matches('\n');
        match change.tag() {
            ChangeTag::Equal => outln!("  {line}"),
            ChangeTag::Delete => outln!("{}", style(format!("- {line}")).red()),
            ChangeTag::Insert => outln!("{}", style(format!("+ {line}")).green()),
        }
    }
}
