//! `dlq replay` and `dlq discard` of many dead letters: ask, start a job of the host, follow it to its
//! end.
//!
//! The job is the host's: when this program goes away it goes on, but for Ctrl-C, which cancels it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{Which, agreed, show};
use crate::client::{Target, text};
use crate::progress;

/// How often the job is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What is to be done with each dead letter.
pub(super) enum Work {
    Replay(Option<Value>),
    Discard(String),
}

impl Work {
    fn verb(&self) -> &'static str {
        match self {
            Self::Replay(_) => "replay",
            Self::Discard(_) => "discard",
        }
    }
}

pub(super) async fn run(which: Which, work: &Work, json: bool) -> Result<ExitCode> {
    let mut filter = which.filter.fields();
    filter.extend(which.group.clone().map(|group| ("group".to_owned(), json!(group))));
    if !which.yes && console::user_attended() {
        let open = open_letters(&which.target, &filter).await?;
        if !agreed(&format!("{} {open} dead letters?", work.verb()))? {
            eprintln!("nothing was done");
            return Ok(ExitCode::FAILURE);
        }
    }
    if which.all {
        filter.insert("all".to_owned(), json!(true));
    }
    let mut body = json!({ "filter": filter });
    if let Some(rate) = which.rate {
        body["rate_per_second"] = json!(rate);
    }
    match work {
        Work::Replay(None) => {}
        Work::Replay(Some(patch)) => body["edit"] = patch.clone(),
        Work::Discard(reason) => body["reason"] = json!(reason),
    }
    let job = which.target.post(&format!("/dead-letters/{}", work.verb()), &body).await?;
    let ended = follow(&which.target, job).await?;
    if json {
        println!("{ended:#}");
    } else {
        show::job(&ended);
    }
    let complete = ended["state"] == "done" && ended["failed"] == 0;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many dead letters the first two hundred groups hold.
async fn open_letters(target: &Target, filter: &serde_json::Map<String, Value>) -> Result<String> {
    let mut query: Vec<(&str, String)> =
        filter.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    query.extend([("status", "open".to_owned()), ("limit", "200".to_owned())]);
    let query: Vec<(&str, &str)> =
        query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let groups = target.ask(&["dead-letters", "groups"], &query).await?;
    let open: u64 = groups["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group["open"].as_u64())
        .sum();
    Ok(if groups["next"].is_null() { open.to_string() } else { format!("more than {open}") })
}

/// Shows progress until the job has ended.
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
            asked = &mut interrupted => {
                asked?;
                target.post(&format!("{path}/cancel"), &Value::Null).await?;
                interrupted.set(tokio::signal::ctrl_c());
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        job = target.get(&path).await.context(
            "the job is lost from sight; dead letters that it has not come to are still open",
        )?;
    }
    progress.finish_and_clear();
    Ok(job)
}
