//! A folder that holds a stage: `stage.toml` says how it is built, what comes out, and whose change
//! rebuilds it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The file that makes a folder a stage's.
pub(crate) const FILE: &str = "stage.toml";
/// Of a build's output, this much of the end is kept.
const OUTPUT_MAX_BYTES: usize = 64 << 10;

/// What `stage.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageToml {
    build: String,
    artifact: PathBuf,
    watch: Vec<PathBuf>,
}

/// A stage's folder.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// One shell command that builds everything.
    build: String,
    /// The plugin file that it makes.
    pub(crate) artifact: PathBuf,
    /// Files and folders whose change asks for a new build.
    pub(crate) watch: Vec<PathBuf>,
}

/// A build that was run.
pub(crate) struct Built {
    /// How long it took.
    pub(crate) took: Duration,
    /// The end of what it printed, when it failed.
    pub(crate) failed: Option<String>,
}

impl Project {
    /// Reads a stage's folder.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let file = dir.join(FILE);
        ensure!(
            file.is_file(),
            "{} has no {FILE}: `postrider plugin new` makes a folder that does",
            dir.display()
        );
        let said: StageToml = Figment::from(Toml::file_exact(&file))
            .extract()
            .with_context(|| file.display().to_string())?;
        let watch = said.watch.iter().map(|path| dir.join(path)).collect();
        Ok(Self {
            artifact: dir.join(said.artifact),
            dir: dir.to_owned(),
            build: said.build,
            watch,
        })
    }

    /// All stages' folders under `dir`, itself included, at most `depth` folders down.
    pub(crate) fn find(dir: &Path, depth: usize) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        if dir.join(FILE).is_file() {
            found.push(Self::open(dir)?);
        } else if depth > 0 {
            let mut folders: Vec<PathBuf> = std::fs::read_dir(dir)
                .with_context(|| dir.display().to_string())?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.is_dir() && !is_hidden(path))
                .collect();
            folders.sort();
            for folder in folders {
                found.extend(Self::find(&folder, depth - 1)?);
            }
        }
        Ok(found)
    }

    /// What people call it.
    pub(crate) fn name(&self) -> String {
        let full = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        full.file_name()
            .map_or_else(|| "stage".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Runs the build; ended with it when the caller goes away.
    pub(crate) async fn build(&self) -> Result<Built> {
        let began = Instant::now();
        let mut command = Command::new("sh");
        // One pipe for both, so that what belongs together stays together.
        command
            .arg("-c")
            .arg(format!("({}\n) 2>&1", self.build))
            .current_dir(&self.dir)
            .kill_on_drop(true);
        // The stage's own tools may need this program.
        if let Ok(program) = std::env::current_exe() {
            command.env("POSTRIDER", program);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("no shell to build with")?;
        let mut output = Vec::new();
        if let Some(mut pipe) = child.stdout.take() {
            let mut piece = [0; 8192];
            loop {
                let count = pipe.read(&mut piece).await?;
                if count == 0 {
                    break;
                }
                output.extend_from_slice(&piece[..count]);
                if output.len() > 2 * OUTPUT_MAX_BYTES {
                    output.drain(..output.len() - OUTPUT_MAX_BYTES);
                }
            }
        }
        let status = child.wait().await?;
        let said = || String::from_utf8_lossy(&output).trim_end().to_owned();
        let failed = match status.success() {
            true if self.artifact.is_file() => None,
            true => Some(format!("{}\nthe build made no {}", said(), self.artifact.display())),
            false => Some(said()),
        };
        Ok(Built { took: began.elapsed(), failed })
    }

    /// Builds what is not there yet, or always.
    pub(super) async fn ensure_built(&self, always: bool) -> Result<()> {
        if self.artifact.is_file() && !always {
            return Ok(());
        }
        eprintln!("building {} …", self.name());
        match self.build().await?.failed {
            Some(output) => bail!("{} cannot be built:\n{output}", self.dir.display()),
            None => Ok(()),
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    let names = ["node_modules", "target"];
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with('.') || names.contains(&name))
}
