//! `postrider dlq`: list, groups, show, edit, replay, discard, jobs, cancel.
//!
//! What is done to many dead letters is a job of the host; `bulk` follows it. Exit code 1 when some
//! dead letter could not be settled.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::client::{Target, read_json, text};
use crate::replay::milliseconds;
use postrider::domain::clock::{Clock as _, SystemClock};

mod bulk;
mod edit;
mod show;

/// Dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, newest first: the open ones, if nothing else is said.
    List(ListArgs),
    /// What they died of: dead letters of one stage, code and cause are one group.
    Groups(ListArgs),
    /// Show one with its payload, its failed tries, and what it was replayed as.
    Show {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: i64,
    },
    /// Edit the body of one in $VISUAL or $EDITOR, see the difference, and run it again.
    Edit {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: i64,
        /// Do not ask before it is run again.
        #[arg(long)]
        yes: bool,
    },
    /// Run one, a group, or all that match again.
    Replay {
        #[command(flatten)]
        which: Which,
        /// New payload of the one: JSON file, or - for standard input.
        #[arg(long, conflicts_with_all = ["patch", "group", "all"])]
        data: Option<String>,
        /// JSON merge patch (RFC 7396) for each payload, such as '{"total": 20}'; @FILE reads a
        /// file.
        #[arg(long, value_parser = patch)]
        patch: Option<Value>,
    },
    /// Close one, a group, or all that match for good.
    Discard {
        #[command(flatten)]
        which: Which,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// List the jobs that the host remembers.
    Jobs {
        #[command(flatten)]
        target: Target,
    },
    /// Cancel a job: what it has not come to stays open.
    Cancel {
        #[command(flatten)]
        target: Target,
        /// Its id.
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
    /// Only this group.
    #[arg(long)]
    group: Option<String>,
    /// How they stand.
    #[arg(long, default_value = "open", value_parser = ["open", "replayed", "discarded", "any"])]
    status: String,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Go on where a page ended.
    #[arg(long)]
    cursor: Option<i64>,
}

/// One dead letter, a group, or all that match.
#[derive(Debug, Args)]
pub(crate) struct Which {
    #[command(flatten)]
    target: Target,
    /// The dead letter's id.
    #[arg(required_unless_present_any = ["group", "all"], conflicts_with_all = ["group", "all", "stage", "code", "order", "since", "until"])]
    id: Option<i64>,
    /// All open dead letters of this group.
    #[arg(long)]
    group: Option<String>,
    /// All open dead letters, or those that --stage, --code, --order, --since and --until leave.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Letters a second, at most.
    #[arg(long)]
    rate: Option<u32>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What picks dead letters.
#[derive(Debug, Args)]
struct Filter {
    /// Only this stage.
    #[arg(long)]
    stage: Option<String>,
    /// Only this code.
    #[arg(long)]
    code: Option<String>,
    /// Only this order's.
    #[arg(long)]
    order: Option<String>,
    /// Only what died in the last while (90s, 30m, 1h, 2d), or since a time such as
    /// 2026-01-31T12:00:00Z.
    #[arg(long, value_parser = moment)]
    since: Option<u64>,
    /// Only what died before a while ago, or before a time.
    #[arg(long, value_parser = moment)]
    until: Option<u64>,
}

impl Filter {
    /// As fields of a body.
    fn fields(&self) -> Map<String, Value> {
        let texts = [("stage", &self.stage), ("code", &self.code), ("order", &self.order)];
        let texts =
            texts.into_iter().filter_map(|(name, value)| Some((name, json!(value.as_ref()?))));
        let times = [("since", self.since), ("until", self.until)];
        let times = times.into_iter().filter_map(|(name, value)| Some((name, json!(value?))));
        texts.chain(times).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A time, or a while ago: milliseconds since 1970-01-01 UTC.
fn moment(text: &str) -> Result<u64, String> {
    let stamp = text
        .parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_millisecond()).ok());
    let ago = || milliseconds(text).map(|ago| SystemClock.now_ms().saturating_sub(ago));
    stamp
        .map_or_else(ago, Ok)
        .map_err(|why| format!("{why}; or a time such as 2026-01-31T12:00:00Z"))
}

fn patch(text: &str) -> Result<Value, String> {
    let parsed = match text.strip_prefix('@') {
        Some(file) => read_json(file).map_err(|error| error.to_string()),
        None => serde_json::from_str(text).map_err(|error| format!("not JSON: {error}")),
    };
    parsed.and_then(|patch: Value| {
        if patch.is_object() { Ok(patch) } else { Err("a merge patch is a JSON object".to_owned()) }
    })
}

pub(crate) async fn run(command: DlqCommand, json: bool) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        DlqCommand::List(args) => (list_page(&args, &["dead-letters"]).await?, show::list),
        DlqCommand::Groups(args) => {
            (list_page(&args, &["dead-letters", "groups"]).await?, show::groups)
        }
        DlqCommand::Show { target, id } => {
            (target.get(&format!("/dead-letters/{id}")).await?, show::dead_letter)
        }
        DlqCommand::Edit { target, id, yes } => return edit::run(&target, id, yes, json).await,
        DlqCommand::Replay { which: Which { target, id: Some(id), .. }, data, patch } => {
            let body = match (data, patch) {
                (Some(data), _) => json!({ "data": read_json(&data)? }),
                (None, Some(patch)) => json!({ "edit": patch }),
                (None, None) => json!({}),
            };
            (target.post(&format!("/dead-letters/{id}/replay"), &body).await?, show::settled)
        }
        DlqCommand::Discard { which: Which { target, id: Some(id), .. }, reason } => (
            target
                .post(&format!("/dead-letters/{id}/discard"), &json!({ "reason": reason }))
                .await?,
            show::settled,
        ),
        DlqCommand::Replay { which, patch, .. } => {
            return bulk::run(which, &bulk::Work::Replay(patch), json).await;
        }
        DlqCommand::Discard { which, reason } => {
            return bulk::run(which, &bulk::Work::Discard(reason), json).await;
        }
        DlqCommand::Jobs { target } => (target.get("/dead-letters/jobs").await?, show::jobs),
        DlqCommand::Cancel { target, job } => (
            target.post(&format!("/dead-letters/jobs/{job}/cancel"), &Value::Null).await?,
            show::job,
        ),
    };
    if json {
        println!("{answer:#}");
    } else {
        show(&answer);
    }
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
    args.target.ask(path, &query).await
}

/// Asks on a terminal; true where there is none.
fn agreed(question: &str) -> Result<bool> {
    let terminal = console::Term::stderr();
    if !console::user_attended() || !console::user_attended_stderr() {
        return Ok(true);
    }
    terminal.write_str(&format!("{question} [y/N] "))?;
    Ok(matches!(terminal.read_line()?.trim(), "y" | "Y" | "yes"))
}
