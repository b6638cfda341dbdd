//! `postrider events`: tail, export, import, send.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal as _, Read as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use console::style;
use indicatif::ProgressBar;
use serde_json::Value;

use crate::client::{Target, place, text};
use crate::follow::follow;
use crate::progress;
use postrider::domain::clock::{Clock as _, SystemClock};
use postrider::domain::cloud_events::BATCH;
use postrider::domain::timestamp;

/// Events sent at once by `import`.
const IMPORT_LINES: usize = 200;
/// Bytes sent at once by `import`: well below what a host takes.
const IMPORT_BYTES: usize = 512 << 10;

/// The event log.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Show events as they happen, until interrupted.
    Tail(Asked),
    /// Write the log as JSON lines: one event a line (CloudEvents), oldest first.
    Export {
        #[command(flatten)]
        asked: Asked,
        /// The file; - for standard output.
        #[arg(long, short, default_value = "-")]
        output: String,
    },
    /// Send the CloudEvents of a file of JSON lines. An event that the host knows counts once.
    Import {
        #[command(flatten)]
        target: Target,
        /// The file; - for standard input.
        file: String,
    },
    /// Send one event.
    Send(SendArgs),
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    target: Target,
    /// Only this order's.
    #[arg(long)]
    order: Option<String>,
    /// Only types that this topic pattern covers: payment.*, *.created.
    #[arg(long = "type")]
    event_type: Option<String>,
    /// Only of this source.
    #[arg(long)]
    source: Option<String>,
    /// Only produced by this stage.
    #[arg(long)]
    stage: Option<String>,
    /// Only of the chain that this event began.
    #[arg(long)]
    correlation: Option<String>,
    /// Only what was logged since: a span (90s, 1h, 2d) or a time (RFC 3339).
    #[arg(long, value_parser = since)]
    since: Option<u64>,
    /// Only what was logged before this span or time.
    #[arg(long, value_parser = since)]
    until: Option<u64>,
}

/// A span before now, or a time.
fn since(text: &str) -> Result<u64, String> {
    timestamp::span_ms(text)
        .map(|span_ms| SystemClock.now_ms().saturating_sub(span_ms))
        .or_else(|_| timestamp::instant_ms(text))
}

impl Asked {
    fn place(&self, path: &[&str]) -> Result<String> {
        let (since, until) =
            (self.since.map(|ms| ms.to_string()), self.until.map(|ms| ms.to_string()));
        let all = [
            ("order", &self.order),
            ("type", &self.event_type),
            ("source", &self.source),
            ("stage", &self.stage),
            ("correlation", &self.correlation),
            ("since", &since),
            ("until", &until),
        ];
        let query: Vec<(&str, &str)> =
            all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
        place(path, &query)
    }
}

/// An event to send.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    target: Target,
    /// Its type, for example desk.note.
    event_type: String,
    /// Its payload: a file, or - for standard input.
    #[arg(long)]
    data: Option<String>,
    /// Media type of the payload.
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// What it is about: an order's id.
    #[arg(long)]
    subject: Option<String>,
    /// Its id; the same id of the same source counts once.
    #[arg(long)]
    id: Option<String>,
    /// Its source.
    #[arg(long)]
    source: Option<String>,
    /// Deliver it then (RFC 3339).
    #[arg(long, conflicts_with = "delay")]
    deliver_at: Option<String>,
    /// Deliver it after this span: 90s, 30m, 1h, 2d.
    #[arg(long)]
    delay: Option<String>,
}

pub(crate) async fn run(command: EventsCommand, json: bool) -> Result<ExitCode> {
    match command {
        EventsCommand::Tail(asked) => {
            let tell = |event: &Value| {
                if json { println!("{event}") } else { println!("{}", line(event)) }
            };
            follow(&asked.target, &asked.place(&["events"])?, tell).await?;
        }
        EventsCommand::Export { asked, output } => export(&asked, &output).await?,
        EventsCommand::Import { target, file } => import(&target, &file, json).await?,
        EventsCommand::Send(args) => {
            let answer = send(args).await?;
            if json {
                println!("{answer}")
            } else {
                println!("event {} is accepted{}", text(&answer["id"]), known(&answer))
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn known(answer: &Value) -> &'static str {
    if answer["duplicate"] == true { " (it was known)" } else { "" }
}

/// One event on one line.
pub(crate) fn line(event: &Value) -> String {
    let at_ms = event["logged_at_ms"].as_u64().or(event["time_ms"].as_u64()).unwrap_or_default();
    let kind = text(&event["type"]);
    let from = event["stage"]
        .as_str()
        .map_or_else(|| text(&event["source"]), |stage| format!("stage {stage}"));
    let due = event["due_at_ms"]
        .as_u64()
        .map(|due_ms| format!("  due {}", timestamp::text(due_ms)))
        .unwrap_or_default();
    let colored = match kind.as_str() {
        bad if bad.starts_with("postrider.")
            || [".declined", ".rejected", ".failed"].iter().any(|end| bad.ends_with(end)) =>
        {
            style(kind).red()
        }
        _ => style(kind).green(),
    };
    // Padded before it is coloured: what colours has no width.
    format!(
        "{}  {:<26} {:<16} {}{due}",
        style(timestamp::text(at_ms)).dim(),
        colored,
        style(text(&event["subject"])).bold(),
        style(from).cyan()
    )
}

async fn export(asked: &Asked, output: &str) -> Result<()> {
    let path = asked.place(&["events", "export"])?;
    let mut response = asked.target.open(&path, &[]).await?;
    let mut out: Box<dyn Write + Send> = match output {
        "-" => Box::new(std::io::stdout()),
        file => Box::new(BufWriter::new(
            File::create(file).with_context(|| format!("{file} cannot be written"))?,
        )),
    };
    let progress = bar(None)?;
    // Broken off in the middle, the answer ends with an error.
    while let Some(chunk) = response
        .chunk()
        .await
        .context("the host broke the export off; what was written is incomplete")?
    {
        out.write_all(&chunk)?;
        progress.inc(memchr::memchr_iter(b'\n', &chunk).count() as u64);
    }
    out.flush()?;
    let count = progress.position();
    progress.finish_and_clear();
    if output != "-" {
        eprintln!("{count} events written to {output}");
    }
    Ok(())
}

/// Shows how far something got; on a terminal only. Counts bytes when the whole is known, else
/// events.
fn bar(whole: Option<u64>) -> Result<ProgressBar> {
    let bar = match whole {
        Some(bytes) => ProgressBar::new(bytes)
            .with_style(progress::style("{bar:30} {bytes}/{total_bytes}, {eta} left")?),
        None => ProgressBar::new_spinner()
            .with_style(progress::style("{spinner} {pos} events, {rate}")?),
    };
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    Ok(bar)
}

async fn import(target: &Target, file: &str, json: bool) -> Result<()> {
    let (mut lines, whole): (Box<dyn BufRead + Send>, Option<u64>) = match file {
        "-" => (Box::new(BufReader::new(std::io::stdin())), None),
        file => {
            let opened = File::open(file).with_context(|| format!("{file} cannot be read"))?;
            let bytes = opened.metadata()?.len();
            (Box::new(BufReader::new(opened)), Some(bytes))
        }
    };
    let progress = bar(whole)?;
    let (mut accepted, mut duplicates, mut number) = (0, 0, 0_u64);
    loop {
        let first = number + 1;
        let (batch, bytes) = next_batch(&mut *lines, &mut number)
            .with_context(|| format!("{file}, line {number}"))?;
        if batch.is_empty() {
            break;
        }
        progress.inc(if whole.is_some() { bytes } else { batch.len() as u64 });
        let body = serde_json::to_vec(&batch)?;
        let sent = target.post_body("/events", &[("content-type", BATCH.to_owned())], body).await;
        let answer = sent.with_context(|| {
            format!("{file}, lines {first} to {number}; what came before was taken")
        })?;
        accepted += answer["accepted"].as_u64().unwrap_or_default();
        duplicates += answer["duplicates"].as_u64().unwrap_or_default();
    }
    progress.finish_and_clear();
    if json {
        println!("{}", serde_json::json!({ "accepted": accepted, "duplicates": duplicates }));
    } else {
        println!("{accepted} events accepted, {duplicates} were known");
    }
    Ok(())
}

/// The next lines that go in one request, and how long they were.
fn next_batch(lines: &mut dyn BufRead, number: &mut u64) -> Result<(Vec<Value>, u64)> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < IMPORT_LINES && bytes < IMPORT_BYTES {
        let mut line = String::new();
        let read = lines.read_line(&mut line)?;
        if read == 0 {
            break;
        }
        *number += 1;
        bytes += read;
        if !line.trim().is_empty() {
            batch.push(serde_json::from_str(&line).context("not JSON")?);
        }
    }
    Ok((batch, bytes as u64))
}

async fn send(args: SendArgs) -> Result<Value> {
    let body = match args.data.as_deref() {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            bytes
        }
        Some(file) => std::fs::read(file).with_context(|| format!("{file} cannot be read"))?,
    };
    if args.event_type.contains('/') {
        bail!("`{}` is no event type", args.event_type);
    }
    // As the HTTP binding of CloudEvents has it.
    let encode = |value: String| {
        percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC)
            .to_string()
    };
    let mut headers = vec![("content-type", args.content_type)];
    headers.extend(args.subject.map(|subject| ("ce-subject", encode(subject))));
    headers.extend(args.id.map(|id| ("ce-id", encode(id))));
    headers.extend(args.source.map(|source| ("ce-source", encode(source))));
    headers.extend(args.deliver_at.map(|at| ("deliver-at", at)));
    headers.extend(args.delay.map(|delay| ("delay", delay)));
    args.target.post_body(&place(&["events", &args.event_type], &[])?, &headers, body).await
}
