//! From a plugin file's bytes to compiled code.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::Component;

use super::Runtime;
use super::compiler::{CompileStep, ProgramError, run_on_threads};
use super::limits::{self, FileCost};
use super::load::LoadError;

/// A component: as it is, or made from a core module that carries its component type.
pub(crate) fn as_component(bytes: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, LoadError> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok(bytes.into()),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => encode(bytes).map(Into::into),
        _ => Err(LoadError::NotWasm),
    }
}

/// WASI preview 1, which C libraries and Go speak, is adapted to preview 2: what it asks for is
/// then seen like any other import. A module that carries no component type (Go's) is taken for one
/// of the contract's world.
fn encode(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    let component = || {
        let mut module = module.to_vec();
        if !wasmparser::Parser::new(0)
            .parse_all(&module)
            .any(|part| is_component_type(part.as_ref()))
        {
            let mut resolve = wit_parser::Resolve::default();
            let package = resolve.push_str("stage.wit", include_str!("../../wit/stage.wit"))?;
            let world = resolve.select_world(&[package], Some("stage"))?;
            wit_component::embed_component_metadata(
                &mut module,
                &resolve,
                world,
                wit_component::StringEncoding::UTF8,
            )?;
        }
        let adapter =
            wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
        let name = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
        wit_component::ComponentEncoder::default()
            .validate(true)
            .module(&module)?
            .adapter(name, adapter)?
            .encode()
    };
    component().map_err(|error| LoadError::NotEncodable(format!("{error:#}")))
}

fn is_component_type<E>(part: Result<&wasmparser::Payload<'_>, E>) -> bool {
    matches!(part, Ok(wasmparser::Payload::CustomSection(section)) if section.name().starts_with("component-type"))
}

/// Languages and tools that a file says it was made with.
pub fn producers(bytes: &[u8]) -> Vec<String> {
    let Ok(Some(producers)) = wasm_metadata::Producers::from_wasm(bytes) else { return Vec::new() };
    let mut made_with = Vec::new();
    for (field, values) in producers.iter() {
        made_with.extend(
            values
                .iter()
                .map(|(name, version)| format!("{field}: {name} {version}").trim_end().to_owned()),
        );
    }
    made_with
}

impl Runtime {
    /// Compiles a file, or takes its code from the cache.
    pub(super) async fn compile(
        self: &Arc<Self>,
        digest: Arc<str>,
        bytes: Bytes,
        report: &(dyn Fn(CompileStep) + Send + Sync),
    ) -> Result<Component, LoadError> {
        let looking = {
            let (runtime, digest, bytes) = (Arc::clone(self), Arc::clone(&digest), bytes.clone());
            tokio::task::spawn_blocking(move || runtime.look_up(&digest, &bytes))
        };
        let found = looking.await.map_err(LoadError::from_join)??;
        let cost = match found {
            Found::Code(component) => return Ok(component),
            Found::Nothing(cost) => cost,
        };
        let slot = self.compilers.turn(cost, report).await?;
        match self.compile_apart(&digest, &bytes).await {
            Ok(component) => return Ok(component),
            Err(ProgramError::Refused(error)) => return Err(error),
            Err(ProgramError::Absent) => {}
            Err(ProgramError::Unusable(why)) => {
                tracing::warn!(%why, "the compiler's process does not work; compiling in this one");
            }
        }
        let runtime = Arc::clone(self);
        run_on_threads(slot, move || runtime.compile_now(&digest, &bytes)).await?
    }

    /// Kept code, or what the file costs to compile.
    fn look_up(&self, digest: &str, bytes: &[u8]) -> Result<Found, LoadError> {
        let kept = self.cache.as_ref();
        if let Some(code) = kept.and_then(|cache| cache.read(&self.optimizing.engine, digest)) {
            return Ok(Found::Code(code));
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(LoadError::NotWasm);
        }
        limits::check(bytes).map(Found::Nothing).map_err(LoadError::OverLimit)
    }

    /// Compiles in a process of its own.
    async fn compile_apart(
        self: &Arc<Self>,
        digest: &Arc<str>,
        bytes: &[u8],
    ) -> Result<Component, ProgramError> {
        // Compiling quickly is for the developer's own stages.
        let program = self.settings.compiler.as_ref().filter(|_| self.quick.is_none());
        let code = program.ok_or(ProgramError::Absent)?.compile(&self.settings, bytes).await?;
        let (runtime, digest) = (Arc::clone(self), Arc::clone(digest));
        let adopting = tokio::task::spawn_blocking(move || runtime.adopt(&digest, &code));
        adopting.await.map_err(LoadError::from_join)?
    }

    /// The component of code that the compiler's process made.
    fn adopt(&self, digest: &str, code: &[u8]) -> Result<Component, ProgramError> {
        // SAFETY: a program that the host trusts as it trusts itself made this code, and sent it
        // through a pipe that no other process can write to.
        #[expect(unsafe_code, reason = "deserialisation trusts the bytes")]
        let component = unsafe { Component::deserialize(&self.optimizing.engine, code) };
        let component = component.map_err(|error| {
            ProgramError::Unusable(format!("its code is not for this engine: {error:#}"))
        })?;
        self.keep(digest, code);
        Ok(component)
    }

    pub(super) fn compile_now(&self, digest: &str, bytes: &[u8]) -> Result<Component, LoadError> {
        let bytes = as_component(bytes)?;
        if let Some(quick) = &self.quick {
            // What is wrong with a file is said by the other engine.
            match Component::from_binary(&quick.engine, &bytes) {
                Ok(component) => return Ok(component),
                Err(error) => tracing::debug!(%error, "not compiled quickly; compiling well"),
            }
        }
        let component = Component::from_binary(&self.optimizing.engine, &bytes)
            .map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        match component.serialize() {
            Ok(code) => self.keep(digest, &code),
            Err(error) => tracing::warn!(%error, digest, "compiled code cannot be kept"),
        }
        Ok(component)
    }

    fn keep(&self, digest: &str, code: &[u8]) {
        if let Some(cache) = &self.cache
            && let Err(error) = cache.write(&self.optimizing.engine, digest, code)
        {
            tracing::warn!(%error, digest, "compiled code could not be kept; it is compiled again at the next start");
        }
    }
}

/// What is known of a file before it is compiled.
enum Found {
    Code(Component),
    Nothing(FileCost),
}
