//! A compiler in a process of its own, whose memory and time the operating system bounds.
//!
//! Whatever a file makes of the compiler ends with that process: it may run out of memory, overflow
//! its stack or never return, and the host notes a refusal. The process starts with no environment
//! and lower priority, knows nothing but the file, and ends when the host does. It is stopped when
//! its result is no longer needed.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use super::TIME_MAX;
use crate::runtime::RuntimeSettings;
use crate::runtime::load::LoadError;

/// Most bytes that are shown of what the compiler wrote before it failed.
const SAID_MAX_BYTES: u64 = 1_000;
/// Of mimalloc, if it is the program's allocator: memory that is only reserved does not count.
const ALLOCATOR: [(&str, &str); 1] = [("MIMALLOC_ARENA_EAGER_COMMIT", "0")];
const SIGNAL_CPU_TIME: i32 = 24;
/// Of a user, a supervisor, or a system that has no memory left: hang up, interrupt, quit, kill,
/// terminate.
const SIGNALS_OF_OTHERS: [i32; 5] = [1, 2, 3, 9, 15];

/// A program that compiles one plugin file and ends, within limits on memory and time: it calls
/// [`run`](Self::run) when it is started with these arguments, and is the same build as the host.
///
/// ```no_run
/// use postrider::{CompilerProgram, Config};
///
/// fn main() -> std::process::ExitCode {
///     if std::env::args().nth(1).as_deref() == Some("compile-plugin") {
///         return CompilerProgram::run();
///     }
///     let mut config = Config::default();
///     config.runtime.compiler = CompilerProgram::this_program(["compile-plugin"]).ok();
///     // Builds and runs a host.
///     std::process::ExitCode::SUCCESS
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompilerProgram {
    /// The program; an absolute path, because it starts without an environment.
    pub program: PathBuf,
    /// Arguments that make a compiler of it.
    pub args: Vec<OsString>,
}

impl CompilerProgram {
    /// The running program itself, even if its file is replaced meanwhile.
    pub fn this_program(args: impl IntoIterator<Item = impl Into<OsString>>) -> io::Result<Self> {
        let program = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        Ok(Self { program, args: args.into_iter().map(Into::into).collect() })
    }
}

/// What the compiler reads first, on one line; the file follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    /// Most memory that the process may allocate.
    pub(super) memory_max_bytes: u64,
    /// Most processor time of all its threads.
    pub(super) time_max_ms: u64,
    /// It is a part of the engine's configuration.
    pub(super) stack_max_bytes: usize,
    pub(super) file_bytes: u64,
}

/// The first byte of the answer: what follows it.
pub(super) const CODE: u8 = b'c';
pub(super) const NOT_ENCODABLE: u8 = b'e';
pub(super) const INVALID: u8 = b'i';
pub(super) const PANICKED: u8 = b'p';

/// Why there is no code.
#[derive(Debug)]
pub(in crate::runtime) enum ProgramError {
    /// There is no such program.
    Absent,
    /// The program does not work; nothing is known of the file.
    Unusable(String),
    /// The file is refused.
    Refused(LoadError),
}

impl From<LoadError> for ProgramError {
    fn from(error: LoadError) -> Self {
        Self::Refused(error)
    }
}

/// What the process left behind.
struct Ended {
    answer: Vec<u8>,
    said: String,
    status: ExitStatus,
}

impl CompilerProgram {
    /// The machine code of a plugin file.
    pub(in crate::runtime) async fn compile(
        &self,
        settings: &RuntimeSettings,
        file: &[u8],
    ) -> Result<Vec<u8>, ProgramError> {
        let unusable = |error: io::Error| ProgramError::Unusable(error.to_string());
        let job = Job {
            memory_max_bytes: settings.compile_memory_max_bytes,
            time_max_ms: settings.compile_time_max_ms,
            stack_max_bytes: settings.stack_max_bytes,
            file_bytes: file.len() as u64,
        };
        let child = self.start().map_err(unusable)?;
        let patience = TIME_MAX.max(Duration::from_millis(job.time_max_ms));
        let running = run(child, &job, file);
        let ended = tokio::time::timeout(patience, running)
            .await
            .map_err(|_| LoadError::CompileTime(patience.as_secs()))?
            .map_err(unusable)?;
        ended.read(&job)
    }

    fn start(&self) -> io::Result<Child> {
        Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(ALLOCATOR)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's signals are for the host.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

async fn run(mut child: Child, job: &Job, file: &[u8]) -> io::Result<Ended> {
    let (mut input, output, errors) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (_, answer, said) = tokio::join!(
        // An error means that the process has ended: its status says why.
        send(input.as_mut(), job, file),
        receive(output, job.memory_max_bytes),
        receive(errors, SAID_MAX_BYTES),
    );
    // The process ends when its input is closed.
    drop(input);
    let status = child.wait().await?;
    Ok(Ended { answer: answer?, said: String::from_utf8_lossy(&said?).into_owned(), status })
}

async fn send(input: Option<&mut ChildStdin>, job: &Job, file: &[u8]) -> io::Result<()> {
    let Some(input) = input else { return Ok(()) };
    let mut head = serde_json::to_vec(job)?;
    head.push(b'\n');
    input.write_all(&head).await?;
    input.write_all(file).await?;
    input.flush().await
}

/// The first bytes of what the process writes; it is not kept from writing the rest.
async fn receive(from: Option<impl AsyncRead + Unpin>, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut received = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(max_bytes).read_to_end(&mut received).await?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(received)
}

impl Ended {
    fn read(mut self, job: &Job) -> Result<Vec<u8>, ProgramError> {
        if let Some(signal) = self.status.signal() {
            return Err(self.killed(signal, job).into());
        }
        let text = |answer: &[u8]| String::from_utf8_lossy(&answer[1..]).into_owned();
        match self.answer.first() {
            Some(&CODE) if self.status.success() => Ok(self.answer.split_off(1)),
            Some(&NOT_ENCODABLE) => Err(LoadError::NotEncodable(text(&self.answer)).into()),
            Some(&INVALID) => Err(LoadError::Invalid(text(&self.answer)).into()),
            Some(&PANICKED) => Err(LoadError::Panicked(text(&self.answer)).into()),
            _ => {
                let why = format!("it ended with {} and no answer: {}", self.status, self.said());
                Err(ProgramError::Unusable(why))
            }
        }
    }

    fn killed(&self, signal: i32, job: &Job) -> LoadError {
        if signal == SIGNAL_CPU_TIME {
            return LoadError::CompileWork(job.time_max_ms);
        }
        if SIGNALS_OF_OTHERS.contains(&signal) {
            let why = format!("signal {signal} ended the compiler's process; it is tried again");
            return LoadError::Engine(why);
        }
        LoadError::CompilerKilled {
            signal,
            memory_max_bytes: job.memory_max_bytes,
            said: self.said(),
        }
    }

    fn said(&self) -> String {
        let said = self.said.trim();
        if said.is_empty() { "it wrote nothing".to_owned() } else { said.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Pool, Runtime};

    fn settings(script: &str) -> RuntimeSettings {
        let args = ["-c", script].map(Into::into).into();
        let compiler = Some(CompilerProgram { program: "/bin/sh".into(), args });
        RuntimeSettings { compiler, pool: Pool::OnDemand, ..RuntimeSettings::default() }
    }

    /// What a script in place of the compiler makes of a valid component.
    async fn compiled(script: &str) -> Result<(), LoadError> {
        let runtime = Runtime::new(settings(script)).unwrap();
        let file = wat::parse_str("(component (core module (func)))").unwrap();
        runtime.compile("digest".into(), file.into(), &|_| {}).await.map(drop)
    }

    #[tokio::test]
    async fn file_is_compiled_in_the_host_when_the_program_does_not_work() {
        for script in ["exit 1", "exit 0", "printf nonsense", "printf cnonsense"] {
            compiled(script).await.unwrap();
        }
        let missing = CompilerProgram { program: "/nonexistent".into(), args: Vec::new() };
        let settings = RuntimeSettings { compiler: Some(missing), ..settings("") };
        let runtime = Runtime::new(settings).unwrap();
        let file = wat::parse_str("(component)").unwrap();
        assert!(runtime.compile("digest".into(), file.into(), &|_| {}).await.is_ok());
    }

    #[tokio::test]
    async fn file_is_refused_when_a_limit_ends_the_program() {
        let refused = compiled("kill -XCPU $$").await.unwrap_err();
        assert!(matches!(refused, LoadError::CompileWork(120_000)), "{refused}");
        let refused = compiled("kill -KILL $$").await.unwrap_err();
        assert!(refused.may_pass(), "{refused}");
        let refused = compiled("echo no memory >&2; kill -ABRT $$").await.unwrap_err();
        assert!(!refused.may_pass(), "{refused}");
        let refused = refused.to_string();
        for part in ["signal 6", "1073741824 bytes", "compile_memory_max_bytes", "no memory"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[tokio::test]
    async fn answers_of_the_program_are_told_apart() {
        let refused = compiled("printf 'ino result'").await.unwrap_err();
        assert!(matches!(&refused, LoadError::Invalid(why) if why == "no result"), "{refused}");
        let refused = compiled("printf 'eno world'").await.unwrap_err();
        assert!(matches!(&refused, LoadError::NotEncodable(why) if why == "no world"), "{refused}");
        let refused = compiled("printf 'pno luck'").await.unwrap_err();
        assert!(matches!(&refused, LoadError::Panicked(why) if why == "no luck"), "{refused}");
    }
}
