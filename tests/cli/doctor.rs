//! `postrider doctor` names each problem, and reports none on a healthy setup.

use anyhow::{Context as _, Result};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use sqlx::Connection as _;

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::process::{HostProcess, postrider, unused_port};
use crate::support::servers::{Servers, amqp_url};

const ANYWHERE: &str = "http.listen = \"127.0.0.1:0\"\n";

/// Runs the command. Returns its exit code and the checks that did not pass.
async fn doctor(config: &str) -> Result<(i32, Vec<Value>)> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(file.path(), config)?;
    let path = file.path().to_str().context("a path of letters")?;
    let (code, said, errors) = postrider(&["--json", "--config", path, "doctor"]).await?;
    let findings: Vec<Value> =
        serde_json::from_str(&said).with_context(|| format!("{said}{errors}"))?;
    Ok((code, findings.into_iter().filter(|finding| finding["level"] != "ok").collect()))
}

/// Asserts that the check fails and is the only problem.
async fn finds(config: &str, check: &str, words: &str) -> Result<()> {
    let (code, findings) = doctor(config).await?;
    let named: Vec<&Value> =
        findings.iter().filter(|finding| finding["level"] == "problem").collect();
    assert_eq!(named.len(), 1, "{check}: {findings:#?}");
    assert_eq!(named[0]["check"], check);
    assert!(
        named[0]["found"].as_str().is_some_and(|found| found.contains(words)),
        "{check}: {}",
        named[0]
    );
    assert_eq!(code, 1);
    Ok(())
}

/// Asserts that the check warns, which is no failure.
async fn warns(config: &str, check: &str, words: &str) -> Result<()> {
    let (code, findings) = doctor(config).await?;
    let [finding] = &findings[..] else { panic!("{check}: {findings:#?}") };
    assert_eq!(
        (finding["level"].as_str(), finding["check"].as_str(), code),
        (Some("warning"), Some(check), 0)
    );
    assert!(
        finding["found"].as_str().is_some_and(|found| found.contains(words))
            && finding["remedy"].is_string(),
        "{finding}"
    );
    Ok(())
}

/// A test environment on the servers, and its configuration text after `change`.
async fn on_servers(change: impl Fn(&str) -> String) -> Result<(TestEnv, String)> {
    let env = TestEnv::shipped_on(Backend::Servers, ANYWHERE).await?;
    let text = change(&env.config_text());
    Ok((env, text))
}

on_both_back_ends!(healthy_setup_passes_with_and_without_a_running_host);

async fn healthy_setup_passes_with_and_without_a_running_host(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, "").await?;
    let port = unused_port()?;
    let text = format!("http.listen = \"127.0.0.1:{port}\"\n{}", env.config_text());
    assert_eq!(doctor(&text).await?, (0, vec![]));
    let (process, client) =
        (HostProcess::start(&env, port, None)?, Client::new(format!("http://127.0.0.1:{port}")));
    process.wait_until_ready(&client, &env).await?;
    client.get("/ready").await?;
    assert_eq!(doctor(&text).await?, (0, vec![]));
    process.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_configuration_is_reported() -> Result<()> {
    finds("[http]\nlisten = \"127.0.0.1:0\"\nlisen = \"\"\n", "config", "lisen").await?;
    finds(
        "[stages.payment.secrets]\nkey = { env = \"POSTRIDER_TEST_NOT_SET\" }\n",
        "config",
        "POSTRIDER_TEST_NOT_SET",
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_embedded_store_is_reported() -> Result<()> {
    let env = TestEnv::shipped(ANYWHERE)?;
    std::fs::write(env.folder.path().join("data"), "a file where the folder should be")?;
    finds(&env.config_text(), "store", "cannot be created or written").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_postgres_is_reported() -> Result<()> {
    let port = unused_port()?;
    let elsewhere = |text: &str| {
        let store = format!("store.url = \"postgres://postgres@127.0.0.1:{port}/orders\"");
        text.lines()
            .map(|line| if line.starts_with("store.url") { &store } else { line })
            .collect::<Vec<_>>()
            .join("\n")
    };
    let (_site, text) = on_servers(elsewhere).await?;
    finds(&text, "store", "cannot connect to Postgres").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_or_newer_schema_is_reported() -> Result<()> {
    let (env, text) = on_servers(|text| format!("store.migrate = false\n{text}")).await?;
    finds(&text, "store", "lacks schema version 1").await?;
    let file = env.folder.path().join("migrate.toml");
    std::fs::write(&file, env.config_text())?;
    postrider(&["--config", file.to_str().context("a path")?, "migrate"]).await?;
    assert_eq!(doctor(&text).await?, (0, vec![]));
    let mut connection = env.servers.as_ref().context("servers")?.connect().await?;
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', true, '', 0)";
    sqlx::query(later).execute(&mut connection).await?;
    connection.close().await?;
    finds(&text, "store", "run a newer one").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_whose_settings_disagree_are_reported() -> Result<()> {
    let mut env = TestEnv::shipped_on(Backend::Servers, "events.hops_max = 64\n").await?;
    let one = env.start().await?;
    env.toml = "events.hops_max = 32\n".to_owned();
    let other = env.start().await?;
    let text = format!("{ANYWHERE}{}", env.config_text());
    let found = eventually("both hosts to report", || async {
        let (_, findings) = doctor(&text).await?;
        Ok(findings.into_iter().find(|finding| finding["check"] == "setting events.hops_max"))
    })
    .await?;
    let words = found["found"].as_str().context("words")?;
    assert!(words.contains("32 on") && words.contains("64 on"), "{found}");
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_of_state_are_checked() -> Result<()> {
    let (env, text) = on_servers(str::to_owned).await?;
    let place = "[stages.payment.store]\nschema = \"money\"\n";
    let strange = format!("{text}{place}role = \"postrider-no-such-role\"\n");
    env.start().await?.stop().await?;
    let key = "stages.payment.store.role";
    finds(&strange, key, "the role `postrider-no-such-role` does not exist").await?;
    let (key, moved) = ("stages.payment.store.schema", "not in the schema `money`");
    warns(&format!("{text}{place}"), key, moved).await?;
    finds(&format!("store.migrate = false\n{text}{place}"), key, moved).await?;
    // The same words when a host refuses to start, and the command that it names.
    let file = env.folder.path().join("moved.toml");
    std::fs::write(&file, format!("store.migrate = false\n{text}{place}"))?;
    let path = file.to_str().context("a path")?;
    let (code, _, errors) = postrider(&["--config", path, "serve"]).await?;
    assert!(code == 1 && errors.contains(key) && errors.contains(moved), "{errors}");
    env.execute("INSERT INTO state VALUES ('payment', 'k', 'v', 1, NULL)").await?;
    let (code, said, errors) = postrider(&["--config", path, "migrate"]).await?;
    let line =
        "moved 1 key(s) of the stage payment from the table of the namespace to the schema `money`";
    assert!(code == 0 && said.contains(line), "{said}{errors}");
    assert_eq!(env.query_count("SELECT count(*) FROM money.state").await?, 1);
    assert_eq!(doctor(&format!("store.migrate = false\n{text}{place}")).await?, (0, vec![]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_broker_credentials_are_reported() -> Result<()> {
    let stranger =
        |text: &str| text.replace(&amqp_url(), &amqp_url().replace("guest:guest@", "guest:wrong@"));
    let (_site, text) = on_servers(stranger).await?;
    finds(&text, "broker", "ACCESS_REFUSED").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incompatible_queue_is_reported() -> Result<()> {
    let (env, text) = on_servers(str::to_owned).await?;
    let queue = env
        .servers
        .as_ref()
        .map(|servers: &Servers| servers.queue("payment"))
        .context("servers")?;
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await?;
    connection.close(200, "declared".into()).await?;
    finds(&text, &format!("queue {queue}"), "was declared otherwise").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_plugins_are_reported() -> Result<()> {
    let env = TestEnv::shipped(ANYWHERE)?;
    std::fs::write(env.plugins().join("noise.wasm"), [0x13, 0x37].repeat(500))?;
    finds(&env.config_text(), "plugin noise.wasm", "not WebAssembly").await?;

    let env = TestEnv::shipped(ANYWHERE)?;
    env.add_plugin("caller", "caller")?;
    finds(&env.config_text(), "plugin caller.wasm", "needs an HTTP grant").await?;

    let env = TestEnv::shipped(ANYWHERE)?;
    env.add_plugin("payment", "zz-copy")?;
    finds(&env.config_text(), "plugin zz-copy.wasm", "payment").await?;

    let env = TestEnv::empty(ANYWHERE)?;
    std::fs::remove_dir(env.plugins())?;
    finds(&env.config_text(), "plugins", "is not a folder").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_in_use_is_reported() -> Result<()> {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let env = TestEnv::shipped(&format!("http.listen = \"{}\"\n", taken.local_addr()?))?;
    finds(&env.config_text(), "address", "cannot listen at").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_stage_is_reported() -> Result<()> {
    let env = TestEnv::shipped(&format!("{ANYWHERE}[stages.fraud]\nplugin = \"fraud.wasm\"\n"))?;
    warns(&env.config_text(), "stage fraud", "no plugin runs it").await?;
    let env = TestEnv::empty(ANYWHERE)?;
    env.add_plugin("shipping", "shipping")?;
    let (code, findings) = doctor(&env.config_text()).await?;
    let named = |finding: &Value| {
        finding["check"] == "pipeline"
            && finding["found"].to_string().contains("inventory.reserved")
    };
    assert!(code == 0 && findings.iter().any(named), "{findings:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_list_the_commands() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = postrider(&["completions", shell]).await?;
        assert!(code == 0 && script.contains("doctor") && script.contains("rollback"), "{shell}");
    }
    Ok(())
}
