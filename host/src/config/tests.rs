//! Configurations that are accepted and refused.

use super::sources::well_known;
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
fn well_known_variables_override_their_keys_in_every_stage() {
    let file = Figment::from(Toml::string("[stages.payment.retry]\nmax_attempts = 4\n"));
    let variable = |name: &str| {
        let value = match name {
            "DATABASE_URL" => "postgres://u:secret@db/x",
            "AMQP_URL" => "amqp://mq",
            "MAX_RETRY_ATTEMPTS" => "7",
            "RETRY_DELAY_SECONDS" => "0.25",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let config = Config::from_figment(&well_known(file.clone(), variable).unwrap()).unwrap();
    assert_eq!(
        (config.store.url.as_str(), config.broker.url.as_str()),
        ("postgres://u:secret@db/x", "amqp://mq")
    );
    for retry in [config.defaults.retry, config.stages["payment"].retry] {
        assert_eq!((retry.max_attempts, retry.initial_ms), (7, 250));
    }
    let ConfigError(problems) =
        well_known(file, |_| Some("many".to_owned())).map(|_| ()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    // A mistyped URL may hold a password, which is not shown.
    let ConfigError(problems) =
        Config::from_toml("store.url = \"mysql://u:secret@db/x\"").unwrap_err();
    assert!(!problems[0].contains("secret"), "{problems:?}");
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
