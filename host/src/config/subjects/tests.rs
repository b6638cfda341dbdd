//! What a kind is when its section leaves things out, and which sections are refused.

use serde_json::json;

use crate::config::{Config, ConfigError};

fn problems(text: &str) -> Vec<String> {
    match Config::from_toml(text) {
        Err(ConfigError(problems)) => problems,
        Ok(_) => panic!("accepted: {text}"),
    }
}

#[test]
fn the_built_in_kind_is_valid_and_can_be_removed() {
    let kinds = Config::default().kinds().unwrap();
    let order = kinds.named("order").unwrap();
    assert_eq!((order.path.as_str(), order.plural.as_str()), ("/orders", "orders"));
    assert_eq!((order.first_event.as_str(), order.initial_status()), ("order.created", "received"));
    assert_eq!(order.cancel_event, "order.cancelled");
    let body = json!({ "order_id": 1, "user_id": 2, "product_id": "b", "quantity": 2 });
    let parsed = order.parse(body, None).unwrap();
    assert_eq!((parsed.id.as_str(), parsed.customer.as_deref()), ("1", Some("2")));
    assert_eq!(parsed.body["items"], json!([{ "sku": "b", "quantity": 2 }]));
    for (present, event_type, expected) in [
        ("received", "payment.authorized", Some("authorized")),
        ("authorized", "payment.authorized", None),
        ("reserved", "shipping.ready", Some("ready")),
        ("ready", "postrider.dead-lettered", None),
        ("declined", "payment.authorized", None),
        ("failed", "shipping.ready", Some("ready")),
        ("rejected", "payment.refunded", Some("refunded")),
        ("authorized", "payment.refunded", None),
        ("ready", "shipping.dispatched", Some("dispatched")),
        ("reserved", "shipping.dispatched", None),
        ("ready", "order.cancelled", Some("cancelling")),
        ("dispatched", "order.cancelled", None),
        ("cancelling", "shipping.ready", None),
    ] {
        assert_eq!(order.status.next(present, event_type), expected, "{event_type} on {present}");
    }
    assert!(order.status.compensates("inventory.released"));
    let without = Config::from_toml("subjects.order.enabled = false").unwrap();
    assert_eq!(without.kinds().unwrap().iter().count(), 0);
}

#[test]
fn a_kind_needs_only_its_name() {
    let config = Config::from_toml("[subjects.purchase-order]\n").unwrap();
    let kinds = config.kinds().unwrap();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    assert_eq!(names, ["order", "purchase-order"]);
    let kind = kinds.named("purchase-order").unwrap();
    assert_eq!(
        (kind.path.as_str(), kind.id.field.as_str()),
        ("/purchase-orders", "purchase_order_id")
    );
    assert_eq!(kind.first_event, "purchase-order.created");
    assert_eq!(kind.initial_status(), "received");
    assert_eq!(kind.status.next("received", "purchase-order.completed"), Some("completed"));
    assert_eq!(kind.status.next("failed", "purchase-order.cancelled"), Some("cancelling"));
    assert!(kind.status.compensates("purchase-order.cancelled"));
}

#[test]
fn everything_about_a_kind_can_be_declared() {
    let text = r#"
        [subjects.document]
        plural = "papers"
        path = "/library"
        id_field = "number"
        id_pattern = "^D-[0-9]+$"
        customer_field = "author"
        first_event = "document.filed"
        cancel_event = "document.withdrawn"
        claims = ["scanner.*"]
        max_age_ms = 172800000
        display = ["title"]
        [subjects.document.schema]
        type = "object"
        required = ["title"]
        properties.title = { type = "string", maxLength = 5 }
        [subjects.document.status]
        terminal = ["scanned"]
        [subjects.document.status.transitions]
        "document.filed" = { status = "filed", from = [] }
        "scan.done" = { status = "scanned" }
        "document.withdrawn" = { status = "withdrawing", from = ["filed"] }
        [subjects.document.status.cancel]
        done = "withdrawn"
    "#;
    let config = Config::from_toml(text).unwrap();
    let kinds = config.kinds().unwrap();
    let kind = kinds.named("document").unwrap();
    assert_eq!((kind.plural.as_str(), kind.path.as_str()), ("papers", "/library"));
    assert_eq!(
        (kind.max_age_ms, kind.display.as_slice()),
        (Some(172_800_000), &["title".to_owned()][..])
    );
    let valid = json!({ "number": "D-1", "author": "ann", "title": "Tales" });
    let parsed = kind.parse(valid, None).unwrap();
    assert_eq!((parsed.id.as_str(), parsed.customer.as_deref()), ("D-1", Some("ann")));
    let found = kind.parse(json!({ "number": "7", "title": "Stories" }), None).unwrap_err();
    let pointers: Vec<&str> = found.iter().map(|one| one.pointer.as_str()).collect();
    assert_eq!(pointers, ["/title", "/number"]);
    assert_eq!(kind.status.cancelling(), Some("withdrawing"));
    assert!(kind.status.is_fully_cancelled("withdrawn"));
    // The configuration that `config check` prints can be read again. Its schema has numbers, which no
    // untagged enum can be read with from JSON.
    let mut shown = serde_json::to_value(&config.subjects).unwrap();
    assert_eq!(shown["document"]["schema"]["properties"]["title"]["maxLength"], 5);
    shown["document"]["schema"].take();
    let again: std::collections::BTreeMap<String, crate::config::SubjectConfig> =
        serde_json::from_value(shown).unwrap();
    assert_eq!(again["document"].status, config.subjects["document"].status);
}

#[test]
fn a_schema_can_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("document.schema.json");
    let text = format!("[subjects.document]\nschema = \"{}\"\n", path.display());
    assert!(problems(&text)[0].starts_with("subjects.document.schema: "));
    for (schema, expected) in [
        ("{", "is not valid JSON"),
        (
            r#"{"properties": {"a": {"type": "integr"}, "b": {"minLength": "1"}}}"#,
            "at /properties/a/type",
        ),
        (r#"{"$ref": "https://example.com/other.json"}"#, "subjects.document.schema: at "),
    ] {
        std::fs::write(&path, schema).unwrap();
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{schema}: {found:#?}");
    }
    std::fs::write(&path, r#"{"required": ["title"]}"#).unwrap();
    let kinds = Config::from_toml(&text).unwrap().kinds().unwrap();
    assert!(kinds.named("document").unwrap().parse(json!({}), None).is_err());
}

#[test]
fn all_problems_of_all_kinds_are_reported_together() {
    let found = problems(
        r#"
        [subjects.Bad]
        [subjects.order]
        id_field = "number"
        [subjects.document]
        path = "/events"
        plural = "Docs"
        id_pattern = "("
        first_event = "document.#"
        cancel_event = "postrider.cancelled"
        claims = ["a..b"]
        max_age_ms = 5
        colour = "red"
        [subjects.document.schema]
        type = "objekt"
        [subjects.document.status]
        terminal = ["nowhere"]
        [subjects.document.status.transitions]
        "document.#" = { status = "received", from = [] }
        [subjects.ticket]
        path = "/tickets/open"
        [subjects.invoice]
        path = "/bills"
        [subjects.bill]
        first_event = "invoice.created"
    "#,
    );
    for expected in [
        "subjects.Bad: the name must match",
        "subjects.order.id_field: cannot be set",
        "subjects.document.path: `/events` is a path of the API itself",
        "subjects.document.plural: `Docs` must match",
        "subjects.document.id_pattern: `(` is not a regular expression",
        "subjects.document.first_event: the event type `document.#` is a pattern",
        "subjects.document.cancel_event: the event type `postrider.cancelled` is reserved",
        "subjects.document.claims: the event type `a..b`",
        "subjects.document.max_age_ms: 5 must be 0 or at least twice events.expiry_ms",
        "subjects.document.colour: unknown key",
        "subjects.document.schema: at /type",
        "subjects.document.status.terminal: no event leads to `nowhere`",
        "subjects.ticket.path: `/tickets/open` must be `/` and a name",
        "subjects.invoice.path: `/bills` is the path of subjects.bill",
        "subjects.invoice.first_event: `invoice.created` is subjects.bill.first_event",
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(expected)),
            "`{expected}` is missing from {found:#?}"
        );
    }
}
