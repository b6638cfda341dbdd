//! From a plugin file's bytes to compiled code, with a cache on disk that only saves work.
//!
//! An artifact's name holds the digest of the file and the engine's compatibility hash, so another
//! engine never reads it. Only files that this program wrote are deserialised; one that cannot be
//! read is compiled again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::Runtime;
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
    /// Compiles, or takes from the cache.
    pub(super) fn compile(&self, digest: &str, bytes: &[u8]) -> Result<Component, LoadError> {
        let engine = &self.optimizing.engine;
        let place = self.cache_dir.as_ref().map(|folder| place(engine, folder, digest));
        if let Some(component) =
            place.as_deref().filter(|place| place.is_file()).and_then(|place| read(engine, place))
        {
            return Ok(component);
        }
        let bytes = as_component(bytes)?;
        if let Some(quick) = &self.quick {
            // What is wrong with a file is said by the other engine.
            match Component::from_binary(&quick.engine, &bytes) {
                Ok(component) => return Ok(component),
                Err(error) => tracing::debug!(%error, "not compiled quickly; compiling well"),
            }
        }
        let component = Component::from_binary(engine, &bytes)
            .map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        if let Some(place) = place
            && let Err(error) = write(&place, &component)
        {
            tracing::warn!(%error, place = %place.display(), "compiled code could not be kept; it is compiled again at the next start");
        }
        Ok(component)
    }
}

fn place(engine: &Engine, folder: &Path, digest: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    folder.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
}

fn read(engine: &Engine, place: &Path) -> Option<Component> {
    // SAFETY: the folder is the host's own; its files were written by `write` from code that this
    // engine compiled.
    #[expect(unsafe_code, reason = "deserialisation trusts the file")]
    let component = unsafe { Component::deserialize_file(engine, place) };
    component.inspect_err(|error| tracing::warn!(%error, place = %place.display(), "kept code is unreadable; compiling again")).ok()
}

fn write(place: &Path, component: &Component) -> anyhow::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let code = component.serialize().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, &code)?;
    file.persist(place)?;
    Ok(())
}
