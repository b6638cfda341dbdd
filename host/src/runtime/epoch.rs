//! Advances the engines' epoch, by which busy guests are interrupted.
//!
//! A thread of its own does it, because a blocked async runtime must not suspend deadlines. The
//! thread is joined when the last [`Runtime`](super::Runtime) and the last plugin that it loaded
//! are dropped.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wasmtime::EngineWeak;

/// Owns the thread.
pub struct EpochTicker {
    engines: Vec<EngineWeak>,
    tick: Duration,
    thread: Mutex<Thread>,
}

struct Thread {
    /// Dropped before the thread is joined: that ends it.
    stop: Option<mpsc::Sender<()>>,
    handle: Option<JoinHandle<()>>,
    /// Cancelled when the thread ends, however it does.
    ended: CancellationToken,
}

impl EpochTicker {
    pub(super) fn start(engines: Vec<EngineWeak>, tick: Duration) -> io::Result<Self> {
        let thread = Mutex::new(Thread::spawn(engines.clone(), tick)?);
        Ok(Self { engines, tick, thread })
    }

    /// Waits for the thread's end, which only a panic causes, or until cancelled. When the thread
    /// has ended before, it is replaced first.
    pub async fn run(&self, cancel: CancellationToken) {
        let ended = {
            let mut thread = self.thread();
            if thread.ended.is_cancelled() {
                match Thread::spawn(self.engines.clone(), self.tick) {
                    Ok(next) => *thread = next,
                    Err(error) => {
                        tracing::error!(%error, "no thread for epochs");
                        return;
                    }
                }
            }
            thread.ended.clone()
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = ended.cancelled() => {}
        }
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Thread {
    fn spawn(engines: Vec<EngineWeak>, tick: Duration) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let run = move || {
            let _guard = guard;
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                    engine.increment_epoch();
                }
            }
        };
        let handle = std::thread::Builder::new().name("postrider-epoch".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), handle: Some(handle), ended })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(handle) = self.handle.take() {
            // A panic was reported by the thread itself.
            let _ = handle.join();
        }
    }
}
