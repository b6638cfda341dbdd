//! Where recordings come from: page by page from a running host, or from a file of JSON lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::client::Target;
use super::ReplayArgs;
use postrider::domain::clock::{Clock as _, SystemClock};
use postrider::stage::recording::Recorded;

/// Recordings fetched, or read, at once.
const PAGE: u64 = 200;
/// Without another word, events of the last hour.
const SINCE_MS: u64 = 60 * 60 * 1_000;

/// Hands out recordings until the limit is reached.
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
        over: bool,
    },
    File {
        place: &'a str,
        stage: &'a str,
        lines: Box<dyn BufRead + Send>,
        number: usize,
    },
}

impl<'a> Source<'a> {
    pub(super) fn open(args: &'a ReplayArgs) -> Result<Self> {
        let from = match &args.events {
            Some(place) => {
                Origin::File { place, stage: &args.stage, lines: lines(place)?, number: 0 }
            }
            None => {
                let since_ms = SystemClock.now_ms().saturating_sub(args.since.unwrap_or(SINCE_MS));
                let filter = match &args.order {
                    Some(order) => ("order", order.clone()),
                    None => ("since_ms", since_ms.to_string()),
                };
                Origin::Host {
                    target: &args.target,
                    stage: &args.stage,
                    filter,
                    cursor: None,
                    over: false,
                }
            }
        };
        let save = args.save.as_deref().map(create).transpose()?;
        Ok(Self { from, left: args.limit, has_more: false, save })
    }

    /// The next recordings; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<Recorded>> {
        let most = self.left.min(PAGE);
        if most == 0 {
            return Ok(Vec::new());
        }
        let (page, more) = match &mut self.from {
            Origin::Host { over: true, .. } => (Vec::new(), false),
            Origin::Host { target, stage, filter, cursor, over } => {
                let (page, next) = fetch(target, stage, filter, cursor.as_deref(), most).await?;
                *over = next.is_none();
                *cursor = next;
                (page, !*over)
            }
            Origin::File { place, stage, lines, number } => {
                read(place, stage, lines, number, most)?
            }
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

    /// Whether the limit left something out.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// What was to be saved is on disk.
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
    let mut answer = target.ask(&["stages", stage, "recordings"], &query).await?;
    let items = serde_json::from_value(answer["items"].take())
        .context("the host's recordings cannot be read; is it of this version?")?;
    Ok((items, answer["next"].as_str().map(str::to_owned)))
}

fn lines(place: &str) -> Result<Box<dyn BufRead + Send>> {
    Ok(match place {
        "-" => Box::new(BufReader::new(std::io::stdin())),
        file => Box::new(BufReader::new(
            File::open(file).with_context(|| format!("{file} cannot be read"))?,
        )),
    })
}

/// The next recordings of the stage, and whether there may be more.
fn read(
    place: &str,
    stage: &str,
    lines: &mut dyn BufRead,
    number: &mut usize,
    most: u64,
) -> Result<(Vec<Recorded>, bool)> {
    let mut page: VecDeque<Recorded> = VecDeque::new();
    let mut line = String::new();
    while (page.len() as u64) < most {
        line.clear();
        *number += 1;
        if lines.read_line(&mut line).with_context(|| format!("{place} cannot be read"))? == 0 {
            return Ok((page.into(), false));
        }
        if line.trim().is_empty() {
            continue;
        }
        let recorded: Recorded = serde_json::from_str(&line)
            .with_context(|| format!("{place}, line {number}: not a recording"))?;
        if recorded.stage == stage {
            page.push_back(recorded);
        }
    }
    let more = !lines.fill_buf().with_context(|| format!("{place} cannot be read"))?.is_empty();
    Ok((page.into(), more))
}

fn create(place: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::new(
        File::create(place).with_context(|| format!("{} cannot be written", place.display()))?,
    ))
}

/// A while, as people write it.
pub(crate) fn milliseconds(text: &str) -> Result<u64, String> {
    let span: jiff::Span = text
        .parse()
        .map_err(|error| format!("expected a while such as 90s, 30m, 1h or 2d: {error}"))?;
    let time = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|error| error.to_string())?;
    u64::try_from(time.as_millis())
        .map_err(|_| "a while ago, not in a while: it must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_while_is_read_as_people_write_it() {
        for (text, expected) in [
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(milliseconds(text), Ok(expected), "{text}");
        }
        for wrong in ["", "1", "yesterday", "-1h", "1 month"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
    }
}
