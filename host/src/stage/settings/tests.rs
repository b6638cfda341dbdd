//! Secrets are read once, masked in texts and refused in events and state.

use super::*;

fn settings(secrets: &[(&str, &str)]) -> Settings {
    let secrets =
        secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Settings::new(&BTreeMap::from([("mode".to_owned(), "on".to_owned())]), &Secrets(secrets))
}

fn emitted(data: &str) -> Emitted {
    Emitted::new("a.b", "application/json", data.to_owned())
}

const KEY: &str = "sk-0123456789";

#[test]
fn a_stage_reads_secrets_and_texts_mask_them() {
    let settings = settings(&[("key", KEY)]);
    assert_eq!(
        (settings.get("mode").map(String::as_str), settings.get("key").map(String::as_str)),
        (Some("on"), Some(KEY))
    );
    assert_eq!(format!("{settings:?}"), "2 settings, 1 of them secret");
    assert!(
        !format!("{:?}", Secrets(BTreeMap::from([("key".to_owned(), KEY.to_owned())])))
            .contains(KEY)
    );
    assert_eq!(settings.redact(format!("a {KEY} and {KEY}")), "a *** and ***");
    assert!(matches!(settings.redact("nothing"), Cow::Borrowed("nothing")));
}

#[test]
fn the_longest_secret_is_masked_first_also_in_json() {
    let settings =
        settings(&[("inner", "0123456789"), ("key", KEY), ("quoted", "a\"b\\c\nd-and-more")]);
    assert_eq!(settings.redact(KEY), "***");
    let json = serde_json::json!({ "said": "a\"b\\c\nd-and-more" }).to_string();
    assert_eq!(settings.redact(&json), r#"{"said":"***"}"#);
    assert!(matches!(
        settings.guard(Outcome::Done(vec![emitted(&json)]), &StateWrites::new(), None),
        Outcome::Failed(_)
    ));
    // Quotes at the ends of a value belong to it.
    let quoted = self::settings(&[("q", "\"quoted-secret\"")]);
    assert_eq!(quoted.redact(r#"x "quoted-secret" \"quoted-secret\" y"#), "x *** *** y");
}

#[test]
fn texts_of_outcomes_are_masked() {
    let settings = settings(&[("key", KEY), ("pin", "1234")]);
    let failed = Failure {
        retryable: true,
        code: format!("c-{KEY}"),
        message: format!("m {KEY} 1234"),
        retry_after_ms: Some(1),
    };
    let trapped = Outcome::Trapped {
        kind: "unreachable".into(),
        message: KEY.into(),
        backtrace: Some(format!("at {KEY}")),
    };
    let limit = Outcome::LimitExceeded {
        limit: crate::stage::handler::Limit::StateKey,
        message: KEY.into(),
    };
    for outcome in [Outcome::Failed(failed), trapped, limit, Outcome::Unavailable(KEY.into())] {
        let guarded = format!("{:?}", settings.guard(outcome, &StateWrites::new(), None));
        assert!(
            guarded.contains(MASK) && !guarded.contains(KEY) && !guarded.contains("1234"),
            "{guarded}"
        );
    }
}

#[test]
fn events_and_state_with_a_secret_are_refused() {
    let settings = settings(&[("key", KEY), ("pin", "1234")]);
    let leaks = |emitted: Vec<Emitted>, writes: StateWrites| match settings.guard(
        Outcome::Done(emitted),
        &writes,
        None,
    ) {
        Outcome::Failed(Failure { retryable: false, code, message, .. }) => {
            assert!(code == SECRET_LEAK && message.contains("a secret of the stage"), "{message}");
            // People who see it need not know what secrets there are.
            assert!(!message.contains("`key`") && !message.contains(KEY), "{message}");
            true
        }
        _ => false,
    };
    let held = format!("x{KEY}y");
    let write = |key: &str, value: &str| {
        StateWrites::from([(key.to_owned(), Some(value.to_owned().into()))])
    };
    assert!(leaks(vec![emitted("{}"), emitted(&held)], StateWrites::new()));
    assert!(leaks(
        vec![Emitted { subject: Some(held.clone()), ..emitted("") }],
        StateWrites::new()
    ));
    assert!(leaks(
        vec![Emitted { attributes: vec![("a".into(), held.clone())], ..emitted("") }],
        StateWrites::new()
    ));
    assert!(leaks(vec![Emitted { event_type: held.clone(), ..emitted("") }], StateWrites::new()));
    assert!(leaks(vec![], write("k", &held)) && leaks(vec![], write(&held, "v")));
    assert!(leaks(vec![], StateWrites::from([(held, None)])));
    // A short one would match by chance.
    assert!(!leaks(vec![emitted("1234")], write("1234", "1234")));
}

#[test]
fn every_problem_with_a_secret_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let place = folder.path().join(name);
        std::fs::write(&place, content).unwrap();
        SecretSource { file: Some(place), env: None }
    };
    let sources = BTreeMap::from([
        ("lf".to_owned(), file("lf", b"value\n")),
        ("crlf".to_owned(), file("crlf", b"value\r\n")),
        ("two".to_owned(), file("two", b"value\n\n")),
    ]);
    let mut problems = Vec::new();
    let read = Secrets::read(&sources, "k", &mut problems);
    assert_eq!(read.0.values().collect::<Vec<_>>(), ["value", "value", "value\n"]);
    assert!(problems.is_empty(), "{problems:?}");
    let wrong = BTreeMap::from([
        ("a-neither".to_owned(), SecretSource::default()),
        (
            "b-unset".to_owned(),
            SecretSource { env: Some("POSTRIDER_TEST_NO_SUCH_SECRET".into()), file: None },
        ),
        (
            "c-absent".to_owned(),
            SecretSource { env: None, file: Some(folder.path().join("absent")) },
        ),
        ("d-empty".to_owned(), file("empty", b"\n")),
        ("e-binary".to_owned(), file("binary", &[0xff, 0xfe])),
        ("f-huge".to_owned(), file("huge", &vec![b'x'; 65 << 10])),
    ]);
    let read = Secrets::read(&wrong, "stages.x.secrets", &mut problems);
    assert!(read.0.is_empty() && problems.len() == 6, "{problems:#?}");
    assert!(
        problems[1].starts_with("stages.x.secrets.b-unset: the environment variable"),
        "{problems:?}"
    );
}
