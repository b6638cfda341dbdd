//! Where lines come from: standard input, or files, which are merged by time and can be followed.
//!
//! A file that was rotated or truncated is read from its new beginning. Bound: a line that is longer than
//! [`LINE_MAX_BYTES`] is cut off there.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::line::Line;

/// Longest line: more than a host logs.
const LINE_MAX_BYTES: usize = 1 << 20;
/// Time between two looks at files that are followed.
const POLL: Duration = Duration::from_millis(200);

/// All places that lines are read from.
pub(super) struct Sources {
    all: Vec<Source>,
    follow: bool,
}

/// One place.
struct Source {
    label: Option<String>,
    /// None: standard input.
    path: Option<PathBuf>,
    /// Device and inode of the file.
    file: (u64, u64),
    /// Bytes read of it.
    read_bytes: u64,
    reader: Box<dyn BufRead + Send>,
    /// The beginning of the line whose end is not there yet.
    partial: Vec<u8>,
    /// The next line.
    head: Option<Read>,
}

/// A line that was read.
pub(super) enum Read {
    /// Of a host.
    Line(Line),
    /// Of another program, or cut off.
    Other,
}

impl Read {
    /// When it was logged; what has no time comes first.
    fn at_ms(&self) -> u64 {
        match self {
            Self::Line(line) => line.at_ms,
            Self::Other => 0,
        }
    }
}

impl Sources {
    pub(super) fn stdin() -> Self {
        let reader = Box::new(BufReader::new(io::stdin()));
        Self { all: vec![Source::new(None, reader)], follow: false }
    }

    /// Opens files. `follow`: at their end, waits for more.
    pub(super) fn files(paths: &[PathBuf], follow: bool) -> Result<Self> {
        let mut all = Vec::with_capacity(paths.len());
        for path in paths {
            let mut source = Source::new(Some(path.clone()), Box::new(io::empty()));
            source.open(path).with_context(|| format!("cannot read {}", path.display()))?;
            source.label = (paths.len() > 1).then(|| name(path));
            all.push(source);
        }
        Ok(Self { all, follow })
    }

    /// The next line by time; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Read>> {
        loop {
            for source in &mut self.all {
                source.fill(self.follow)?;
            }
            let heads = self.all.iter().enumerate();
            let times = heads.filter_map(|(at, source)| Some((source.head.as_ref()?.at_ms(), at)));
            if let Some((_, first)) = times.min() {
                return Ok(self.all[first].head.take());
            }
            if !self.follow {
                return Ok(None);
            }
            std::thread::sleep(POLL);
            for source in &mut self.all {
                source.reopen_if_replaced()?;
            }
        }
    }
}

impl Source {
    fn new(path: Option<PathBuf>, reader: Box<dyn BufRead + Send>) -> Self {
        let (label, file, partial) = (None, (0, 0), Vec::new());
        Self { label, path, file, read_bytes: 0, reader, partial, head: None }
    }

    fn open(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        (self.file, self.read_bytes) = ((meta.dev(), meta.ino()), 0);
        self.partial.clear();
        self.reader = Box::new(BufReader::new(file));
        Ok(())
    }

    /// Reads a file from its beginning if another one has its name, or if it became shorter.
    fn reopen_if_replaced(&mut self) -> Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        // Between the two steps of a rotation no file has the name.
        let Ok(meta) = std::fs::metadata(&path) else { return Ok(()) };
        if (meta.dev(), meta.ino()) != self.file || meta.len() < self.read_bytes {
            // What was written before the other file came.
            self.fill(false)?;
            if self.head.is_none() {
                self.open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Reads the next line if none is there. `more`: a line without an end may get one.
    fn fill(&mut self, more: bool) -> io::Result<()> {
        if self.head.is_some() {
            return Ok(());
        }
        loop {
            let available = self.reader.fill_buf()?;
            let (end, used) = match available.iter().position(|byte| *byte == b'\n') {
                Some(at) => (true, at + 1),
                None => {
                    (available.is_empty() && !more && !self.partial.is_empty(), available.len())
                }
            };
            let text = &available[..used];
            let room = LINE_MAX_BYTES.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            self.reader.consume(used);
            self.read_bytes += used as u64;
            if end {
                let text = std::mem::take(&mut self.partial);
                let line = Line::parse(self.label.as_deref(), &String::from_utf8_lossy(&text));
                self.head = Some(line.map_or(Read::Other, Read::Line));
                return Ok(());
            }
            if used == 0 {
                return Ok(());
            }
        }
    }
}

/// The name of a file without its folder and its extension.
fn name(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
