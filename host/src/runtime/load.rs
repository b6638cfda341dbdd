//! Loading: verify → compile → link → describe. Every error says what does not fit and how to fix
//! it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wasmtime::Store;
use wasmtime::component::Component;

use super::epoch::EpochTicker;
use super::guest::{Guest, Stop, bindings};
use super::{Runtime, StageLimits};
use crate::domain::event::{HOST_EVENT_PREFIX, hex, topic_problem};
use crate::domain::name::is_name;
use crate::runtime::egress::Grants;
use crate::stage::handler::{Description, panic_text};

/// The contract that this host implements: guests built for an older 1.x link as well.
pub const CONTRACT: &str = "postrider:stage@1.0.0";
const HANDLER: &str = "postrider:stage/handler@1.0.0";
const HTTP: &str = "wasi:http/";
const HTTP_OUT: &str = "wasi:http/outgoing-handler@0.2.";
const HTTP_TYPES: &str = "wasi:http/types@0.2.";
/// Longest time for `describe`.
const DESCRIBE_MAX: Duration =
    if cfg!(fuzzing) { Duration::from_millis(100) } else { Duration::from_secs(10) };

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
    /// Whether the same content may load at another time.
    pub fn may_pass(&self) -> bool {
        match self {
            // The guest's code ran, and may do something else next time.
            Self::Engine(_) | Self::Describe(_) => true,
            Self::NotWasm
            | Self::NotEncodable(_)
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
        self.load_known(digest, bytes).await
    }

    /// The same for a file whose digest is known.
    pub async fn load_known(
        self: &Arc<Self>,
        digest: Arc<str>,
        bytes: Bytes,
    ) -> Result<Linked, LoadError> {
        let compiled = {
            let (runtime, digest) = (Arc::clone(self), Arc::clone(&digest));
            tokio::task::spawn_blocking(move || runtime.compile(&digest, &bytes))
        };
        let component = compiled.await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => LoadError::Panicked(panic_text(panic.as_ref())),
            Err(error) => LoadError::Engine(error.to_string()),
        })??;
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
        check_description(&description)?;
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

/// Calls `describe` in an instance of its own, in which every import but `log` traps.
async fn describe(pre: &bindings::StagePre<Guest>, wasi: bool) -> Result<Description, LoadError> {
    let limits =
        StageLimits { deadline_ms: DESCRIBE_MAX.as_millis() as u64, ..StageLimits::default() };
    let mut store = new_store(pre.engine(), Guest::new(limits, wasi));
    let asked = async {
        let instance = pre.instantiate_async(&mut store).await?;
        instance.postrider_stage_handler().call_describe(&mut store).await
    };
    let described = tokio::time::timeout(DESCRIBE_MAX, asked)
        .await
        .map_err(|_| LoadError::Describe("it took too long".into()))?;
    let described = described.map_err(|error| {
        let said = store.data().last_error.clone();
        LoadError::Describe(said.unwrap_or_else(|| {
            error.downcast_ref::<Stop>().map_or_else(|| error.to_string(), ToString::to_string)
        }))
    })?;
    let bindings::exports::postrider::stage::handler::Description {
        name,
        version,
        summary,
        consumes,
        emits,
        attributes,
    } = described;
    Ok(Description { name, version, summary, consumes, emits, attributes })
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

pub(crate) fn check_description(description: &Description) -> Result<(), LoadError> {
    let mut problems = Vec::new();
    if !is_name(&description.name) {
        problems.push(format!("the name `{}` must match [a-z][a-z0-9-]{{0,39}}", description.name));
    }
    if description.consumes.is_empty() {
        problems.push("it consumes no event type".to_owned());
    }
    problems.extend(
        description
            .consumes
            .iter()
            .filter_map(|text| Some(format!("`{text}` in `consumes` {}", topic_problem(text)?))),
    );
    for event_type in &description.emits {
        if let Some(why) = topic_problem(event_type) {
            problems.push(format!("`{event_type}` in `emits` {why}"));
        } else if event_type.contains(['*', '#']) {
            problems.push(format!("`{event_type}` in `emits` is a pattern, not an event type"));
        } else if event_type.starts_with(HOST_EVENT_PREFIX) {
            problems.push(format!("`{event_type}` in `emits`: types that start with `{HOST_EVENT_PREFIX}` are reserved for the host"));
        }
    }
    let texts = description.consumes.iter().chain(&description.emits).chain([&description.version]);
    if texts.clone().any(|text| text.contains('\0')) {
        problems.push(
            "a version or an event type with a NUL character, which no database keeps".to_owned(),
        );
    }
    if problems.is_empty() { Ok(()) } else { Err(LoadError::Description(problems)) }
}
