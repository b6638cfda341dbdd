//! Configurations that are accepted and refused.

use super::*;
use crate::stage::policy::RetryPolicy;

#[test]
fn an_empty_file_is_the_default() {
    let config = Config::from_toml("").unwrap();
    assert_eq!(config.http.listen, HttpSettings::default().listen);
    assert_eq!(config.namespace, "orders");
}

#[test]
fn all_problems_are_reported_together_with_their_keys() {
    let text = r#"
        namespace = "Orders!"
        surprise = 1
        [http]
        listen = 7
        [store]
        url = "mysql://x"
        [recording]
        max_bytes = 1
        [stages.payment]
        lanes = 0
        retry = { jitter = 3.0 }
        [stages.shipping]
        colour = "red"
    "#;
    let ConfigError(problems) = Config::from_toml(text).unwrap_err();
    for key in [
        "namespace:",
        "surprise:",
        "http.listen:",
        "store.url:",
        "recording.max_bytes:",
        "stages.payment.lanes:",
        "stages.payment.retry.jitter:",
        "stages.shipping",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(key)),
            "{key} is missing from {problems:#?}"
        );
    }
}

#[test]
fn one_problem_hides_no_other() {
    let text = r#"
        namespace = "Orders!"
        [http]
        listen = "127.0.0.1"
        lisen = "x"
        [store]
        url = "mysql://u:secret@db/x"
        [stages.payment]
        instances = "hot"
        plugin = "a/b.wasm"
        consumes = ["order..created", "order.created"]
        [stages.payment.limits]
        deadline_ms = 0
        [stages.payment.retry]
        max_attempts = 0
        initial = 5
        [stages.payment.settings]
        a = 5
        [stages.payment.grants]
        http = [ { host = "http://x", methods = ["FETCH"], por = 1 } ]
        [plugin]
        dir = "x"
        [events]
        external_event_types = ["a..b"]
        expiry_ms = "long"
    "#;
    let ConfigError(problems) = Config::from_toml(text).unwrap_err();
    let expected = [
        "namespace: `Orders!` must match",
        "http.listen: `127.0.0.1` has no port",
        "http.lisen: unknown key: did you mean `listen`?",
        "store.url: `mysql:",
        "stages.payment.instances: `hot` must be `fresh` or `warm`",
        "stages.payment.plugin: must be the name",
        "stages.payment.consumes: the event type `order..created` has an empty word",
        "stages.payment.limits.deadline_ms: must be at least 1",
        "stages.payment.retry.max_attempts: must be at least 1",
        "stages.payment.retry.initial: unknown key: did you mean `initial_ms`?",
        "stages.payment.settings.a: must be text: put the value in quotes",
        "stages.payment.grants.http[0].host: `http://x` must be",
        "stages.payment.grants.http[0].methods: `FETCH` must be",
        "stages.payment.grants.http[0].por: unknown key: did you mean `port`?",
        "plugin: unknown key: did you mean `plugins`?",
        "events.external_event_types: the event type `a..b`",
        "events.expiry_ms: must be a whole number",
    ];
    for start in expected {
        assert!(
            problems.iter().any(|problem| problem.starts_with(start)),
            "`{start}` is missing from {problems:#?}"
        );
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    // A mistyped URL may hold a password, which is not shown.
    assert!(!problems.concat().contains("secret"), "{problems:?}");
}

#[test]
fn files_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("there.wasm"), "").unwrap();
    let mut config = Config::from_toml(
        "[stages.a]\nplugin = \"there.wasm\"\n[stages.b]\nplugin = \"nosuch.wasm\"\n[stages.c]\n",
    )
    .unwrap();
    config.plugins.dir = folder.path().to_owned();
    let missing = config.missing_files();
    assert!(missing.len() == 1 && missing[0].starts_with("stages.b.plugin: "), "{missing:?}");
}

#[test]
fn grants_and_secrets_are_validated_without_showing_values() {
    let text = r#"
        [defaults.grants]
        http = [{ host = "a.example", methods = ["GET"] }]
        [defaults.secrets]
        key = { env = "PATH" }
        [stages.payment.grants]
        http = [{ host = "a.example", methods = ["GET"] }, { scheme = "ftp", host = "*.com", methods = ["STEAL"] }]
        http_calls_max = 0
        [stages.payment.secrets]
        twice = { env = "PATH" }
        unset = { env = "POSTRIDER_TEST_NO_SUCH_SECRET" }
        [stages.payment.settings]
        twice = "on"
    "#;
    let ConfigError(problems) = Config::from_toml(text).unwrap_err();
    for key in [
        "defaults.grants.http:",
        "defaults.secrets:",
        "stages.payment.grants.http[1].scheme:",
        "stages.payment.grants.http[1].host:",
        "stages.payment.grants.http[1].methods:",
        "stages.payment.grants.http_calls_max:",
        "stages.payment.secrets.twice:",
        "stages.payment.secrets.unset:",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(key)),
            "{key} is missing from {problems:#?}"
        );
    }
    for invalid in [
        "key = \"plain-text\"",
        "key = { value = \"plain-text\" }",
        "key = { env = [\"plain-text\"] }",
    ] {
        let ConfigError(problems) =
            Config::from_toml(&format!("[stages.payment.secrets]\n{invalid}\n")).unwrap_err();
        assert!(
            problems.len() == 1
                && problems[0].contains("env = ")
                && !problems[0].contains("plain-text"),
            "{problems:?}"
        );
    }
    let config = Config::from_toml("[stages.payment.secrets]\nkey = { env = \"PATH\" }\n").unwrap();
    let value = std::env::var("PATH").unwrap();
    assert_eq!(
        config.stages["payment"].secret_values,
        Secrets::from_iter([("key".to_owned(), value.clone())])
    );
    let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(shown.contains(r#""key":{"env":"PATH"}"#) && !shown.contains(&value), "{shown}");
    assert!(config.defaults.grants.http.is_empty());
}

#[test]
fn a_stage_inherits_the_defaults() {
    let config =
        Config::from_toml("[defaults]\nlanes = 3\n[stages.payment.retry]\nmax_attempts = 2\n")
            .unwrap();
    assert_eq!(config.stages["payment"].lanes, 3);
    assert_eq!(config.stages["payment"].retry.max_attempts, 2);
    assert_eq!(config.stages["payment"].retry.initial_ms, RetryPolicy::default().initial_ms);
}

#[test]
fn rate_limits_are_checked() {
    let text = "[http.rate_limits]\nper_address_per_s = 1000001\nper_principal_burst = 5\n";
    let ConfigError(problems) = Config::from_toml(text).unwrap_err();
    let expected = [
        "http.rate_limits.per_address_per_s: 1000001 must be at most 1000000, or 0",
        "http.rate_limits.per_principal_burst: 5 has no effect without \
         http.rate_limits.per_principal_per_s: set it as well, or this to 0",
    ];
    assert_eq!(problems, expected);
    let valid = "[http.rate_limits]\nper_address_per_s = 1000000\nper_address_burst = 1\n";
    assert!(Config::from_toml(valid).is_ok());
}

#[test]
fn the_address_of_a_trace_is_checked() {
    let with = |url: &str| Config::from_toml(&format!("http.console.trace_url = \"{url}\"\n"));
    for (url, problem) in [
        ("https://jaeger.example/trace/", "has no `{trace_id}`"),
        ("javascript:alert({trace_id})", "is not the address of a page"),
        ("jaeger.example/trace/{trace_id}", "is not the address of a page"),
    ] {
        let ConfigError(problems) = with(url).unwrap_err();
        let expected = format!("http.console.trace_url: `{url}` {problem}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{problems:?}");
    }
    let config = with("https://jaeger.example/trace/{trace_id}?x=1").unwrap();
    let shown = config.http.console.trace_url.as_deref();
    assert_eq!(shown, Some("https://jaeger.example/trace/{trace_id}?x=1"));
}
