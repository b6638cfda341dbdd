//! A namespace that is flooded does not delay the other one of its process: measured.
//!
//! The flood is an open loop: orders are posted at five times the rate that the namespace can process,
//! whether or not it answers in time. The other one gets a modest, steady load. Each round has a fresh
//! process, first without the flood and then with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::harness::{Backend, Client, eventually};
use crate::support::namespaces::TwoNamespaces;
use crate::support::process::HostProcess;

/// How much more than its capacity a flooded namespace gets.
const FLOOD: f64 = 5.0;
/// By how much the 95th percentile of the other one may rise.
const RISE_MAX: f64 = 1.2;
/// Orders per second of the other one.
const STEADY_RATE: f64 = 20.0;
/// Length of each measurement.
const LENGTH: Duration = Duration::from_secs(12);
/// The median of this many rounds counts.
const ROUNDS: usize = 3;

/// Which namespace is flooded.
#[derive(Debug, Clone, Copy)]
enum Flooded {
    /// The one at the root.
    First,
    /// The other one.
    Further,
}

/// Orders that are posted at a rate, in an open loop.
#[derive(Clone)]
struct Orders {
    /// Host and port.
    address: String,
    /// Below which the API of the namespace is.
    prefix: String,
    /// Beginning of the ids.
    name: String,
    per_s: f64,
    length: Duration,
    connections: usize,
}

/// What became of them.
#[derive(Debug, Default)]
struct Posted {
    /// When each accepted order was sent, milliseconds since 1970.
    accepted: HashMap<String, u64>,
    refused: usize,
    took: Duration,
}

impl Posted {
    fn offered_per_s(&self) -> f64 {
        (self.accepted.len() + self.refused) as f64 / self.took.as_secs_f64()
    }
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

impl Orders {
    async fn post(self) -> Result<Posted> {
        let (next, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let mut senders = JoinSet::new();
        for _ in 0..self.connections {
            senders.spawn(self.clone().send(Arc::clone(&next), start));
        }
        let mut all = Posted::default();
        while let Some(sent) = senders.join_next().await {
            let sent = sent??;
            all.accepted.extend(sent.accepted);
            all.refused += sent.refused;
        }
        all.took = start.elapsed();
        Ok(all)
    }

    /// Sends what is due next over one connection.
    async fn send(self, next: Arc<AtomicU64>, start: Instant) -> Result<Posted> {
        let mut connection = BufReader::new(TcpStream::connect(&self.address).await?);
        let mut posted = Posted::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_secs_f64(number as f64 / self.per_s);
            if due >= self.length || start.elapsed() >= self.length {
                return Ok(posted);
            }
            tokio::time::sleep_until(start + due).await;
            let id = format!("{}-{number}", self.name);
            let body = format!(
                r#"{{"order_id":"{id}","user_id":"{number}","items":[{{"sku":"Lamp","quantity":1}}],"total":3}}"#
            );
            let request = format!(
                "POST {}/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                self.prefix,
                body.len()
            );
            let sent_ms = now_ms()?;
            connection.get_mut().write_all(request.as_bytes()).await?;
            match read_status(&mut connection).await? {
                202 => _ = posted.accepted.insert(id, sent_ms),
                503 => posted.refused += 1,
                other => anyhow::bail!("{id}: {other}"),
            }
        }
    }
}

/// Reads an answer; returns its status.
async fn read_status(connection: &mut BufReader<TcpStream>) -> Result<u16> {
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        ensure!(connection.read_line(&mut line).await? > 0, "the connection was closed");
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if status.is_none() {
            status = Some(line.split(' ').nth(1).context("a status")?.parse()?);
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    status.context("a status")
}

/// A process with two namespaces: the flooded one and the other.
struct Process {
    _two: TwoNamespaces,
    host: HostProcess,
    flooded: Orders,
    other: Orders,
    flooded_client: Client,
    other_client: Client,
}

impl Process {
    async fn start(backend: Backend, flooded: Flooded) -> Result<Self> {
        let two = TwoNamespaces::create(backend).await?;
        let (process, client) = HostProcess::start_ready(&two.env).await?;
        let address = client.url.strip_prefix("http://").context("a URL")?.to_owned();
        let further = format!("/namespaces/{}", two.further);
        let orders = |prefix: &str, per_s, connections| Orders {
            address: address.clone(),
            prefix: prefix.to_owned(),
            name: "w".to_owned(),
            per_s,
            length: Duration::from_secs(3),
            connections,
        };
        let (of_flooded, of_other) = match flooded {
            Flooded::First => ("", further.as_str()),
            Flooded::Further => (further.as_str(), ""),
        };
        let started = Self {
            flooded: orders(of_flooded, STEADY_RATE, 256),
            other: orders(of_other, STEADY_RATE, 32),
            flooded_client: Client::new(format!("{}{of_flooded}", client.url)),
            other_client: Client::new(format!("{}{of_other}", client.url)),
            _two: two,
            host: process,
        };
        let warm = tokio::try_join!(started.flooded.clone().post(), started.other.clone().post())?;
        times(&started.flooded_client, "w", &warm.0).await?;
        times(&started.other_client, "w", &warm.1).await?;
        Ok(started)
    }

    /// The 95th percentile of the time from a request to the readiness of its order, in the other
    /// namespace; milliseconds.
    async fn p95_ms(&self, name: &str) -> Result<u64> {
        let name = name.to_owned();
        let orders = Orders { name: name.clone(), length: LENGTH, ..self.other.clone() };
        let posted = orders.post().await?;
        ensure!(posted.refused == 0, "{} orders were refused", posted.refused);
        let mut times = times(&self.other_client, &name, &posted).await?;
        times.sort_unstable();
        Ok(times[times.len() * 95 / 100])
    }
}

/// The time from each request to the readiness of its order, once all are ready.
async fn times(client: &Client, name: &str, posted: &Posted) -> Result<Vec<u64>> {
    eventually("all orders to be ready", || async {
        let mut ready = HashMap::new();
        for order in client.get_all("/orders?limit=200&status=ready").await? {
            let id = order["order_id"].as_str().unwrap_or_default().to_owned();
            ready.insert(id, order["updated_at_ms"].as_u64().unwrap_or_default());
        }
        let of_one = |(id, sent): (&String, &u64)| Some(ready.get(id)?.saturating_sub(*sent));
        Ok(posted.accepted.iter().map(of_one).collect::<Option<Vec<u64>>>())
    })
    .await
    .with_context(|| name.to_owned())
}

/// Orders per second that the namespace processes when nothing else runs: the most of a closed loop.
async fn capacity_per_s(backend: Backend, flooded: Flooded) -> Result<f64> {
    let process = Process::start(backend, flooded).await?;
    let length = Duration::from_secs(6);
    let orders = Orders {
        name: "c".to_owned(),
        per_s: 100_000.0,
        length,
        connections: 16,
        ..process.flooded.clone()
    };
    let posted = orders.post().await?;
    let times = times(&process.flooded_client, "c", &posted).await?;
    let ready = posted.accepted.values().zip(&times).map(|(sent, time)| sent + time);
    let first = posted.accepted.values().min().context("no order")?;
    let last = ready.max().context("no order")?;
    process.host.kill()?;
    Ok(times.len() as f64 * 1_000.0 / (last - first) as f64)
}

async fn measure(backend: Backend, flooded: Flooded) -> Result<()> {
    let capacity = capacity_per_s(backend, flooded).await?;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let process = Process::start(backend, flooded).await?;
        let quiet = process.p95_ms("q").await?;
        let flood = Orders {
            name: "f".to_owned(),
            per_s: capacity * FLOOD,
            length: LENGTH,
            ..process.flooded.clone()
        };
        let (flood, beside) = tokio::join!(flood.post(), process.p95_ms("b"));
        let (flood, beside) = (flood?, beside?);
        println!(
            "{backend:?}, {flooded:?} flooded, round {round}: p95 {quiet} ms, {beside} ms beside a \
             flood of {:.0} orders/s ({:.0} accepted), {:.1} times its capacity of {capacity:.0}",
            flood.offered_per_s(),
            flood.accepted.len() as f64 / flood.took.as_secs_f64(),
            flood.offered_per_s() / capacity,
        );
        ratios.push(beside as f64 / quiet as f64);
        process.host.kill()?;
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ROUNDS / 2];
    println!("{backend:?}, {flooded:?} flooded: the p95 of the other is {ratio:.2} times as long");
    assert!(ratio <= RISE_MAX, "{ratio:.2} times as long, of {ratios:?}");
    Ok(())
}

macro_rules! measured {
    ($($name:ident: $backend:ident, $flooded:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "a measurement for a machine that does nothing else: docs/testing.md"]
        async fn $name() -> Result<()> {
            measure(Backend::$backend, Flooded::$flooded).await
        }
    )*};
}

measured! {
    a_flood_of_the_first_namespace_delays_no_other_embedded: Embedded, First;
    a_flood_of_a_further_namespace_delays_no_other_embedded: Embedded, Further;
    a_flood_of_the_first_namespace_delays_no_other_on_servers: Servers, First;
    a_flood_of_a_further_namespace_delays_no_other_on_servers: Servers, Further;
}
