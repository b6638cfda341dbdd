//! Compiles beside the running stages: nothing but the load of a file waits for its compilation, and
//! no small file waits for a big one.
//!
//! What bounds a compilation are the [limits](super::limits) of a file, and its process: a
//! [program](CompilerProgram) compiles it within limits on memory and time. Without such a program it
//! runs on threads of the host, which cannot be stopped: one that takes longer than [`TIME_MAX`] is
//! given up, its threads finish, and until then their place is taken. One big file is compiled at a
//! time, and a few small ones, all with a lower priority than the stages. The end of the process waits
//! for none.

mod child;
mod program;

pub use self::program::CompilerProgram;
pub(super) use self::program::ProgramError;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rayon::ThreadPoolBuilder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::limits::FileCost;
use super::load::LoadError;
use crate::stage::handler::panic_text;

/// Longest compilation.
const TIME_MAX: Duration = Duration::from_mins(3);
/// Files with more code than this are big: they take seconds.
const BIG_BYTES: u64 = 1 << 20;
/// Small files that are compiled at a time.
const SMALL_AT_ONCE: usize = 2;
const STACK_BYTES: usize = 8 << 20;
/// Difference in priority to the stages: with all cores busy, a thread that compiles gets a third of
/// the time of one that does not.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// How far a compilation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileStep {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Started,
}

/// Limits the compilations that run at the same time.
#[derive(Clone)]
pub(super) struct Compilers {
    small: Arc<Semaphore>,
    big: Arc<Semaphore>,
}

impl Default for Compilers {
    fn default() -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self { small: slots(SMALL_AT_ONCE), big: slots(1) }
    }
}

/// The right to compile.
pub(super) struct Slot(
    #[expect(dead_code, reason = "it is given back when dropped")] OwnedSemaphorePermit,
);

impl Compilers {
    /// Waits until it is the turn of a file.
    pub(super) async fn turn(
        &self,
        cost: FileCost,
        report: &(dyn Fn(CompileStep) + Send + Sync),
    ) -> Result<Slot, LoadError> {
        report(CompileStep::Queued);
        let slots = if cost.code_bytes > BIG_BYTES { &self.big } else { &self.small };
        let slot = Arc::clone(slots).acquire_owned().await;
        let slot = slot.map_err(|closed| LoadError::Engine(closed.to_string()))?;
        report(CompileStep::Started);
        Ok(Slot(slot))
    }
}

/// Runs a compilation on threads of the host.
pub(super) async fn run_on_threads<T: Send + 'static>(
    slot: Slot,
    compile: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LoadError> {
    let no_thread = |error: &dyn std::fmt::Display| {
        LoadError::Engine(format!("no thread to compile on: {error}"))
    };
    // A pool for each: the functions of one file would wait in a shared one for those of another.
    let pool = ThreadPoolBuilder::new()
        .thread_name(|_| "postrider-compile".to_owned())
        .stack_size(STACK_BYTES)
        .start_handler(|_| lower_priority())
        .build()
        .map_err(|error| no_thread(&error))?;
    let (done, ended) = oneshot::channel();
    let work = move || {
        let _slot = slot;
        // The receiver may have given up.
        let _ = done.send(catch_unwind(AssertUnwindSafe(|| pool.install(compile))));
    };
    std::thread::Builder::new()
        .name("postrider-compiler".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map_err(|error| no_thread(&error))?;
    match tokio::time::timeout(TIME_MAX, ended).await {
        Ok(Ok(Ok(compiled))) => Ok(compiled),
        Ok(Ok(Err(panic))) => Err(LoadError::Panicked(panic_text(&*panic))),
        Ok(Err(_)) => Err(LoadError::Engine("the compiler's thread ended".to_owned())),
        Err(_) => Err(LoadError::CompileTime(TIME_MAX.as_secs())),
    }
}

/// Lets stages go before this thread. Elsewhere than on Linux the priority is that of the process.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "compiling with the priority of the stages");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SMALL: FileCost = FileCost { code_bytes: 1 };
    const BIG: FileCost = FileCost { code_bytes: BIG_BYTES + 1 };

    #[tokio::test]
    async fn small_file_does_not_wait_for_a_big_one() {
        let compilers = Arc::new(Compilers::default());
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = mpsc::channel::<()>();
        let slow = {
            let compilers = Arc::clone(&compilers);
            tokio::spawn(async move {
                let report = move |step| _ = started.send(step);
                let slot = compilers.turn(BIG, &report).await?;
                run_on_threads(slot, move || _ = released.recv()).await
            })
        };
        assert_eq!(starts.recv().await, Some(CompileStep::Queued));
        assert_eq!(starts.recv().await, Some(CompileStep::Started));
        let slot = compilers.turn(SMALL, &|_| {}).await.unwrap();
        assert_eq!(run_on_threads(slot, || 7).await.unwrap(), 7);
        // Another big one waits, and gives its place up when it is cancelled.
        let waits = compilers.turn(BIG, &|_| {});
        let waited = tokio::time::timeout(Duration::from_millis(20), waits).await;
        assert!(waited.is_err());
        drop(release);
        slow.await.unwrap().unwrap();
        compilers.turn(BIG, &|_| {}).await.unwrap();
    }

    #[tokio::test]
    async fn compiler_that_panics_is_an_error() {
        let compilers = Compilers::default();
        let slot = compilers.turn(SMALL, &|_| {}).await.unwrap();
        let run = run_on_threads(slot, || panic!("no luck"));
        assert!(matches!(run.await, Err(LoadError::Panicked(why)) if why.contains("no luck")));
    }
}
