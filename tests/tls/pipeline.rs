//! An order passes all stages while every connection is encrypted: of the client, the store and the
//! broker, with client certificates wherever there are some.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{amqp, http, postgres};
use crate::support::certificates::Authority;
use crate::support::harness::TestEnv;
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::Servers;
use postrider_tests::private_servers::{PostgresTls, PrivatePostgres, PrivateRabbit, free_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_passes_all_stages_over_tls() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let (pair, host, port) = (authority.server("server")?, authority.client("host")?, free_port()?);
    let tls = PostgresTls { cert: &pair.cert, key: &pair.key, ca: &authority.file };
    let database = PrivatePostgres::start_encrypted(folder.path(), &tls, postgres::ACCESS)?;
    let config = amqp::config(port, &pair, &authority.file, true);
    let rabbit = PrivateRabbit::start_with_plugins(folder.path(), &config, &[amqp::EXTERNAL])?;
    rabbit.control(&["add_user", "host", "not used"])?;
    rabbit.control(&["set_permissions", "host", ".*", ".*", ".*"])?;

    let mut servers = Servers::create_on(Some(database.url()), Some(rabbit.url())).await?;
    let (ca, cert, key) = (authority.file.display(), host.cert.display(), host.key.display());
    let query = format!("sslmode=verify-full&sslrootcert={ca}&sslcert={cert}&sslkey={key}");
    servers.host_urls = Some((
        format!("postgres://postgres@localhost:{}/postgres?{query}", database.port()),
        format!("amqps://localhost:{port}/%2f?auth_mechanism=external"),
    ));
    // Events travel by the broker, although one host could hand them over.
    let toml = format!(
        "broker.local_handover = false\n[broker.tls]\nca_file = \"{ca}\"\ncert_file = \"{cert}\"\n\
         key_file = \"{key}\"\n{}client_ca_file = \"{ca}\"\n{AMPLE_STOCK}",
        http::encrypted(&pair, "")
    );
    let env = TestEnv { servers: Some(servers), ..TestEnv::shipped(&toml)? };
    let client = authority.http_client(Some(&host), true)?;
    let host = env.start_as("https://localhost", client, |builder| builder).await?;
    let order = json!({ "order_id": "1", "user_id": "1", "items": ["Book"], "total": 1 });
    let (status, answer) = host.client.post("/orders", &order).await?;
    ensure!(status.as_u16() == 202, "{answer}");
    let order = host.client.wait_for_status("1", "ready").await?;
    let stages: Vec<&str> = order["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["stage"].as_str())
        .collect();
    assert_eq!(stages, ["payment", "inventory", "shipping", "notification"], "{order:#}");
    let unencrypted = "SELECT count(*) FROM pg_stat_ssl WHERE NOT ssl AND pid IN \
                       (SELECT pid FROM pg_stat_activity WHERE application_name = 'postrider')";
    assert_eq!(env.query_count(unencrypted).await?, 0);
    let listeners = rabbit.ask(&["list_connections", "ssl", "auth_mechanism"])?;
    let lines: Vec<&str> = listeners.lines().filter(|line| line.contains("EXTERNAL")).collect();
    assert_eq!(
        (lines.len(), lines.iter().all(|line| line.starts_with("true"))),
        (2, true),
        "{listeners}"
    );
    host.stop().await
}
