//! Variables and the keys and values that they become.

use super::*;
use crate::config::ConfigError;
use crate::config::sources::Sources;

const FILE: &str = "
[stages.inventory.settings]
default_stock = \"7\"
API_VERSION = \"1\"
rules_file = \"x\"
[stages.fraud-score]
consumes = [\"order.created\"]
[stages.fraud-score.secrets]
token = { env = \"POSTRIDER_FRAUD_TOKEN\" }
";

fn variables(all: &[(&str, &str)]) -> Variables {
    Variables::of(all.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

fn config(all: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut sources = Sources::of_text(FILE)?;
    sources.override_with(&variables(all));
    Config::from_sources(sources, crate::config::Secrecy::Declare)
}

fn setting(stage: &str, name: &str, all: &[(&str, &str)]) -> Option<String> {
    config(all).unwrap().stages[stage].settings.get(name).cloned()
}

#[test]
fn the_key_decides_how_a_text_is_read() {
    for text in ["5", "012345", "1.10", "true", "", "a,b", "[1]", " x ", "1e5", "2026-01-31"] {
        let all = [("POSTRIDER_STAGES__INVENTORY__SETTINGS__DEFAULT_STOCK", text)];
        assert_eq!(setting("inventory", "default_stock", &all).as_deref(), Some(text));
    }
    let config = config(&[
        ("POSTRIDER_NAMESPACE", "other"),
        ("POSTRIDER_HTTP__BODY_MAX_BYTES", "0010"),
        ("POSTRIDER_STORE__MIGRATE", "false"),
        ("POSTRIDER_RUNTIME__CACHE_DIR", "123"),
        ("POSTRIDER_PLUGINS__DIGESTS", ""),
        ("POSTRIDER_EVENTS__EXTERNAL_EVENT_TYPES", "a.b, c.d"),
        ("POSTRIDER_STAGES__FRAUD_SCORE__CONSUMES", "order.*"),
        ("POSTRIDER_STAGES__FRAUD_SCORE__RATE_PER_S", "5"),
        ("POSTRIDER_STAGES__FRAUD_SCORE__INSTANCES", "warm"),
        ("POSTRIDER_STAGES__FRAUD_SCORE__RETRY__JITTER", "0"),
        (
            "POSTRIDER_STAGES__FRAUD_SCORE__GRANTS__HTTP",
            r#"[{"host": "a.example", "methods": ["POST"]}]"#,
        ),
        ("POSTRIDER_STAGES__FRAUD_SCORE__WARM", "{ calls_max = 7 }"),
        ("POSTRIDER_SUBJECTS__ORDER__STATUS__TRANSITIONS__ORDER_CREATED__STATUS", "new"),
        ("POSTRIDER_SUBJECTS__ORDER__STATUS__TRANSITIONS__ORDER_CANCELLED__FROM", "new,ready"),
    ])
    .unwrap();
    assert_eq!(config.namespace, "other");
    assert_eq!((config.http.body_max_bytes, config.store.migrate), (10, false));
    assert_eq!(config.runtime.cache_dir.as_deref(), Some("123".as_ref()));
    assert_eq!(config.events.external_event_types, ["a.b", "c.d"]);
    assert_eq!(config.kinds().unwrap().named("order").unwrap().initial_status(), "new");
    let fraud = &config.stages["fraud-score"];
    assert_eq!(fraud.consumes.as_deref(), Some(&["order.*".to_owned()][..]));
    assert_eq!((fraud.rate_per_s, fraud.warm.calls_max, fraud.retry.jitter), (Some(5), 7, 0.0));
    assert_eq!(fraud.grants.http[0].host, "a.example");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn names_of_any_case_can_be_set() {
    for (variable, stage, name) in [
        ("POSTRIDER_STAGES__PAYMENT__SETTINGS__merchantId", "payment", "merchantId"),
        ("POSTRIDER_STAGES__PAYMENT__SETTINGS__PIN", "payment", "pin"),
        ("POSTRIDER_STAGES__INVENTORY__SETTINGS__API_VERSION", "inventory", "API_VERSION"),
        ("POSTRIDER_STAGES__INVENTORY__SETTINGS__api_version", "inventory", "API_VERSION"),
        ("POSTRIDER_STAGES__FRAUD_SCORE__SETTINGS__A__B", "fraud-score", "a__b"),
        ("POSTRIDER_STAGES__fraud-score__SETTINGS__X", "fraud-score", "x"),
        ("POSTRIDER_STAGES__NEW_STAGE__SETTINGS__X", "new-stage", "x"),
        ("postrider_stages__payment__settings__x", "payment", "x"),
    ] {
        assert_eq!(setting(stage, name, &[(variable, "v")]).as_deref(), Some("v"), "{variable}");
    }
    // What no name can express.
    let toml = "stages.payment.settings.API_KEY = \"a\"\nstages.payment.settings.\"x.y\" = \"b\"";
    let all = [("POSTRIDER_OVERRIDES", toml)];
    assert_eq!(setting("payment", "API_KEY", &all).as_deref(), Some("a"));
    assert_eq!(setting("payment", "x.y", &all).as_deref(), Some("b"));
}

#[test]
fn files_and_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    std::fs::write(&file, "postgres://u:secret@db/x\n").unwrap();
    let place = file.to_str().unwrap();
    for variable in ["DATABASE_URL_FILE", "POSTRIDER_STORE__URL_FILE"] {
        let config = config(&[(variable, place)]).unwrap();
        assert_eq!(config.store.url, "postgres://u:secret@db/x", "{variable}");
    }
    let all = [("POSTRIDER_STAGES__PAYMENT__SETTINGS__KEY_FILE", place)];
    assert!(setting("payment", "key", &all).is_some_and(|value| value.contains("secret")));
    let all = [("POSTRIDER_STAGES__INVENTORY__SETTINGS__RULES_FILE", "y")];
    assert_eq!(setting("inventory", "rules_file", &all).as_deref(), Some("y"));
    for (variable, value, env, in_file) in [
        ("POSTRIDER_STAGES__A__SECRETS__API_KEY__ENV", "NAME", Some("NAME"), None),
        ("POSTRIDER_STAGES__A__SECRETS__API_KEY__FILE", place, None, Some(place)),
        ("POSTRIDER_STAGES__A__SECRETS__API_KEY_FILE", place, None, Some(place)),
        (
            "POSTRIDER_STAGES__A__SECRETS__API_KEY",
            "hidden",
            Some("POSTRIDER_STAGES__A__SECRETS__API_KEY"),
            None,
        ),
    ] {
        let config = config(&[(variable, value)]).unwrap();
        let source = &config.stages["a"].secrets["api_key"];
        assert_eq!(source.env.as_deref(), env, "{variable}");
        assert_eq!(source.file.as_deref(), in_file.map(std::path::Path::new), "{variable}");
    }
    let ConfigError(problems) =
        config(&[("DATABASE_URL_FILE", "/no/such"), ("POSTRIDER_BROKER__URL_FILE", "/none")])
            .unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    let both = [("DATABASE_URL_FILE", place), ("DATABASE_URL", "sqlite:x")];
    assert!(config(&both).unwrap_err().0[0].contains("both set it"));
}

#[test]
fn a_variable_that_means_nothing_is_a_warning_with_the_nearest_name() {
    for (variable, expected) in [
        ("POSTRIDER_HTTP_LISTEN", Some("POSTRIDER_HTTP__LISTEN")),
        ("POSTRIDER_HTTP__LISTN", Some("POSTRIDER_HTTP__LISTEN")),
        ("POSTRIDER_NAMESPCE", Some("POSTRIDER_NAMESPACE")),
        ("POSTRIDER_STORE", None),
        ("POSTRIDER_STAGES", None),
        ("POSTRIDER_STAGES__FRAUD_SCORE__LANS", Some("POSTRIDER_STAGES__FRAUD_SCORE__LANES")),
        ("POSTRIDER_STAGES__X__RETRY__MAX", None),
        ("POSTRIDER_LOGFORMAT", Some("POSTRIDER_LOG_FORMAT")),
        ("POSTRIDER_", None),
        ("POSTRIDER_SOMETHING_ELSE_ENTIRELY", None),
    ] {
        let warnings = config(&[(variable, "x")]).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{variable}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("{variable}: ")), "{warnings:?}");
        if let Some(expected) = expected {
            let asked = format!("did you mean {expected}?");
            assert!(warnings[0].ends_with(&asked), "{warnings:?}");
        }
    }
    let quiet = [
        ("POSTRIDER_URL", "http://x"),
        ("POSTRIDER_CONFIG", "x"),
        ("POSTRIDER_FRAUD_TOKEN", "named by a secret"),
        ("POSTRIDER_HTTP_SERVICE_HOST", "10.0.0.1"),
        ("POSTRIDER_PORT", "tcp://10.0.0.1:8000"),
        ("POSTRIDER_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("POSTRIDERS", "x"),
        ("HOME", "/"),
    ];
    assert_eq!(config(&quiet).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn an_invalid_value_is_reported_with_its_variable() {
    let ConfigError(problems) = config(&[
        ("POSTRIDER_HTTP__BODY_MAX_BYTES", "many"),
        ("POSTRIDER_HTTP__LISTEN", "here"),
        ("POSTRIDER_STORE__MIGRATE", "perhaps"),
        ("POSTRIDER_OVERRIDES", "a = ="),
        ("POSTRIDER_STORE__TIMEOUT_MS", "1"),
        ("postrider_store__timeout_ms", "2"),
    ])
    .unwrap_err();
    for (key, variable) in [
        ("http.body_max_bytes: must be a whole number", "POSTRIDER_HTTP__BODY_MAX_BYTES"),
        ("http.listen: ", "POSTRIDER_HTTP__LISTEN"),
        ("store.migrate: must be true or false", "POSTRIDER_STORE__MIGRATE"),
        ("POSTRIDER_OVERRIDES: must be TOML", "POSTRIDER_OVERRIDES"),
        ("store.timeout_ms: POSTRIDER_STORE__TIMEOUT_MS and", "postrider_store__timeout_ms"),
    ] {
        let found = problems.iter().find(|problem| problem.starts_with(key));
        assert!(found.is_some_and(|problem| problem.contains(variable)), "{key} in {problems:#?}");
    }
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

#[test]
fn variables_of_other_programs_override_their_keys_in_every_stage() {
    let config = config(&[
        ("DATABASE_URL", "postgres://u:secret@db/x"),
        ("AMQP_URL", "amqp://mq"),
        ("MAX_RETRY_ATTEMPTS", "7"),
        ("RETRY_DELAY_SECONDS", "0.25"),
    ])
    .unwrap();
    let urls = (config.store.url.as_str(), config.broker.url.as_str());
    assert_eq!(urls, ("postgres://u:secret@db/x", "amqp://mq"));
    for retry in [config.defaults.retry, config.stages["fraud-score"].retry] {
        assert_eq!((retry.max_attempts, retry.initial_ms), (7, 250));
    }
    let wrong = [("MAX_RETRY_ATTEMPTS", "many"), ("RETRY_DELAY_SECONDS", "many")];
    let ConfigError(problems) = super::tests::config(&wrong).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn the_place_of_a_stages_state_is_read_from_the_environment() {
    let config = config(&[
        ("DATABASE_URL", "postgres://db/shop"),
        ("POSTRIDER_STAGES__PAYMENT__STORE__SCHEMA", "payment"),
        ("POSTRIDER_STAGES__PAYMENT__STORE__ROLE", "007"),
    ])
    .unwrap();
    let place = &config.state_places()["payment"];
    assert_eq!((place.schema.as_str(), place.role.as_deref()), ("payment", Some("007")));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn variables_set_keys_of_namespaces() {
    let text = "[namespaces.doc-store.stages.scan-page]\nlanes = 2\n";
    let of = |all: &[(&str, &str)]| {
        let mut sources = Sources::of_text(text)?;
        sources.override_with(&variables(all));
        Config::from_sources(sources, crate::config::Secrecy::Declare)
    };
    let config = of(&[
        ("POSTRIDER_NAMESPACES__DOC_STORE__STAGES__SCAN_PAGE__LANES", "3"),
        ("POSTRIDER_NAMESPACES__DOC_STORE__STAGES__SCAN_PAGE__SETTINGS__MODE", "7"),
        ("POSTRIDER_NAMESPACES__DOC_STORE__STAGES__SCAN_PAGE__SECRETS__TOKEN", "hidden"),
        ("POSTRIDER_NAMESPACES__DOC_STORE__HTTP__CONCURRENCY_MAX", "8"),
        (
            "POSTRIDER_NAMESPACES__DOC_STORE__SUBJECTS__ORDER__STATUS__TRANSITIONS__ORDER_CREATED__STATUS",
            "new",
        ),
        (
            "POSTRIDER_NAMESPACES__DOC_STORE__SUBJECTS__ORDER__STATUS__TRANSITIONS__ORDER_CANCELLED__FROM",
            "new,ready",
        ),
        ("POSTRIDER_NAMESPACES__SHOP__EVENTS__HOPS_MAX", "5"),
        ("POSTRIDER_OVERRIDES", "namespaces.shop.events.expiry_ms = 9"),
        ("MAX_RETRY_ATTEMPTS", "7"),
    ])
    .unwrap();
    let (store, shop) = (&config.namespaces["doc-store"], &config.namespaces["shop"]);
    let scan = &store.stages["scan-page"];
    assert_eq!((scan.lanes, scan.settings["mode"].as_str()), (3, "7"));
    let secret = "POSTRIDER_NAMESPACES__DOC_STORE__STAGES__SCAN_PAGE__SECRETS__TOKEN";
    assert_eq!(scan.secrets["token"].env.as_deref(), Some(secret));
    assert_eq!((scan.retry.max_attempts, store.defaults.retry.max_attempts), (7, 7));
    assert_eq!(store.http.concurrency_max, 8);
    assert_eq!(store.kinds().unwrap().named("order").unwrap().initial_status(), "new");
    assert_eq!((shop.events.hops_max, shop.events.expiry_ms), (5, 9));
    assert_eq!(config.warnings, Vec::<String>::new());
    for (variable, expected) in [
        (
            "POSTRIDER_NAMESPACES__DOC_STORE__STAGES__SCAN_PAGE__LANS",
            Some("POSTRIDER_NAMESPACES__DOC_STORE__STAGES__SCAN_PAGE__LANES"),
        ),
        (
            "POSTRIDER_NAMESPACES__DOC_STORE__STORE__TIMEOUT",
            Some("POSTRIDER_NAMESPACES__DOC_STORE__STORE__TIMEOUT_MS"),
        ),
        ("POSTRIDER_NAMESPACES", None),
        ("POSTRIDER_NAMESPACES__SHOP", None),
    ] {
        let warnings = of(&[(variable, "1")]).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{variable}: {warnings:?}");
        if let Some(expected) = expected {
            assert!(warnings[0].ends_with(&format!("did you mean {expected}?")), "{warnings:?}");
        }
    }
    let ConfigError(problems) =
        of(&[("POSTRIDER_NAMESPACES__SHOP__HTTP__LISTEN", "127.0.0.1:1")]).unwrap_err();
    let variable = "(set by POSTRIDER_NAMESPACES__SHOP__HTTP__LISTEN)";
    assert!(problems[0].starts_with("namespaces.shop.http.listen: "), "{problems:?}");
    assert!(problems[0].ends_with(variable), "{problems:?}");
}
