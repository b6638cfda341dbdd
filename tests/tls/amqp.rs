//! RabbitMQ over TLS: authorities, host names, client certificates, and logging in by certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use postrider::internals::{ClientFiles, NamedFile, Rabbit, RabbitServer};

use crate::support::certificates::{Authority, Pair};
use crate::support::harness::eventually;
use postrider_tests::private_servers::{PrivateRabbit, free_port};

/// The plugin that logs users in by their certificate.
pub(super) const EXTERNAL: &str = "rabbitmq_auth_mechanism_ssl";

/// The configuration of a broker that also listens for encrypted connections.
pub(super) fn config(port: u16, server: &Pair, ca: &Path, must: bool) -> String {
    format!(
        "listeners.ssl.default = {port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = {must}\nauth_mechanisms.1 = PLAIN\n\
         auth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
        ca.display(),
        server.cert.display(),
        server.key.display(),
    )
}

fn server(url: String, ca: &Path, identity: Option<&Pair>) -> RabbitServer {
    let named = |path: &Path| NamedFile::new("broker.tls", path);
    let identity = identity.map(|pair| (named(&pair.cert), named(&pair.key)));
    RabbitServer { url, tls: ClientFiles { ca: Some(named(ca)), identity } }
}

/// Whether a connection is accepted; otherwise why not.
async fn connect(server: &RabbitServer) -> Option<String> {
    Rabbit::examine(server, "orders", &[Arc::from("payment")]).await.err()
}

async fn refused(server: &RabbitServer, expected: &str) -> Result<()> {
    // A server that closes the connection at once may overtake its own reason.
    let why = eventually("a reason", || async {
        let why =
            connect(server).await.with_context(|| format!("accepted, but not: {expected}"))?;
        Ok((!why.contains("reset by peer")).then_some(why))
    });
    let why = why.await?;
    ensure!(why.contains(expected), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_rabbitmq_are_verified() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let other = Authority::new(folder.path(), "other")?;
    let (pair, port) = (authority.server("server")?, free_port()?);
    let (client, unknown) = (authority.client("orders")?, authority.client("unknown")?);
    let stranger = other.client("stranger")?;
    let text = config(port, &pair, &authority.file, false);
    let mut rabbit = PrivateRabbit::start_with_plugins(folder.path(), &text, &[EXTERNAL])?;
    rabbit.control(&["add_user", "orders", "not used"])?;
    rabbit.control(&["set_permissions", "orders", ".*", ".*", ".*"])?;
    let password = |host: &str| format!("amqps://guest:guest@{host}:{port}/%2f");
    let external = format!("amqps://localhost:{port}/%2f?auth_mechanism=external");
    let (ca, localhost) = (&*authority.file, password("localhost"));
    for accepted in [
        server(localhost.clone(), ca, None),
        server(localhost.clone(), ca, Some(&client)),
        server(external.clone(), ca, Some(&client)),
    ] {
        ensure!(connect(&accepted).await.is_none(), "{:?}", connect(&accepted).await);
    }
    for (refused_server, expected) in [
        (server(localhost.clone(), &other.file, None), "an authority that is not trusted"),
        (server(password("127.0.0.1"), ca, None), "is not for this host name"),
        (server(localhost.clone(), ca, Some(&stranger)), "does not accept this host's certificate"),
        (server(external.clone(), ca, Some(&unknown)), "ACCESS"),
        (server(external, ca, None), "ACCESS"),
        (server(localhost.replace("guest:guest", "guest:wrong"), ca, None), "ACCESS"),
        (
            RabbitServer { url: localhost.clone(), ..RabbitServer::default() },
            "an authority that is not trusted",
        ),
    ] {
        refused(&refused_server, expected).await?;
    }
    // The port without encryption does not answer a handshake.
    let plain = format!("amqps://guest:guest@localhost:{}/%2f", rabbit.port());
    ensure!(connect(&server(plain, ca, None)).await.is_some());

    // The other modes of the broker need a restart.
    rabbit.crash()?;
    rabbit.configure(&config(port, &pair, &authority.file, true))?;
    rabbit.resume()?;
    ensure!(connect(&server(localhost.clone(), ca, Some(&client))).await.is_none());
    let silent = server(localhost.clone(), ca, None);
    refused(&silent, "the server requires a client certificate").await?;
    rabbit.crash()?;
    let expired = authority.expired_server("expired")?;
    rabbit.configure(&config(port, &expired, &authority.file, false))?;
    rabbit.resume()?;
    refused(&server(localhost, ca, None), "the server's certificate has expired").await
}
