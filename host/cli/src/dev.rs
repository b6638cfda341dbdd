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
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::console::Console;
use crate::plugin::case::Case;
use crate::plugin::dry_run::{DryRun, RunAs, load, stages_of};
use crate::plugin::named_config;
use crate::plugin::project::{DATA_FOLDER as FOLDER, Project};
use crate::scope::Scope;
use crate::traces::Traces;
use postrider::internals::{HttpSettings, Linked, Routes as _, hex};
use postrider::{App, Clock as _, Config, Host, Settlement, SystemClock, Verdict};

mod console;

/// How many levels of folders are searched for projects.
const DEPTH: usize = 3;
/// How long changes are collected before a build, because an editor writes a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Project folder, or a folder with several projects.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Run these fixtures of `plugin test` at the start and after each reload: files or folders. Each
    /// runs with its own state, settings and HTTP answers; its events go to the other stages.
    #[arg(long, value_name = "PATH")]
    send: Vec<PathBuf>,
    /// Folder of other plugins to run beside the stages under development.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Listen address of the API [default: http.listen of --config, or port 8000, or a free port if
    /// that one is taken].
    #[arg(long)]
    listen: Option<String>,
}

pub(crate) async fn run(args: DevArgs, scope: &Scope) -> Result<ExitCode> {
    let projects = Project::find(&args.dir, DEPTH)?;
    ensure!(
        !projects.is_empty(),
        "no stage.toml in {}: create a project with `postrider plugin new`",
        args.dir.display()
    );
    let folder = args.dir.join(FOLDER);
    let mut config = configure(named_config(scope)?, &folder);
    // Before the builds, which may take a minute.
    let listener = listen(&mut config, args.listen.as_deref()).await?;
    let plugins = folder.join("plugins");
    prepare(&folder, &plugins, args.plugins.as_deref())?;
    let (changed, changes) = mpsc::channel(64);
    let _watcher = watch(&projects, changed)?;
    let console = Arc::new(Console::default());
    let mut rebuilder = Rebuilder {
        projects,
        plugins,
        send: args.send,
        config: config.clone(),
        console: Arc::clone(&console),
        app: None,
    };
    for at in 0..rebuilder.projects.len() {
        rebuilder.rebuild(at, Instant::now()).await?;
    }
    let traces = Traces::from_environment()?;
    let host = traces
        .export(Host::builder())
        .config(config)
        .listener(listener)
        .observe(move |settlement| console.settled(settlement))
        .build()
        .await?;
    let address = host.address().context("the host has a listener")?;
    rebuilder.app = Some(host.app());
    Console::serving(address, &host.app().plugins());
    let rebuilding = tokio::spawn(rebuilder.run(changes));
    let ran = host.run_until(crate::host::stop_signal()?).await;
    rebuilding.abort();
    traces.finish().await;
    ran?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration of the development host, whose data is in `folder`: what the author named,
/// with a store and a broker of its own.
fn configure(mut config: Config, folder: &Path) -> Config {
    config.store.url = format!("sqlite:{}", folder.join("dev.db").display());
    "embedded:".clone_into(&mut config.broker.url);
    config.plugins.dir = folder.join("plugins");
    config.plugins.debounce_ms = 1;
    config.plugins.archive_dir = folder.join("archive");
    config.runtime.cache_dir = Some(folder.join("cache"));
    config.runtime.quick = true;
    config.recording.enabled = true;
    config.clear_state_places();
    // The author's newest build serves, also while it traps.
    config.defaults.guard.messages = 0;
    for stage in config.stages.values_mut() {
        stage.guard.messages = 0;
    }
    config
}

/// Binds the address that the author named, or the usual one, or any.
async fn listen(config: &mut Config, named: Option<&str>) -> Result<TcpListener> {
    let usual = HttpSettings::default().listen;
    if let Some(named) = named {
        named.clone_into(&mut config.http.listen);
    }
    let wanted = config.http.listen.clone();
    match TcpListener::bind(&wanted).await {
        Ok(listener) => Ok(listener),
        Err(error) if named.is_none() && wanted == usual => {
            outln!("{wanted} is taken ({error}): using a free port");
            Ok(TcpListener::bind("127.0.0.1:0").await?)
        }
        Err(error) => Err(error)
            .with_context(|| format!("cannot listen on {wanted}: choose another with --listen")),
    }
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
    /// Of the host.
    config: Config,
    console: Arc<Console>,
    /// `None` until the host is built.
    app: Option<Arc<App>>,
}

impl Rebuilder {
    async fn run(self, mut changes: mpsc::Receiver<Change>) {
        for project in &self.projects {
            if project.artifact.is_file() {
                self.send_cases(project).await;
            }
        }
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
            Ok(_) => Console::reloaded(&project.name(), saved.elapsed()),
            Err(error) => Console::failed(&project.name(), &error),
        }
        self.send_cases(project).await;
        Ok(())
    }

    /// Runs the fixtures of a project. What is wrong with one does not stop the others.
    async fn send_cases(&self, project: &Project) {
        if self.send.is_empty() {
            return;
        }
        // If it cannot be loaded, the host has said so.
        let Ok(linked) = load(&project.artifact, &self.config.runtime).await else { return };
        for path in &self.send {
            // A relative path is looked up in the project first.
            let path = Some(project.dir.join(path))
                .filter(|in_project| in_project.exists())
                .unwrap_or_else(|| path.clone());
            let failed = |file: &Path, error: anyhow::Error| {
                Console::failed(&file.display().to_string(), &format!("{error:#}"));
            };
            match case_files(&path) {
                Ok(files) => {
                    for file in files {
                        if let Err(error) = self.send_case(project, &linked, &file).await {
                            failed(&file, error);
                        }
                    }
                }
                Err(error) => failed(&path, error),
            }
        }
    }

    /// Runs a fixture as `plugin test` does, and sends its events to the stages of the host.
    async fn send_case(&self, project: &Project, linked: &Linked, file: &Path) -> Result<()> {
        let case = Case::parse(crate::client::read_json(&file.to_string_lossy())?)?;
        // The name by which the configuration knows the plugin.
        let plugin = PathBuf::from(format!("{}.wasm", project.name()));
        for stage in stages_of(&self.config, &plugin, &linked.description.name) {
            let run_as = RunAs { stage: Some(&stage), ..RunAs::default() };
            let dry_run = DryRun::of(linked.clone(), &plugin, self.config.clone(), run_as)?;
            let ran = dry_run.run(&case, SystemClock.now_ms(), 1).await?;
            self.console.settled(&ran.settlement);
            Console::guest_log(&ran.logs);
            if let (Some((code, message)), None) = (&ran.refused, &ran.settlement.failure) {
                Console::refused(code, message);
            }
            self.pass_on(&ran.settlement).await?;
        }
        Ok(())
    }

    async fn pass_on(&self, settlement: &Settlement) -> Result<()> {
        let (Some(app), Verdict::Done(events)) = (&self.app, &settlement.verdict) else {
            return Ok(());
        };
        for event in events {
            let event = &event.envelope.event;
            for stage in app.services().pipeline.stages_for(&event.event_type) {
                app.send_to(&stage, event.clone()).await?;
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
