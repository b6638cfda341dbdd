//! The side of the compiler's process: limits itself, reads a file, and answers with its code.
//!
//! The limits are set before anything is read. Standard input stays open until the host no longer
//! waits, and the process ends with it.

use std::io::{self, BufRead as _, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use rayon::ThreadPoolBuilder;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::program::{CODE, INVALID, Job, NOT_ENCODABLE, PANICKED};
use super::{CompilerProgram, STACK_BYTES, lower_priority};
use crate::runtime::artifact::as_component;
use crate::runtime::engine::compiling_engine;
use crate::runtime::load::LoadError;
use crate::stage::handler::panic_text;

/// Most threads that compile, so that the memory of one file does not depend on the machine.
const THREADS_MAX: usize = 4;
/// Address space that is not memory of the process: the program itself and what its allocator
/// reserves. It bounds what the limit on memory does not count on some systems.
const ADDRESS_SPACE_BYTES: u64 = 4 << 30;
/// Longest description of a job.
const JOB_MAX_BYTES: u64 = 1_000;

impl CompilerProgram {
    /// The whole program of a compiler: compiles one file from standard input to standard output
    /// within the limits that the host sent along. Nothing should run before it.
    pub fn run() -> ExitCode {
        match answer(io::stdin(), io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the compiler: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

fn answer(input: io::Stdin, mut output: impl Write) -> anyhow::Result<()> {
    let mut input = io::BufReader::new(input);
    let mut head = Vec::new();
    (&mut input).take(JOB_MAX_BYTES).read_until(b'\n', &mut head)?;
    let job: Job = serde_json::from_slice(&head)?;
    limit(&job)?;
    let mut file = Vec::new();
    (&mut input).take(job.file_bytes).read_to_end(&mut file)?;
    anyhow::ensure!(file.len() as u64 == job.file_bytes, "the file is incomplete");
    std::thread::Builder::new().name("end-with-host".to_owned()).spawn(move || {
        // Nothing follows the file but the end.
        let _ = input.read(&mut [0]);
        std::process::exit(1);
    })?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = ThreadPoolBuilder::new()
        .num_threads(cores.min(THREADS_MAX))
        .stack_size(STACK_BYTES)
        .build()?;
    let compiled = catch_unwind(AssertUnwindSafe(|| pool.install(|| compile(&job, &file))));
    let (kind, content) = match compiled {
        Ok(Ok(code)) => (CODE, code),
        Ok(Err(LoadError::NotEncodable(why))) => (NOT_ENCODABLE, why.into_bytes()),
        Ok(Err(LoadError::Invalid(why))) => (INVALID, why.into_bytes()),
        Ok(Err(other)) => anyhow::bail!(other),
        Err(panic) => (PANICKED, panic_text(&*panic).into_bytes()),
    };
    output.write_all(&[kind])?;
    output.write_all(&content)?;
    Ok(output.flush()?)
}

fn compile(job: &Job, file: &[u8]) -> Result<Vec<u8>, LoadError> {
    let engine = compiling_engine(job.stack_max_bytes)?;
    let component = as_component(file)?;
    engine
        .precompile_component(&component)
        .map_err(|error| LoadError::Invalid(format!("{error:#}")))
}

/// Limits this process to what the job may use, and lets the host go first. A limit that is lower
/// already stays.
fn limit(job: &Job) -> io::Result<()> {
    let memory = job.memory_max_bytes;
    let seconds = job.time_max_ms.div_ceil(1_000).max(1);
    for (resource, most, beyond) in [
        (Resource::Core, 0, 0),
        (Resource::Data, memory, 0),
        (Resource::As, memory.saturating_add(ADDRESS_SPACE_BYTES), 0),
        // The signal of the soft limit tells the host which limit it was.
        (Resource::Cpu, seconds, 5),
    ] {
        let present = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let maximum = present.min(most.saturating_add(beyond));
        let limit = Rlimit { current: Some(most.min(maximum)), maximum: Some(maximum) };
        setrlimit(resource, limit)?;
    }
    lower_priority();
    Ok(())
}
