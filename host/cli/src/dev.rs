//! `postrider dev`: edit a stage, save, see its new outcome.
//!
//! A host with the embedded store and queue runs in this process. Whatever a stage's `stage.toml`
//! watches rebuilds the stage when it changes; what the build made goes into the host's plugins
//! folder, which reloads it like any other. One build at a time; changes that come meanwhile are
//! built once, after it.

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

use self::show::Show;
use crate::plugin::dry_run::Case;
use crate::plugin::project::Project;
use postrider::app::App;
use postrider::config::Config;
use postrider::domain::event::hex;
use postrider::host::Host;

mod show;

/// Where a development host keeps what it makes.
const FOLDER: &str = ".postrider";
/// Folders of stages are looked for this deep.
const DEPTH: usize = 3;
/// Changes are gathered for this long: an editor writes a file in several steps.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Serve, rebuild, reload.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// A stage's folder, or one with several of them.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// After each reload, send the stage these cases (of `plugin test`) again: files, or folders of
    /// them.
    #[arg(long)]
    send: Vec<PathBuf>,
    /// Plugins that run beside the stages under development: a folder of `.wasm` files; default:
    /// none.
    #[arg(long)]
    with: Option<PathBuf>,
    /// Address of the API.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: String,
}

pub(crate) async fn run(args: DevArgs) -> Result<ExitCode> {
    let projects = Project::find(&args.dir, DEPTH)?;
    ensure!(
        !projects.is_empty(),
        "{} holds no stage: `postrider plugin new` makes one",
        args.dir.display()
    );
    let folder = args.dir.join(FOLDER);
    let plugins = folder.join("plugins");
    prepare(&folder, &plugins, args.with.as_deref())?;
    let (changed, changes) = mpsc::channel(64);
    let _watcher = watch(&projects, changed)?;
    let show = Arc::new(Show::default());
    let mut workshop = Workshop {
        projects,
        plugins: plugins.clone(),
        send: args.send,
        show: Arc::clone(&show),
        app: None,
    };
    for at in 0..workshop.projects.len() {
        workshop.rebuild(at, Instant::now()).await?;
    }
    let mut config = Config::default();
    config.store.url = format!("sqlite:{}", folder.join("dev.db").display());
    config.plugins.dir = plugins;
    config.plugins.debounce_ms = 1;
    config.plugins.archive_dir = folder.join("kept");
    config.runtime.cache_dir = Some(folder.join("cache"));
    config.runtime.quick = true;
    config.recording.enabled = true;
    args.listen.clone_into(&mut config.http.listen);
    let host =
        Host::builder(config).observe(move |settlement| show.settled(settlement)).build().await?;
    let address = host.address()?;
    workshop.app = Some(host.app());
    Show::serving(address, &host.app().plugins());
    let working = tokio::spawn(workshop.run(changes));
    host.run_until(crate::host::stop_signal()?).await?;
    working.abort();
    Ok(ExitCode::SUCCESS)
}

/// A plugins folder of the host's own, with what runs beside the stages under development.
fn prepare(folder: &Path, plugins: &Path, with: Option<&Path>) -> Result<()> {
    if plugins.exists() {
        std::fs::remove_dir_all(plugins).with_context(|| plugins.display().to_string())?;
    }
    std::fs::create_dir_all(plugins).with_context(|| plugins.display().to_string())?;
    std::fs::write(folder.join(".gitignore"), "*\n")?;
    let Some(with) = with else { return Ok(()) };
    for entry in std::fs::read_dir(with).with_context(|| with.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "wasm")
            && let Some(name) = path.file_name()
        {
            std::fs::copy(&path, plugins.join(name))?;
        }
    }
    Ok(())
}

/// A change of what a stage is built from.
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
            // A path that is not there yet is no fault: a build may make it.
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
            // A full channel already asks for a build.
            let _ = changed.try_send(Change { project, at: Instant::now() });
        }
    })?;
    let mut folders: BTreeMap<PathBuf, RecursiveMode> = BTreeMap::new();
    for (_, root) in roots {
        if root.is_dir() {
            folders.insert(root, RecursiveMode::Recursive);
        } else if let Some(parent) = root.parent() {
            // Editors put a new file in the place of the old one: the folder sees it, the file
            // would not.
            folders.entry(parent.to_owned()).or_insert(RecursiveMode::NonRecursive);
        }
    }
    for (folder, mode) in folders {
        watcher
            .watch(&folder, mode)
            .with_context(|| format!("{} cannot be watched", folder.display()))?;
    }
    Ok(watcher)
}

/// Builds stages and sees them into the host.
struct Workshop {
    projects: Vec<Project>,
    plugins: PathBuf,
    send: Vec<PathBuf>,
    show: Arc<Show>,
    /// None before the host runs.
    app: Option<Arc<App>>,
}

impl Workshop {
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
                    Show::trouble(&self.projects[project].name(), &format!("{error:#}"));
                }
            }
        }
    }

    /// Builds a stage and, when it changed, waits until the host serves it.
    async fn rebuild(&self, at: usize, saved: Instant) -> Result<()> {
        let project = &self.projects[at];
        let built = project.build().await?;
        if let Some(output) = built.failed {
            Show::trouble(&project.name(), &output);
            return Ok(());
        }
        let bytes = std::fs::read(&project.artifact)?;
        let digest = hex(&Sha256::digest(&bytes));
        let file = format!("{}.wasm", project.name());
        let place = self.plugins.join(&file);
        Show::built(&project.name(), built.took, bytes.len());
        if std::fs::read(&place).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        let part = self.plugins.join(format!(".{file}.part"));
        std::fs::write(&part, bytes)?;
        let Some(app) = &self.app else { return Ok(std::fs::rename(part, place)?) };
        self.show.expect(&digest, saved, built.took);
        let reload_count = app.reload_count(&file);
        std::fs::rename(part, place)?;
        match app.wait_until_loaded(&file, &digest, reload_count).await {
            Ok(stages) => {
                Show::serves(&project.name(), saved.elapsed());
                self.send_cases(app, project, &stages).await
            }
            Err(error) => {
                Show::trouble(&project.name(), &error);
                Ok(())
            }
        }
    }

    async fn send_cases(&self, app: &App, project: &Project, stages: &[String]) -> Result<()> {
        for place in &self.send {
            // A relative place is one in the stage's own folder, where there is one.
            let place = Some(project.dir.join(place))
                .filter(|own| own.exists())
                .unwrap_or_else(|| place.clone());
            for file in case_files(&place)? {
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

fn case_files(place: &Path) -> Result<Vec<PathBuf>> {
    if place.is_dir() { crate::plugin::test::cases(place) } else { Ok(vec![place.to_owned()]) }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
