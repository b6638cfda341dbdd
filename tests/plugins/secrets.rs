//! A secret reaches only the stage and the servers it calls. It appears nowhere else, whatever the
//! stage does with it.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::plugins::egress::Server;
use crate::support::guests::WatStage;
use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::process::{HostProcess, output, unused_port};

on_both_back_ends![secret_leaves_the_host_nowhere];

/// Upper and lower case, with characters that JSON and logs escape.
const SECRET: &str = "sk-LIVE-\"0123\\456789\"-Zz";
const OTHER: &str = "second-secret-ABCDEF";

/// How the stage leaks the secret, and the code of the dead letter, if any.
const LEAKS: [(&str, Option<&str>); 12] = [
    ("log", None),
    ("log-field", None),
    ("fail", Some("told")),
    ("fail-code", Some("***")),
    ("panic", Some("trap:unreachable")),
    ("stderr", Some("trap:unreachable")),
    ("limit", Some("limit:state-key")),
    ("emit", Some("secret-leak")),
    ("attribute", Some("secret-leak")),
    ("subject", Some("secret-leak")),
    ("state", Some("secret-leak")),
    ("state-key", Some("secret-leak")),
];

/// Every form in which it could be stored or shown.
fn forms(secret: &str) -> Vec<String> {
    let json = Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let twice = Value::from(json.as_str()).to_string();
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let plain = [
        secret.to_owned(),
        json.clone(),
        twice.trim_matches('"').to_owned(),
        secret.to_lowercase(),
        format!("{secret:?}"),
    ];
    let coded = [hex(secret), hex(&json), hex(secret).to_uppercase(), hex(&json).to_uppercase()];
    // The shortest unique part of the secret, in case it is truncated.
    plain
        .into_iter()
        .chain(coded)
        .chain(["LIVE-".to_owned(), hex("LIVE-"), hex("LIVE-").to_uppercase()])
        .collect()
}

/// The names of the secrets, which only the configuration and the log may show.
const NAMES: [&str; 2] = ["api_key", "other_key"];

fn holds(place: &str, text: &str) {
    for form in forms(SECRET).into_iter().chain(forms(OTHER)) {
        if let Some(at) = text.find(&form) {
            let around: String =
                text[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{place} holds a secret as `{form}`, after: {around}");
        }
    }
}

async fn answers(client: &Client) -> Result<String> {
    let mut all = String::new();
    let mut paths: Vec<String> =
        ["/orders", "/dead-letters", "/plugins", "/stages", "/topology", "/products", "/ready"]
            .map(String::from)
            .into();
    paths.extend(
        LEAKS
            .iter()
            .flat_map(|(leak, _)| [format!("/orders/{leak}"), format!("/orders/{leak}/events")]),
    );
    let (_, dead_letters) = client.get("/dead-letters").await?;
    paths.extend(
        dead_letters["items"]
            .as_array()
            .context("letters")?
            .iter()
            .map(|dead_letter| format!("/dead-letters/{}", dead_letter["id"])),
    );
    for path in paths {
        all.push_str(&client.get(&path).await?.1.to_string());
    }
    all.push_str(&client.text("/metrics").await?);
    Ok(all)
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
async fn secret_leaves_the_host_nowhere(backend: Backend) -> Result<()> {
    let server = Server::start().await?;
    let mut env = TestEnv::shipped_on(backend, "").await?;
    env.add_plugin("caller", "caller")?;
    let file = env.folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n"))?;
    env.toml = format!(
        "[stages.caller]\nretry = {{ max_attempts = 1 }}\nlimits = {{ deadline_ms = 20000 }}\n\
         [stages.caller.secrets]\napi_key = {{ file = \"{}\" }}\nother_key = {{ env = \"TEST_OTHER_KEY\" }}\n\
         [stages.caller.grants]\n\
         http = [{{ scheme = \"http\", host = \"127.0.0.1\", port = {}, methods = [\"GET\"], allow_private = true }}]\n",
        file.display(),
        server.port
    );
    let environment =
        [("RUST_LOG", "trace,wasmtime_wasi_http::p2=trace"), ("TEST_OTHER_KEY", OTHER)];
    let port = unused_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let process = HostProcess::start_with(&env, port, None, &environment)?;
    process.wait_until_ready(&client, &env).await?;

    let call = |authority: &str| json!({ "scheme": "http", "authority": authority, "path": "/ok", "with_secret": true });
    let calls = [call(&format!("127.0.0.1:{}", server.port)), call("evil.example")];
    for (leak, _) in LEAKS {
        let order = json!({ "order_id": leak, "user_id": "1", "items": ["Book"], "caller": { "leak": leak, "calls": calls } });
        assert!(client.post("/orders", &order).await?.0.is_success());
    }
    let dead_letters = eventually("the dead letters", || async {
        let (_, dead_letters) = client.get("/dead-letters?stage=caller").await?;
        let dead_letter_count = LEAKS.iter().filter(|(_, code)| code.is_some()).count();
        Ok(dead_letters["items"]
            .as_array()
            .filter(|items| items.len() == dead_letter_count)
            .cloned())
    })
    .await?;
    for (leak, code) in LEAKS.iter().filter_map(|(leak, code)| Some((leak, (*code)?))) {
        let dead_letter = dead_letters
            .iter()
            .find(|dead_letter| dead_letter["subject_key"] == format!("order/{leak}"))
            .with_context(|| format!("{leak}: {dead_letters:?}"))?;
        assert_eq!(dead_letter["code"], code, "{leak}: {dead_letter}");
    }
    for leak in ["log", "log-field"] {
        eventually("a success", || async {
            let (_, events) = client.get(&format!("/orders/{leak}/events")).await?;
            Ok(events["items"]
                .as_array()
                .is_some_and(|all| all.iter().any(|event| event["type"] == "caller.done"))
                .then_some(()))
        })
        .await?;
    }
    // It is sent to the granted server only.
    let heads = server.heads();
    assert_eq!(heads.len(), LEAKS.len());
    assert!(heads.iter().all(|head| head.contains(SECRET) && head.contains(OTHER)), "{heads:#?}");

    let shown = answers(&client).await?;
    holds("the API", &shown);
    let database = env.dump().await?;
    for name in NAMES {
        assert!(!shown.contains(name) && !database.contains(name), "{name} is shown or stored");
    }
    let payload: String = "with_secret".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        database.contains("fail-code") && database.to_lowercase().contains(&payload),
        "texts or payloads are missing from the dump"
    );
    holds("the database", &database);
    process.kill()?;
    let log = std::fs::read_to_string(env.folder.path().join("log"))?;
    holds("the log", &log);
    assert!(
        log.contains("the key is ***") && log.contains("key=***"),
        "the masked lines are missing"
    );
    assert!(log.contains("`GET http://evil.example` is not granted"), "the refusal is missing");
    assert!(log.contains("\"secret\":\"api_key\""), "the log does not name the secret that leaked");
    let config = env.folder.path().join(format!("postrider-{port}.toml"));
    let config = config.to_string_lossy();
    let printed = output(&["--config", &config, "config", "check", "--json"], &environment)?;
    assert!(printed.status.success(), "{printed:?}");
    holds("`config check`", &String::from_utf8(printed.stdout)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_key_that_holds_a_secret_is_not_recorded() -> Result<()> {
    let mut env = TestEnv::empty("")?;
    let file = env.folder.path().join("secret");
    std::fs::write(&file, SECRET)?;
    env.toml = format!(
        "recording.enabled = true\n[stages.looker.secrets]\napi_key = {{ file = \"{}\" }}\n",
        file.display()
    );
    // Reads the secret, and looks it up in its state: a cache by token.
    let looker = WatStage {
        imports: r#"
            (import "postrider:stage/config@1.0.0" "get" (func $config (param i32 i32 i32)))
            (import "postrider:stage/state@1.0.0" "get" (func $get (param i32 i32 i32)))
            (import "postrider:stage/state@1.0.0" "list-keys"
              (func $list (param i32 i32 i32 i32 i32 i32)))"#,
        handle: r"(i64.store (i32.const 700) (i64.const 0x0079656b5f697061))
            (call $config (i32.const 700) (i32.const 7) (i32.const 720))
            (call $get (i32.load (i32.const 724)) (i32.load (i32.const 728)) (i32.const 740))
            (call $list (i32.load (i32.const 724)) (i32.load (i32.const 728))
              (i32.const 700) (i32.const 0) (i32.const 10) (i32.const 760))",
        ..WatStage::named("looker")
    };
    std::fs::write(env.plugins().join("looker.wasm"), looker.build()?)?;
    let host = env.start().await?;
    host.client.post("/events/looker.poke", &json!({})).await?;
    let recording = eventually("the recording", || async {
        let (_, recordings) = host.client.get("/stages/looker/recordings").await?;
        Ok(recordings["items"][0].is_object().then(|| recordings["items"][0].clone()))
    })
    .await?;
    assert_eq!(recording["recording"]["given"]["incomplete"], true, "{recording}");
    holds("a recording", &recording.to_string());
    holds("the database", &env.dump().await?);
    host.stop().await
}
