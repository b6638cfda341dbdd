//! A stage's project folder. Its `stage.toml` has the build command, the plugin file that the command
//! produces, and the files to watch.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use postrider::internals::hex;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The manifest of a project.
pub(crate) const FILE: &str = "stage.toml";
/// Data of the development tools, in the project's folder.
pub(crate) const DATA_FOLDER: &str = ".postrider";
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
        if status.success() && self.artifact.is_file() {
            self.note_sources()?;
        }
        let failed = match status.success() {
            true if self.artifact.is_file() => None,
            true => {
                Some(format!("{}\nthe build did not produce {}", text(), self.artifact.display()))
            }
            false => Some(text()),
        };
        Ok(Built { took: began.elapsed(), failed })
    }

    /// Builds the plugin if its file is missing or was not built from the present sources.
    pub(super) async fn build_if_stale(&self) -> Result<()> {
        if self.is_fresh() { Ok(()) } else { self.rebuild().await }
    }

    /// Whether the plugin was built from the present sources: by the note of its last build here,
    /// or else by the times of the files.
    fn is_fresh(&self) -> bool {
        let Ok(artifact) = std::fs::read(&self.artifact) else { return false };
        let note = std::fs::read_to_string(self.note_file()).unwrap_or_default();
        if note.lines().next() == Some(hex(&Sha256::digest(&artifact)).as_str()) {
            return note.lines().nth(1) == Some(self.source_digest().as_str());
        }
        let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
        let built = modified(&self.artifact);
        !self.sources().iter().any(|source| modified(source) > built)
    }

    /// Notes which plugin was built from which sources.
    fn note_sources(&self) -> Result<()> {
        let artifact = hex(&Sha256::digest(std::fs::read(&self.artifact)?));
        let file = self.note_file();
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            std::fs::write(folder.join(".gitignore"), "*\n")?;
        }
        let note = format!("{artifact}\n{}\n", self.source_digest());
        std::fs::write(&file, note).with_context(|| file.display().to_string())
    }

    fn note_file(&self) -> PathBuf {
        self.dir.join(DATA_FOLDER).join("sources")
    }

    /// The digest of the manifest and of every watched file.
    fn source_digest(&self) -> String {
        let mut all = Sha256::new();
        for source in self.sources() {
            let name = source.as_os_str().as_encoded_bytes();
            let content = std::fs::read(&source).unwrap_or_default();
            for part in [name, &content] {
                all.update((part.len() as u64).to_be_bytes());
                all.update(part);
            }
        }
        hex(&all.finalize())
    }

    /// The manifest and every watched file, by name; neither the plugin nor what tools leave behind.
    fn sources(&self) -> Vec<PathBuf> {
        let mut found = vec![self.dir.join(FILE)];
        let mut waiting: Vec<PathBuf> = self.watch.clone();
        while let Some(path) = waiting.pop() {
            if path.is_file() && path != self.artifact {
                found.push(path);
            } else if let Ok(entries) = std::fs::read_dir(&path) {
                let entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
                waiting.extend(entries.filter(|path| !is_hidden(path)));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Builds the plugin; a failed build is an error.
    pub(super) async fn rebuild(&self) -> Result<()> {
        errln!("building {} …", self.name());
        match self.build().await?.failed {
            Some(output) => bail!("the build of {} failed:\n{output}", self.dir.display()),
            None => Ok(()),
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    let names = ["node_modules", "target", "__pycache__"];
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with('.') || names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plugin_is_stale_when_a_source_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        write(
            "stage.toml",
            "build = 'cat src/* > out.wasm'\nartifact = 'out.wasm'\nwatch = ['src']\n",
        );
        write("src/a", "1");
        let project = Project::open(folder.path()).unwrap();
        assert!(!project.is_fresh(), "not built yet");
        assert!(project.build().await.unwrap().failed.is_none());
        assert!(project.is_fresh());
        // Neither size nor time change.
        let time = project.dir.join("src/a").metadata().unwrap().modified().unwrap();
        let change = |text: &str| {
            let place = folder.path().join("src/a");
            let mut file = std::fs::File::options().write(true).truncate(true).open(place).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            file.set_modified(time).unwrap();
        };
        change("2");
        assert!(!project.is_fresh(), "another content");
        change("1");
        assert!(project.is_fresh());
        write("src/b", "");
        assert!(!project.is_fresh(), "another file");
        std::fs::remove_file(folder.path().join("src/b")).unwrap();
        // Built by other means: the times decide.
        write("out.wasm", "by hand");
        assert!(project.is_fresh());
        let old = time - Duration::from_mins(1);
        std::fs::File::options()
            .write(true)
            .open(&project.artifact)
            .unwrap()
            .set_modified(old)
            .unwrap();
        assert!(!project.is_fresh());
    }
}
