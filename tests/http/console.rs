//! The web console, driven in a browser against real hosts on both back ends by the scripts in
//! `tests/console`: each view, each action, traces, keyboard, log-in, hostile data, a restart of the
//! host, many orders and dead letters, accessibility, and pictures of each view in
//! `target/console-shots`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use reqwest::{StatusCode, header};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::support::harness::{Backend, TestEnv, eventually, guest, root};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::{HostProcess, postrider, unused_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it drives a browser, which needs the machine: `cargo xtask test` runs it alone"]
async fn console_serves_operators_embedded() -> Result<()> {
    console_serves_operators(Backend::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it drives a browser, which needs the machine: `cargo xtask test` runs it alone"]
async fn console_serves_operators_on_servers() -> Result<()> {
    console_serves_operators(Backend::Servers).await
}

/// A file name that is markup, and runs a script in a page that takes it for such.
const HOSTILE_PLUGIN: &str = "<img src=x onerror=\"window.pwned=5\">.wasm";

/// What the scripts expect: payment's breaker opens when many orders fail together, chains are soon
/// large, and traces are shown somewhere.
const SETTINGS: &str = "recording.enabled = true\nevents.chain_events_max = 20\n\
    http.console.trace_url = \"https://jaeger.example/trace/{trace_id}\"\n\
    [stages.payment.breaker]\nunavailable = [\"simulated-failure\"]\nmin_calls = 15\n\
    min_subjects = 15\nopen_ms = 60000\nopen_max_ms = 60000\n";

/// Copies of the order `pattern` and of its dead letter, written while no host runs. With the stages of
/// a debug build they would take minutes.
const COPIES: [&str; 4] = [
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
     INSERT INTO subjects (key, kind, customer, status, body, fingerprint, created_ms, updated_ms) \
     SELECT 'order/bulk-' || n.i, s.kind, s.customer, s.status, s.body, s.fingerprint || n.i, \
     s.created_ms, s.updated_ms FROM subjects s, n WHERE s.key = 'order/pattern'",
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
     INSERT INTO events (seq, id, source, type, subject, time_ms, content_type, data, subject_key, \
     correlation_id, hops, expires_ms, routed_to, logged_ms) \
     SELECT (SELECT max(seq) FROM events) + n.i, 'bulk-' || n.i, e.source, e.type, 'bulk-' || n.i, e.time_ms, e.content_type, e.data, \
     'order/bulk-' || n.i, 'bulk-' || n.i, e.hops, e.expires_ms, e.routed_to, e.logged_ms \
     FROM events e, n WHERE e.id = 'order-pattern'",
    "INSERT INTO deliveries (event_seq, stage, round, attempt, status, version, digest, duration_us, \
     created_ms, queued_ms, settled_ms) \
     SELECT b.seq, d.stage, d.round, d.attempt, d.status, d.version, d.digest, d.duration_us, \
     d.created_ms, d.queued_ms, d.settled_ms FROM events b, events e, deliveries d \
     WHERE e.id = 'order-pattern' AND d.event_seq = e.seq AND b.id LIKE 'bulk-%'",
    "INSERT INTO dead_letters (event_seq, stage, round, code, message, digest, fingerprint, \
     group_id, dead_lettered_ms, status) \
     SELECT b.seq, l.stage, l.round, 'bulk', 'made by a test', l.digest, 'made by a test', \
     'b01db01db01db01d', l.dead_lettered_ms, l.status FROM events b, events e, dead_letters l \
     WHERE e.id = 'order-pattern' AND l.event_seq = e.seq AND b.id LIKE 'bulk-%'",
];

/// Installs what the scripts need, once.
fn install() -> Result<PathBuf> {
    // The tests of both back ends need it at the same time.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().map_err(|_| anyhow!("the installation failed"))?;
    let folder = root().join("tests/console");
    let lock = std::fs::read(folder.join("package-lock.json"))?;
    let installed = folder.join("node_modules/.installed");
    if std::fs::read(&installed).ok().as_ref() != Some(&lock) {
        let output = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(&folder)
            .output()
            .context("the tests of the console need Node.js 20 or later and npm")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(installed, lock)?;
    }
    Ok(folder)
}

/// A host in a process of its own, which is started again on the same port.
struct Restartable {
    env: TestEnv,
    port: u16,
    process: Option<HostProcess>,
}

impl Restartable {
    async fn start(env: TestEnv) -> Result<Self> {
        let mut host = Self { env, port: unused_port()?, process: None };
        host.start_again().await?;
        Ok(host)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> crate::support::harness::Client {
        crate::support::harness::Client::new(self.url())
    }

    async fn start_again(&mut self) -> Result<()> {
        let process = HostProcess::start(&self.env, self.port, None)?;
        process.wait_until_ready(&self.client(), &self.env).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Puts another version of payment into the plugins folder.
    fn upgrade(&self) -> Result<()> {
        let upgraded = self.env.plugins().join("payment.wasm");
        std::fs::copy(guest("payment-strict")?, upgraded)?;
        Ok(())
    }

    async fn stop(&mut self, signal: &str) -> Result<()> {
        let mut process = self.process.take().context("the host runs")?;
        process.signal(signal)?;
        process.wait().await.map(drop)
    }
}

/// The scripts. They ask for what they cannot do themselves by lines on their standard output.
struct Scripts {
    child: Child,
    requests: Lines<BufReader<ChildStdout>>,
    answers: ChildStdin,
}

impl Scripts {
    fn start(folder: PathBuf, environment: &[(&str, &str)]) -> Result<Self> {
        let mut command = tokio::process::Command::new("node");
        command.arg("run.mjs").current_dir(folder).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start node")?;
        let requests = BufReader::new(child.stdout.take().context("an output")?).lines();
        let answers = child.stdin.take().context("an input")?;
        Ok(Self { child, requests, answers })
    }

    /// Answers their requests until they end.
    async fn serve(mut self, host: &mut Restartable) -> Result<()> {
        while let Some(request) = self.requests.next_line().await? {
            match &*request {
                "stop" => host.stop("-KILL").await?,
                "start" => host.start_again().await?,
                "upgrade" => host.upgrade()?,
                other => bail!("unknown request: {other}"),
            }
            self.answers.write_all(b"done\n").await?;
        }
        let status = self.child.wait().await?;
        ensure!(status.success(), "the scripts failed: see their output");
        Ok(())
    }
}

/// A host whose operators need tokens, and the key of its administrator.
async fn guarded() -> Result<(Restartable, String)> {
    let env = TestEnv::shipped("auth.mode = \"tokens\"\n")?;
    let config = env.folder.path().join("keys.toml");
    std::fs::write(&config, env.config_text())?;
    let config = config.to_str().context("a path that is text")?;
    let roles = ["--role", "admin", "--role", "payloads"];
    let args = [&["--config", config, "keys", "create", "ops", "--store"][..], &roles].concat();
    let (code, key, errors) = postrider(&args).await?;
    ensure!(code == 0, "{errors}");
    Ok((Restartable::start(env).await?, key.trim().to_owned()))
}

async fn console_serves_operators(backend: Backend) -> Result<()> {
    let folder = tokio::task::spawn_blocking(install).await??;
    let toml = format!("{SETTINGS}{AMPLE_STOCK}[defaults.retry]\nmax_attempts = 1\n");
    let mut host = Restartable::start(TestEnv::shipped_on(backend, &toml).await?).await?;
    let pattern = json!({
        "order_id": "pattern", "user_id": "bulk", "items": ["Book"], "total": 1, "force_fail": true,
    });
    host.client().post("/orders", &pattern).await?;
    host.client().wait_for_status("pattern", "failed").await?;
    host.stop("-TERM").await?;
    for copy in COPIES {
        host.env.execute(copy).await?;
    }
    host.start_again().await?;
    std::fs::write(host.env.plugins().join(HOSTILE_PLUGIN), "no plugin")?;
    let (mut guarded, token) = guarded().await?;
    let out = root().join(format!("target/console-shots/{backend:?}").to_lowercase());
    let candidate = guest("payment-strict")?;
    let environment = [
        ("CONSOLE_URL", &*host.url()),
        ("CONSOLE_OUT", out.to_str().context("a path that is text")?),
        ("CONSOLE_TOKENS_URL", &*guarded.url()),
        ("CONSOLE_TOKEN", &*token),
        ("CONSOLE_CANDIDATE", candidate.to_str().context("a path that is text")?),
        // Looks depend on nothing that differs between back ends.
        ("CONSOLE_SKIP", if backend == Backend::Embedded { "" } else { "looks" }),
    ];
    Scripts::start(folder, &environment)?.serve(&mut host).await?;
    guarded.stop("-TERM").await?;
    host.stop("-TERM").await
}

/// The console at one of two hosts with different plugins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it drives a browser, which needs the machine: `cargo xtask test` runs it alone"]
async fn console_shows_and_controls_stages_of_other_hosts() -> Result<()> {
    let folder = tokio::task::spawn_blocking(install).await??;
    let env = TestEnv::empty_on(Backend::Servers, AMPLE_STOCK).await?;
    let remote = tempfile::tempdir()?;
    env.add_plugin("payment", "payment")?;
    std::fs::copy(guest("shipping")?, remote.path().join("shipping.wasm"))?;
    let host = env.start().await?;
    let other = env.start_with(|builder| builder.plugin_dir(remote.path())).await?;
    eventually("the stage of the other host", || async {
        Ok(host.client.stage("shipping").await?["hosts"][0]["host"].is_string().then_some(()))
    })
    .await?;
    let out = root().join("target/console-shots/cluster");
    let status = tokio::process::Command::new("node")
        .args(["run.mjs", "cluster"])
        .current_dir(folder)
        .env("CONSOLE_URL", &host.client.url)
        .env("CONSOLE_OUT", out)
        .env("CONSOLE_SEED", "0")
        .env("CONSOLE_REMOTE_STAGE", "shipping")
        .kill_on_drop(true)
        .status()
        .await?;
    ensure!(status.success(), "the scripts failed: see their output");
    host.stop().await?;
    other.stop().await
}

/// The headers of the console's files, where they are served, and what is not a file.
#[tokio::test]
async fn console_files_are_served_with_a_strict_policy() -> Result<()> {
    let env = TestEnv::empty("auth.mode = \"tokens\"\n")?;
    let host = env.start().await?;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let get = async |path: &str| http.get(format!("{}{path}", host.client.url)).send().await;
    let entered = get("/console").await?;
    assert_eq!(entered.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(entered.headers()[header::LOCATION], "console/");
    for path in ["/console/", "/console/orders/1", "/console/docs/", "/namespaces/orders/console/"]
    {
        let answer = get(path).await?;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str()?.to_owned();
        assert!(policy.contains("script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers()[header::X_FRAME_OPTIONS], "DENY");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-cache");
        let page = answer.text().await?;
        let script = page.split("src=\"").nth(1).and_then(|rest| rest.split('"').next());
        let place = reqwest::Url::parse(&format!("{}{path}", host.client.url))?;
        let script = place.join(script.context("a script")?)?;
        let answer = http.get(script.clone()).send().await?;
        assert_eq!(answer.status(), StatusCode::OK, "{script}");
        assert!(answer.headers()[header::CACHE_CONTROL].to_str()?.contains("immutable"));
    }
    assert_eq!(get("/console/assets/other.js").await?.status(), StatusCode::NOT_FOUND);
    let posted = http.post(format!("{}/console/", host.client.url)).send().await?;
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get("/orders").await?.status(), StatusCode::UNAUTHORIZED);
    host.stop().await
}

#[tokio::test]
async fn session_says_where_traces_are_shown() -> Result<()> {
    let template = "https://jaeger.example/trace/{trace_id}";
    for expected in [json!(template), json!(null)] {
        let setting = expected.as_str().map(|url| format!("http.console.trace_url = \"{url}\"\n"));
        let env = TestEnv::empty(&setting.unwrap_or_default())?;
        let host = env.start().await?;
        assert_eq!(host.client.get("/session").await?.1["trace_url"], expected);
        let (_, begun) = host.client.post("/session", &json!({})).await?;
        assert_eq!(begun["trace_url"], expected);
        host.stop().await?;
    }
    Ok(())
}
