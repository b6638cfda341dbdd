//! Generated requests and messages, most of them nearly valid: every one is settled, dead-lettered
//! with a reason, or rejected. No stage stops, no connection is lost over one, and memory is bounded.
//!
//! `POSTRIDER_INPUTS` sets how many (default 4,000), `POSTRIDER_INPUTS_SEED` the seed. A failure
//! names the seed. A long run is divided among several hosts, each with a store of its own: what is
//! checked between two rounds is the whole log.

mod http;
mod messages;
mod text;

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::harness::{Backend, Client, TestEnv, eventually};
use crate::support::process::HostProcess;

/// Inputs between two checks of the host.
const ROUND: u32 = 2_000;
/// Inputs of one host, and between two checks of it, in a run that is longer than that.
const LONG_RUN: u32 = 100_000;
const LONG_ROUND: u32 = 20_000;
/// What a host may use, however many inputs it has seen.
const MEMORY_MAX_BYTES: u64 = 1 << 30;

/// Failed attempts are soon repeated, so that the run does not wait for them. A request may take long:
/// how busy the machine is says nothing about the host. Other programs may send whatever the stages
/// consume, and each refused message has its dead letter.
const CONFIG: &str = "http.request_timeout_ms = 120000\n\
    ingress.allow = [\"#\", \"order.created\", \"payment.authorized\", \"payment.declined\", \"product.stocked\"]\n\
    ingress.dead_letters_max = 10000000\n\
    [stages.inventory.settings]\ndefault_stock = \"1000000000\"\n\
    [defaults.retry]\nmax_attempts = 2\ninitial_ms = 10\nmax_ms = 20\n";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the host answered to the inputs so far.
#[derive(Debug, Default)]
struct Counts {
    /// Accepted for the first time: each of these is one event of the log.
    accepted: u64,
    /// Accepted as a repetition.
    repeated: u64,
    /// Rejected with a reason.
    rejected: u64,
    /// Reads.
    read: u64,
}

struct Run {
    env: TestEnv,
    client: Client,
    process: HostProcess,
    rng: StdRng,
    counts: Counts,
    /// Paths and idempotency keys of accepted requests.
    named: HashSet<String>,
}

impl Run {
    async fn start(backend: Backend, seed: u64) -> Result<Self> {
        let env = TestEnv::shipped_on(backend, CONFIG).await?;
        let (process, client) = HostProcess::start_ready(&env).await?;
        let rng = StdRng::seed_from_u64(seed);
        let (counts, named) = (Counts::default(), HashSet::new());
        Ok(Self { env, client, process, rng, counts, named })
    }

    /// The host is well, and has settled everything that is due.
    async fn check(&self) -> Result<()> {
        self.client.wait_until_ready().await?;
        let memory = self.process.memory_bytes()?;
        ensure!(memory < MEMORY_MAX_BYTES, "the host uses {memory} bytes");
        eventually("every delivery to be settled", || async {
            let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
            let waiting = "SELECT count(*) FROM outbox";
            let left = self.env.query_count(open).await? + self.env.query_count(waiting).await?;
            Ok((left == 0).then_some(()))
        })
        .await?;
        // What the host itself emits has a stage; a message that cannot be read has a stand-in.
        let external = "SELECT count(*) FROM events WHERE stage IS NULL AND \
                        (type NOT LIKE 'postrider.%' OR type = 'postrider.unreadable')";
        eventually("every accepted input in the log", || async {
            let logged = self.env.query_count(external).await?;
            Ok((logged == self.counts.accepted as i64).then_some(()))
        })
        .await
        .with_context(|| format!("{:?}", self.counts))?;
        let without_reason = "SELECT count(*) FROM dead_letters WHERE code = '' OR message = ''";
        ensure!(self.env.query_count(without_reason).await? == 0, "a dead letter without reason");
        let log = std::fs::read_to_string(self.env.folder.path().join("log"))?;
        for alarming in ["panicked", "\"level\":\"ERROR\""] {
            let line = log.lines().find(|line| line.contains(alarming));
            ensure!(line.is_none(), "{line:?}");
        }
        let connections = log.matches("connected to RabbitMQ").count();
        ensure!(connections <= 2, "the host connected {connections} times");
        Ok(())
    }
}

async fn run(backend: Backend) -> Result<()> {
    let seed = number("POSTRIDER_INPUTS_SEED", rand::random());
    let inputs = number("POSTRIDER_INPUTS", 4_000) as u32;
    let mut left = inputs;
    for host in 0.. {
        let share = left.min(LONG_RUN);
        // Each host has a seed of its own, so that a run of it can be repeated.
        let seed = seed.wrapping_add(host);
        let round = if share == LONG_RUN { LONG_ROUND } else { ROUND };
        let counts = run_host(backend, seed, share, round)
            .await
            .with_context(|| format!("POSTRIDER_INPUTS={share} POSTRIDER_INPUTS_SEED={seed}"))?;
        println!("{share} inputs, seed {seed}: {counts:?}");
        left -= share;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

async fn run_host(backend: Backend, seed: u64, inputs: u32, round: u32) -> Result<Counts> {
    let mut run = Run::start(backend, seed).await?;
    let mut publisher = messages::Publisher::connect(&run.env).await?;
    let mut sent = 0;
    while sent < inputs {
        let count = round.min(inputs - sent);
        // Without a broker there is only one way in.
        let share = if publisher.is_some() { count / 2 } else { 0 };
        if let Some(publisher) = &mut publisher {
            publisher.publish(&mut run, share).await?;
        }
        http::send(&mut run, count - share).await?;
        sent += count;
        run.check().await.with_context(|| format!("after {sent} inputs"))?;
    }
    Ok(run.counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_inputs_are_accounted_for_on_the_embedded_store() -> Result<()> {
    run(Backend::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_inputs_are_accounted_for_on_servers() -> Result<()> {
    run(Backend::Servers).await
}

/// One of several values.
fn one_of<'a, T>(rng: &mut StdRng, values: &'a [T]) -> &'a T {
    &values[rng.random_range(0..values.len())]
}
