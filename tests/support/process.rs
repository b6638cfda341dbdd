//! A host in a separate process, for tests that kill it, limit it or read its output.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::support::harness::{Client, TestEnv, eventually, root};

/// A host in a separate process, killed when dropped.
pub(crate) struct HostProcess(Child);

impl HostProcess {
    /// Starts the program in an environment. `file_max_blocks` (512 bytes each) limits the size of
    /// every file, which simulates a full disk.
    pub(crate) fn start(env: &TestEnv, port: u16, file_max_blocks: Option<u32>) -> Result<Self> {
        Self::start_with(env, port, file_max_blocks, &[])
    }

    /// Starts the program on a port of its own, and waits until it is ready.
    pub(crate) async fn start_ready(env: &TestEnv) -> Result<(Self, Client)> {
        Self::start_ready_with(env, &[]).await
    }

    /// The same, with additional environment variables.
    pub(crate) async fn start_ready_with(
        env: &TestEnv,
        environment: &[(&str, &str)],
    ) -> Result<(Self, Client)> {
        let port = unused_port()?;
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        let process = Self::start_with(env, port, None, environment)?;
        process.wait_until_ready(&client, env).await?;
        Ok((process, client))
    }

    /// Starts with additional environment variables.
    pub(crate) fn start_with(
        env: &TestEnv,
        port: u16,
        file_max_blocks: Option<u32>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        // The shell ignores the signal of the limit, and the program inherits that: writes fail
        // instead.
        let limit = file_max_blocks
            .map(|blocks| format!("trap '' XFSZ; ulimit -f {blocks}; "))
            .unwrap_or_default();
        Self::start_limited(env, port, &limit, environment)
    }

    /// Starts the program after a command of the shell that limits it, such as `ulimit -n 1024; `.
    pub(crate) fn start_limited(
        env: &TestEnv,
        port: u16,
        limit: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        // Hosts that share the environment have ports of their own.
        let config = env.folder.path().join(format!("postrider-{port}.toml"));
        std::fs::write(
            &config,
            format!("http.listen = \"127.0.0.1:{port}\"\n{}", env.config_text()),
        )?;
        let program = binary()?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(env.folder.path().join("log"))?;
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{limit}exec \"$0\" --config \"$1\" serve"))
            .arg(program)
            .arg(config);
        command.envs(environment.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self(child))
    }

    /// Waits until the host is ready. The error has the last lines of its log.
    pub(crate) async fn wait_until_ready(&self, client: &Client, env: &TestEnv) -> Result<()> {
        client.wait_until_ready().await.with_context(|| {
            let log = std::fs::read_to_string(env.folder.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(10).collect();
            format!("the host's last lines, newest first:\n{}", last.join("\n"))
        })
    }

    /// The resident set of the process.
    pub(crate) fn memory_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The largest resident set that the process has had.
    pub(crate) fn peak_memory_bytes(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).context("no resident set")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
    }

    /// The processes that it has started and that have not ended, by their ids.
    pub(crate) fn children(&self) -> Result<Vec<u32>> {
        let of_host = format!("PPid:\t{}\n", self.0.id());
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Ok(id) = entry?.file_name().to_string_lossy().parse() else { continue };
            // One that has ended since has no status.
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            if status.contains(&of_host) && !status.contains("State:\tZ") {
                children.push(id);
            }
        }
        Ok(children)
    }

    /// Suspends the process for a time (`SIGSTOP`, then `SIGCONT`).
    pub(crate) async fn suspend_for(&self, time: Duration) -> Result<()> {
        self.signal("-STOP")?;
        // What is tested is the time itself.
        tokio::time::sleep(time).await;
        self.signal("-CONT")
    }

    /// Sends a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status()?;
        ensure!(sent.success(), "kill {signal} failed");
        Ok(())
    }

    /// Waits until the process has ended; returns its exit code, unless a signal ended it.
    pub(crate) async fn wait(&mut self) -> Result<Option<i32>> {
        let ended = eventually("the process to end", || {
            let ended = self.0.try_wait();
            async move { Ok(ended?) }
        });
        Ok(ended.await?.code())
    }

    /// Sends `SIGKILL`.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end. Returns exit code, standard output and standard error.
pub(crate) async fn postrider(args: &[&str]) -> Result<(i32, String, String)> {
    let output =
        tokio::process::Command::new(binary()?).args(args).kill_on_drop(true).output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.code().context("a signal ended it")?,
        text(&output.stdout),
        text(&output.stderr),
    ))
}

/// Runs a command to its end.
pub(crate) fn output(
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<std::process::Output> {
    Ok(Command::new(binary()?).args(arguments).envs(environment.iter().copied()).output()?)
}

pub(crate) fn binary() -> Result<std::path::PathBuf> {
    let folder = std::env::current_exe()?
        .parent()
        .and_then(|deps| deps.parent())
        .context("a target folder")?
        .to_owned();
    let program = folder.join("postrider");
    ensure!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace --all-targets` in {}",
        program.display(),
        root().display()
    );
    Ok(program)
}

/// A port that is free at the time of the call.
pub(crate) fn unused_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
