//! `GET /config` shows what a host runs with, and nothing confidential, wherever it was configured.

use anyhow::{Context as _, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, TestEnv, on_both_back_ends};
use crate::support::process::{HostProcess, output};

on_both_back_ends![no_secret_is_shown_wherever_it_is_configured];

/// In every confidential value.
const MARKER: &str = "m4rk3r";

fn setting<'a>(config: &'a Value, key: &str) -> Result<&'a Value> {
    let all = config["settings"].as_array().context("settings")?;
    let found = all.iter().find(|one| one["key"] == key);
    found.with_context(|| format!("{key} in {config:#}"))
}

/// The URL of a store with the marker as its password, where it has one.
fn with_password(url: &str) -> String {
    url.replacen("postgres@", &format!("postgres:{MARKER}@"), 1)
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
async fn no_secret_is_shown_wherever_it_is_configured(backend: Backend) -> Result<()> {
    let mut env = TestEnv::shipped_on(backend, "").await?;
    let url = with_password(&env.config()?.store.url);
    let folder = env.folder.path().to_owned();
    let write = |name: &str, text: String| -> Result<String> {
        let file = folder.join(name);
        std::fs::write(&file, text)?;
        Ok(file.display().to_string())
    };
    let secret = write("secret", format!("{MARKER}-of-a-file"))?;
    let ring = write(
        "ring",
        "primary = \"k\"\n[keys]\nk = \"m4rk3rAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n"
            .to_owned(),
    )?;
    env.toml = format!(
        "encryption.key_command = [\"sh\", \"-c\", \"cat '{ring}' # {MARKER}\"]\n\
         http.console.trace_url = \"https://u:{MARKER}@traces/{{trace_id}}?key={MARKER}\"\n\
         auth.jwt.issuer = \"https://{MARKER}@issuer\"\n\
         auth.jwt.audience = [\"orders\"]\n\
         auth.jwt.jwks_url = \"http://127.0.0.1:9/keys?token={MARKER}\"\n\
         [defaults.settings]\nof_all = \"{MARKER}\"\n\
         [stages.payment]\nlanes = 3\n[stages.payment.settings]\nkey = \"{MARKER}\"\n\
         [stages.payment.secrets]\ntoken = {{ file = \"{secret}\" }}\nother = {{ env = \"TEST_SECRET\" }}\n\
         [subjects.ticket.schema]\ndescription = \"{MARKER}\"\n"
    );
    let environment = [
        ("TEST_SECRET", "m4rk3r-of-the-environment"),
        ("POSTRIDER_STAGES__SHIPPING__SETTINGS__API_KEY", MARKER),
        ("POSTRIDER_STORE__URL", &*url),
    ];
    let (process, client) = HostProcess::start_ready_with(&env, &environment).await?;
    let (status, config) = client.get("/config").await?;
    assert_eq!(status, StatusCode::OK, "{config}");
    let shown = config.to_string();
    assert!(!shown.contains(MARKER) && !shown.contains("guest:guest"), "{config:#}");
    for (key, value, changed, masked) in [
        ("encryption.key_command", json!(["***", "***", "***"]), true, true),
        ("defaults.settings", json!("***"), true, true),
        ("stages.payment.settings", json!("***"), true, true),
        ("stages.payment.lanes", json!(3), true, false),
        ("stages.payment.batch_max", json!(128), false, false),
        ("stages.payment.secrets.other.env", json!("TEST_SECRET"), true, false),
        ("stages.shipping.settings", json!("***"), true, true),
        ("http.console.trace_url", json!("https://***@traces/{trace_id}?key=***"), true, true),
        ("auth.jwt.issuer", json!("https://***@issuer"), true, true),
        ("auth.jwt.jwks_url", json!("http://127.0.0.1:9/keys?token=***"), true, true),
        ("subjects.ticket.schema.description", json!("***"), true, true),
        ("http.body_max_bytes", json!(1 << 20), false, false),
    ] {
        let expected = json!({ "key": key, "value": value, "changed": changed, "masked": masked });
        assert_eq!(setting(&config, key)?, &expected);
    }
    if backend == Backend::Servers {
        for key in ["store.url", "broker.url"] {
            let value = setting(&config, key)?["value"].as_str().context("a text")?;
            assert!(value.contains(":***@127.0.0.1"), "{key}: {value}");
        }
    }
    process.kill()?;

    let file = std::fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "toml"))
        .context("the configuration file")?;
    let file = file.display().to_string();
    let printed = output(&["--config", &file, "config", "check", "--json"], &environment)?;
    let printed: Value = serde_json::from_slice(&printed.stdout)?;
    let command = &printed["encryption"]["key_command"];
    assert_eq!(command, &json!(["***", "***", "***"]), "the same mechanism");
    // Who can run it can read the file.
    assert_eq!(printed["stages"]["payment"]["settings"]["key"], MARKER);
    Ok(())
}
