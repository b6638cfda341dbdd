//! `dlq replay` and `dlq discard` of several dead letters: asks for confirmation, starts a job on the
//! host, and follows it until it ends.
//!
//! The job continues if this program is killed; Ctrl-C cancels it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{Selection, confirm, show};
use crate::client::{Target, text};
use crate::output::Output;
use crate::progress;

/// How often the job is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What the job does with each dead letter.
pub(super) enum Action {
    /// Replays it, with a merge patch if one is given.
    Replay(Option<Value>),
    /// Discards it for a reason.
    Discard(String),
}

impl Action {
    fn verb(&self) -> &'static str {
        match self {
            Self::Replay(_) => "replay",
            Self::Discard(_) => "discard",
        }
    }
}

pub(super) async fn run(selection: Selection, action: &Action, output: Output) -> Result<ExitCode> {
    let mut filter = selection.filter.fields();
    filter.extend(selection.group.clone().map(|group| ("group".to_owned(), json!(group))));
    // A group that has nothing open is most likely misspelt, or was settled by someone else.
    if let Some(group) = &selection.group
        && count_open(&selection.target, &filter).await? == "0"
    {
        bail!("no open dead letters in group `{group}`: `dlq groups` lists the groups");
    }
    if !selection.yes && console::user_attended() {
        let open = count_open(&selection.target, &filter).await?;
        if !confirm(&format!("{} {open} dead letters?", action.verb()))? {
            errln!("cancelled: no dead letter was changed");
            return Ok(ExitCode::FAILURE);
        }
    }
    if selection.all {
        filter.insert("all".to_owned(), json!(true));
    }
    let mut body = json!({ "filter": filter });
    if let Some(rate) = selection.rate {
        body["rate_per_second"] = json!(rate);
    }
    match action {
        Action::Replay(None) => {}
        Action::Replay(Some(patch)) => body["edit"] = patch.clone(),
        Action::Discard(reason) => body["reason"] = json!(reason),
    }
    let job = selection.target.post(&format!("/dead-letters/{}", action.verb()), &body).await?;
    let ended = follow(&selection.target, job).await?;
    output.print(&ended, show::job)?;
    let complete = ended["state"] == "done" && ended["failed"] == 0;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The number of open dead letters that match; counts the first 200 groups.
async fn count_open(target: &Target, filter: &serde_json::Map<String, Value>) -> Result<String> {
    let mut query: Vec<(&str, String)> =
        filter.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    query.extend([("status", "open".to_owned()), ("limit", "200".to_owned())]);
    let query: Vec<(&str, &str)> =
        query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let groups = target.query(&["dead-letters", "groups"], &query).await?;
    let open: u64 = groups["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group["open"].as_u64())
        .sum();
    Ok(if groups["next"].is_null() { open.to_string() } else { format!("more than {open}") })
}

/// Shows a progress bar until the job ends; returns the ended job.
async fn follow(target: &Target, mut job: Value) -> Result<Value> {
    let path = format!("/dead-letters/jobs/{}", text(&job["id"]));
    let style = progress::style("{bar:40} {pos}/{len} dead letters, {rate}, {eta} left {msg}")?;
    let progress = ProgressBar::new(job["total"].as_u64().unwrap_or_default()).with_style(style);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    while job["ended_at_ms"].is_null() {
        let settled: u64 =
            ["done", "skipped", "failed"].iter().filter_map(|name| job[*name].as_u64()).sum();
        progress.set_position(settled);
        if job["failed"] != 0 {
            progress.set_message(format!("({} failed)", job["failed"]));
        }
        tokio::select! {
            signal = &mut interrupted => {
                signal?;
                target.post(&format!("{path}/cancel"), &Value::Null).await?;
                interrupted.set(tokio::signal::ctrl_c());
            }
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        job = target
            .get(&path)
            .await
            .context("cannot follow the job; dead letters it has not processed stay open")?;
    }
    progress.finish_and_clear();
    Ok(job)
}
