//! A second kind of subjects beside orders: documents get whatever orders have, by their own rules.

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, RunningHost, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![
    a_document_is_submitted_once_and_shown_with_its_history,
    a_body_that_breaks_the_schema_is_refused_with_pointers,
    documents_are_listed_and_filtered_apart_from_orders,
    a_cancelled_document_is_compensated,
    events_of_other_programs_find_their_subject,
    a_document_is_scheduled_and_expires_by_the_period_of_its_kind,
    the_command_line_works_with_every_kind,
];

const KINDS: &str = r##"
[ingress]
allow = ["#", "document.published"]

[subjects.document]
path = "/library"
id_pattern = "^[a-z0-9.-]+$"
customer_field = "author"
display = ["title"]
max_age_ms = 200000000

[subjects.document.schema]
type = "object"
required = ["title", "author"]
[subjects.document.schema.properties]
title = { type = "string", minLength = 1 }
pages = { type = "array", items = { type = "object", required = ["text"] } }

[subjects.document.status]
terminal = ["scanned", "published"]
[subjects.document.status.transitions]
"document.created" = { status = "received", from = [] }
"document.scanned" = { status = "scanned" }
"document.published" = { status = "published", from = ["scanned"] }
"document.cancelled" = { status = "withdrawing", from = ["received", "scanned", "failed"] }
"postrider.dead-lettered" = { status = "failed" }
[subjects.document.status.cancel]
compensations = ["document.cancelled", "document.unscanned"]
done = "withdrawn"
"##;

/// Scans documents, remembers it under the document's key, and forgets it when one is cancelled.
struct Scanner;

#[async_trait]
impl NativeStage for Scanner {
    fn describe(&self) -> Description {
        Description::new("scanner", "1.0.0", "Scans documents")
            .consumes(["document.created", "document.cancelled", "document.unscanned"])
            .emits(["document.scanned", "document.unscanned"])
    }

    async fn handle(
        &self,
        cx: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
        let (key, id) = (format!("document/{}/scan", event.subject), &event.subject);
        match event.event_type.as_str() {
            "document.created" if data["title"] == "unreadable" => {
                Err(postrider::Failure::reject("unreadable", "the scanner gives up").into())
            }
            "document.created" => {
                cx.state.set(key, "scanned".into())?;
                Ok(vec![Emitted::json("document.scanned", &json!({ "document_id": id }))])
            }
            "document.cancelled" if cx.state.get(&key).await?.is_some() => {
                cx.state.remove(key)?;
                Ok(vec![Emitted::json("document.unscanned", &json!({ "document_id": id }))])
            }
            _ => Ok(Vec::new()),
        }
    }
}

async fn host_on(backend: Backend) -> Result<(TestEnv, RunningHost)> {
    let env = TestEnv::shipped_on(backend, &format!("{AMPLE_STOCK}{KINDS}")).await?;
    let host = env.start_with(|builder| builder.stage(Scanner)).await?;
    Ok((env, host))
}

fn document(id: &str) -> Value {
    json!({ "document_id": id, "author": "ann", "title": format!("About {id}") })
}

fn order(id: &str) -> Value {
    json!({ "order_id": id, "user_id": "ann", "items": ["Book"], "total": 1 })
}

async fn a_document_is_submitted_once_and_shown_with_its_history(backend: Backend) -> Result<()> {
    let (env, host) = host_on(backend).await?;
    let client = &host.client;
    let (status, headers) = client.post_for_headers("/library", &document("d-1")).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(headers["location"], "/library/d-1");
    let shown = client.wait_for_subject("/library/d-1", "scanned").await?;
    assert_eq!((&shown["document_id"], &shown["customer"]), (&json!("d-1"), &json!("ann")));
    assert_eq!(shown["document"], document("d-1"));
    assert_eq!(shown["display"], json!({ "title": "About d-1" }));
    let step = &shown["timeline"][0];
    assert_eq!((&step["stage"], &step["status"]), (&json!("scanner"), &json!("done")), "{shown}");

    // The same again, another one with its id, and the same key for another body.
    let (status, again) = client.post("/library", &document("d-1")).await?;
    assert_eq!((status, &again["status"]), (StatusCode::OK, &json!("scanned")), "{again}");
    let other = json!({ "document_id": "d-1", "author": "bob", "title": "Other" });
    let (status, problem) = client.post("/library", &other).await?;
    assert_eq!(
        (status, &problem["type"], &problem["detail"]),
        (
            StatusCode::CONFLICT,
            &json!("/problems/subject-exists"),
            &json!("document `d-1` exists with a different body")
        )
    );
    let keyed = json!({ "author": "ann", "title": "Keyed" });
    let key = ("idempotency-key", "k-1");
    let (status, first) = client.post_with_header("/library", &keyed, key).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{first}");
    let (_, second) = client.post_with_header("/library", &keyed, key).await?;
    assert_eq!(first, second);
    let (status, _) = client.post_with_header("/library", &document("d-9"), key).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    // The keys of orders are others.
    let (status, _) = client.post_with_header("/orders", &order("d-1"), key).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    client.wait_for_status("d-1", "ready").await?;
    assert_eq!(client.get("/library/d-1").await?.1["status"], "scanned");

    // Its events, and its stream, which ends when it is settled.
    let (_, events) = client.get("/library/d-1/events").await?;
    let types: Vec<&str> = events["items"]
        .as_array()
        .context("events")?
        .iter()
        .filter_map(|one| one["type"].as_str())
        .collect();
    assert_eq!(types, ["document.created", "document.scanned"]);
    assert_eq!(events["items"][0]["id"], "document-d-1");
    assert_eq!(events["items"][0]["subject_key"], "document/d-1");
    let of_subject = client.get_all("/events?subject=document/d-1").await?;
    assert_eq!(&of_subject, events["items"].as_array().context("events")?);
    let stream = client.text("/events/export?subject=document/d-1").await?;
    assert_eq!(stream.lines().count(), 2);
    let (code, told, _) =
        postrider(&["subjects", "watch", "document/d-1", "--url", &client.url]).await?;
    assert!(code == 0 && told.contains("document d-1 is scanned"), "{told}");
    assert_eq!(client.get("/library/nosuch").await?.0, StatusCode::NOT_FOUND);
    assert_eq!(client.get("/documents/d-1").await?.0, StatusCode::NOT_FOUND, "it has another path");
    drop(env);
    host.stop().await
}

async fn a_body_that_breaks_the_schema_is_refused_with_pointers(backend: Backend) -> Result<()> {
    let (_env, host) = host_on(backend).await?;
    let body = json!({ "document_id": "Über", "title": "", "pages": [{ "text": "a" }, {}] });
    let (status, problem) = host.client.post("/library", &body).await?;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/problems/invalid-body"))
    );
    assert_eq!(problem["detail"], "invalid document: 4 problems, see `errors`");
    let mut pointers: Vec<&str> = problem["errors"]
        .as_array()
        .context("errors")?
        .iter()
        .filter_map(|error| error["pointer"].as_str())
        .collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/author", "/document_id", "/pages/1/text", "/title"]);
    let (_, served) = host.client.get("/openapi.json").await?;
    let schema = &served["components"]["schemas"]["NewDocument"];
    assert_eq!(schema["required"], json!(["title", "author"]));
    assert!(served["paths"]["/library/{id}/cancel"].is_object());
    let metrics = host.client.text("/metrics").await?;
    let refused = "postrider_subjects_total{kind=\"document\",outcome=\"refused\"} 1";
    assert!(metrics.contains(refused), "{metrics}");
    host.stop().await
}

async fn documents_are_listed_and_filtered_apart_from_orders(backend: Backend) -> Result<()> {
    let (_env, host) = host_on(backend).await?;
    let client = &host.client;
    for id in ["d-1", "d-2", "d-3"] {
        ensure!(client.post("/library", &document(id)).await?.0.is_success());
        ensure!(client.post("/orders", &order(id)).await?.0.is_success());
    }
    let broken = json!({ "document_id": "d-4", "author": "bob", "title": "unreadable" });
    ensure!(client.post("/library", &broken).await?.0.is_success());
    client.wait_for_subject("/library/d-4", "failed").await?;
    for id in ["d-1", "d-2", "d-3"] {
        client.wait_for_subject(&format!("/library/{id}"), "scanned").await?;
        client.wait_for_status(id, "ready").await?;
    }
    let ids = async |query: &str, field: &str| -> Result<Vec<String>> {
        let items = client.get_all(query).await?;
        Ok(items.iter().filter_map(|one| one[field].as_str().map(str::to_owned)).collect())
    };
    assert_eq!(ids("/library?limit=2", "document_id").await?, ["d-4", "d-3", "d-2", "d-1"]);
    assert_eq!(ids("/library?status=scanned", "document_id").await?, ["d-3", "d-2", "d-1"]);
    assert_eq!(ids("/library?customer=bob", "document_id").await?, ["d-4"]);
    assert_eq!(ids("/library?stage=scanner", "document_id").await?, ["d-4"]);
    assert_eq!(ids("/orders?limit=2", "order_id").await?, ["d-3", "d-2", "d-1"]);
    assert_eq!(client.get("/api/v1/library/d-1").await?.0, StatusCode::OK);
    // Its dead letter carries its kind and id.
    let dead_letters = client.get_all("/dead-letters?subject=document/d-4").await?;
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(dead_letters[0]["subject_key"], "document/d-4");
    assert_eq!(client.get_all("/dead-letters?subject=order/d-4").await?.len(), 0);
    let (_, kinds) = client.get("/subjects").await?;
    let names: Vec<&str> = kinds["items"]
        .as_array()
        .context("kinds")?
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["document", "order"]);
    host.stop().await
}

async fn a_cancelled_document_is_compensated(backend: Backend) -> Result<()> {
    let (env, host) = host_on(backend).await?;
    let client = &host.client;
    for subject in ["d-1", "d-2"] {
        ensure!(client.post("/library", &document(subject)).await?.0.is_success());
        client.wait_for_subject(&format!("/library/{subject}"), "scanned").await?;
    }
    let kept = "SELECT count(*) FROM state WHERE key = 'document/d-1/scan' AND value IS NOT NULL";
    assert_eq!(env.query_count(kept).await?, 1);
    let (status, begun) =
        client.post("/library/d-1/cancel", &json!({ "reason": "withdrawn by its author" })).await?;
    ensure!(status.is_success(), "{begun}");
    assert_eq!(begun["document_id"], "d-1");
    let withdrawn = client.wait_for_subject("/library/d-1", "withdrawn").await?;
    let steps = withdrawn["timeline"].as_array().context("a timeline")?;
    assert!(steps.iter().all(|step| step["status"] == "done"), "{withdrawn}");
    let types = client.get_all("/events?subject=document/d-1").await?;
    let last = types.last().context("events")?;
    assert_eq!(last["type"], "document.unscanned");
    assert_eq!(env.query_count(kept).await?, 0, "it was compensated");
    let (status, again) = client.post("/library/d-1/cancel", &json!({})).await?;
    assert_eq!((status, &again["status"]), (StatusCode::OK, &json!("withdrawn")));
    // Too late, and unknown.
    let published = ("ce-subject", "document/d-2");
    client.post_with_header("/events/document.published", &json!({}), published).await?;
    client.wait_for_subject("/library/d-2", "published").await?;
    let (status, problem) = client.post("/library/d-2/cancel", &json!({})).await?;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::CONFLICT, &json!("/problems/subject-not-cancellable"))
    );
    let detail = problem["detail"].as_str().context("a detail")?;
    assert!(detail.starts_with("document `d-2` is `published`"), "{detail}");
    assert_eq!(client.post("/library/d-3/cancel", &json!({})).await?.0, StatusCode::NOT_FOUND);
    host.stop().await
}

async fn events_of_other_programs_find_their_subject(backend: Backend) -> Result<()> {
    let (_env, host) = host_on(backend).await?;
    let client = &host.client;
    ensure!(client.post("/library", &document("7")).await?.0.is_success());
    ensure!(client.post("/orders", &order("7")).await?.0.is_success());
    for (event_type, subject, expected) in [
        ("desk.noted", "document/7", json!("document/7")),
        ("document.noted", "7", json!("document/7")),
        ("order.noted", "7", json!("order/7")),
        // No kind claims the type, or the subject does not exist.
        ("desk.noted", "7", Value::Null),
        ("document.noted", "8", Value::Null),
        ("desk.noted", "shelf/7", Value::Null),
    ] {
        let path = format!("/events/{event_type}");
        let header = ("ce-subject", subject);
        let (status, receipt) = client.post_with_header(&path, &json!({}), header).await?;
        ensure!(status.is_success(), "{receipt}");
        let id = receipt["id"].as_str().context("an id")?;
        let (_, event) = client.get(&format!("/events/{id}")).await?;
        assert_eq!(event["subject_key"], expected, "{event_type} about {subject}");
    }
    let unknown = json!({ "specversion": "1.0", "id": "1", "source": "/desk", "type": "desk.noted",
        "postridersubject": "invoice/7" });
    let reserved = json!({ "specversion": "1.0", "id": "2", "source": "/desk", "subject": "7",
        "type": "postrider.dead-lettered" });
    for (event, pointer, detail) in [
        (unknown, "/postridersubject", "unknown kind `invoice`: use one of `document`, `order`"),
        (reserved, "/type", "the host's own"),
    ] {
        let kind = "application/cloudevents+json";
        let (status, problem) = client.post_raw("/events", kind, event.to_string()).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        let errors = problem["errors"].as_array().context("errors")?;
        let error = errors.iter().find(|one| one["pointer"] == pointer).context(pointer)?;
        assert!(error["detail"].to_string().contains(detail), "{problem}");
    }
    for query in ["/events?subject=7", "/dead-letters?subject=", "/events?subject=Order/7"] {
        let (status, problem) = client.get(query).await?;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(problem["detail"].to_string().contains("<kind>/<id>"), "{problem}");
    }
    host.stop().await
}

async fn a_document_is_scheduled_and_expires_by_the_period_of_its_kind(
    backend: Backend,
) -> Result<()> {
    let toml = format!("retention.interval_ms = 20\n{AMPLE_STOCK}{KINDS}");
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let host = env.start_with(|builder| builder.stage(Scanner)).await?;
    let client = &host.client;
    let delay = ("delay", "1h");
    let (status, _) = client.post_with_header("/library", &document("d-1"), delay).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    ensure!(client.post("/orders", &order("o-1")).await?.0.is_success());
    client.wait_for_status("o-1", "ready").await?;
    let (_, waiting) = client.get("/library/d-1").await?;
    assert_eq!(
        (&waiting["status"], waiting["timeline"].as_array().map(Vec::len)),
        (&json!("received"), Some(1))
    );
    assert_eq!(waiting["timeline"][0]["status"], "open");
    // As if an hour had passed, on the clock of the store.
    env.execute("UPDATE outbox SET due_ms = due_ms - 3600001").await?;
    client.wait_for_subject("/library/d-1", "scanned").await?;
    eventually("all deliveries to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    // Documents are kept for some days, orders for ninety.
    env.execute(
        "UPDATE subjects SET updated_ms = updated_ms - 3 * 86400000, finished_ms = finished_ms - 3 \
         * 86400000",
    )
    .await?;
    let pruned = client.wait_for_subject("/library/d-1", "pruned").await?;
    assert_eq!((&pruned["document"], &pruned["timeline"]), (&Value::Null, &json!([])));
    let state = "SELECT count(*) FROM state WHERE key LIKE 'document/%'";
    assert_eq!(env.query_count(state).await?, 0);
    assert_eq!(client.get("/orders/o-1").await?.1["status"], "ready");
    host.stop().await
}

async fn the_command_line_works_with_every_kind(backend: Backend) -> Result<()> {
    let (env, host) = host_on(backend).await?;
    let url = &host.client.url;
    let file = env.folder.path().join("document.json");
    std::fs::write(&file, document("d-1").to_string())?;
    let file = file.to_str().context("a path that is text")?;
    let run = async |args: &[&str]| postrider(&[args, &["--url", url]].concat()).await;
    let (code, told, _) = run(&["subjects", "submit", "document", file]).await?;
    assert!(code == 0 && told.starts_with("document d-1 is "), "{told}");
    host.client.wait_for_subject("/library/d-1", "scanned").await?;
    for (args, expected) in [
        (&["subjects", "kinds"][..], "/library"),
        (&["subjects", "get", "document/d-1"], "document d-1 is scanned"),
        (&["subjects", "list", "document"], "About d-1"),
        (&["subjects", "list", "document", "--status", "scanned"], "d-1"),
        (&["events", "export", "--subject", "document/d-1"], "document.scanned"),
        (&["subjects", "cancel", "document/d-1"], "document d-1 is "),
    ] {
        let (code, told, error) = run(args).await?;
        assert!(code == 0 && told.contains(expected), "{args:?}: {told}{error}");
    }
    host.client.wait_for_subject("/library/d-1", "withdrawn").await?;
    let (code, _, error) = run(&["subjects", "list", "invoice"]).await?;
    assert!(code == 1 && error.contains("unknown kind `invoice`: this host has"), "{error}");
    host.stop().await
}
