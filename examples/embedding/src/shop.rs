//! One host on the embedded store: native and sandboxed stages, the program's router, registry,
//! clock and spans, and the event log as a stream.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use postrider::{BuildError, Config, EventQuery, Host, HostHandle, Submitted, SystemClock};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tracing::Instrument as _;

use crate::approve::{Approve, Approved, Order};

pub async fn run() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut registry = Registry::default();
    let handle = start(folder.path(), &mut registry).await?;

    // The API is below a prefix of the program's own router.
    let router = axum::Router::new().nest("/pipeline", handle.router());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(axum::serve(listener, router).into_future());

    let cursor = submit_and_follow(&handle).await?;
    let shown = get(address, "/pipeline/orders/1").await?;
    assert!(shown.starts_with("HTTP/1.1 200") && shown.contains("\"order_id\":\"1\""), "{shown}");
    let missing = get(address, "/pipeline/orders/none").await?;
    assert!(missing.contains("\"type\":\"/pipeline/problems/not-found\""), "{missing}");
    let document = get(address, "/pipeline/openapi.json").await?;
    assert!(document.contains("\"servers\":[{\"url\":\"/pipeline\"}]"), "{document}");

    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry)?;
    assert!(metrics.contains("postrider_deliveries_total{stage=\"approve\""), "{metrics}");

    handle.shutdown().await?;
    serving.abort();
    resume(folder.path(), cursor).await?;
    refuse_an_invalid_configuration().await
}

/// A configuration that is built in code.
fn config(folder: &Path) -> Config {
    let mut config = Config::default();
    config.store.url = format!("sqlite:{}/orders.db", folder.display());
    config.plugins.archive_dir = folder.join("archive");
    config.shutdown.grace_ms = 5_000;
    config.stages.entry("approve".to_owned()).or_default().lanes = 4;
    config
}

async fn start(folder: &Path, registry: &mut Registry) -> Result<HostHandle, Box<dyn Error>> {
    let plugins = folder.join("plugins");
    std::fs::create_dir_all(&plugins)?;
    std::fs::copy(shipped("notification"), plugins.join("notification.wasm"))?;
    let host = Host::builder()
        .config(config(folder))
        .stage(Approve)
        .plugin_bytes("payment", std::fs::read(shipped("payment"))?)
        .plugin_dir(plugins)
        .clock(Arc::new(SystemClock))
        .metrics(registry)
        .observe(|settled| tracing::debug!(stage = %settled.delivery.stage, "settled"))
        .build()
        // The host's tasks run in a child of this span.
        .instrument(tracing::info_span!("shop"))
        .await?;
    Ok(host.start()?)
}

/// A plugin of the repository: a program of its own has other means.
fn shipped(stage: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/{stage}.wasm"))
}

/// Returns the cursor of the first approval.
async fn submit_and_follow(handle: &HostHandle) -> Result<i64, Box<dyn Error>> {
    let mut approvals = handle.app().events(EventQuery::new().event_type("shop.approved"))?;
    for id in ["1", "2"] {
        let submitted = handle.submit("order", Order::of_a_book(id)).await?;
        assert!(matches!(submitted, Submitted::New(_)));
    }
    let again = handle.submit("order", Order::of_a_book("1")).await?;
    assert!(matches!(again, Submitted::Duplicate(_)));
    let first = approvals.next().await.ok_or("the stream ended")?;
    let approved: Approved = first.event.json()?;
    assert_eq!(
        (approved.order_id.as_str(), approved.by.as_str()),
        (&*first.event.subject, "the shop")
    );
    let second = approvals.next().await.ok_or("the stream ended")?;
    assert!(second.cursor > first.cursor);
    while handle.app().status(&"order/1".parse()?).await?.as_deref() != Some("authorized") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(first.cursor)
}

/// Another run of the host continues after the cursor.
async fn resume(folder: &Path, cursor: i64) -> Result<(), Box<dyn Error>> {
    let handle = Host::builder().config(config(folder)).build().await?.start()?;
    let query = EventQuery::new().event_type("shop.approved").after(cursor);
    let next = handle.app().events(query)?.next().await.ok_or("the stream ended")?;
    assert!(next.cursor > cursor);
    Ok(handle.shutdown().await?)
}

async fn refuse_an_invalid_configuration() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    config.stages.entry("approve".to_owned()).or_default().lanes = 0;
    match Host::builder().config(config).build().await {
        Err(BuildError::Config(problems)) => {
            assert!(problems.to_string().contains("stages.approve.lanes: must be at least 1"));
            Ok(())
        }
        Err(other) => Err(other.into()),
        Ok(_) => Err("an invalid configuration was accepted".into()),
    }
}

async fn get(address: std::net::SocketAddr, path: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
