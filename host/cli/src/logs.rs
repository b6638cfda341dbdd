//! `postrider logs`: reads the JSON log lines of hosts and prints those of one subject, trace, event or
//! stage. It asks no host: it works on files of stopped hosts, and on what a container platform collected.
//!
//! Bounds: one line of each file is in memory, and the lines that [`select`] holds back.

mod line;
mod select;
mod source;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use postrider::{LogLevel, SubjectKey};

use self::line::Shown;
use self::select::{Filter, Selection};
use self::source::{Read, Sources};
use crate::output::Output;
use crate::value_parsers::time_ms;

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Kind and id of a subject, such as order/17 or order 17: prints its lines, and those of its
    /// traces that belong to no subject, such as requests.
    #[arg(value_name = "KIND/ID", num_args = 1..=2)]
    subject: Vec<String>,
    /// Filter by trace: 32 hexadecimal digits.
    #[arg(long, value_name = "ID")]
    trace: Option<String>,
    /// Filter by the id of an event.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Filter by stage.
    #[arg(long)]
    stage: Option<String>,
    /// Filter by level: this one and more severe ones.
    #[arg(long)]
    level: Option<LogLevel>,
    /// Logged at or after this time: a duration ago (90s, 1h, 2d), or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<u64>,
    /// File with JSON log lines; several are merged by time [default: standard input].
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Wait for more lines, also after a file was rotated.
    #[arg(long, short = 'F', requires = "file")]
    follow: bool,
}

impl LogsArgs {
    fn filter(&self) -> Result<Filter> {
        let subject = match self.subject.join("/") {
            key if key.is_empty() => None,
            key => Some(key.parse::<SubjectKey>().map_err(|why| anyhow::anyhow!("{why}"))?),
        };
        Ok(Filter {
            subject: subject.map(|key| key.to_string()),
            trace: self.trace.as_ref().map(|id| id.to_ascii_lowercase()),
            event: self.event.clone(),
            stage: self.stage.clone(),
            level: self.level,
            since_ms: self.since,
        })
    }
}

pub(crate) async fn run(args: LogsArgs, output: Output) -> Result<ExitCode> {
    // Files and standard input are read with blocking calls.
    tokio::task::spawn_blocking(move || read(&args, output)).await?
}

fn read(args: &LogsArgs, output: Output) -> Result<ExitCode> {
    let mut sources = if args.file.is_empty() {
        if std::io::stdin().is_terminal() {
            bail!("nothing to read: give --file FILE, or pipe log lines to standard input");
        }
        Sources::stdin()
    } else {
        Sources::files(&args.file, args.follow)?
    };
    let filter = args.filter()?;
    let shown = Shown { subject: filter.subject.is_none(), trace: filter.is_unfiltered() };
    let mut selection = Selection::new(filter);
    let (mut read, mut parsed, mut printed) = (0_u64, 0_u64, 0_u64);
    while let Some(next) = sources.next()? {
        read += 1;
        let Read::Line(line) = next else { continue };
        parsed += 1;
        for line in selection.take(line) {
            printed += 1;
            output.print_line(&line.fields, |_| line.text(shown));
        }
    }
    if read > 0 && parsed == 0 {
        bail!("none of the {read} lines is a JSON log line: run hosts with --log-format json");
    }
    if printed == 0 {
        errln!("no line matches, of {parsed}");
    }
    Ok(ExitCode::SUCCESS)
}
