//! Requests as other programs write them: compressed, with a byte order mark, in another charset, with
//! an unescaped plus in a time, with quoted headers, with ids that URLs resolve.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{RunningHost, TestEnv, gzip};
use crate::support::process::postrider;

/// A request with these headers; the answer's status, `accept-encoding` and document.
async fn post(
    host: &RunningHost,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<(StatusCode, Option<String>, Value)> {
    let request = reqwest::Client::new().post(format!("{}{path}", host.client.url)).body(body);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await?;
    let accepted = response.headers().get("accept-encoding");
    let accepted = accepted.map(|value| value.to_str().map(str::to_owned)).transpose()?;
    Ok((response.status(), accepted, response.json().await.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies_are_read_within_the_limit() -> Result<()> {
    let host = TestEnv::empty("http.body_max_bytes = 100000\n")?.start().await?;
    let order = |id: &str| json!({ "order_id": id, "items": ["Book"] }).to_string();
    let json = ("content-type", "application/json");
    let gzipped = ("content-encoding", "gzip");
    let (status, _, answer) =
        post(&host, "/orders", &[json, gzipped], gzip(order("gz").as_bytes())?).await?;
    assert_eq!((status, &answer["order_id"]), (StatusCode::ACCEPTED, &json!("gz")), "{answer}");
    // The data of an event is what was compressed.
    let text = ("content-type", "text/plain");
    let headers = [text, gzipped, ("ce-id", "e1")];
    let (status, _, _) = post(&host, "/events/desk.note", &headers, gzip(b"hello")?).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(host.client.get("/events/e1").await?.1["data"], "hello");
    for encoding in ["br", "deflate", "zstd", "gzip, br"] {
        let headers = [json, ("content-encoding", encoding)];
        let (status, accepted, problem) =
            post(&host, "/orders", &headers, order("no").into_bytes()).await?;
        assert_eq!(
            (status, accepted.as_deref(), &problem["type"]),
            (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Some("gzip"),
                &json!("/problems/unsupported-encoding")
            ),
            "{encoding}: {problem}"
        );
    }
    let bomb = gzip(&vec![b' '; 50 << 20])?;
    assert!(bomb.len() < 100_000);
    let (status, _, problem) = post(&host, "/orders", &[json, gzipped], bomb).await?;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{problem}");
    let (status, _, problem) =
        post(&host, "/orders", &[json, gzipped], order("no").into_bytes()).await?;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("content-encoding"), "{problem}");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_order_marks_are_skipped_and_other_charsets_are_refused() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    let event = json!({ "specversion": "1.0", "id": "b", "source": "/d", "type": "desk.note" });
    for (path, content_type, body) in [
        ("/orders", "application/json", json!({ "items": ["Book"] })),
        ("/events", "application/cloudevents+json", event.clone()),
        ("/events", "application/cloudevents-batch+json", json!([event])),
        ("/events/desk.note", "application/json", json!({ "a": 1 })),
    ] {
        let body = format!("\u{feff}{body}").into_bytes();
        let kind = ("content-type", content_type);
        let (status, _, answer) = post(&host, path, &[kind], body.clone()).await?;
        assert_eq!(status, StatusCode::ACCEPTED, "{path}: {answer}");
        for charset in ["utf-16", "iso-8859-1", "\"windows-1252\""] {
            let content_type = format!("{content_type}; charset={charset}");
            let kind = ("content-type", content_type.as_str());
            let (status, _, problem) = post(&host, path, &[kind], body.clone()).await?;
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}: {problem}");
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(charset.trim_matches('"')), "{problem}");
        }
    }
    // Other data is not read, so its charset does not matter.
    let kind = ("content-type", "text/plain; charset=iso-8859-1");
    let (status, _, answer) = post(&host, "/events/desk.note", &[kind], vec![0xe9]).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plus_in_a_time_of_a_query_need_not_be_escaped() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    for list in ["/orders", "/events", "/events/export", "/dead-letters", "/dead-letters/groups"] {
        for name in ["since", "until"] {
            let (status, answer) =
                host.client.get(&format!("{list}?{name}=2026-01-01T00:00:00+02:00")).await?;
            assert_eq!(status, StatusCode::OK, "{list}: {answer}");
        }
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quoted_headers_are_unquoted() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "\"1.0\""),
        ("ce-id", "\"q\""),
        ("ce-source", "/d"),
        ("ce-type", "\"desk.note\""),
        ("ce-subject", "\"Euro 5 %E2%82%AC \\\"x\\\"\""),
    ];
    let (status, _, answer) = post(&host, "/events", &headers, b"{}".to_vec()).await?;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let (_, event) = host.client.get("/events/q").await?;
    assert_eq!(
        (&event["type"], &event["subject"]),
        (&json!("desk.note"), &json!("Euro 5 € \"x\""))
    );
    let headers = [("content-type", "application/json"), ("ce-subject", "\"open")];
    let (status, _, problem) = post(&host, "/events/desk.note", &headers, b"{}".to_vec()).await?;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::BAD_REQUEST, &json!("/problems/invalid-header"))
    );
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_urls_resolve_are_refused() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    let event = |id: &str| json!({ "specversion": "1.0", "id": id, "source": "/d", "type": "a.b" });
    for id in [".", ".."] {
        let order = json!({ "order_id": id, "items": ["Book"] });
        let stock = json!({ "sku": id, "stock": 1 });
        let item = json!({ "items": [{ "sku": id }] });
        let name = json!({ "product_name": id, "stock": 1 });
        for (path, body) in
            [("/orders", order), ("/products", stock), ("/orders", item), ("/products", name)]
        {
            let (status, problem) = host.client.post(path, &body).await?;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {problem}");
        }
        let (status, problem) = host
            .client
            .post_raw("/events", "application/cloudevents+json", event(id).to_string())
            .await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        for arguments in [
            &["orders", "get", id][..],
            &["orders", "cancel", id],
            &["orders", "watch", id],
            &["stages", "pause", id],
            &["stages", "delete", id],
            &["plugin", "history", id],
        ] {
            let (code, out, told) =
                postrider(&[arguments, &["--url", &host.client.url]].concat()).await?;
            assert!(code != 0 && told.contains(&format!("`{id}`")), "{arguments:?}: {out} {told}");
        }
    }
    host.stop().await
}
