//! The target `loader`: arbitrary bytes as a plugin file, or as damage to a valid one.
//!
//! A plugin file is accepted or refused within [`LOAD_MAX`], and never because of the engine.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Result, Unstructured};

use crate::runtime::{LoadError, Pool, Runtime, RuntimeSettings, as_component, producers};

/// Longest time for one file, on a busy machine too.
const LOAD_MAX: Duration = Duration::from_mins(2);
/// Larger inputs are ignored: each one is compiled.
const FILE_MAX_BYTES: usize = 1 << 20;

/// Loads plugin files.
pub struct Loader {
    tokio: tokio::runtime::Runtime,
    runtime: Arc<Runtime>,
    /// Valid files: a module from a toolchain, a component, and a Rust guest of the first release.
    whole: [Vec<u8>; 3],
}

impl Loader {
    /// An input that begins with this describes damage to a valid file; any other is the file
    /// itself.
    pub const DAMAGED: &[u8] = b"damaged:";

    /// Starts an engine.
    pub fn new() -> Self {
        let settings = RuntimeSettings { pool: Pool::OnDemand, ..RuntimeSettings::default() };
        let module = wat::parse_str(include_str!("stage.wat")).expect("a module");
        let component = as_component(&module).expect("a component").into_owned();
        let released = include_bytes!("../../../fixtures/audit-for-1.0.0.wasm").to_vec();
        Self {
            tokio: super::tokio(),
            runtime: Runtime::new(settings).expect("an engine"),
            whole: [module, component, released],
        }
    }

    /// Runs one input.
    pub fn run(&self, input: &[u8]) {
        match input.strip_prefix(Self::DAMAGED) {
            // An error means too few bytes, which is no finding.
            Some(damage) => {
                if let Ok(file) = self.damaged(&mut Unstructured::new(damage)) {
                    self.load(file);
                }
            }
            None => self.load(input.to_vec()),
        }
    }

    fn load(&self, file: Vec<u8>) {
        if file.len() > FILE_MAX_BYTES {
            return;
        }
        producers(&file);
        let load = async { tokio::time::timeout(LOAD_MAX, self.runtime.load(file)).await };
        if let Err(refused) = self.tokio.block_on(load).expect("loading never ended") {
            assert!(!matches!(refused, LoadError::Engine(_)), "{refused}");
            assert!(!refused.to_string().is_empty());
        }
    }

    /// A plugin file with something wrong with it.
    fn damaged(&self, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        // The last file takes long to compile: a second with coverage.
        let (last, other) = (u.ratio(1, 32)?, u.int_in_range(0..=1)?);
        let which = if last && !cfg!(fuzzing) { 2 } else { other };
        let mut file = self.whole[which].clone();
        for _ in 0..u.int_in_range(0..=4)? {
            let at = u.choose_index(file.len().max(1))?.min(file.len());
            match u.int_in_range(0..=6)? {
                0 => file.truncate(at),
                1 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
                2 => file.splice(at..at, u.arbitrary::<Vec<u8>>()?).for_each(drop),
                3 => {
                    let end = (at + u.int_in_range(0..=64)?).min(file.len());
                    file.drain(at..end).for_each(drop);
                }
                // The first kilobyte is headers and types: more is decided there.
                4 => file.iter_mut().skip(at % 1024).take(1).for_each(|byte| *byte ^= 0x80),
                5 => {
                    let with: u8 = u.arbitrary()?;
                    file.iter_mut().skip(at).take(1).for_each(|byte| *byte = with);
                }
                _ => {
                    let piece = file[at..].iter().take(256).copied().collect::<Vec<u8>>();
                    file.extend(piece);
                }
            }
        }
        Ok(file)
    }
}
