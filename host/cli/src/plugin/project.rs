//! A stage's project folder. Its `stage.toml` has the build command, the plugin file that the command
//! produces, and the files to watch.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The manifest of a project.
pub(crate) const FILE: &str = "stage.toml";
/// Size of the end of a build's output that is kept.
const OUTPUT_MAX_BYTES: usize = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageToml {
    build: String,
    artifact: PathBuf,
    watch: Vec<PathBuf>,
}

/// A project.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    /// Shell command that builds the plugin.
    build: String,
    /// Plugin file that the build produces.
    pub(crate) artifact: PathBuf,
    /// Files and folders whose change triggers a build.
    pub(crate) watch: Vec<PathBuf>,
}

/// The result of a build.
pub(crate) struct Built {
    pub(crate) took: Duration,
    /// The end of the build's output, if it failed.
    pub(crate) failed: Option<String>,
}

impl Project {
    /// Reads the `stage.toml` in a folder.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let file = dir.join(FILE);
        ensure!(
            file.is_file(),
            "{} has no {FILE}: create a project with `postrider plugin new`",
            dir.display()
        );
        let manifest: StageToml = Figment::from(Toml::file_exact(&file))
            .extract()
            .with_context(|| file.display().to_string())?;
        let watch = manifest.watch.iter().map(|path| dir.join(path)).collect();
        Ok(Self {
            artifact: dir.join(manifest.artifact),
            dir: dir.to_owned(),
            build: manifest.build,
            watch,
        })
    }

    /// Finds the projects in `dir` and at most `depth` folders below it.
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

    /// The name of the folder.
    pub(crate) fn name(&self) -> String {
        let full = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        full.file_name()
            .map_or_else(|| "stage".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Runs the build. Dropping the future kills it.
    pub(crate) async fn build(&self) -> Result<Built> {
        let began = Instant::now();
        let mut command = Command::new("sh");
        // One pipe for standard output and standard error keeps their lines in order.
        command
            .arg("-c")
            .arg(format!("({}\n) 2>&1", self.build))
            .current_dir(&self.dir)
            .kill_on_drop(true);
        // Builds may call this program, for example to generate bindings.
        if let Ok(program) = std::env::current_exe() {
            command.env("POSTRIDER", program);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `sh`")?;
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
        let text = || String::from_utf8_lossy(&output).trim_end().to_owned();
        let failed = match status.success() {
            true if self.artifact.is_file() => None,
            true => {
                Some(format!("{}\nthe build did not produce {}", text(), self.artifact.display()))
            }
            false => Some(text()),
        };
        Ok(Built { took: began.elapsed(), failed })
    }

    /// Builds the plugin unless its file exists.
    pub(super) async fn build_if_missing(&self) -> Result<()> {
        if self.artifact.is_file() { Ok(()) } else { self.rebuild().await }
    }

    /// Builds the plugin; a failed build is an error.
    pub(super) async fn rebuild(&self) -> Result<()> {
        eprintln!("building {} …", self.name());
        match self.build().await?.failed {
            Some(output) => bail!("the build of {} failed:\n{output}", self.dir.display()),
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
