//! `plugin run`, `plugin test` and `plugin check` say what a host would do.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::support::harness::guest;
use crate::support::process::postrider;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of letters")
}

/// A folder for the files of a test.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let place = self.0.path().join(name);
        std::fs::create_dir_all(place.parent().context("a folder")?)?;
        std::fs::write(&place, content)?;
        Ok(place)
    }

    /// Runs a guest on a fixture. Returns the exit code and the report.
    async fn run(&self, plugin: &str, case: &Value, more: &[&str]) -> Result<(i32, Value)> {
        let (plugin, case) = (guest(plugin)?, self.write("case.json", &case.to_string())?);
        let mut args = vec!["--json", "plugin", "run", text(&plugin)?, "--event", text(&case)?];
        args.extend(more);
        let (code, said, errors) = postrider(&args).await?;
        let report = serde_json::from_str(&said).unwrap_or(json!({ "error": errors }));
        Ok((code, report))
    }
}

fn order(caller: &Value) -> Value {
    json!({ "type": "order.created", "data": { "caller": caller } })
}

#[tokio::test]
async fn what_a_host_would_dead_letter_is_refused() -> Result<()> {
    let files = Files::new()?;
    let poke = json!({ "type": "hostile.poke" });
    let leak = json!({ "event": order(&json!({ "leak": "emit" })), "secrets": { "api_key": "a-long-secret" }, "http": [] });
    let in_state = json!({ "event": order(&json!({ "leak": "state" })), "secrets": { "api_key": "a-long-secret" }, "http": [] });
    for (plugin, case, more, code) in [
        ("payment", json!({ "type": "order.shipped" }), &[][..], "not-consumed"),
        ("hostile", poke.clone(), &["--setting", "mode=undeclared"], "undeclared-event"),
        ("caller", leak, &[], "secret-leak"),
        ("caller", in_state, &[], "secret-leak"),
    ] {
        let (exit, report) = files.run(plugin, &case, more).await?;
        assert_eq!((exit, &report["outcome"]["refused"]["code"]), (1, &json!(code)), "{report:#}");
        assert_eq!(report["state_changes"], json!({}), "{report:#}");
    }
    let (exit, report) = files.run("hostile", &poke, &[]).await?;
    assert_eq!((exit, &report["outcome"]["done"][0]["type"]), (0, &json!("hostile.done")));
    let (exit, report) = files.run("hostile", &json!({ "type": "" }), &[]).await?;
    assert!(exit == 1 && report["error"].as_str().is_some_and(|said| said.contains("no type")));
    Ok(())
}

#[tokio::test]
async fn the_configuration_of_the_stage_applies() -> Result<()> {
    let files = Files::new()?;
    let config = files.write(
        "config.toml",
        "[stages.pay]\nplugin = \"payment.wasm\"\n[stages.pay.settings]\nmax_total = \"5\"\n\
         authorize_on = \"stock.reserved\"\n",
    )?;
    let config = text(&config)?;
    let data = json!({ "order_id": "1", "total": 10 });
    let case = |event_type: &str| json!({ "type": event_type, "data": data });
    let more = ["--config", config];
    let (_, report) = files.run("payment", &case("stock.reserved"), &more).await?;
    assert_eq!(report["outcome"]["done"][0]["type"], "payment.declined", "{report:#}");
    let (_, report) = files.run("payment", &case("order.created"), &more).await?;
    assert_eq!(report["outcome"]["refused"]["code"], "not-consumed", "{report:#}");
    // The fixture's own settings take precedence.
    let own = json!({ "event": case("order.created"), "config": { "max_total": "20", "authorize_on": "order.created" } });
    let (exit, report) = files.run("payment", &own, &more).await?;
    assert_eq!((exit, &report["outcome"]["done"][0]["type"]), (0, &json!("payment.authorized")));
    Ok(())
}

#[tokio::test]
async fn http_calls_need_a_grant_or_answers_in_the_fixture() -> Result<()> {
    let files = Files::new()?;
    let call = json!({ "calls": [{ "method": "POST", "scheme": "https", "authority": "bank.example", "path": "/pay", "body_bytes": 9000 }] });
    let (exit, report) = files.run("caller", &order(&call), &[]).await?;
    let said = report["error"].as_str().unwrap_or_default();
    assert!(
        exit == 1 && said.contains("needs an HTTP grant") && said.contains("--config"),
        "{report:#}"
    );

    let answer = json!({ "method": "POST", "url": "https://bank.example/pay", "status": 201, "body": { "ok": true } });
    let mocked = json!({ "event": order(&call), "http": [answer] });
    let (exit, report) = files.run("caller", &mocked, &[]).await?;
    let result = &report["outcome"]["done"][0]["data"]["results"][0];
    assert_eq!(
        (exit, &result["status"], &result["start"]),
        (0, &json!(201), &json!(r#"{"ok":true}"#))
    );

    // The grants of the configuration decide also about calls that the fixture answers.
    let grant = |host: &str| {
        format!("[stages.caller.grants]\nhttp = [{{ host = \"{host}\", methods = [\"POST\"] }}]\n")
    };
    for (host, granted) in [("bank.example", true), ("other.example", false)] {
        let config = files.write("grants.toml", &grant(host))?;
        let (_, report) = files.run("caller", &mocked, &["--config", text(&config)?]).await?;
        let result = &report["outcome"]["done"][0]["data"]["results"][0];
        assert_eq!(result["status"] == 201, granted, "{report:#}");
    }
    Ok(())
}

#[tokio::test]
async fn plugin_check_refuses_what_a_host_refuses() -> Result<()> {
    let files = Files::new()?;
    let check = async |plugin: &str, config: &str| -> Result<(i32, Value)> {
        let (plugin, config) = (guest(plugin)?, files.write("host.toml", config)?);
        let args = ["--json", "--config", text(&config)?, "plugin", "check", text(&plugin)?];
        let (code, said, errors) = postrider(&args).await?;
        Ok((code, serde_json::from_str(&said).with_context(|| format!("{said}{errors}"))?))
    };
    assert_eq!(check("payment", "").await?.0, 0);
    let policy = "[plugins]\npolicy = \"digest\"\ndigests = [\"0000000000000000000000000000000000000000000000000000000000000000\"]\n";
    let grant = "[stages.caller.grants]\nhttp = [{ host = \"a.example\", methods = [\"GET\"] }]\n";
    let types = "[stages.payment.settings]\nauthorize_on = \"order..created\"\n";
    for (plugin, config, words) in [
        ("caller", "", "needs an HTTP grant"),
        ("payment", policy, "digest"),
        ("payment", types, "`authorize_on`"),
    ] {
        let (code, report) = check(plugin, config).await?;
        let problems = report["problems"].to_string();
        assert!(code == 1 && problems.contains(words), "{plugin}: {report:#}");
    }
    assert_eq!(check("caller", grant).await?.0, 0);
    let routed = "[stages.payment]\nconsumes = [\"order.created\", \"stock.reserved\"]\n";
    let (code, report) = check("payment", routed).await?;
    assert!(code == 0 && report["warnings"].to_string().contains("`stock.reserved`"), "{report:#}");
    Ok(())
}

/// Runs `plugin test` in a project whose build copies the guest that is named in `choice`.
async fn test(files: &Files, more: &[&str]) -> Result<(i32, Value)> {
    let mut args = vec!["--json", "plugin", "test", text(files.0.path())?];
    args.extend(more);
    let (code, said, errors) = postrider(&args).await?;
    Ok((code, serde_json::from_str(&said).with_context(|| format!("{said}{errors}"))?))
}

fn results(report: &Value) -> Vec<(String, String)> {
    let cases = report["cases"].as_array().into_iter().flatten();
    let case = |case: &Value| {
        let name = case["case"].as_str().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        (name, case["result"].as_str().unwrap_or_default().to_owned())
    };
    cases.map(case).collect()
}

#[tokio::test]
async fn plugin_test_never_tests_an_old_build() -> Result<()> {
    let files = Files::new()?;
    files.write(
        "stage.toml",
        "build = 'cp \"$(cat choice)\" out.wasm'\nartifact = 'out.wasm'\nwatch = ['choice']\n",
    )?;
    let choose = |plugin: &str| files.write("choice", text(&guest(plugin)?)?);
    choose("fifth")?;
    files.write("fixtures/one.json", r#"{ "type": "shipping.ready" }"#)?;
    let (code, report) = test(&files, &["--accept"]).await?;
    assert_eq!((code, results(&report)), (0, vec![("one.json".into(), "recorded".into())]));
    let (code, report) = test(&files, &[]).await?;
    assert_eq!((code, results(&report)), (0, vec![("one.json".into(), "passed".into())]));
    // The newer version emits another payload.
    choose("fifth-next")?;
    let (code, report) = test(&files, &[]).await?;
    assert_eq!((code, results(&report)), (1, vec![("one.json".into(), "different".into())]));
    Ok(())
}

#[tokio::test]
async fn one_bad_fixture_fails_alone() -> Result<()> {
    let files = Files::new()?;
    files.write("stage.toml", "build = 'true'\nartifact = 'out.wasm'\nwatch = []\n")?;
    std::fs::copy(guest("fifth")?, files.0.path().join("out.wasm"))?;
    files.write("fixtures/a.json", r#"{ "type": "shipping.ready" }"#)?;
    files.write("fixtures/broken.json", "{ \"type\": ")?;
    files.write(
        "fixtures/misspelt.json",
        r#"{ "event": { "type": "shipping.ready", "dta": 1 } }"#,
    )?;
    files.write("fixtures/other.json", r#"{ "type": "order.created" }"#)?;
    files.write("fixtures/gone.expected.json", "{}")?;
    let junit = files.0.path().join("report.xml");
    let (code, report) = test(&files, &["--accept", "--junit", text(&junit)?]).await?;
    let expected = [
        ("a.json", "recorded"),
        ("broken.json", "invalid"),
        ("misspelt.json", "invalid"),
        ("other.json", "refused"),
        ("gone.expected.json", "orphaned"),
    ];
    let expected: Vec<(String, String)> =
        expected.iter().map(|(name, result)| ((*name).into(), (*result).into())).collect();
    assert_eq!((code, results(&report)), (1, expected), "{report:#}");
    // What a host refuses is not recorded.
    assert!(!files.0.path().join("fixtures/other.expected.json").exists());
    let junit = std::fs::read_to_string(junit)?;
    assert!(junit.contains("tests=\"5\" failures=\"4\""), "{junit}");
    let (code, report) = test(&files, &["--case", "a.json"]).await?;
    assert_eq!((code, results(&report)), (0, vec![("a.json".into(), "passed".into())]));
    Ok(())
}
