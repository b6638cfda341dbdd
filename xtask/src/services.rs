//! Postgres and RabbitMQ for the tests, from the first source that has them: the environment, the
//! default ports, installed programs that are started privately, Debian's packages, and
//! `docker compose`. Each choice is printed. The tests do not run without both.

use std::net::TcpStream;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use postrider_tests::private_servers::{PrivatePostgres, PrivateRabbit};

use crate::{call, root, runs, say};

const POSTGRES: &str = "POSTRIDER_TEST_POSTGRES";
const AMQP: &str = "POSTRIDER_TEST_AMQP";

/// The servers' addresses. Dropping it stops private servers.
pub(crate) struct Services {
    /// Variables that the tests read.
    pub(crate) environment: Vec<(&'static str, String)>,
    postgres: Option<PrivatePostgres>,
    rabbit: Option<PrivateRabbit>,
}

/// A kind of server.
struct Kind {
    name: &'static str,
    variable: &'static str,
    port: u16,
    /// The URL of a server that listens on `port`.
    url: &'static str,
    package: &'static str,
    /// A service of docker-compose.yml, and its URL.
    compose: (&'static str, &'static str),
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "Postgres",
        variable: POSTGRES,
        port: 5432,
        url: "postgres://postgres@127.0.0.1:5432/postgres",
        package: "postgresql",
        compose: ("postgres", "postgres://postrider:postrider@127.0.0.1:5432/postrider"),
    },
    Kind {
        name: "RabbitMQ",
        variable: AMQP,
        port: 5672,
        url: "amqp://guest:guest@127.0.0.1:5672/%2f",
        package: "rabbitmq-server",
        compose: ("rabbitmq", "amqp://guest:guest@127.0.0.1:5672/%2f"),
    },
];

impl Services {
    /// Finds or starts both servers.
    pub(crate) fn find() -> Result<Self> {
        let mut services = Self { environment: Vec::new(), postgres: None, rabbit: None };
        for kind in &KINDS {
            let url = match running(kind) {
                Some(url) => url,
                None => services.start(kind)?,
            };
            services.environment.push((kind.variable, url));
        }
        Ok(services)
    }

    fn start(&mut self, kind: &Kind) -> Result<String> {
        match self.start_private(kind) {
            Ok(url) => return Ok(url),
            Err(error) => say(&format!("{}: not started privately: {error:#}", kind.name)),
        }
        if crate::guests::can_install_packages() {
            say(&format!("{}: installing Debian's package {}", kind.name, kind.package));
            crate::guests::install_packages(&[kind.package])?;
            // The package may have started it.
            return running(kind).map_or_else(|| self.start_private(kind), Ok);
        }
        let (service, url) = kind.compose;
        if runs(Command::new("docker").args(["compose", "version"])) {
            say(&format!("{}: starting it with docker compose", kind.name));
            call(
                Command::new("docker")
                    .args(["compose", "up", "--detach", "--wait", service])
                    .current_dir(root()),
            )?;
            return Ok(url.to_owned());
        }
        bail!(
            "the tests need {}: name one in {}, start one on port {}, or install it (Debian: {})",
            kind.name,
            kind.variable,
            kind.port,
            kind.package
        )
    }

    fn start_private(&mut self, kind: &Kind) -> Result<String> {
        // Not below target/, which the server's user may not be able to reach.
        let folder = std::env::temp_dir().join(format!("postrider-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let url = if kind.variable == POSTGRES {
            let server = PrivatePostgres::start(&folder).context("Postgres")?;
            let url = server.url();
            self.postgres = Some(server);
            url
        } else {
            let broker = PrivateRabbit::start(&folder).context("RabbitMQ")?;
            let url = broker.url();
            self.rabbit = Some(broker);
            url
        };
        say(&format!("{}: started privately, at {url}", kind.name));
        Ok(url)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // Servers first: they write to the folder until they stop.
        (self.postgres, self.rabbit) = (None, None);
        let _ = std::fs::remove_dir_all(
            std::env::temp_dir().join(format!("postrider-test-{}", std::process::id())),
        );
    }
}

/// The URL of a server that already runs.
fn running(kind: &Kind) -> Option<String> {
    if let Ok(url) = std::env::var(kind.variable) {
        say(&format!("{}: from {}", kind.name, kind.variable));
        return Some(url);
    }
    TcpStream::connect(("127.0.0.1", kind.port)).ok()?;
    say(&format!("{}: listens on port {}", kind.name, kind.port));
    Some(kind.url.to_owned())
}
