//! `postrider dlq`: list, inspect, edit, replay and discard dead letters.
//!
//! Work on several dead letters is a job of the host, which `bulk` follows. Exit code 1 if a dead
//! letter could not be settled.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::client::{Target, path, read_json, text};
use crate::output::Output;
use crate::value_parsers::time_ms;

mod bulk;
mod edit;
mod show;

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, newest first. Lists only open ones unless --status is given.
    List(ListArgs),
    /// List groups: dead letters with the same stage, code and failure fingerprint.
    Groups(ListArgs),
    /// Show a dead letter: payload, failed attempts, and what it was replayed as.
    #[command(visible_alias = "get")]
    Show {
        #[command(flatten)]
        target: Target,
        /// Id of the dead letter.
        id: i64,
    },
    /// Edit the payload of a dead letter in $VISUAL or $EDITOR, review the diff, and replay it.
    Edit(EditArgs),
    /// Replay one dead letter, a group, or all that match a filter.
    Replay {
        #[command(flatten)]
        selection: Selection,
        /// Replacement payload for a single dead letter: a JSON file, or - for standard input.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["patch", "group", "all"])]
        data: Option<String>,
        /// Event type for a single dead letter: repairs a message that could not be read.
        #[arg(long = "type", value_name = "TYPE", conflicts_with_all = ["patch", "group", "all"])]
        event_type: Option<String>,
        /// JSON merge patch (RFC 7396) applied to each payload, such as '{"total": 20}'; @FILE
        /// reads it from a file.
        #[arg(long, value_parser = patch)]
        patch: Option<Value>,
    },
    /// Discard one dead letter, a group, or all that match a filter.
    Discard {
        #[command(flatten)]
        selection: Selection,
        /// Reason, kept with each dead letter.
        #[arg(long)]
        reason: String,
    },
    /// List the replay and discard jobs of the host.
    Jobs {
        #[command(flatten)]
        target: Target,
    },
    /// Cancel a job. Dead letters that it has not processed stay open.
    Cancel {
        #[command(flatten)]
        target: Target,
        /// Id of the job.
        job: String,
    },
}

/// A page of dead letters, or of groups.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    filter: Filter,
    /// Filter by group.
    #[arg(long)]
    group: Option<String>,
    /// Filter by status.
    #[arg(long, default_value = "open", value_parser = ["open", "replayed", "discarded", "any"])]
    status: String,
    /// Maximum number of results.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Continue after a previous page.
    #[arg(long)]
    cursor: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    #[command(flatten)]
    target: Target,
    /// Id of the dead letter.
    id: i64,
    /// Event type: repairs a message that could not be read.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Replay without asking for confirmation.
    #[arg(long)]
    yes: bool,
}

/// One dead letter, a group, or all that match a filter.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    target: Target,
    /// Id of a single dead letter.
    #[arg(
        required_unless_present_any = ["group", "all"],
        conflicts_with_all = ["group", "all", "stage", "code", "subject", "since", "until"]
    )]
    id: Option<i64>,
    /// Select the open dead letters of this group.
    #[arg(long)]
    group: Option<String>,
    /// Select all open dead letters that match --stage, --code, --subject, --since and --until.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Maximum number of dead letters per second [default: 100].
    #[arg(long)]
    rate: Option<u32>,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Filter {
    /// Filter by stage.
    #[arg(long)]
    stage: Option<String>,
    /// Filter by error code.
    #[arg(long)]
    code: Option<String>,
    /// Filter by subject, such as order/123.
    #[arg(long, value_name = "KIND/ID")]
    subject: Option<String>,
    /// Dead-lettered at or after this time: a duration ago (90s, 30m, 1h, 2d), or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<u64>,
    /// Dead-lettered before this time.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<u64>,
}

impl Filter {
    /// The fields of a request body.
    fn fields(&self) -> Map<String, Value> {
        let texts = [("stage", &self.stage), ("code", &self.code), ("subject", &self.subject)];
        let texts =
            texts.into_iter().filter_map(|(name, value)| Some((name, json!(value.as_ref()?))));
        let times = [("since", self.since), ("until", self.until)];
        let times = times.into_iter().filter_map(|(name, value)| Some((name, json!(value?))));
        texts.chain(times).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn patch(text: &str) -> Result<Value, String> {
    let parsed = match text.strip_prefix('@') {
        Some(file) => read_json(file).map_err(|error| error.to_string()),
        None => serde_json::from_str(text).map_err(|error| format!("invalid JSON: {error}")),
    };
    parsed.and_then(|patch: Value| {
        if patch.is_object() {
            Ok(patch)
        } else {
            Err("a merge patch must be a JSON object".to_owned())
        }
    })
}

pub(crate) async fn run(command: DlqCommand, output: Output) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        DlqCommand::List(args) => (list_page(&args, &["dead-letters"]).await?, show::list),
        DlqCommand::Groups(args) => {
            (list_page(&args, &["dead-letters", "groups"]).await?, show::groups)
        }
        DlqCommand::Show { target, id } => {
            (target.get(&format!("/dead-letters/{id}")).await?, show::dead_letter)
        }
        DlqCommand::Edit(args) => return edit::run(&args, output).await,
        DlqCommand::Replay {
            selection: Selection { target, id: Some(id), .. },
            data,
            event_type,
            patch,
        } => {
            let mut body = match (data, patch) {
                (Some(data), _) => json!({ "data": read_json(&data)? }),
                (None, Some(patch)) => json!({ "edit": patch }),
                (None, None) => json!({}),
            };
            if let Some(event_type) = event_type {
                body["type"] = event_type.into();
            }
            (target.post(&format!("/dead-letters/{id}/replay"), &body).await?, show::settled)
        }
        DlqCommand::Discard { selection: Selection { target, id: Some(id), .. }, reason } => (
            target
                .post(&format!("/dead-letters/{id}/discard"), &json!({ "reason": reason }))
                .await?,
            show::settled,
        ),
        DlqCommand::Replay { selection, patch, .. } => {
            return bulk::run(selection, &bulk::Action::Replay(patch), output).await;
        }
        DlqCommand::Discard { selection, reason } => {
            return bulk::run(selection, &bulk::Action::Discard(reason), output).await;
        }
        DlqCommand::Jobs { target } => (target.get("/dead-letters/jobs").await?, show::jobs),
        DlqCommand::Cancel { target, job } => (
            target.post(&path(&["dead-letters", "jobs", &job, "cancel"])?, &Value::Null).await?,
            show::job,
        ),
    };
    output.print(&answer, show)?;
    Ok(ExitCode::SUCCESS)
}

async fn list_page(args: &ListArgs, path: &[&str]) -> Result<Value> {
    let mut query: Vec<(String, String)> =
        args.filter.fields().iter().map(|(name, value)| (name.clone(), text(value))).collect();
    query.push(("limit".to_owned(), args.limit.to_string()));
    query.extend(args.group.clone().map(|group| ("group".to_owned(), group)));
    query.extend(args.cursor.map(|cursor| ("cursor".to_owned(), cursor.to_string())));
    query.extend((args.status != "any").then(|| ("status".to_owned(), args.status.clone())));
    let query: Vec<(&str, &str)> =
        query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    args.target.query(path, &query).await
}

/// Asks for confirmation on a terminal. Without a terminal there is no one to ask: returns true.
fn confirm(question: &str) -> Result<bool> {
    let terminal = console::Term::stderr();
    if !console::user_attended() || !console::user_attended_stderr() {
        return Ok(true);
    }
    terminal.write_str(&format!("{question} [y/N] "))?;
    Ok(matches!(terminal.read_line()?.trim(), "y" | "Y" | "yes"))
}
