//! What a namespace inherits, what it cannot set, and what two of them cannot share.

use crate::config::{Config, ConfigError, RateLimits};

const FILE: &str = r#"
    namespace = "orders"
    [http]
    listen = "127.0.0.1:1234"
    concurrency_max = 7
    [store]
    url = "sqlite:somewhere/first.db"
    timeout_ms = 70
    [broker]
    queue_capacity = 71
    [plugins]
    dir = "stages"
    archive_dir = "kept"
    policy = "digest"
    digests = ["0000000000000000000000000000000000000000000000000000000000000000"]
    [runtime]
    instances_max = 72
    [events]
    hops_max = 9
    external_event_types = ["scanner.done"]
    [products]
    stage = "warehouse"
    [recording]
    enabled = true
    [defaults]
    lanes = 3
    batch_max = 5
    [stages.payment]
    lanes = 6
    [subjects.document]
"#;

fn shop(text: &str) -> Config {
    let mut config = Config::from_toml(&format!("{FILE}{text}")).unwrap();
    config.namespaces.remove("shop").unwrap()
}

fn problems(text: &str) -> Vec<String> {
    match Config::from_toml(text) {
        Err(ConfigError(problems)) => problems,
        Ok(_) => panic!("accepted: {text}"),
    }
}

#[test]
fn infrastructure_is_inherited_and_the_pipeline_is_not() {
    let shop = shop("[namespaces.shop]\n");
    assert_eq!(shop.namespace, "shop");
    assert_eq!((shop.http.concurrency_max, shop.store.timeout_ms), (7, 70));
    assert_eq!((shop.broker.queue_capacity, shop.runtime.instances_max), (71, 72));
    assert_eq!((shop.events.hops_max, shop.recording.enabled), (9, true));
    assert_eq!((shop.defaults.lanes, shop.plugins.digests.len()), (3, 1));
    assert_eq!(shop.store.url, "sqlite:somewhere/shop.db");
    assert_eq!(shop.plugins.dir.to_str(), Some("stages/shop"));
    assert_eq!(shop.plugins.archive_dir.to_str(), Some("kept/shop"));
    assert!(shop.stages.is_empty());
    assert_eq!(shop.subjects.keys().collect::<Vec<_>>(), ["order"]);
    assert_eq!(shop.products.stage, "inventory");
    assert_eq!(shop.events.external_event_types, ["carrier.collected"]);
    let on_a_server = "store.url = \"postgres://db/x\"\n[namespaces.shop]\n";
    let config = Config::from_toml(on_a_server).unwrap();
    assert_eq!(config.namespaces["shop"].store.url, "postgres://db/x");
}

#[test]
fn a_namespace_has_its_own_sections() {
    let shop = shop(
        r#"
        [namespaces.shop.http]
        concurrency_max = 8
        [namespaces.shop.store]
        url = "sqlite:x.db"
        [namespaces.shop.defaults]
        lanes = 2
        [namespaces.shop.stages.scan]
        batch_max = 4
        [namespaces.shop.subjects.order]
        enabled = false
        [namespaces.shop.subjects.ticket]
    "#,
    );
    assert_eq!((shop.http.concurrency_max, shop.http.listen.as_str()), (8, "127.0.0.1:1234"));
    assert_eq!((shop.store.url.as_str(), shop.store.timeout_ms), ("sqlite:x.db", 70));
    assert_eq!((shop.stages["scan"].lanes, shop.stages["scan"].batch_max), (2, 4));
    assert_eq!(shop.defaults.batch_max, 5);
    let kinds = shop.kinds().unwrap();
    assert_eq!(kinds.iter().map(|kind| kind.name.as_str()).collect::<Vec<_>>(), ["ticket"]);
}

#[test]
fn all_problems_of_all_namespaces_are_reported_together() {
    let found = problems(
        r#"
        namespace = "orders"
        [store]
        timeout_ms = 0
        [namespaces.orders]
        [namespaces.Bad]
        [namespaces.shop]
        namespace = "other"
        colour = "red"
        [namespaces.shop.http]
        listen = "127.0.0.1:1"
        cors = {}
        rate_limits = { per_address_per_s = 1, per_principal_burst = 1 }
        concurency_max = 1
        [namespaces.shop.shutdown]
        grace_ms = 1
        [namespaces.shop.runtime]
        instances_max = 1
        [namespaces.shop.namespaces.inner]
        [namespaces.shop.store]
        timeout_ms = 0
        [namespaces.shop.stages.payment]
        lanes = 65
        retry = { max_attempts = "many" }
        secrets = { token = { env = "NO_SUCH_VARIABLE" } }
        [namespaces.shop.subjects.ticket]
        path = "/events"
        [namespaces.yard]
        plugins.dir = "plugins/shop/../shop"
        store.url = "sqlite:./data/postrider.db"
    "#,
    );
    let expected = [
        "store.timeout_ms: must be at least 1",
        "namespaces.orders: the top level has this name",
        "namespaces.Bad: the name must match",
        "namespaces.shop.namespace: the table's name is the namespace's",
        "namespaces.shop.colour: unknown key",
        "namespaces.shop.http.listen: belongs to the process: set `http.listen`",
        "namespaces.shop.http.cors: belongs to the process",
        "namespaces.shop.http.rate_limits.per_address_per_s: belongs to the process",
        "namespaces.shop.http.concurency_max: unknown key: did you mean `concurrency_max`?",
        "namespaces.shop.shutdown: belongs to the process",
        "namespaces.shop.runtime: belongs to the process",
        "namespaces.shop.namespaces: a namespace has no namespaces",
        "namespaces.shop.http.rate_limits.per_principal_burst: 1 has no effect",
        "namespaces.shop.store.timeout_ms: must be at least 1",
        "namespaces.shop.stages.payment.lanes: 65 is more than 64",
        "namespaces.shop.stages.payment.retry.max_attempts: must be a whole number",
        "namespaces.shop.stages.payment.secrets.token: ",
        "namespaces.shop.subjects.ticket.path: `/events` is a path of the API itself",
        "namespaces.yard.plugins.dir: ",
        "namespaces.yard.store.url: ",
    ];
    for expected in expected {
        assert!(
            found.iter().any(|problem| problem.starts_with(expected)),
            "`{expected}` is missing from {found:#?}"
        );
    }
    // What `yard` and the others only inherit is a problem of the top level.
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_namespace_is_a_table() {
    assert_eq!(problems("namespaces = 1"), ["namespaces: must be a table: [namespaces.<name>]"]);
    let found = problems("namespaces.shop = 1");
    assert_eq!(found, ["namespaces.shop: must be a table: [namespaces.shop]"]);
}

#[test]
fn namespaces_that_were_built_in_code_are_checked() {
    let mut config = Config::default();
    config.namespaces.insert("shop".to_owned(), config.beside("shop"));
    assert!(config.validate().is_ok());
    let copy = Config::default();
    config.namespaces.insert("copy".to_owned(), copy);
    let ConfigError(found) = config.validate().unwrap_err();
    assert!(
        found[0].starts_with("namespaces.copy.namespace: `orders` must be `copy`"),
        "{found:?}"
    );
    assert!(found[1].starts_with("namespaces.copy.store.url: "), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_is_shown_can_be_read_again() {
    let config = Config::from_toml(&format!("{FILE}[namespaces.shop]\n")).unwrap();
    let shown = serde_json::to_value(&config).unwrap();
    let shop = &shown["namespaces"]["shop"];
    assert_eq!(shop["http"]["concurrency_max"], 7);
    for of_process in ["runtime", "shutdown", "namespace", "namespaces"] {
        assert!(shop.get(of_process).is_none(), "{of_process}");
    }
    assert!(shop["http"].get("listen").is_none());
    let without = serde_json::to_value(Config::default()).unwrap();
    assert!(without.get("namespaces").is_none());
}

#[test]
fn a_namespace_runs_with_its_own_limits_on_requests() {
    let limits = "[namespaces.shop.http]\nbody_max_bytes = 1\nbodies_max_bytes = 20000000\n\
                  request_timeout_ms = 3\nconcurrency_max = 4\nstreams_max = 5\n\
                  rate_limits.per_principal_per_s = 6\n";
    let file = FILE.replace("[store]", "rate_limits.per_address_per_s = 8\n[store]");
    let config = Config::from_toml(&format!("{file}{limits}")).unwrap();
    let http = config.into_namespace("shop").unwrap().http;
    assert_eq!((http.body_max_bytes, http.bodies_max_bytes), (1, 20_000_000));
    assert_eq!((http.request_timeout_ms, http.concurrency_max, http.streams_max), (3, 4, 5));
    assert_eq!(http.listen, "127.0.0.1:1234", "that of the process");
    let RateLimits { per_address_per_s, per_principal_per_s, .. } = http.rate_limits;
    assert_eq!((per_address_per_s, per_principal_per_s), (8, 6));
}

#[test]
fn one_namespace_is_chosen_by_its_name() {
    let config = Config::from_toml(&format!("{FILE}[namespaces.shop]\n")).unwrap();
    assert_eq!(config.clone().into_namespace("shop").unwrap().store.timeout_ms, 70);
    let first = config.clone().into_namespace("orders").unwrap();
    assert_eq!((first.stages.len(), first.namespaces.len()), (1, 0));
    let unknown = config.into_namespace("shops").unwrap_err();
    assert_eq!(unknown, "no namespace `shops`: the configuration has orders, shop");
}
