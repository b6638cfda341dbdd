//! Loading: verify → compile → link → describe. Every error says what does not fit and how to fix
//! it.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wasmtime::Store;
use wasmtime::component::Component;

use super::Runtime;
use super::compiler::CompileStep;
use super::describe::describe;
use super::epoch::EpochTicker;
use super::guest::{Guest, Stop, bindings};
use crate::domain::event::hex;
use crate::runtime::egress::Grants;
use crate::stage::handler::{Description, panic_text};

/// The contract that this host implements: guests built for an older 1.x link as well.
pub const CONTRACT: &str = "postrider:stage@1.0.0";
pub(super) const HANDLER: &str = "postrider:stage/handler@1.0.0";
const HTTP: &str = "wasi:http/";
const HTTP_OUT: &str = "wasi:http/outgoing-handler@0.2.";
const HTTP_TYPES: &str = "wasi:http/types@0.2.";
/// Why a plugin file cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something is wrong with the engine, not with the file.
    #[error("the WebAssembly engine: {0}")]
    Engine(String),
    /// Neither a component nor a core module.
    #[error(
        "not WebAssembly: the file begins with neither the header of a component nor that of a core module"
    )]
    NotWasm,
    /// A core module without, or with an unusable, component type.
    #[error(
        "a core module that cannot become a component: {0}; build it with wit-bindgen against {CONTRACT}, or as a component"
    )]
    NotEncodable(String),
    /// It exceeds a limit of the host.
    #[error("{0}")]
    OverLimit(super::limits::OverLimit),
    /// Its compilation was given up.
    #[error("it was not compiled within {0} s; it is tried again")]
    CompileTime(u64),
    /// Its compilation used up the processor time that the host allows, in ms.
    #[error(
        "its compilation takes more than {0} ms of processor time: runtime.compile_time_max_ms"
    )]
    CompileWork(u64),
    /// A signal ended the compiler: it needed too much memory, or this file triggers a bug in it.
    #[error(
        "signal {signal} ended its compilation, which needed more than {memory_max_bytes} bytes of memory (runtime.compile_memory_max_bytes) or crashed the compiler: {said}"
    )]
    CompilerKilled {
        /// The signal's number.
        signal: i32,
        /// Most memory that the compiler may allocate.
        memory_max_bytes: u64,
        /// What the compiler wrote before.
        said: String,
    },
    /// A component that does not validate.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// The reader or the compiler panicked: a bug there, triggered by this file.
    #[error("it cannot be read: {0}; rebuild it with current tools")]
    Panicked(String),
    /// It imports something that the host does not offer.
    #[error("it imports `{import}`: {remedy}")]
    Import {
        /// The import.
        import: String,
        /// What to do.
        remedy: String,
    },
    /// It does not export the handler.
    #[error(
        "it does not export `{HANDLER}` (it exports: {0}); build it for the world `stage` of {CONTRACT}"
    )]
    Export(String),
    /// The types of its imports or exports differ from the contract's.
    #[error("it does not fit the contract {CONTRACT}: {0}")]
    Link(String),
    /// `describe` failed.
    #[error("`describe` failed: {0}")]
    Describe(String),
    /// `describe` returned an invalid description; every problem.
    #[error("`describe` returned an invalid description: {}", .0.join("; "))]
    Description(Vec<String>),
}

impl LoadError {
    /// Of a blocking task that ended otherwise than by returning.
    pub(super) fn from_join(error: tokio::task::JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::Panicked(panic_text(panic.as_ref())),
            Err(error) => Self::Engine(error.to_string()),
        }
    }

    /// Whether the same content may load at another time.
    pub fn may_pass(&self) -> bool {
        match self {
            // The guest's code ran, and may do something else next time.
            Self::Engine(_) | Self::CompileTime(_) | Self::Describe(_) => true,
            Self::NotWasm
            | Self::NotEncodable(_)
            | Self::OverLimit(_)
            | Self::CompileWork(_)
            | Self::CompilerKilled { .. }
            | Self::Invalid(_)
            | Self::Panicked(_)
            | Self::Import { .. }
            | Self::Export(_)
            | Self::Link(_)
            | Self::Description(_) => false,
        }
    }
}

/// A plugin that can be instantiated.
#[derive(Clone)]
pub struct Linked {
    pub(super) pre: bindings::StagePre<Guest>,
    pub(super) wasi: bool,
    /// Deadlines hold for as long as the plugin can run.
    _epochs: Arc<EpochTicker>,
    /// SHA-256 of the file, in hex.
    pub digest: Arc<str>,
    /// What `describe` returned.
    pub description: Arc<Description>,
    /// Everything it imports.
    pub imports: Vec<String>,
}

impl Linked {
    /// The import by which it requests HTTP, if it does.
    pub fn asks_for_http(&self) -> Option<&str> {
        let asked = |prefix: &str| self.imports.iter().find(|import| import.starts_with(prefix));
        asked(HTTP_OUT).or_else(|| asked(HTTP)).map(String::as_str)
    }

    /// Whether the operator granted a stage what the file asks for.
    pub fn check_grants(&self, stage: &str, grants: &Grants) -> Result<(), LoadError> {
        match self.asks_for_http() {
            Some(import) if grants.http.is_empty() => Err(LoadError::Import {
                import: import.to_owned(),
                remedy: format!(
                    "needs an HTTP grant: [stages.{stage}.grants] http = [{{ scheme = \"https\", host = \"…\", methods = [\"POST\"] }}]"
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl Runtime {
    /// Compiles (off the async threads), links and describes a plugin file.
    pub async fn load(self: &Arc<Self>, bytes: impl Into<Bytes>) -> Result<Linked, LoadError> {
        let bytes = bytes.into();
        let digest = hex(&Sha256::digest(&bytes)).into();
        self.load_known(digest, bytes, &|_| {}).await
    }

    /// The same for a file whose digest is known; reports the steps of its compilation, if it is
    /// compiled.
    pub async fn load_known(
        self: &Arc<Self>,
        digest: Arc<str>,
        bytes: Bytes,
        report: &(dyn Fn(CompileStep) + Send + Sync),
    ) -> Result<Linked, LoadError> {
        let component = self.compile(Arc::clone(&digest), bytes, report).await?;
        self.link(&component, digest).await
    }

    async fn link(&self, component: &Component, digest: Arc<str>) -> Result<Linked, LoadError> {
        let (kind, platform) = (component.component_type(), self.platform(component));
        let imports: Vec<String> =
            kind.imports(&platform.engine).map(|(name, _)| name.to_owned()).collect();
        for import in &imports {
            check_import(import)?;
        }
        let exports: Vec<String> =
            kind.exports(&platform.engine).map(|(name, _)| name.to_owned()).collect();
        if !exports.iter().any(|export| export.starts_with("postrider:stage/handler@1.")) {
            return Err(LoadError::Export(if exports.is_empty() {
                "nothing".into()
            } else {
                exports.join(", ")
            }));
        }
        let wasi = imports.iter().any(|import| import.starts_with("wasi:"));
        let linker = if wasi { &platform.wasi } else { &platform.plain };
        let pre = linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::Link(format!("{error:#}")))?;
        let pre =
            bindings::StagePre::new(pre).map_err(|error| LoadError::Link(format!("{error:#}")))?;
        let description = describe(&pre, wasi).await?;
        Ok(Linked {
            pre,
            wasi,
            _epochs: Arc::clone(&self.epochs),
            digest,
            description: Arc::new(description),
            imports,
        })
    }
}

/// A store whose epoch deadline, limiter and host-call allowance are set before anything runs in
/// it.
pub(super) fn new_store(engine: &wasmtime::Engine, guest: Guest) -> Store<Guest> {
    let fuel = guest.limits.memory_max_bytes;
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| guest);
    store.set_hostcall_fuel(fuel);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|cx| {
        if std::time::Instant::now() >= cx.data().deadline {
            return Err(wasmtime::Error::new(Stop::Deadline));
        }
        Ok(wasmtime::UpdateDeadline::Yield(1))
    });
    store
}

fn check_import(import: &str) -> Result<(), LoadError> {
    let refuse = |remedy: &str| {
        Err(LoadError::Import { import: import.to_owned(), remedy: remedy.to_owned() })
    };
    if let Some(version) = import
        .strip_prefix("postrider:stage/")
        .and_then(|rest| rest.split_once('@'))
        .map(|(_, version)| version)
    {
        let minor = version.split('.').nth(1).unwrap_or("?");
        return match version.split('.').next() {
            Some("1") if minor == "0" => Ok(()),
            Some(major) => {
                refuse(&format!("needs Postrider {major}.{minor}; this host speaks {CONTRACT}"))
            }
            None => refuse("it names no version"),
        };
    }
    let offered = |prefix: &str| import.starts_with(prefix);
    if offered(HTTP) && !offered(HTTP_OUT) && !offered(HTTP_TYPES) {
        return refuse("of wasi:http a stage may import only `outgoing-handler` and `types`, 0.2");
    }
    if import.starts_with("wasi:") {
        return Ok(());
    }
    refuse(&format!("a stage may import only {CONTRACT} and WASI"))
}
