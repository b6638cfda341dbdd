//! Live streams: server-sent events of one order and of the whole log, resumed across restarts
//! without gaps or duplicates.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eventsource_stream::{Event as Message, Eventsource as _};
use futures::{Stream, StreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::task::AbortOnDropHandle;

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::{AMPLE_STOCK, Load};
use crate::support::process::{HostProcess, binary, postrider, unused_port};

on_both_back_ends![
    order_stream_ends_with_the_order,
    order_stream_resumes_after_a_crash,
    log_stream_resumes_after_a_crash_under_load,
    stopping_host_ends_its_streams_and_their_number_is_bounded
];

/// An open stream.
struct EventStream(Pin<Box<dyn Stream<Item = Message> + Send>>);

/// The response to a request for a stream.
enum Answer {
    Stream(EventStream),
    Other(StatusCode),
}

async fn listen(url: &str, path: &str, last: Option<&str>) -> Result<Answer> {
    let request =
        reqwest::Client::new().get(format!("{url}{path}")).header("accept", "text/event-stream");
    let request = last.iter().fold(request, |request, last| request.header("last-event-id", *last));
    let response = request.send().await?;
    if response.status() != StatusCode::OK {
        return Ok(Answer::Other(response.status()));
    }
    let bytes = stream::unfold(response, |mut response| async move {
        Some((response.chunk().await.transpose()?, response))
    });
    // A broken connection ends the stream.
    let messages = bytes
        .eventsource()
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(async |message| message.ok());
    Ok(Answer::Stream(EventStream(Box::pin(messages))))
}

impl EventStream {
    async fn open(url: &str, path: &str, last: Option<&str>) -> Result<Self> {
        match listen(url, path, last).await? {
            Answer::Stream(listening) => Ok(listening),
            Answer::Other(status) => anyhow::bail!("no stream but {status}"),
        }
    }

    /// The next message, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Message>> {
        tokio::time::timeout(Duration::from_mins(3), self.0.next())
            .await
            .context("three minutes without a message")
    }

    /// The remaining messages.
    async fn rest(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await? {
            messages.push(message);
        }
        Ok(messages)
    }
}

fn kinds(messages: &[Message]) -> Result<Vec<String>> {
    messages
        .iter()
        .map(|message| {
            Ok(serde_json::from_str::<Value>(&message.data)?["type"]
                .as_str()
                .unwrap_or("end")
                .to_owned())
        })
        .collect()
}

const HISTORY: [&str; 6] = [
    "order.created",
    "payment.authorized",
    "inventory.reserved",
    "shipping.ready",
    "notification.sent",
    "end",
];

fn order(id: &str) -> Value {
    json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 })
}

async fn order_stream_ends_with_the_order(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let url = &host.client.url;
    host.client.post("/stages/shipping/pause", &json!({})).await?;
    host.client.post("/orders", &order("s")).await?;
    let mut live = EventStream::open(url, "/orders/s/events", None).await?;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(live.next().await?.context("a message")?);
    }
    host.client.post("/stages/shipping/resume", &json!({})).await?;
    heard.extend(live.rest().await?);
    assert_eq!(kinds(&heard)?, HISTORY);
    let end: Value = serde_json::from_str(&heard[5].data)?;
    assert_eq!(
        (heard[5].event.as_str(), &end),
        ("end", &json!({ "status": "ready", "final": true }))
    );
    let (_, events) = host.client.get("/orders/s/events").await?;
    let positions: Vec<String> = events["items"]
        .as_array()
        .context("items")?
        .iter()
        .map(|event| event["seq"].to_string())
        .collect();
    assert_eq!(heard[..5].iter().map(|message| message.id.clone()).collect::<Vec<_>>(), positions);
    // Again, from the middle; after the last event there is nothing to resume.
    assert_eq!(
        kinds(&EventStream::open(url, "/orders/s/events", None).await?.rest().await?)?,
        HISTORY
    );
    assert_eq!(
        kinds(
            &EventStream::open(url, "/orders/s/events", Some(&positions[2])).await?.rest().await?
        )?,
        HISTORY[3..]
    );
    assert!(matches!(
        listen(url, "/orders/s/events", Some(&positions[4])).await?,
        Answer::Other(StatusCode::NO_CONTENT)
    ));
    assert!(matches!(
        listen(url, "/orders/nobody/events", None).await?,
        Answer::Other(StatusCode::NOT_FOUND)
    ));
    assert!(matches!(
        listen(url, "/orders/s/events", Some("x")).await?,
        Answer::Other(StatusCode::BAD_REQUEST)
    ));
    // The same from the command line; an order that waits for an operator has its own exit code.
    let (code, told, _) = postrider(&["orders", "watch", "s", "--url", url]).await?;
    assert!(code == 0 && told.lines().count() == 6 && told.contains("order s is ready"), "{told}");
    assert_eq!(
        postrider(&["orders", "watch", "s", "--expect", "declined", "--url", url]).await?.0,
        1
    );
    host.stop().await
}

/// A host in a separate process, which the test can kill.
struct CrashableHost {
    env: TestEnv,
    port: u16,
    client: Client,
    process: HostProcess,
}

impl CrashableHost {
    async fn start(backend: Backend) -> Result<Self> {
        let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
        let port = unused_port()?;
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        let process = HostProcess::start(&env, port, None)?;
        process.wait_until_ready(&client, &env).await?;
        Ok(Self { env, port, client, process })
    }

    async fn crash(self) -> Result<Self> {
        self.process.kill()?;
        let process = HostProcess::start(&self.env, self.port, None)?;
        process.wait_until_ready(&self.client, &self.env).await?;
        Ok(Self { process, ..self })
    }
}

async fn order_stream_resumes_after_a_crash(backend: Backend) -> Result<()> {
    let host = CrashableHost::start(backend).await?;
    host.client.post("/stages/inventory/pause", &json!({})).await?;
    host.client.post("/orders", &order("s")).await?;
    let url = host.client.url.clone();
    let watch = ["orders", "watch", "s", "--json", "--url", url.as_str()];
    let mut watching = tokio::process::Command::new(binary()?)
        .args(watch)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut told = BufReader::new(watching.stdout.take().context("its output")?).lines();
    let mut lines = vec![
        told.next_line().await?.context("created")?,
        told.next_line().await?.context("authorized")?,
    ];
    let mut live = EventStream::open(&url, "/orders/s/events", None).await?;
    let mut heard =
        vec![live.next().await?.context("created")?, live.next().await?.context("authorized")?];
    let host = host.crash().await?;
    assert!(live.rest().await?.is_empty(), "nothing happened, and the connection is gone");
    let mut live = EventStream::open(&url, "/orders/s/events", Some(&heard[1].id)).await?;
    host.client.post("/stages/inventory/resume", &json!({})).await?;
    heard.extend(live.rest().await?);
    assert_eq!(kinds(&heard)?, HISTORY);
    while let Some(line) = told.next_line().await? {
        lines.push(line);
    }
    let lines: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    let types: Vec<&str> =
        lines.iter().map(|line| line["type"].as_str().unwrap_or("end")).collect();
    assert_eq!((watching.wait().await?.code(), types.as_slice()), (Some(0), &HISTORY[..]));
    host.process.kill()
}

/// Follows the log from its beginning without end, and resumes after the last received event when
/// the connection breaks.
async fn note(url: String, heard: Arc<Mutex<Vec<i64>>>) -> Result<()> {
    let mut last = "0".to_owned();
    loop {
        let open = || async { Ok(EventStream::open(&url, "/events", Some(&last)).await.ok()) };
        let mut live = eventually("the host to be back", open).await?;
        while let Some(message) = live.next().await? {
            heard.lock().expect("the list").push(message.id.parse()?);
            last = message.id;
        }
    }
}

async fn log_stream_resumes_after_a_crash_under_load(backend: Backend) -> Result<()> {
    let mut host = CrashableHost::start(backend).await?;
    let url = host.client.url.clone();
    let heard: Arc<Mutex<Vec<i64>>> = Arc::default();
    let following = AbortOnDropHandle::new(tokio::spawn(note(url, Arc::clone(&heard))));
    let load = Load::start(std::slice::from_ref(&host.client), 4, Duration::ZERO);
    for _ in 0..3 {
        load.wait_for_accepted(60).await?;
        host = host.crash().await?;
    }
    let accepted = load.stop().await?;
    let settled = "SELECT count(*) FROM deliveries WHERE status = 'open'";
    eventually("everything to settle", || async {
        Ok((host.env.query_count(settled).await? == 0).then_some(()))
    })
    .await?;
    let count = host.env.query_count("SELECT count(*) FROM events").await?;
    ensure!(
        count as usize >= accepted.len() * 5,
        "only {count} events of {} orders",
        accepted.len()
    );
    let present: BTreeSet<i64> = host
        .client
        .text("/events/export")
        .await?
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line)?;
            Ok(event["postriderposition"].as_str().context("a position")?.parse()?)
        })
        .collect::<Result<_>>()?;
    let end = *present.last().context("events")?;
    let caught_up =
        || async { Ok((heard.lock().expect("the list").last() == Some(&end)).then_some(())) };
    eventually("the last event to be told", caught_up).await?;
    drop(following);
    let heard = std::mem::take(&mut *heard.lock().expect("the list"));
    assert!(heard.is_sorted_by(|one, next| one < next), "in order, and nothing twice");
    assert!(heard.into_iter().eq(present), "nothing is missed");
    host.process.kill()
}

async fn stopping_host_ends_its_streams_and_their_number_is_bounded(
    backend: Backend,
) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &format!("http.streams_max = 1\n{AMPLE_STOCK}")).await?;
    let host = env.start().await?;
    let url = host.client.url.clone();
    let mut live = EventStream::open(&url, "/events", None).await?;
    assert!(matches!(
        listen(&url, "/events", None).await?,
        Answer::Other(StatusCode::SERVICE_UNAVAILABLE)
    ));
    assert_eq!(host.client.get("/events/export").await?.0, StatusCode::SERVICE_UNAVAILABLE);
    host.client.post("/orders", &order("s")).await?;
    let first = live.next().await?.context("a message")?;
    assert_eq!(kinds(&[first])?, ["order.created"]);
    host.stop().await?;
    let rest = live.rest().await?;
    assert!(rest.len() < 5, "it ended with the host");
    Ok(())
}

/// A stream of one host includes the events that another host commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_includes_commits_of_other_hosts() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let (one, other) = (env.start().await?, env.start().await?);
    let mut live = EventStream::open(&other.client.url, "/events", Some("0")).await?;
    for id in 0..20 {
        one.client.post("/orders", &order(&format!("h-{id}"))).await?;
    }
    let mut heard = Vec::new();
    while heard.len() < 100 {
        heard.push(live.next().await?.context("a message")?.id.parse::<i64>()?);
    }
    assert!(heard.is_sorted_by(|one, next| one < next));
    assert_eq!(env.query_count("SELECT count(*) FROM events").await?, 100);
    one.stop().await?;
    other.stop().await
}
