//! Why a host does not start, or why it stopped.

use crate::background::supervisor::TaskFailure;
use crate::config::ConfigError;

/// The error of a part that this crate does not own, such as a database driver.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a host was not built. Whatever was started for it has ended.
///
/// Its `Display` names the key of the configuration; the cause is its
/// [`source`](std::error::Error::source).
///
/// ```no_run
/// use postrider::{BuildError, Config, Host};
///
/// # async fn example(config: Config) -> Result<(), BuildError> {
/// match Host::builder().config(config).build().await {
///     Ok(host) => println!("{} stages", host.app().plugins().len()),
///     Err(BuildError::Config(problems)) => eprintln!("{problems}"),
///     Err(other) => return Err(other),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration is invalid; every problem of it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store could not be opened, or did not answer.
    #[error("store.url: the store could not be opened")]
    Store(#[source] Source),
    /// The address of the broker is invalid.
    #[error("broker.url: {0}")]
    Broker(String),
    /// The address of the API could not be bound.
    #[error("http.listen: cannot bind {address}")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The WebAssembly engine could not be started.
    #[error("the WebAssembly engine could not be started")]
    Engine(#[source] Source),
    /// A plugin that was given as bytes cannot be loaded.
    #[error("plugin `{name}` cannot be loaded")]
    Plugin {
        /// The name that it was given under.
        name: String,
        /// What is wrong with it, and how to fix it.
        #[source]
        source: Source,
    },
    /// A stage of the embedding program cannot be installed: what is wrong, and how to fix it.
    #[error("{0}")]
    Stage(String),
    /// A background task failed too often while the host was built.
    #[error(transparent)]
    Task(#[from] RunError),
    /// The threads of a namespace could not be started.
    #[error("no threads to run on")]
    Threads(#[source] std::io::Error),
    /// One of several namespaces could not be built.
    #[error("namespace `{name}`")]
    Namespace {
        /// The namespace.
        name: String,
        /// Why.
        #[source]
        source: Box<BuildError>,
    },
}

/// Why a host stopped by itself.
///
/// ```no_run
/// # async fn example(host: postrider::Host) {
/// use postrider::RunError;
///
/// if let Err(RunError::TaskFailed { task, .. }) = host.run_until(std::future::pending()).await {
///     eprintln!("the task `{task}` cannot run; the log says why");
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A background task failed too often.
    #[error(
        "the background task `{task}` failed {failures} times in a row; the last time it {reason}"
    )]
    TaskFailed {
        /// The task, such as `relay`.
        task: String,
        /// Failures in a row.
        failures: u32,
        /// How it ended last.
        reason: String,
    },
    /// One of several namespaces stopped by itself.
    #[error("namespace `{name}`")]
    Namespace {
        /// The namespace.
        name: String,
        /// Why.
        #[source]
        source: Box<RunError>,
    },
}

impl From<TaskFailure> for RunError {
    fn from(TaskFailure { task, failures, reason }: TaskFailure) -> Self {
        Self::TaskFailed { task: task.to_string(), failures, reason }
    }
}
