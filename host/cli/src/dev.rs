//! `postrider dev`: rebuilds and reloads stages on every save, and prints their outcomes.
//!
//! A host with the embedded store and broker runs in this process. A change to a file that a stage's
//! `stage.toml` watches rebuilds the stage; the new plugin file goes to the host's plugins folder,
//! which reloads it like any other. Builds run one at a time; changes during a build are combined
//! into one build after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use notify::{RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use self::console::Console;
use crate::plugin::dry_run::Case;
use crate::plugin::project::Project;
use postrider::internals::hex;
use postrider::{App, Config, Host};

mod console;

/// Data folder of the development host.
const FOLDER: &str = ".postrider";
/// How many levels of folders are searched for projects.
const DEPTH: usize = 3;
/// How long changes are collected before a build, because an editor writes a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Project folder, or a folder with several projects.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Send these fixtures of `plugin test` to the stage after each reload: files or folders.
    #[arg(long, value_name = "PATH")]
    send: Vec<PathBuf>,
    /// Folder of other plugins to run beside the stages under development.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Listen address of the API.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: String,
}

pub(crate) async fn run(args: DevArgs) -> Result<ExitCode> {
    let projects = Project::find(&args.dir, DEPTH)?;
    ensure!(
        !projects.is_empty(),
        "no stage.toml in {}: create a project with `postrider plugin new`",
        args.dir.display()
    );
    let folder = args.dir.join(FOLDER);
    let plugins = folder.join("plugins");
    prepare(&folder, &plugins, args.plugins.as_deref())?;
    let (changed, changes) = mpsc::channel(64);
    let _watcher = watch(&projects, changed)?;
    let console = Arc::new(Console::default());
    let mut rebuilder =
        Rebuilder { projects, plugins, send: args.send, console: Arc::clone(&console), app: None };
    for at in 0..rebuilder.projects.len() {
        rebuilder.rebuild(at, Instant::now()).await?;
    }
    let host = Host::builder(configure(&folder, &args.listen))
        .observe(move |settlement| console.settled(settlement))
        .build()
        .await?;
    let address = host.address()?;
    rebuilder.app = Some(host.app());
    Console::serving(address, &host.app().plugins());
    let rebuilding = tokio::spawn(rebuilder.run(changes));
    host.run_until(crate::host::stop_signal()?).await?;
    rebuilding.abort();
    Ok(ExitCode::SUCCESS)
}

/// The configuration of the development host, whose data is in `folder`.
fn configure(folder: &Path, listen: &str) -> Config {
    let mut config = Config::default();
    config.store.url = format!("sqlite:{}", folder.join("dev.db").display());
    config.plugins.dir = folder.join("plugins");
    config.plugins.debounce_ms = 1;
    config.plugins.archive_dir = folder.join("archive");
    config.runtime.cache_dir = Some(folder.join("cache"));
    config.runtime.quick = true;
    config.recording.enabled = true;
    listen.clone_into(&mut config.http.listen);
    config
}

/// Creates the plugins folder of the host and copies the plugins of `others` into it.
fn prepare(folder: &Path, plugins: &Path, others: Option<&Path>) -> Result<()> {
    if plugins.exists() {
        std::fs::remove_dir_all(plugins).with_context(|| plugins.display().to_string())?;
    }
    std::fs::create_dir_all(plugins).with_context(|| plugins.display().to_string())?;
    std::fs::write(folder.join(".gitignore"), "*\n")?;
    let Some(others) = others else { return Ok(()) };
    for entry in std::fs::read_dir(others).with_context(|| others.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "wasm")
            && let Some(name) = path.file_name()
        {
            std::fs::copy(&path, plugins.join(name))?;
        }
    }
    Ok(())
}

/// A change to a watched file of a project.
struct Change {
    project: usize,
    at: Instant,
}

fn watch(
    projects: &[Project],
    changed: mpsc::Sender<Change>,
) -> Result<notify::RecommendedWatcher> {
    let mut roots: Vec<(usize, PathBuf)> = Vec::new();
    for (at, project) in projects.iter().enumerate() {
        for path in &project.watch {
            // A path may not exist yet because a build creates it.
            if let Ok(path) = path.canonicalize() {
                roots.push((at, path));
            }
        }
    }
    let known = roots.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if event.kind.is_access() {
            return;
        }
        let touched: BTreeSet<usize> = known
            .iter()
            .filter(|(_, root)| event.paths.iter().any(|path| path.starts_with(root)))
            .map(|(at, _)| *at)
            .collect();
        for project in touched {
            // A full channel already triggers a build, so the change can be dropped.
            let _ = changed.try_send(Change { project, at: Instant::now() });
        }
    })?;
    let mut folders: BTreeMap<PathBuf, RecursiveMode> = BTreeMap::new();
    for (_, root) in roots {
        if root.is_dir() {
            folders.insert(root, RecursiveMode::Recursive);
        } else if let Some(parent) = root.parent() {
            // Editors replace files, which a watch on the file itself would miss.
            folders.entry(parent.to_owned()).or_insert(RecursiveMode::NonRecursive);
        }
    }
    for (folder, mode) in folders {
        watcher
            .watch(&folder, mode)
            .with_context(|| format!("cannot watch {}", folder.display()))?;
    }
    Ok(watcher)
}

/// Builds stages and loads them into the host.
struct Rebuilder {
    projects: Vec<Project>,
    plugins: PathBuf,
    send: Vec<PathBuf>,
    console: Arc<Console>,
    /// `None` until the host is built.
    app: Option<Arc<App>>,
}

impl Rebuilder {
    async fn run(self, mut changes: mpsc::Receiver<Change>) {
        while let Some(first) = changes.recv().await {
            tokio::time::sleep(DEBOUNCE).await;
            let mut waiting = vec![first];
            while let Ok(more) = changes.try_recv() {
                waiting.push(more);
            }
            let projects: BTreeSet<usize> = waiting.iter().map(|change| change.project).collect();
            for project in projects {
                let saved = waiting
                    .iter()
                    .find(|change| change.project == project)
                    .map_or_else(Instant::now, |change| change.at);
                if let Err(error) = self.rebuild(project, saved).await {
                    Console::failed(&self.projects[project].name(), &format!("{error:#}"));
                }
            }
        }
    }

    /// Builds a stage and, if its plugin file changed, waits until the host has loaded it.
    async fn rebuild(&self, at: usize, saved: Instant) -> Result<()> {
        let project = &self.projects[at];
        let built = project.build().await?;
        if let Some(output) = built.failed {
            Console::failed(&project.name(), &output);
            return Ok(());
        }
        let bytes = std::fs::read(&project.artifact)?;
        let digest = hex(&Sha256::digest(&bytes));
        let file = format!("{}.wasm", project.name());
        let place = self.plugins.join(&file);
        Console::built(&project.name(), built.took, bytes.len());
        if std::fs::read(&place).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        let part = self.plugins.join(format!(".{file}.part"));
        std::fs::write(&part, bytes)?;
        let Some(app) = &self.app else { return Ok(std::fs::rename(part, place)?) };
        self.console.expect(&digest, saved, built.took);
        let reload_count = app.reload_count(&file);
        std::fs::rename(part, place)?;
        match app.wait_until_loaded(&file, &digest, reload_count).await {
            Ok(stages) => {
                Console::reloaded(&project.name(), saved.elapsed());
                self.send_cases(app, project, &stages).await
            }
            Err(error) => {
                Console::failed(&project.name(), &error);
                Ok(())
            }
        }
    }

    async fn send_cases(&self, app: &App, project: &Project, stages: &[String]) -> Result<()> {
        for path in &self.send {
            // A relative path is looked up in the project first.
            let path = Some(project.dir.join(path))
                .filter(|in_project| in_project.exists())
                .unwrap_or_else(|| path.clone());
            for file in case_files(&path)? {
                let case = Case::parse(crate::client::read_json(&file.to_string_lossy())?)
                    .with_context(|| file.display().to_string())?;
                for stage in stages {
                    app.send_to(stage, case.event()).await?;
                }
            }
        }
        Ok(())
    }
}

fn case_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() { crate::plugin::test::cases(path) } else { Ok(vec![path.to_owned()]) }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
