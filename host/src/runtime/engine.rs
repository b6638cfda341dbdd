//! The WebAssembly engine: its settings, and the instance pool with its fallback. In development a
//! second engine is tried first, which compiles in a fraction of the time to slower code.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    Strategy,
};

use super::code_cache::CodeCache;
use super::compiler::Compilers;
use super::epoch::EpochTicker;
use super::guest::{Guest, bindings};
use super::load::LoadError;
use super::{Pool, RuntimeSettings};

/// Pool slots that one guest may use: more than what the largest known guests need
/// (componentised Python: 14 core instances, or 38 without WASI, and tables of 5,800 elements;
/// `SpiderMonkey`: tables of 7,700; `QuickJS`: 3 memories and 3 tables).
const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
const TABLES_PER_COMPONENT: u32 = 16;
const MEMORIES_PER_COMPONENT: u32 = 8;
/// Pool slots per live instance: what most guests need.
const CORE_INSTANCES_EACH: u32 = 16;
const MEMORIES_EACH: u32 = 4;
const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Address space of one memory slot; each guest's own limit is lower.
const MEMORY_SLOT_BYTES: usize = 1 << 30;
/// Memory that stays mapped in a slot between instances: saves page faults. Where Linux tells which
/// pages were written (6.7 and later), only those are counted and reset.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// The engines and the compile cache.
pub struct Runtime {
    pub(super) optimizing: Platform,
    /// Compiles first, where it can: [`RuntimeSettings::quick`].
    pub(super) quick: Option<Platform>,
    pub(super) cache: Option<CodeCache>,
    pub(super) compilers: Compilers,
    pub(super) settings: RuntimeSettings,
    pub(super) epochs: Arc<EpochTicker>,
}

/// An engine, and the imports of the guests that it compiled.
pub(super) struct Platform {
    pub(super) engine: Engine,
    /// The contract's imports only.
    pub(super) plain: Linker<Guest>,
    /// The contract's imports, and WASI, which by itself grants nothing: calls are checked against
    /// the guest's grants.
    pub(super) wasi: Linker<Guest>,
}

impl Runtime {
    /// Starts an engine; pooled where the address space allows it.
    pub fn new(settings: RuntimeSettings) -> Result<Arc<Self>, LoadError> {
        Self::start(settings, Compilers::default())
    }

    /// Starts an engine for plugins that do not serve. It shares with this one only what limits the
    /// compilations that run at the same time: not its instances, nor its compiled code.
    pub fn apart(&self) -> Result<Arc<Self>, LoadError> {
        let settings =
            RuntimeSettings { cache_dir: None, pool: Pool::OnDemand, ..self.settings.clone() };
        Self::start(settings, self.compilers.clone())
    }

    fn start(settings: RuntimeSettings, compilers: Compilers) -> Result<Arc<Self>, LoadError> {
        let optimizing = Platform::new(&settings, Strategy::Cranelift)?;
        let quick =
            settings.quick.then(|| Platform::new(&settings, Strategy::Winch)).transpose()?;
        let engines = [Some(&optimizing), quick.as_ref()].into_iter().flatten();
        let engines = engines.map(|platform| platform.engine.weak()).collect();
        let tick = Duration::from_millis(settings.epoch_tick_ms.max(1));
        let epochs = EpochTicker::start(engines, tick)
            .map_err(|error| LoadError::Engine(format!("no thread for epochs: {error}")))?;
        Ok(Arc::new(Self {
            optimizing,
            quick,
            cache: settings.cache_dir.clone().and_then(open_cache),
            compilers,
            epochs: Arc::new(epochs),
            settings,
        }))
    }

    /// Advances the epoch of guests that this runtime loaded.
    pub fn epochs(&self) -> &Arc<EpochTicker> {
        &self.epochs
    }

    /// The platform that compiled a component.
    pub(super) fn platform(&self, component: &Component) -> &Platform {
        self.quick
            .as_ref()
            .filter(|quick| Engine::same(&quick.engine, component.engine()))
            .unwrap_or(&self.optimizing)
    }
}

/// The kept code, unless its folder cannot be used.
fn open_cache(folder: PathBuf) -> Option<CodeCache> {
    let shown = folder.display().to_string();
    CodeCache::open(folder)
        .inspect_err(|error| {
            tracing::warn!(%error, folder = %shown, "compiled code is not kept: plugins are compiled at each start");
        })
        .ok()
}

impl Platform {
    fn new(settings: &RuntimeSettings, strategy: Strategy) -> Result<Self, LoadError> {
        let engine = match settings.pool {
            Pool::OnDemand => build(settings, strategy, false)?,
            Pool::Auto => build(settings, strategy, true).or_else(|error| {
                tracing::warn!(%error, "no instance pool: instances are allocated on demand");
                build(settings, strategy, false)
            })?,
        };
        let plain = linker(&engine)?;
        let mut wasi = linker(&engine)?;
        wasmtime_wasi::p2::add_to_linker_async(&mut wasi)
            .map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut wasi)
            .map_err(|error| LoadError::Engine(format!("{error:#}")))?;
        Ok(Self { engine, plain, wasi })
    }
}

/// An engine whose code runs in that of a host with this stack for guests; it needs no pool.
pub(super) fn compiling_engine(stack_max_bytes: usize) -> Result<Engine, LoadError> {
    let settings = RuntimeSettings { stack_max_bytes, ..RuntimeSettings::default() };
    build(&settings, Strategy::Cranelift, false)
}

fn linker(engine: &Engine) -> Result<Linker<Guest>, LoadError> {
    let mut linker = Linker::new(engine);
    bindings::Stage::add_to_linker::<_, wasmtime::component::HasSelf<Guest>>(
        &mut linker,
        |guest| guest,
    )
    .map_err(|error| LoadError::Engine(format!("{error:#}")))?;
    Ok(linker)
}

fn build(
    settings: &RuntimeSettings,
    strategy: Strategy,
    pooled: bool,
) -> Result<Engine, LoadError> {
    let mut config = Config::new();
    config
        .strategy(strategy)
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable)
        .max_wasm_stack(settings.stack_max_bytes)
        .async_stack_size(settings.stack_max_bytes + (1 << 20));
    if strategy == Strategy::Winch || cfg!(fuzzing) {
        // Cranelift still compiles the trampolines between host and guest.
        config.cranelift_opt_level(OptLevel::None);
    }
    if cfg!(fuzzing) {
        // Many small compilations, each on the thread that the fuzzer observes.
        config.parallel_compilation(false);
    }
    if pooled {
        let instances = settings.instances_max.max(1);
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(instances)
            .total_core_instances(instances * CORE_INSTANCES_EACH)
            .total_memories(instances * MEMORIES_EACH)
            .total_tables(instances * MEMORIES_EACH)
            .total_stacks(instances)
            .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
            .max_memories_per_component(MEMORIES_PER_COMPONENT)
            .max_tables_per_component(TABLES_PER_COMPONENT)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_core_instance_size(4 << 20)
            .max_component_instance_size(4 << 20)
            .max_memory_size(MEMORY_SLOT_BYTES)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(KEEP_RESIDENT_BYTES)
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    Engine::new(&config).map_err(|error| LoadError::Engine(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_mode_uses_the_quick_compiler_where_possible() {
        let runtime = Runtime::new(RuntimeSettings {
            quick: true,
            pool: Pool::OnDemand,
            ..RuntimeSettings::default()
        })
        .unwrap();
        let quick = &runtime.quick.as_ref().unwrap().engine;
        for (body, engine) in [("call 0", quick), ("return_call 0", &runtime.optimizing.engine)] {
            let component =
                wat::parse_str(format!("(component (core module (func (result i32) {body})))"))
                    .unwrap();
            let compiled = runtime.compile_now("digest", &component).unwrap();
            assert!(Engine::same(compiled.engine(), engine), "{body}");
            assert!(Engine::same(&runtime.platform(&compiled).engine, engine), "{body}");
        }
        assert!(Runtime::new(RuntimeSettings::default()).unwrap().quick.is_none());
    }
}
