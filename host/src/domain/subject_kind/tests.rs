//! Which kind an event of another program belongs to, and which kinds clash.

use serde_json::json;

use super::*;
use crate::domain::subject_status::tests::rules;

fn kind(name: &str) -> SubjectKind {
    let transitions = json!({ "scan.done": { "status": "done" } });
    SubjectKind {
        name: name.to_owned(),
        plural: format!("{name}s"),
        path: format!("/{name}s"),
        id: IdRule { field: format!("{name}_id"), pattern: None },
        customer_field: None,
        first_event: format!("{name}.created"),
        cancel_event: format!("{name}.cancelled"),
        body: BodyShape::Plain,
        schema: None,
        status: rules(transitions, &["done"]),
        claims: vec![format!("{name}-desk.#")],
        max_age_ms: None,
        display: Vec::new(),
    }
}

fn kinds(names: &[&str]) -> SubjectKinds {
    SubjectKinds::new(names.iter().map(|name| kind(name)).collect()).unwrap()
}

#[test]
fn an_event_belongs_to_the_subject_that_it_names() {
    let two = kinds(&["doc", "ticket"]);
    let found = |named: Option<&str>, event_type: &str, subject: &str| {
        two.resolve(named, event_type, subject).unwrap().map(|key| key.to_string())
    };
    assert_eq!(found(Some("doc/7"), "any", "x").as_deref(), Some("doc/7"));
    assert_eq!(found(None, "any", "ticket/7").as_deref(), Some("ticket/7"));
    // An id alone: the kind follows from the type.
    assert_eq!(found(None, "ticket.opened", "7").as_deref(), Some("ticket/7"));
    assert_eq!(found(None, "doc-desk.note.added", "7").as_deref(), Some("doc/7"));
    for (event_type, subject) in
        [("any", "7"), ("doc.x", "a b"), ("doc.x", ""), ("any", "nosuch/7")]
    {
        assert_eq!(found(None, event_type, subject), None, "{event_type} about `{subject}`");
    }
    let one = kinds(&["doc"]);
    let key = one.resolve(None, "carrier.collected", "7").unwrap();
    assert_eq!(key.as_deref(), Some("doc/7"), "there is only one kind");
}

#[test]
fn an_unknown_kind_and_an_ambiguous_id_are_refused() {
    let two = kinds(&["doc", "ticket"]);
    for named in ["invoice/7", "7", "doc/", "doc/a b"] {
        let Err(ResolveError::Named(why)) = two.resolve(Some(named), "any", "7") else {
            panic!("`{named}` was accepted")
        };
        assert!(why.contains(named.split('/').next().unwrap()), "{why}");
    }
    let Err(ResolveError::Subject(why)) = two.resolve(None, "scan.done", "7") else {
        panic!("an ambiguous id was accepted")
    };
    assert!(why.contains("`doc/7` or `ticket/7`"), "{why}");
}

#[test]
fn all_clashes_are_reported_with_their_keys() {
    let mut second = kind("b");
    second.path = "/as".to_owned();
    second.plural = "as".to_owned();
    second.first_event = "a.created".to_owned();
    second.cancel_event = "product.stocked".to_owned();
    let mut third = kind("a-c");
    third.cancel_event = "a-c.created".to_owned();
    let found = SubjectKinds::new(vec![kind("a"), second, third]).unwrap_err();
    for expected in [
        "subjects.b.path: `/as` is the path of subjects.a",
        "subjects.b.plural: `as` is the plural of subjects.a",
        "subjects.b.first_event: `a.created` is subjects.a.first_event",
        "subjects.b.cancel_event: `product.stocked` is an event of the host",
        "subjects.a-c.cancel_event: `a-c.created` is the first event of the kind",
        "subjects.a-c: the name begins with `a-`",
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(expected)),
            "`{expected}` is missing from {found:#?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:#?}");
    let many = (0..=KINDS_MAX).map(|number| kind(&format!("k{number}"))).collect();
    assert!(SubjectKinds::new(many).unwrap_err()[0].contains("the limit is 64"));
}

#[test]
fn a_body_fulfils_the_schema_and_the_shape() {
    let schema = BodySchema::compile(json!({
        "required": ["title"],
        "properties": { "doc_id": { "type": "string" }, "pages": { "minimum": 1 } },
    }));
    let kind = SubjectKind { schema: Some(schema.unwrap()), ..kind("doc") };
    let pointers = |body: Value| -> Vec<String> {
        let problems = kind.parse(body, None).unwrap_err();
        let mut pointers: Vec<String> = problems.into_iter().map(|one| one.pointer).collect();
        pointers.sort();
        pointers
    };
    assert_eq!(pointers(json!({ "doc_id": "a/b", "pages": 0 })), ["/doc_id", "/pages", "/title"]);
    assert_eq!(pointers(json!({ "doc_id": 7, "title": "T" })), ["/doc_id"]);
    assert_eq!(pointers(json!([])), [""]);
    let parsed = kind.parse(json!({ "doc_id": "7", "title": "T" }), None).unwrap();
    assert_eq!((parsed.id.as_str(), &parsed.body["title"]), ("7", &json!("T")));
}
