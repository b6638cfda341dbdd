//! Private Postgres and RabbitMQ servers: installed programs, started on free ports with their data
//! in a temporary folder.
//!
//! The fault tests stop, kill, freeze and wipe them; machines with installed but stopped servers
//! use them for all tests. Depends on the standard library only. Every wait is bounded.

use std::ffi::OsString;
use std::io::{Error, Result};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time for a server to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// A port that is free at the time of the call.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until the port accepts connections.
pub fn wait_for_port(port: u16) -> Result<()> {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > START_TIMEOUT {
            return Err(Error::other(format!(
                "nobody listens on port {port} after {} s",
                START_TIMEOUT.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::other(format!("{command:?} failed: {}\n{said}", output.status)))
}

/// Finds a program on the path, or in one of Debian's folders for it.
fn program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn missing(what: &str) -> Error {
    Error::other(format!("{what} is not installed"))
}

/// The files of an encrypted Postgres server.
pub struct PostgresTls<'a> {
    /// The server's certificate.
    pub cert: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// The authority of client certificates.
    pub ca: &'a Path,
}

/// A Postgres server.
pub struct PrivatePostgres {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Creates a data folder below `folder` and starts the server with it.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut server = Self::create(folder)?;
        server.resume()?;
        server.wait_until_it_answers()?;
        Ok(server)
    }

    /// The same with encryption. `access` is the content of `pg_hba.conf`.
    pub fn start_encrypted(folder: &Path, tls: &PostgresTls<'_>, access: &str) -> Result<Self> {
        let mut server = Self::create(folder)?;
        server.install(tls.ca, "root.crt")?;
        server.install(tls.cert, "server.crt")?;
        server.install(tls.key, "server.key")?;
        let settings = "ssl = on\nssl_ca_file = 'root.crt'\n";
        for (name, text) in [("postgresql.auto.conf", settings), ("pg_hba.conf", access)] {
            std::fs::write(server.data().join(name), text)?;
        }
        server.resume()?;
        server.wait_until_it_answers()?;
        Ok(server)
    }

    /// Replaces the certificate of a running server.
    pub fn replace_certificate(&self, cert: &Path, key: &Path) -> Result<()> {
        self.install(cert, "server.crt")?;
        self.install(key, "server.key")?;
        let child = self.child.as_ref().ok_or_else(|| Error::other("the server does not run"))?;
        signal("HUP", &[child.id()]);
        Ok(())
    }

    /// Copies a file into the data folder, for the server only.
    fn install(&self, file: &Path, name: &str) -> Result<()> {
        let place = self.data().join(name);
        std::fs::copy(file, &place)?;
        run(Command::new("chmod").arg("600").arg(&place))?;
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&place))?;
        }
        Ok(())
    }

    fn create(folder: &Path) -> Result<Self> {
        let server = Self { folder: folder.join("postgres"), port: free_port()?, child: None };
        std::fs::create_dir_all(&server.folder)?;
        if is_root() {
            // The server refuses to run as root, so it gets a separate user and folder.
            run(Command::new("chown").arg("postgres").arg(&server.folder))?;
            run(Command::new("chmod").arg("a+rx").arg(folder))?;
        }
        let data = server.data();
        run(server
            .command("initdb")?
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--pgdata"])
            .arg(data))?;
        Ok(server)
    }

    /// A server accepts connections before it can respond.
    fn wait_until_it_answers(&self) -> Result<()> {
        let (began, port) = (Instant::now(), self.port.to_string());
        while let Err(error) =
            run(self.command("pg_isready")?.args(["--quiet", "--host=127.0.0.1", "--port", &port]))
        {
            if began.elapsed() > START_TIMEOUT {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The URL for clients through another port.
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres")
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server, or restarts it with its data.
    pub fn resume(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.with_extension("log"))?;
        let (data, port) = (self.data(), self.port.to_string());
        let mut command = self.command("postgres")?;
        command.arg("-D").arg(data).args([
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=200",
        ]);
        command.arg("-c").arg(format!("unix_socket_directories={}", self.folder.display()));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        wait_for_port(self.port)
    }

    /// Kills all its processes.
    pub fn crash(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let children = children(child.id())?;
        child.kill()?;
        signal("KILL", &children);
        child.wait()?;
        wait_for_end(&children)
    }

    /// Stops all its processes: connections stay open, but nothing responds.
    pub fn freeze(&self) -> Result<()> {
        self.signal_all("STOP")
    }

    /// Continues all its processes.
    pub fn thaw(&self) -> Result<()> {
        self.signal_all("CONT")
    }

    fn signal_all(&self, name: &str) -> Result<()> {
        let child = self.child.as_ref().ok_or_else(|| Error::other("the server does not run"))?;
        let mut all = children(child.id())?;
        all.push(child.id());
        signal(name, &all);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|versions| {
                versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect()
            })
            .unwrap_or_default();
        folders.sort();
        folders.reverse();
        let program = program(name, &folders).ok_or_else(|| missing("Postgres"))?;
        let mut command = Command::new(if is_root() {
            "setpriv".into()
        } else {
            program.clone().into_os_string()
        });
        if is_root() {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        }
        command.current_dir(&self.folder);
        Ok(command)
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let _ = self.crash();
    }
}

/// A RabbitMQ broker.
pub struct PrivateRabbit {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl PrivateRabbit {
    /// Starts a broker with its data below `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, "")
    }

    /// The same with a configuration, in the format of `rabbitmq.conf`.
    pub fn start_with(folder: &Path, config: &str) -> Result<Self> {
        Self::start_with_plugins(folder, config, &[])
    }

    /// The same with plugins of the installation.
    pub fn start_with_plugins(folder: &Path, config: &str, plugins: &[&str]) -> Result<Self> {
        let mut broker = Self { folder: folder.join("rabbitmq"), port: free_port()?, child: None };
        std::fs::create_dir_all(&broker.folder)?;
        broker.configure(config)?;
        let plugins = format!("[{}].\n", plugins.join(","));
        std::fs::write(broker.folder.join("enabled_plugins"), plugins)?;
        broker.resume()?;
        Ok(broker)
    }

    /// Changes the configuration of the next start.
    pub fn configure(&self, config: &str) -> Result<()> {
        std::fs::write(self.folder.join("rabbitmq.conf"), config)
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The URL for clients through another port.
    pub fn url_at(&self, port: u16) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the broker, or restarts it with its data, and waits until it is ready.
    pub fn resume(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.with_extension("log"))?;
        let mut command = self.command("rabbitmq-server")?;
        self.child =
            Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        wait_for_port(self.port)?;
        // It listens before it responds.
        let began = Instant::now();
        while let Err(error) = self.control(&["await_startup"]) {
            if began.elapsed() > START_TIMEOUT {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Runs `rabbitmqctl`.
    pub fn control(&self, arguments: &[&str]) -> Result<()> {
        run(self.command("rabbitmqctl")?.args(arguments))
    }

    /// Runs `rabbitmqctl` and returns its output.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command("rabbitmqctl")?.arg("-q").args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills the broker.
    pub fn crash(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let mut all = children(child.id())?;
        all.push(child.id());
        signal("KILL", &all);
        child.wait()?;
        wait_for_end(&all)
    }

    /// Deletes its data. The broker must not be running.
    pub fn wipe(&self) -> Result<()> {
        std::fs::remove_dir_all(self.folder.join("data"))
    }

    fn command(&self, name: &str) -> Result<Command> {
        // Debian's program on the path changes the user; the program it wraps does not.
        let program = program(name, &[PathBuf::from("/usr/lib/rabbitmq/bin")])
            .ok_or_else(|| missing("RabbitMQ"))?;
        let mut command = Command::new(program);
        let file = |name: &str| -> OsString { self.folder.join(name).into() };
        let distribution = if self.port > 40_000 { self.port - 20_000 } else { self.port + 20_000 };
        command
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", format!("postrider{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", file("data"))
            .env("RABBITMQ_LOG_BASE", file("logs"))
            .env("RABBITMQ_PID_FILE", file("pid"))
            .env("RABBITMQ_CONFIG_FILE", file("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins"));
        Ok(command)
    }
}

impl Drop for PrivateRabbit {
    fn drop(&mut self) {
        let _ = self.crash();
    }
}

fn is_root() -> bool {
    // The owner of a process's folder in `/proc` is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// All descendants of a process.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let output = Command::new("pgrep").args(["-P", &parent.to_string()]).output()?;
        let direct: Vec<u32> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        parents.extend(&direct);
        found.extend(direct);
    }
    Ok(found)
}

/// Waits until the processes have exited and released their ports.
fn wait_for_end(pids: &[u32]) -> Result<()> {
    let began = Instant::now();
    // A zombie has closed everything it had open.
    let lives = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    while pids.iter().any(lives) {
        if began.elapsed() > START_TIMEOUT {
            return Err(Error::other(format!("processes {pids:?} do not end")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn signal(name: &str, pids: &[u32]) {
    // A process may have exited meanwhile.
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
}
