//! HTTP calls of stages: granted calls succeed, all others are refused before they are sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::harness::{RunningHost, TestEnv, eventually, guest};
use crate::support::process::output;

/// A local server that responds by path and records the heads of its requests.
pub(crate) struct Server {
    pub(crate) port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// Requests to `/together` wait until there are this many.
const TOGETHER: usize = 8;

struct Gathering {
    closed: Semaphore,
    callers: AtomicUsize,
}

impl Server {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let together =
            Arc::new(Gathering { closed: Semaphore::new(0), callers: AtomicUsize::new(0) });
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, Arc::clone(&seen), Arc::clone(&together)));
            }
        });
        Ok(Self { port, heads, task })
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    heads: Arc<Mutex<Vec<String>>>,
    together: Arc<Gathering>,
) -> Result<()> {
    let mut received = Vec::new();
    let end = loop {
        anyhow::ensure!(stream.read_buf(&mut received).await? > 0, "the head is cut");
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(received[..end].to_vec())?;
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let answer = |status: &str, more: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
    };
    match head.split(' ').nth(1).unwrap_or_default() {
        "/moved" => {
            stream.write_all(answer("302 Found", "location: /ok\r\n", "").as_bytes()).await?;
        }
        // Sends nothing until the client disconnects.
        "/slow" | "/swallow" => _ = stream.read_to_end(&mut Vec::new()).await,
        "/drip" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await?;
            _ = stream.read_to_end(&mut Vec::new()).await;
        }
        "/together" => {
            if together.callers.fetch_add(1, Ordering::SeqCst) + 1 == TOGETHER {
                together.closed.close();
            }
            // It has no permits: closing it ends the wait.
            _ = together.closed.acquire().await;
            stream.write_all(answer("200 OK", "", "welcome").as_bytes()).await?;
        }
        "/announced" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n").await?;
        }
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        "/broken" => stream.write_all(b"this is no HTTP\r\n\r\n").await?,
        _ => {
            read_body(&mut stream, &head, received.split_off(end + 4)).await?;
            stream.write_all(answer("200 OK", "", "welcome").as_bytes()).await?;
        }
    }
    Ok(())
}

/// Reads a request to its end: closing a connection with unread data resets it, and the client
/// might not receive the response.
async fn read_body(stream: &mut TcpStream, head: &str, mut body: Vec<u8>) -> Result<()> {
    let head = head.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map(str::parse::<usize>)
        .transpose()?;
    let chunked = head.contains("\r\ntransfer-encoding: chunked");
    let whole = |body: &[u8]| {
        length.map_or(!chunked || body.ends_with(b"\r\n0\r\n\r\n"), |length| body.len() >= length)
    };
    while !whole(&body) {
        anyhow::ensure!(stream.read_buf(&mut body).await? > 0, "the body is cut");
    }
    Ok(())
}

/// Configuration of a stage that may call `server`, with additional `grants` and `stages.caller`
/// settings.
fn granted(server: &Server, grants: &str, stage: &str) -> String {
    let port = server.port;
    format!(
        "[stages.caller]\nlimits = {{ deadline_ms = 20000 }}\nretry = {{ max_attempts = 2, initial_ms = 1 }}\n{stage}\n\
         [stages.caller.grants]\n{grants}\nhttp = [\n\
         {{ scheme = \"http\", host = \"127.0.0.1\", port = {port}, methods = [\"GET\", \"POST\"], allow_private = true }},\n\
         {{ scheme = \"http\", host = \"localhost\", port = {port}, methods = [\"GET\"] }},\n\
         {{ scheme = \"http\", host = \"169.254.169.254\", methods = [\"GET\"] }},\n\
         {{ scheme = \"http\", host = \"*.example.com\", methods = [\"GET\"] }},\n\
         ]\n"
    )
}

async fn env(toml: &str) -> Result<(TestEnv, RunningHost)> {
    let env = TestEnv::empty(toml)?;
    env.add_plugin("caller", "caller")?;
    let host = env.start().await?;
    Ok((env, host))
}

fn order(id: &str, task: &Value) -> Value {
    json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1, "caller": task })
}

fn get(authority: &str, path: &str) -> Value {
    json!({ "scheme": "http", "authority": authority, "path": path })
}

/// The results of an order's calls.
async fn results(host: &RunningHost, calls: &[Value]) -> Result<Vec<Value>> {
    let (status, answer) =
        host.client.post("/orders", &order("c-1", &json!({ "calls": calls }))).await?;
    anyhow::ensure!(status.is_success(), "{answer}");
    eventually("the calls' results", || async {
        let (_, dead_letters) = host.client.get("/dead-letters").await?;
        anyhow::ensure!(
            dead_letters["items"].as_array().is_none_or(Vec::is_empty),
            "{dead_letters}"
        );
        let (_, events) = host.client.get("/orders/c-1/events").await?;
        let done = events["items"]
            .as_array()
            .and_then(|all| all.iter().find(|event| event["type"] == "caller.done"))
            .cloned();
        Ok(done.and_then(|event| event["data"]["results"].as_array().cloned()))
    })
    .await
}

/// Sequential messages would wait for the eighth request forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_egress_calls_concurrently() -> Result<()> {
    const ORDERS: usize = 8 * TOGETHER;
    let server = Server::start().await?;
    let (env, host) =
        env(&granted(&server, "http_concurrency = 16\nhttp_timeout_ms = 15000", "")).await?;
    let calls = json!({ "calls": [get(&format!("127.0.0.1:{}", server.port), "/together")] });
    for id in 0..ORDERS {
        let (status, answer) =
            host.client.post("/orders", &order(&format!("t-{id}"), &calls)).await?;
        anyhow::ensure!(status.is_success(), "{answer}");
    }
    let done = "SELECT count(*) FROM events WHERE type = 'caller.done' AND data LIKE '%welcome%'";
    eventually("all calls to be answered", || async {
        let (_, dead_letters) = host.client.get("/dead-letters").await?;
        anyhow::ensure!(
            dead_letters["items"].as_array().is_none_or(Vec::is_empty),
            "{dead_letters}"
        );
        Ok((env.query_count(done).await? == i64::try_from(ORDERS)?).then_some(()))
    })
    .await?;
    assert_eq!(server.heads().len(), ORDERS, "a call was made twice");
    host.stop().await
}

async fn dead_letter(host: &RunningHost) -> Result<Value> {
    let listed = eventually("a dead letter", || async {
        let (_, dead_letters) = host.client.get("/dead-letters?stage=caller").await?;
        Ok(dead_letters["items"].get(0).cloned())
    })
    .await?;
    Ok(host.client.get(&format!("/dead-letters/{}", listed["id"])).await?.1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn granted_calls_succeed_and_others_are_refused_unsent() -> Result<()> {
    let server = Server::start().await?;
    let (_site, host) = env(&granted(&server, "", "")).await?;
    let here = format!("127.0.0.1:{}", server.port);
    let own_trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut traced = get(&here, "/traced");
    traced["headers"] = json!([["traceparent", own_trace], ["x-own", "yes"]]);
    let (mut posted, mut deleted, mut encrypted) =
        (get(&here, "/ok?x=1"), get(&here, "/ok"), get(&here, "/ok"));
    (posted["method"], posted["body_bytes"]) = ("POST".into(), 10_000.into());
    deleted["method"] = "DELETE".into();
    encrypted["scheme"] = "https".into();
    let cases = [
        (get(&here, "/ok"), "welcome"),
        (posted, "welcome"),
        (traced, "welcome"),
        (deleted, "HttpRequestDenied"),
        (encrypted, "HttpRequestDenied"),
        (get(&format!("127.0.0.1:{}", server.port ^ 1), "/ok"), "HttpRequestDenied"),
        (get("evil.example", "/ok"), "HttpRequestDenied"),
        (get("a.b.example.com", "/ok"), "HttpRequestDenied"),
        (get(&format!("127.0.0.1@evil.example:{}", server.port), "/ok"), "HttpRequestUriInvalid"),
        // Granted, but on this machine, or a link-local address.
        (get(&format!("localhost:{}", server.port), "/ok"), "DestinationIpProhibited"),
    ];
    let results = results(&host, &cases.clone().map(|(call, _)| call)).await?;
    for ((call, expected), result) in cases.iter().zip(&results) {
        assert!(result.to_string().contains(expected), "{call}: {result}");
    }
    let heads = server.heads();
    assert_eq!(heads.len(), 3, "only what was granted arrives: {heads:#?}");
    assert!(
        heads.iter().all(|head| head.to_lowercase().contains(&format!("\r\nhost: {here}"))),
        "{heads:#?}"
    );
    assert!(heads[1].starts_with("POST /ok?x=1 HTTP/1.1"), "{heads:#?}");
    let parents: Vec<&str> = heads
        .iter()
        .flat_map(|head| head.lines())
        .filter_map(|line| line.strip_prefix("traceparent: "))
        .collect();
    let (_, events) = host.client.get("/orders/c-1/events").await?;
    let trace = events["items"][0]["attributes"]["traceparent"]
        .as_str()
        .and_then(|parent| parent.split('-').nth(1))
        .context("a trace")?;
    assert!(
        parents.len() == 3
            && parents[0].contains(trace)
            && parents[1] == parents[0]
            && parents[2] == own_trace,
        "{parents:?}"
    );
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_address_is_refused_and_redirects_are_not_followed() -> Result<()> {
    let server = Server::start().await?;
    let (_site, host) = env(&granted(&server, "", "")).await?;
    let here = format!("127.0.0.1:{}", server.port);
    let results = results(
        &host,
        &[
            get("169.254.169.254", "/latest/meta-data/"),
            get(&here, "/moved"),
            get(&here, "/broken"),
        ],
    )
    .await?;
    assert_eq!(results[0]["error"], "ErrorCode::DestinationIpProhibited");
    assert_eq!(results[1]["status"], 302);
    assert_eq!(results[2]["error"], "ErrorCode::HttpProtocolError");
    assert_eq!(server.heads().len(), 2);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_server_is_a_retryable_failure() -> Result<()> {
    // The operator's limit; and the attempt's, which leaves the stage time to report the failure.
    for (grants, stage) in [("http_timeout_ms = 100", ""), ("", "limits.deadline_ms = 400")] {
        for path in ["/slow", "/drip"] {
            let server = Server::start().await?;
            let toml = granted(&server, grants, "").replace(
                "limits = { deadline_ms = 20000 }",
                if stage.is_empty() { "" } else { stage },
            );
            let (_site, host) = env(&toml).await?;
            let task = json!({ "retry": true, "calls": [get(&format!("127.0.0.1:{}", server.port), path)] });
            host.client.post("/orders", &order("s-1", &task)).await?;
            let dead_letter = dead_letter(&host).await?;
            assert_eq!(dead_letter["code"], "call-failed", "{dead_letter}");
            let attempts = dead_letter["attempts"].as_array().context("attempts")?;
            assert_eq!(attempts.len(), 2, "{dead_letter}");
            assert!(
                attempts.iter().all(|attempt| attempt["code"] == "call-failed"),
                "{dead_letter}"
            );
            assert_eq!(server.heads().len(), 2);
            host.stop().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_and_response_bodies_are_limited() -> Result<()> {
    let server = Server::start().await?;
    let (_site, host) = env(&granted(&server, "http_body_max_bytes = 50000", "")).await?;
    let here = format!("127.0.0.1:{}", server.port);
    let mut upload = get(&here, "/swallow");
    (upload["method"], upload["body_bytes"]) = ("POST".into(), 1_000_000.into());
    let results =
        results(&host, &[get(&here, "/announced"), get(&here, "/endless"), upload]).await?;
    // An error while a body is read arrives through the stream, as text.
    assert!(
        results[0]["error"].as_str().is_some_and(|error| error.contains("HttpResponseBodySize")),
        "{results:?}"
    );
    assert!(
        results[1]["error"]
            .as_str()
            .is_some_and(|error| error.contains("response body size exceeds limit")),
        "{results:?}"
    );
    assert!(
        results[2]["error"].as_str().is_some_and(|error| error.contains("HttpRequestBodySize")),
        "{results:?}"
    );
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_per_attempt_are_limited() -> Result<()> {
    let server = Server::start().await?;
    let (_site, host) = env(&granted(&server, "http_calls_max = 2", "")).await?;
    let here = format!("127.0.0.1:{}", server.port);
    let call = || get(&here, "/ok");
    let results = results(&host, &[call(), call(), call(), call()]).await?;
    let denied: Vec<bool> =
        results.iter().map(|result| result["error"] == "ErrorCode::HttpRequestDenied").collect();
    assert_eq!(denied, [false, false, true, true], "{results:?}");
    assert_eq!(server.heads().len(), 2);
    host.stop().await
}

async fn plugins(host: &RunningHost) -> Result<Vec<Value>> {
    Ok(host.client.get("/plugins").await?.1["items"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugin_serves_only_the_stages_with_its_grants() -> Result<()> {
    let grant = "http = [{ host = \"api.example.com\", methods = [\"GET\"] }]";
    let toml = format!(
        "[stages.first]\nplugin = \"caller.wasm\"\ngrants = {{ {grant} }}\n[stages.second]\nplugin = \"caller.wasm\"\n"
    );
    let (_site, host) = env(&toml).await?;
    let plugins = plugins(&host).await?;
    let serving: Vec<&str> = plugins
        .iter()
        .filter(|plugin| plugin["state"] == "serving")
        .filter_map(|plugin| plugin["stage"].as_str())
        .collect();
    assert_eq!(serving, ["first"]);
    let error = plugins[0]["last_error"].as_str().unwrap_or_default();
    assert!(
        error.contains("imports `wasi:http/outgoing-handler@0.2.")
            && error.contains("needs an HTTP grant: [stages.second.grants] http = "),
        "{error}"
    );
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_that_needs_more_grants_does_not_replace_the_old_one() -> Result<()> {
    let env = TestEnv::shipped("")?;
    let host = env.start().await?;
    let payment = || async {
        anyhow::Ok(plugins(&host).await?.into_iter().find(|plugin| plugin["stage"] == "payment"))
    };
    let before = payment().await?.context("payment")?;
    env.add_plugin("caller", "payment")?;
    let refused =
        || async { Ok(payment().await?.filter(|plugin| plugin["last_error"].is_string())) };
    let after = eventually("the refusal", refused).await?;
    assert!(
        after["last_error"].as_str().is_some_and(|error| error.contains("needs an HTTP grant")),
        "{after}"
    );
    assert_eq!((&after["state"], &after["digest"]), (&json!("serving"), &before["digest"]));
    host.client.stock("Book", 10).await?;
    host.client
        .post(
            "/orders",
            &json!({ "order_id": "r-1", "user_id": "1", "items": ["Book"], "total": 1 }),
        )
        .await?;
    host.client.wait_for_status("r-1", "ready").await?;
    host.stop().await
}

#[test]
fn permission_check_compares_required_and_granted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    std::fs::write(
        &config,
        "[stages.caller.secrets]\nkey = { env = \"NOT_SET_WHERE_THE_CHECK_RUNS\" }\n\
         [stages.caller.grants]\nhttp = [{ host = \"api.example.com\", methods = [\"POST\"] }]\n[stages.other]\nplugin = \"other.wasm\"\n",
    )?;
    let (file, config) = (guest("caller")?.display().to_string(), config.display().to_string());
    let granted = output(&["plugin", "check", &file, "--grants", &config], &[])?;
    let said = String::from_utf8(granted.stdout)?;
    assert!(granted.status.success() && said.contains("POST https://api.example.com"), "{said}");
    let missing = output(
        &["--json", "plugin", "check", &file, "--grants", &config, "--stage", "other"],
        &[],
    )?;
    assert_eq!(missing.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&missing.stdout)?;
    let permissions = said["stages"][0]["permissions"].as_array().context("permissions")?;
    let missing: Vec<&str> = permissions
        .iter()
        .filter(|permission| permission["granted"].is_null())
        .filter_map(|permission| permission["permission"].as_str())
        .collect();
    assert!(
        said["ok"] == false
            && missing.len() == 2
            && missing.iter().all(|import| import.starts_with("wasi:http/")),
        "{said}"
    );
    Ok(())
}
