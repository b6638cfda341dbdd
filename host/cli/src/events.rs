//! `postrider events`: follow, export, import and send events; list, stop and resume chains of them.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal as _, Read as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use console::style;
use indicatif::ProgressBar;
use serde_json::Value;
use serde_json::value::RawValue;

use self::chains::ChainArgs;
use crate::client::{Problem, Target, path, path_and_query, text};
use crate::follow::follow;
use crate::output::Output;
use crate::progress;
use crate::value_parsers::time_ms;
use postrider::internals::{BATCH, HOST_EVENT_PREFIX, timestamp};

mod chains;

/// Maximum number of events in one request of `import`.
const IMPORT_LINES: usize = 200;
/// Maximum size of one request of `import`, well below the host's limit on bodies.
const IMPORT_BYTES: usize = 512 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Print events as they happen, until interrupted.
    Tail(EventFilter),
    /// Export the event log as JSON lines: one CloudEvent per line, oldest first.
    Export {
        #[command(flatten)]
        filter: EventFilter,
        /// Output file; - for standard output.
        #[arg(long, short, value_name = "FILE", default_value = "-")]
        output: String,
    },
    /// Import CloudEvents from a file of JSON lines. Events that the host already has are skipped.
    Import {
        #[command(flatten)]
        target: Target,
        /// Input file; - for standard input.
        file: String,
    },
    /// Send one event.
    Send(SendArgs),
    /// List the stopped chains of events, and the largest ones that the host knows.
    Chains {
        #[command(flatten)]
        target: Target,
    },
    /// Stop a chain of events on every host: skip every delivery of it, waiting or new.
    Stop {
        #[command(flatten)]
        chain: ChainArgs,
        /// Reason, shown by `events chains`.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a chain run again on every host, and count its events from zero.
    ///
    /// Deliveries that were skipped are not repeated. Dead letters with the code chain-limit can be
    /// replayed afterwards.
    Resume {
        #[command(flatten)]
        chain: ChainArgs,
        /// Reason, kept in the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EventFilter {
    #[command(flatten)]
    target: Target,
    /// Filter by subject, such as order/123.
    #[arg(long, value_name = "KIND/ID")]
    subject: Option<String>,
    /// Filter by event type, as a topic pattern: payment.*, *.created.
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<String>,
    /// Filter by event source.
    #[arg(long)]
    source: Option<String>,
    /// Filter by the stage that emitted the event.
    #[arg(long)]
    stage: Option<String>,
    /// Filter by correlation id: the id of the event that started the chain.
    #[arg(long)]
    correlation: Option<String>,
    /// Logged at or after this time: a duration ago (90s, 1h, 2d), or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<u64>,
    /// Logged before this time.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<u64>,
}

impl EventFilter {
    fn path_and_query(&self, path: &[&str]) -> Result<String> {
        let (since, until) =
            (self.since.map(|ms| ms.to_string()), self.until.map(|ms| ms.to_string()));
        let all = [
            ("subject", &self.subject),
            ("type", &self.event_type),
            ("source", &self.source),
            ("stage", &self.stage),
            ("correlation", &self.correlation),
            ("since", &since),
            ("until", &until),
        ];
        let query: Vec<(&str, &str)> =
            all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
        path_and_query(path, &query)
    }
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    target: Target,
    /// Event type, such as desk.note.
    event_type: String,
    /// Payload: a file, or - for standard input.
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// Media type of the payload.
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// Subject: the id of the order, or of another subject, that the event belongs to.
    #[arg(long)]
    subject: Option<String>,
    /// Event id; an event with the same id and source is accepted only once.
    #[arg(long)]
    id: Option<String>,
    /// Event source.
    #[arg(long)]
    source: Option<String>,
    /// Deliver the event at this time (RFC 3339).
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    deliver_at: Option<String>,
    /// Deliver the event after this duration: 90s, 30m, 1h, 2d.
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
}

pub(crate) async fn run(command: EventsCommand, output: Output) -> Result<ExitCode> {
    match command {
        EventsCommand::Tail(filter) => {
            let path = filter.path_and_query(&["events"])?;
            follow(&filter.target, &path, |event| output.print_line(event, line)).await?;
        }
        EventsCommand::Export { filter, output } => export(&filter, &output).await?,
        EventsCommand::Import { target, file } => import(&target, &file, output).await?,
        EventsCommand::Send(args) => output.print_line(&send(args).await?, sent),
        EventsCommand::Chains { target } => {
            output.print(&target.get("/chains").await?, chains::list)?;
        }
        EventsCommand::Stop { chain, reason } => {
            output.print_line(&chain.stop(reason.as_deref()).await?, chains::stopped);
        }
        EventsCommand::Resume { chain, reason } => {
            output.print_line(&chain.resume(reason.as_deref()).await?, chains::resumed);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sent(answer: &Value) -> String {
    let duplicate = if answer["duplicate"] == true { " (duplicate)" } else { "" };
    format!("event {} accepted{duplicate}", text(&answer["id"]))
}

/// Formats an event as one line.
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
    // `style` pads its content and then adds colour codes, so the columns stay aligned.
    format!(
        "{}  {:<26} {:<16} {}{due}",
        style(timestamp::text(at_ms)).dim(),
        colored,
        style(text(&event["subject"])).bold(),
        style(from).cyan()
    )
}

async fn export(filter: &EventFilter, output: &str) -> Result<()> {
    let path = filter.path_and_query(&["events", "export"])?;
    let mut response = filter.target.open(&path, &[]).await?;
    let mut out: Box<dyn Write + Send> = match output {
        "-" => Box::new(std::io::stdout()),
        file => Box::new(BufWriter::new(
            File::create(file).with_context(|| format!("cannot write {file}"))?,
        )),
    };
    let progress = bar(None)?;
    // A truncated response ends with an error, so an incomplete export never looks complete.
    while let Some(chunk) =
        response.chunk().await.context("the export was interrupted: the output is incomplete")?
    {
        out.write_all(&chunk)?;
        progress.inc(memchr::memchr_iter(b'\n', &chunk).count() as u64);
    }
    out.flush()?;
    let count = progress.position();
    progress.finish_and_clear();
    if output != "-" {
        errln!("exported {count} events to {output}");
    }
    Ok(())
}

/// A progress bar, on a terminal only. Counts bytes if the total is known, otherwise events.
fn bar(total_bytes: Option<u64>) -> Result<ProgressBar> {
    let bar = match total_bytes {
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

async fn import(target: &Target, file: &str, output: Output) -> Result<()> {
    let (mut lines, total_bytes): (Box<dyn BufRead + Send>, Option<u64>) = match file {
        "-" => (Box::new(BufReader::new(std::io::stdin())), None),
        file => {
            let opened = File::open(file).with_context(|| format!("cannot read {file}"))?;
            let bytes = opened.metadata()?.len();
            (Box::new(BufReader::new(opened)), Some(bytes))
        }
    };
    let progress = bar(total_bytes)?;
    let mut imported = Imported::default();
    let mut number = 0;
    loop {
        let batch = next_batch(&mut *lines, &mut number)
            .with_context(|| format!("{file}, line {number}"))?;
        if batch.bytes == 0 {
            break;
        }
        progress.inc(if total_bytes.is_some() { batch.bytes } else { batch.lines.len() as u64 });
        imported.skipped += batch.skipped;
        if !batch.lines.is_empty() {
            imported.add(target, file, &batch).await?;
        }
    }
    progress.finish_and_clear();
    let Imported { accepted, duplicates, skipped, conflicts } = imported;
    let answer = serde_json::json!({
        "accepted": accepted,
        "duplicates": duplicates,
        "skipped": skipped,
        "conflicts": conflicts.len(),
    });
    output.print_line(&answer, |_| {
        format!("{accepted} events accepted, {duplicates} duplicates, {skipped} skipped")
    });
    if !conflicts.is_empty() {
        let lines = conflicts.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        bail!(
            "{file}: the host has other events with the source and id of those in line {lines}, \
             which were not imported"
        );
    }
    Ok(())
}

/// What became of the lines of a file.
#[derive(Default)]
struct Imported {
    accepted: u64,
    duplicates: u64,
    /// Events of hosts about themselves.
    skipped: u64,
    /// The lines whose source and id other events have.
    conflicts: Vec<u64>,
}

impl Imported {
    /// Sends a batch.
    async fn add(&mut self, target: &Target, file: &str, batch: &ImportBatch) -> Result<()> {
        let body = serde_json::to_vec(&batch.lines)?;
        let headers = [("content-type", BATCH.to_owned())];
        let answer = target.post_body("/events/import", &headers, body).await;
        let answer = answer.map_err(|error| batch.explained(file, error))?;
        self.accepted += answer["accepted"].as_u64().unwrap_or_default();
        self.duplicates += answer["duplicates"].as_u64().unwrap_or_default();
        let items = answer["items"].as_array().into_iter().flatten();
        let conflicts = items.zip(&batch.numbers).filter(|(item, _)| item["conflict"] == true);
        self.conflicts.extend(conflicts.map(|(_, number)| number));
        Ok(())
    }
}

/// The events of one request.
struct ImportBatch {
    lines: Vec<Box<RawValue>>,
    /// The number of each line in the file.
    numbers: Vec<u64>,
    /// Events of hosts about themselves, which are left out.
    skipped: u64,
    /// Size of all that was read.
    bytes: u64,
}

impl ImportBatch {
    /// The error with the lines of the file in place of positions in the request.
    fn explained(&self, file: &str, error: anyhow::Error) -> anyhow::Error {
        let located = |(pointer, detail): (String, String)| {
            let (index, rest) =
                pointer.strip_prefix('/')?.split_once('/').unwrap_or((&pointer[1..], ""));
            let number = self.numbers.get(index.parse::<usize>().ok()?)?;
            let name = if rest.is_empty() { String::new() } else { format!("{rest} ") };
            Some(format!("line {number}: {name}{detail}"))
        };
        let problems: Option<Vec<String>> = error
            .downcast_ref::<Problem>()
            .map(|problem| problem.errors().filter_map(located).collect());
        let lines = match (self.numbers.first(), self.numbers.last()) {
            (Some(first), Some(last)) => format!("lines {first} to {last}"),
            _ => "no lines".to_owned(),
        };
        let context = format!("{file}, {lines} were not imported (earlier lines were)");
        match problems {
            Some(problems) if !problems.is_empty() => {
                anyhow!(
                    "{file}, {}; {lines} were not imported (earlier lines were)",
                    problems.join("; ")
                )
            }
            _ => error.context(context),
        }
    }
}

/// Reads the events of the next request.
fn next_batch(lines: &mut dyn BufRead, number: &mut u64) -> Result<ImportBatch> {
    let mut batch = ImportBatch { lines: Vec::new(), numbers: Vec::new(), skipped: 0, bytes: 0 };
    while batch.lines.len() < IMPORT_LINES && batch.bytes < IMPORT_BYTES as u64 {
        let mut line = String::new();
        let read = lines.read_line(&mut line)?;
        if read == 0 {
            break;
        }
        *number += 1;
        batch.bytes += read as u64;
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        let event: Box<RawValue> = serde_json::from_str(line).context("invalid JSON")?;
        if is_of_host(&event) {
            batch.skipped += 1;
        } else {
            batch.lines.push(event);
            batch.numbers.push(*number);
        }
    }
    Ok(batch)
}

/// Whether a host published the event about itself: another host's are of no interest, and reserved.
fn is_of_host(event: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[serde(rename = "type", default)]
        event_type: Value,
    }
    let typed = serde_json::from_str::<Typed>(event.get());
    typed.is_ok_and(|typed| {
        typed.event_type.as_str().is_some_and(|text| text.starts_with(HOST_EVENT_PREFIX))
    })
}

async fn send(args: SendArgs) -> Result<Value> {
    let body = match args.data.as_deref() {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            bytes
        }
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {file}"))?,
    };
    if args.event_type.contains('/') {
        bail!("invalid event type `{}`", args.event_type);
    }
    // The HTTP binding of CloudEvents percent-encodes header values.
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
    args.target.post_body(&path(&["events", &args.event_type])?, &headers, body).await
}
