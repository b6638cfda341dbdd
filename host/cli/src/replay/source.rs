//! Reads recordings page by page, from a running host or from a file of JSON lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::ReplayArgs;
use crate::client::Target;
use postrider::internals::Recorded;
use postrider::{Clock as _, SystemClock};

/// Maximum number of recordings per page.
const PAGE: u64 = 200;
/// Default of `--since`: one hour.
const SINCE_MS: u64 = 60 * 60 * 1_000;

/// Returns recordings until the limit is reached.
pub(super) struct Source<'a> {
    from: Origin<'a>,
    left: u64,
    has_more: bool,
    save: Option<BufWriter<File>>,
}

enum Origin<'a> {
    Host {
        target: &'a Target,
        stage: &'a str,
        filter: (&'static str, String),
        cursor: Option<String>,
        at_end: bool,
    },
    File {
        path: &'a str,
        stage: &'a str,
        lines: Box<dyn BufRead + Send>,
        number: usize,
    },
}

impl<'a> Source<'a> {
    pub(super) fn open(args: &'a ReplayArgs) -> Result<Self> {
        let from = match &args.recordings {
            Some(path) => Origin::File { path, stage: &args.stage, lines: lines(path)?, number: 0 },
            None => {
                let since_ms =
                    args.since.unwrap_or_else(|| SystemClock.now_ms().saturating_sub(SINCE_MS));
                let filter = match &args.subject {
                    Some(subject) => ("subject", subject.clone()),
                    None => ("since_ms", since_ms.to_string()),
                };
                Origin::Host {
                    target: &args.target,
                    stage: &args.stage,
                    filter,
                    cursor: None,
                    at_end: false,
                }
            }
        };
        let save = args.save.as_deref().map(create).transpose()?;
        Ok(Self { from, left: args.limit, has_more: false, save })
    }

    /// Returns the next page; it is empty at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<Recorded>> {
        let max = self.left.min(PAGE);
        if max == 0 {
            return Ok(Vec::new());
        }
        let (page, more) = match &mut self.from {
            Origin::Host { at_end: true, .. } => (Vec::new(), false),
            Origin::Host { target, stage, filter, cursor, at_end } => {
                let (page, next) = fetch(target, stage, filter, cursor.as_deref(), max).await?;
                *at_end = next.is_none();
                *cursor = next;
                (page, !*at_end)
            }
            Origin::File { path, stage, lines, number } => read(path, stage, lines, number, max)?,
        };
        self.left -= page.len() as u64;
        self.has_more = more && self.left == 0;
        if let Some(file) = &mut self.save {
            for recorded in &page {
                serde_json::to_writer(&mut *file, recorded)?;
                file.write_all(b"\n")?;
            }
        }
        Ok(page)
    }

    /// Whether there are more recordings than the limit.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Flushes the file of `--save`.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Some(file) = &mut self.save {
            file.flush().context("--save")?;
        }
        Ok(())
    }
}

async fn fetch(
    target: &Target,
    stage: &str,
    filter: &(&'static str, String),
    cursor: Option<&str>,
    limit: u64,
) -> Result<(Vec<Recorded>, Option<String>)> {
    let mut query: Vec<(&str, &str)> = vec![(filter.0, &filter.1)];
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    let limit = limit.to_string();
    query.push(("limit", &limit));
    let mut answer = target.query(&["stages", stage, "recordings"], &query).await?;
    let items = serde_json::from_value(answer["items"].take())
        .context("cannot read the host's recordings; does it run the same version?")?;
    Ok((items, answer["next"].as_str().map(str::to_owned)))
}

fn lines(path: &str) -> Result<Box<dyn BufRead + Send>> {
    Ok(match path {
        "-" => Box::new(BufReader::new(std::io::stdin())),
        file => Box::new(BufReader::new(
            File::open(file).with_context(|| format!("cannot read {file}"))?,
        )),
    })
}

/// Reads the next recordings of the stage; returns them and whether more lines follow.
fn read(
    path: &str,
    stage: &str,
    lines: &mut dyn BufRead,
    number: &mut usize,
    max: u64,
) -> Result<(Vec<Recorded>, bool)> {
    let mut page: VecDeque<Recorded> = VecDeque::new();
    let mut line = String::new();
    while (page.len() as u64) < max {
        line.clear();
        *number += 1;
        if lines.read_line(&mut line).with_context(|| format!("cannot read {path}"))? == 0 {
            return Ok((page.into(), false));
        }
        if line.trim().is_empty() {
            continue;
        }
        let recorded: Recorded = serde_json::from_str(&line)
            .with_context(|| format!("{path}, line {number}: invalid recording"))?;
        if recorded.stage == stage {
            page.push_back(recorded);
        }
    }
    let more = !lines.fill_buf().with_context(|| format!("cannot read {path}"))?.is_empty();
    Ok((page.into(), more))
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::new(
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
    ))
}
