//! A TCP proxy on loopback that can stop forwarding, reset its connections, or delay data.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How data is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    silent: bool,
    delay: Duration,
    /// Connections of an earlier generation are closed.
    generation: u32,
}

/// A proxy to a local port.
pub(crate) struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (mode, seen) =
            watch::channel(Mode { silent: false, delay: Duration::ZERO, generation: 0 });
        let accepting = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let Ok(outbound) = TcpStream::connect(("127.0.0.1", target)).await else {
                    continue;
                };
                let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
                let ((from_client, to_client), (from_server, to_server)) =
                    (inbound.into_split(), outbound.into_split());
                tokio::spawn(carry(from_client, to_server, seen.clone()));
                tokio::spawn(carry(from_server, to_client, seen.clone()));
            }
        });
        Ok(Self { port, mode: Arc::new(mode), accepting })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Keeps connections open and forwards nothing.
    pub(crate) fn cut(&self) {
        self.mode.send_modify(|mode| mode.silent = true);
    }

    /// Forwards everything.
    pub(crate) fn pass(&self) {
        self.mode.send_modify(|mode| (mode.silent, mode.delay) = (false, Duration::ZERO));
    }

    /// Delays every chunk.
    pub(crate) fn slow(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Closes all connections.
    pub(crate) fn reset(&self) {
        self.mode.send_modify(|mode| mode.generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let generation = mode.borrow().generation;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            gone = mode.wait_for(|mode| mode.generation != generation) => {
                drop(gone);
                return;
            }
        };
        let Ok(count @ 1..) = read else { return };
        let delay = mode.borrow().delay;
        tokio::time::sleep(delay).await;
        let open = mode
            .wait_for(|mode| !mode.silent || mode.generation != generation)
            .await
            .is_ok_and(|mode| mode.generation == generation);
        if !open || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
