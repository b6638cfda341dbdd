//! The circuit breaker protects a dependency: failures of single messages never open it, an outage
//! uses up no attempt, and work resumes soon after the dependency is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, Failure, NativeContext, NativeError, NativeStage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    failing_orders_do_not_hold_up_good_ones,
    outage_uses_up_no_attempt_and_work_resumes,
    operator_closes_the_breaker,
];

/// Time within which work resumes; the machine may be busy.
const RESUMES: Duration = Duration::from_secs(2);

async fn post(client: &Client, ids: std::ops::Range<usize>, more: &Value) -> Result<()> {
    for id in ids {
        let mut order =
            json!({ "order_id": format!("b-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        if let (Some(order), Some(more)) = (order.as_object_mut(), more.as_object()) {
            order.extend(more.clone());
        }
        let (status, answer) = client.post("/orders", &order).await?;
        ensure!(status.is_success(), "{answer}");
    }
    Ok(())
}

async fn failing_orders_do_not_hold_up_good_ones(backend: Backend) -> Result<()> {
    // The retry policy of the shipped configuration.
    let toml = format!(
        "{AMPLE_STOCK}[stages.payment.retry]\nmax_attempts = 4\ninitial_ms = 200\nmax_ms = 10000\n"
    );
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let host = env.start().await?;
    post(&host.client, 0..40, &json!({ "force_fail": true })).await?;
    let began = Instant::now();
    post(&host.client, 40..45, &json!({})).await?;
    for id in 40..45 {
        host.client.wait_for_status(&format!("b-{id}"), "ready").await?;
    }
    let good = began.elapsed();
    ensure!(good < Duration::from_secs(5), "the good orders took {good:?}");
    for id in 0..40 {
        host.client.wait_for_status(&format!("b-{id}"), "failed").await?;
    }
    // 0.2 + 0.4 + 0.8 s at most from the first failure to the dead letter.
    let longest = env
        .query_count(
            "SELECT max(d.dead_lettered_ms - a.at_ms) FROM dead_letters d JOIN attempts a \
             ON a.event_seq = d.event_seq AND a.stage = d.stage AND a.attempt = 1",
        )
        .await?;
    ensure!(longest < 1_400 + 3_000, "the slowest dead letter took {longest} ms");
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 40 * 4);
    let changes = "SELECT count(*) FROM events WHERE type = 'postrider.breaker-changed'";
    assert_eq!(env.query_count(changes).await?, 0, "the breaker opened");
    host.stop().await
}

const UP: u8 = 0;
const DOWN: u8 = 1;

/// Fails while its bank is down.
struct Bank {
    state: Arc<AtomicU8>,
    calls: Arc<AtomicUsize>,
}

#[async_trait]
impl NativeStage for Bank {
    fn describe(&self) -> Description {
        Description::new("bank", "1.0.0", "Asks a bank").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.state.load(Ordering::SeqCst) {
            UP => Ok(vec![]),
            _ => Err(Failure::retry("bank-down", "no answer").into()),
        }
    }
}

async fn wait_until_open(host: &RunningHost, stage: &str) -> Result<Value> {
    eventually("the breaker to open", || async {
        let state = host.client.stage(stage).await?;
        Ok((state["breaker"] != "closed").then_some(state))
    })
    .await
}

/// Every attempt is one of the calls that the breaker counted before it opened. Their batches may be
/// committed later, so attempts cannot be compared with those of the moment when it opened.
async fn ensure_no_attempt_since_it_opened(env: &TestEnv, open: &Value) -> Result<()> {
    // "10 of the last 12 calls failed, …"
    let reason = open["breaker_reason"].as_str().unwrap_or_default();
    let counted = reason.split(' ').nth(4).and_then(|calls| calls.parse::<i64>().ok());
    let counted = counted.with_context(|| format!("the number of calls in {open}"))?;
    let attempts = env.query_count("SELECT count(*) FROM attempts").await?;
    ensure!(attempts <= counted, "{attempts} attempts, {counted} calls before the breaker opened");
    Ok(())
}

async fn wait_until_done(env: &TestEnv, orders: i64) -> Result<()> {
    let done = "SELECT count(*) FROM deliveries WHERE status = 'done'";
    eventually("all orders to be done", || async {
        Ok((env.query_count(done).await? == orders).then_some(()))
    })
    .await
}

/// A host whose bank is down, with 40 orders.
async fn outage(
    backend: Backend,
    toml: &str,
) -> Result<(TestEnv, RunningHost, Arc<AtomicU8>, Arc<AtomicUsize>)> {
    let env = TestEnv::empty_on(backend, toml).await?;
    let (state, calls) = (Arc::new(AtomicU8::new(DOWN)), Arc::new(AtomicUsize::new(0)));
    let bank = Bank { state: Arc::clone(&state), calls: Arc::clone(&calls) };
    let host = env.start_with(|builder| builder.stage(bank)).await?;
    post(&host.client, 0..40, &json!({})).await?;
    Ok((env, host, state, calls))
}

const MARKED: &str = "[stages.bank.breaker]\nunavailable = [\"bank-down\"]\n";

async fn outage_uses_up_no_attempt_and_work_resumes(backend: Backend) -> Result<()> {
    let (env, host, state, calls) = outage(backend, MARKED).await?;
    let open = wait_until_open(&host, "bank").await?;
    let reason = open["breaker_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("bank-down: no answer"), "{open}");
    assert!(open["next_probe_at_ms"].is_u64(), "{open}");
    assert_eq!(open["waiting"], 40, "{open}");
    let before = calls.load(Ordering::SeqCst);
    eventually("probes", || async {
        Ok((calls.load(Ordering::SeqCst) >= before + 4).then_some(()))
    })
    .await?;
    ensure_no_attempt_since_it_opened(&env, &open).await?;
    assert_eq!(host.client.get("/ready").await?.1["breakers_open"], json!(["bank"]));

    state.store(UP, Ordering::SeqCst);
    let began = Instant::now();
    wait_until_done(&env, 40).await?;
    let resumed = began.elapsed();
    ensure!(resumed < RESUMES + Duration::from_secs(1), "work resumed after {resumed:?}");
    let closed = host.client.stage("bank").await?;
    assert_eq!((&closed["breaker"], &closed["waiting"]), (&json!("closed"), &json!(0)));
    assert!(closed["breaker_reason"].is_null(), "{closed}");
    // Both changes are events that any stage may consume.
    let said = env
        .query_texts(match backend {
            Backend::Embedded => {
                "SELECT CAST(data AS TEXT) FROM events WHERE type = 'postrider.breaker-changed' \
                 ORDER BY seq"
            }
            Backend::Servers => {
                "SELECT convert_from(data, 'UTF8') FROM events \
                 WHERE type = 'postrider.breaker-changed' ORDER BY seq"
            }
        })
        .await?;
    let states: Vec<Value> = said
        .iter()
        .map(|data| Ok(serde_json::from_str::<Value>(data)?["state"].clone()))
        .collect::<Result<_>>()?;
    assert_eq!(states, ["open", "closed"]);
    host.stop().await
}

async fn operator_closes_the_breaker(backend: Backend) -> Result<()> {
    // Without a command it would stay open for an hour.
    let toml = format!("{MARKED}open_ms = 3600000\n");
    for path in ["/stages/bank/breaker/close", "/stages/bank/resume"] {
        let (env, host, state, _) = outage(backend, &toml).await?;
        wait_until_open(&host, "bank").await?;
        state.store(UP, Ordering::SeqCst);
        let (status, answer) = host.client.post(path, &json!({})).await?;
        ensure!(status.is_success(), "{answer}");
        wait_until_done(&env, 40).await?;
        assert_eq!(host.client.stage("bank").await?["breaker"], "closed");
        let (status, _) = host.client.post("/stages/unknown/breaker/close", &json!({})).await?;
        assert_eq!(status, reqwest::StatusCode::NOT_FOUND);
        host.stop().await?;
    }
    Ok(())
}

/// Answers with an error.
const FAILING: u8 = 1;
/// Accepts requests and does not answer.
const SILENT: u8 = 2;

/// An HTTP service.
struct Service {
    port: u16,
    state: Arc<AtomicU8>,
    task: JoinHandle<()>,
}

impl Service {
    async fn start(state: u8) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(AtomicU8::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { port, state, task })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<AtomicU8>) -> Result<()> {
    let mut received = Vec::new();
    while !received.windows(4).any(|window| window == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut received).await? > 0, "the head is cut");
    }
    let status = match state.load(Ordering::SeqCst) {
        UP => "200 OK",
        SILENT => {
            stream.read_to_end(&mut received).await?;
            return Ok(());
        }
        _ => "503 Service Unavailable",
    };
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    Ok(())
}

fn granted(port: u16) -> String {
    format!(
        "[stages.caller.grants]\nhttp = [{{ scheme = \"http\", host = \"127.0.0.1\", \
         port = {port}, methods = [\"GET\"], allow_private = true }}]\n"
    )
}

/// With the defaults of every limit: a service that refuses connections, fails, or is silent opens
/// the breaker, and all orders are done soon after it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_external_calls_open_the_breaker() -> Result<()> {
    for down in [FAILING, SILENT] {
        let service = Service::start(down).await?;
        let env = TestEnv::empty(&granted(service.port))?;
        env.add_plugin("caller", "caller")?;
        let host = env.start().await?;
        let call = json!({ "scheme": "http", "authority": format!("127.0.0.1:{}", service.port), "path": "/" });
        let task = json!({ "retry": true, "calls": [call] });
        post(&host.client, 0..30, &json!({ "caller": task })).await?;
        let open = wait_until_open(&host, "caller").await?;
        let next = || async {
            let state = host.client.stage("caller").await?;
            Ok((state["next_probe_at_ms"].as_u64() > open["next_probe_at_ms"].as_u64())
                .then_some(()))
        };
        eventually("a second probe", next).await?;
        ensure_no_attempt_since_it_opened(&env, &open).await?;
        service.state.store(UP, Ordering::SeqCst);
        let began = Instant::now();
        wait_until_done(&env, 30).await?;
        let resumed = began.elapsed();
        // A message whose call is silent waits for its time-out, and not for the breaker.
        let limit = if down == SILENT { RESUMES + Duration::from_secs(2) } else { RESUMES };
        ensure!(resumed < limit + Duration::from_secs(1), "work resumed after {resumed:?}");
        assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
        host.stop().await?;
    }
    Ok(())
}
