//! `dlq edit`: the body of a dead letter in the editor, then the difference, then its replay.
//!
//! Nothing is sent before the text is JSON and differs; what was typed stays in its file when that
//! is not so.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use console::style;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::{agreed, show};
use crate::client::Target;

pub(super) async fn run(target: &Target, id: i64, yes: bool, json: bool) -> Result<ExitCode> {
    let dead_letter = target.get(&format!("/dead-letters/{id}")).await?;
    ensure!(
        dead_letter["status"] == "open",
        "dead letter {id} is {} already",
        dead_letter["status"].as_str().unwrap_or("settled")
    );
    let before = format!("{:#}\n", dead_letter["data"]);
    let (after, data) = edited(&before)?;
    if data == dead_letter["data"] {
        eprintln!(
            "the body is as it was; nothing was replayed (`dlq replay {id}` runs it again as it is)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        print_difference(&before, &after);
    }
    if !yes && !agreed(&format!("replay dead letter {id} with this body?"))? {
        eprintln!("nothing was replayed");
        return Ok(ExitCode::FAILURE);
    }
    let answer =
        target.post(&format!("/dead-letters/{id}/replay"), &json!({ "data": data })).await?;
    if json {
        println!("{answer:#}");
    } else {
        show::settled(&answer);
    }
    Ok(ExitCode::SUCCESS)
}

/// The text after the editor, and the JSON that it is. On a terminal a slip can be mended.
fn edited(before: &str) -> Result<(String, Value)> {
    let mut file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile()?;
    file.write_all(before.as_bytes())?;
    file.flush()?;
    loop {
        open_editor(file.path())?;
        // The editor may have put another file in its place.
        let after = std::fs::read_to_string(file.path())
            .with_context(|| format!("{} cannot be read", file.path().display()))?;
        match serde_json::from_str(&after) {
            Ok(data) => return Ok((after, data)),
            Err(error) => {
                let again =
                    console::user_attended() && agreed(&format!("not JSON: {error}. Edit again?"))?;
                if !again {
                    let (_, kept) = file.keep()?;
                    bail!(
                        "not JSON: {error}; nothing was replayed, the text is in {}",
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
    let words = shlex::split(&editor)
        .with_context(|| format!("$EDITOR: `{editor}` cannot be understood"))?;
    let (program, arguments) = words.split_first().context("$EDITOR names no program")?;
    let status = std::process::Command::new(program).args(arguments).arg(path).status();
    let status = status.with_context(|| format!("`{program}` cannot be started: set $EDITOR"))?;
    ensure!(status.success(), "`{editor}` ended with {status}; nothing was replayed");
    Ok(())
}

fn print_difference(before: &str, after: &str) {
    for change in TextDiff::from_lines(before, after).iter_all_changes() {
        let line = change.value().trim_end_matches('\n');
        match change.tag() {
            ChangeTag::Equal => println!("  {line}"),
            ChangeTag::Delete => println!("{}", style(format!("- {line}")).red()),
            ChangeTag::Insert => println!("{}", style(format!("+ {line}")).green()),
        }
    }
}
