//! Hosts that are dropped, fail to build, are aborted or shut down leave nothing behind: no task, no
//! thread, no open file, watcher, connection or listener.
//!
//! What is left is counted for the whole process, so each test runs in a process of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::internals::Policy;
use postrider::{
    Description, Emitted, Event, Host, HostHandle, NativeContext, NativeError, NativeStage,
};
use serde_json::json;

use crate::support::harness::{Backend, Client, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;
use crate::support::namespaces::TwoNamespaces;

#[test]
fn hosts_on_the_embedded_store_leave_nothing_behind() -> Result<()> {
    let name = "faults::leftovers::hosts_on_the_embedded_store_leave_nothing_behind";
    in_a_process_of_its_own(name, Backend::Embedded)
}

#[test]
fn hosts_on_servers_leave_nothing_behind() -> Result<()> {
    let name = "faults::leftovers::hosts_on_servers_leave_nothing_behind";
    in_a_process_of_its_own(name, Backend::Servers)
}

/// Says which test a process runs alone.
const ALONE: &str = "POSTRIDER_TEST_ALONE";

fn in_a_process_of_its_own(name: &str, backend: Backend) -> Result<()> {
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // Idle threads of the runtime itself are not what is counted.
            .thread_keep_alive(Duration::from_millis(10))
            .enable_all()
            .build()?;
        return runtime.block_on(leave_nothing_behind(backend));
    }
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, name)
        .output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(output.status.success(), "{text}");
    ensure!(text.contains("1 passed"), "the test did not run: {text}");
    Ok(())
}

async fn leave_nothing_behind(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    leave_nothing_behind_in(&env, RUNS).await?;
    let two = TwoNamespaces::create(backend).await?;
    leave_nothing_behind_in(&two.env, RUNS / 10).await?;
    let before = settle().await?;
    fail_to_build_a_namespace(&two).await?;
    assert_leftovers("a build of which one namespace failed", &before).await
}

async fn leave_nothing_behind_in(env: &TestEnv, runs: usize) -> Result<()> {
    // Threads that libraries start once for each process.
    build_and_drop(env).await?;
    settle().await?;
    abort_a_run(env).await?;
    let before = settle().await?;
    build_and_drop(env).await?;
    assert_leftovers("a host that was built and dropped", &before).await?;
    fail_to_bind(env).await?;
    assert_leftovers("a build that could not bind its address", &before).await?;
    fail_to_read_the_policy(env).await?;
    assert_leftovers("a build with an invalid plugin policy", &before).await?;
    fail_to_install(env).await?;
    assert_leftovers("a build with a stage that cannot be installed", &before).await?;
    abort_a_run(env).await?;
    assert_leftovers("a run that was aborted", &before).await?;
    drop_a_handle(env).await?;
    assert_leftovers("a handle that was dropped", &before).await?;
    for _ in 0..runs {
        run(env).await?;
    }
    assert_leftovers(&format!("{runs} runs"), &before).await
}

async fn fail_to_build_a_namespace(two: &TwoNamespaces) -> Result<()> {
    let mut config = two.env.config()?;
    let further = config.namespaces.get_mut(&two.further).context("two namespaces")?;
    further.store.url = "sqlite:/proc/none/shop.db".into();
    let built = Host::builder().config(config).build().await;
    let error = built.err().context("there is no such folder")?;
    ensure!(error.to_string().contains(&two.further), "{error:#}");
    Ok(())
}

/// Runs of hosts in one process, one after another.
const RUNS: usize = 100;

/// Starts a host that processes an order and is shut down.
async fn run(env: &TestEnv) -> Result<()> {
    let handle = Host::builder().config(env.config()?).build().await?.start()?;
    process_an_order(&handle).await?;
    Ok(handle.shutdown().await?)
}

/// The same without a shutdown.
async fn drop_a_handle(env: &TestEnv) -> Result<()> {
    let handle = Host::builder().config(env.config()?).build().await?.start()?;
    process_an_order(&handle).await
}

async fn process_an_order(handle: &HostHandle) -> Result<()> {
    let id = next_order_id();
    let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"] });
    let _ = handle.submit("order", order).await?;
    let app = handle.app();
    eventually("the order to be processed", || async {
        Ok((app.status(&format!("order/{id}").parse()?).await?.as_deref() == Some("ready"))
            .then_some(()))
    })
    .await
}

async fn build_and_drop(env: &TestEnv) -> Result<()> {
    let mut config = env.config()?;
    config.http.listen = "127.0.0.1:0".into();
    drop(Host::builder().config(config).listen().build().await?);
    Ok(())
}

async fn fail_to_bind(env: &TestEnv) -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut config = env.config()?;
    config.http.listen = taken.local_addr()?.to_string();
    let error = Host::builder()
        .config(config)
        .listen()
        .build()
        .await
        .err()
        .context("the address is taken")?;
    ensure!(error.to_string().contains("http.listen"), "{error:#}");
    Ok(())
}

async fn fail_to_read_the_policy(env: &TestEnv) -> Result<()> {
    let mut config = env.config()?;
    config.http.listen = "127.0.0.1:0".into();
    config.plugins.policy = Policy::Signed;
    let error = Host::builder()
        .config(config)
        .listen()
        .build()
        .await
        .err()
        .context("there are no publishers")?;
    ensure!(error.to_string().contains("plugins.publishers"), "{error:#}");
    Ok(())
}

/// Its name is not allowed.
struct Unnameable;

#[async_trait]
impl NativeStage for Unnameable {
    fn describe(&self) -> Description {
        Description::new("Not A Name", "1.0.0", "Cannot be installed").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        Ok(vec![])
    }
}

async fn fail_to_install(env: &TestEnv) -> Result<()> {
    let mut config = env.config()?;
    config.http.listen = "127.0.0.1:0".into();
    let built = Host::builder().config(config).stage(Unnameable).build().await;
    let error = anyhow::Error::from(built.err().context("the name is invalid")?);
    ensure!(format!("{error:#}").contains("Not A Name"), "{error:#}");
    Ok(())
}

/// Aborts a host that has processed an order and has a live stream open.
async fn abort_a_run(env: &TestEnv) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let host = Host::builder().config(env.config()?).listener(listener).build().await?;
    let running = tokio::spawn(host.run_until(std::future::pending()));
    let client = Client::new(url.clone());
    client.wait_until_ready().await?;
    let id = next_order_id();
    let order = json!({ "order_id": id, "user_id": "1", "items": ["Book"] });
    client.post("/orders", &order).await?;
    client.wait_for_status(&id, "ready").await?;
    let accept = ("accept", "text/event-stream");
    let stream = reqwest::Client::new().get(format!("{url}/events")).header(accept.0, accept.1);
    let mut stream = stream.send().await?.error_for_status()?;
    stream.chunk().await?.context("the stream is empty")?;
    running.abort();
    ensure!(running.await.is_err_and(|error| error.is_cancelled()), "the run ended by itself");
    while let Ok(Some(_)) = stream.chunk().await {}
    Ok(())
}

fn next_order_id() -> String {
    static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("leftover-{}", MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// What the process has: tasks, threads by name and open files by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inventory {
    tasks: usize,
    threads: BTreeMap<String, usize>,
    files: BTreeMap<String, usize>,
}

impl Inventory {
    fn take() -> Result<Self> {
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir("/proc/self/task")? {
            // It may end while it is listed.
            if let Ok(name) = std::fs::read_to_string(thread?.path().join("comm")) {
                *threads.entry(name.trim_end().to_owned()).or_default() += 1;
            }
        }
        let mut files = BTreeMap::new();
        for file in std::fs::read_dir("/proc/self/fd")? {
            if let Ok(target) = std::fs::read_link(file?.path()) {
                *files.entry(kind(&target)).or_default() += 1;
            }
        }
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        Ok(Self { tasks, threads, files })
    }

    /// What there is more of than before.
    fn more_than(&self, before: &Self) -> Vec<String> {
        let more = |now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>| {
            let more = now.iter().filter(|(name, count)| *count > before.get(*name).unwrap_or(&0));
            more.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>()
        };
        let mut leftovers = more(&self.threads, &before.threads);
        leftovers.extend(more(&self.files, &before.files));
        leftovers.extend((self.tasks > before.tasks).then(|| format!("{} tasks", self.tasks)));
        leftovers
    }
}

/// `socket` for `socket:[4711]`; the path of a file.
fn kind(target: &Path) -> String {
    let target = target.to_string_lossy();
    target.split(":[").next().unwrap_or_default().to_owned()
}

/// The inventory once it has stopped changing: whatever ends by itself has ended.
async fn settle() -> Result<Inventory> {
    const SAME: usize = 25;
    let recent = std::sync::Mutex::new((Inventory::take()?, 0));
    eventually("the process to settle", || async {
        let now = Inventory::take()?;
        let mut recent = recent.lock().expect("no test panics here");
        *recent = if recent.0 == now { (now, recent.1 + 1) } else { (now, 0) };
        Ok((recent.1 == SAME).then(|| recent.0.clone()))
    })
    .await
}

/// Waits until nothing is left that was not there before.
async fn assert_leftovers(what: &str, before: &Inventory) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let leftovers = Inventory::take()?.more_than(before);
        if leftovers.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what} left behind: {}", leftovers.join(", "));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
