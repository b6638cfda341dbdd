//! The event log and ingested events: every HTTP mode of CloudEvents, filters, export and import
//! as JSON lines.

use anyhow::{Context as _, Result};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![
    event_is_ingested_once_in_every_http_mode,
    log_is_filtered,
    log_is_read_from_either_end,
    exported_events_are_imported_once,
    orders_are_listed_by_filter_and_cursor,
    idempotency_key_belongs_to_one_request
];

async fn log(client: &Client, query: &str) -> Result<Vec<Value>> {
    client.get_all(&format!("/events?limit=3&{query}")).await
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

/// Posts an order and waits until it is ready, so that the log has its events.
async fn ordered(host: &RunningHost, id: &str, customer: &str) -> Result<()> {
    host.client
        .post(
            "/orders",
            &json!({ "order_id": id, "user_id": customer, "items": ["Book"], "total": 1 }),
        )
        .await?;
    eventually("the whole history", || async {
        let (_, events) = host.client.get(&format!("/orders/{id}/events")).await?;
        Ok((events["items"].as_array().map(Vec::len) == Some(5)).then_some(()))
    })
    .await
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
async fn event_is_ingested_once_in_every_http_mode(backend: Backend) -> Result<()> {
    let allow = "ingress.allow = [\"#\", \"product.stocked\"]\n";
    let env = TestEnv::shipped_on(backend, &format!("{allow}{AMPLE_STOCK}")).await?;
    let host = env.start().await?;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", host.client.url);
    let stock = json!({ "sku": "Lamp", "name": null, "quantity": 3 });
    // The type in the path; a stage consumes it like any other event.
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = http
        .post(url("/events/product.stocked"))
        .header("traceparent", trace)
        .header("ce-subject", "Lamp%20one")
        .json(&stock);
    let answer = sent.send().await?;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let place = answer.headers()["location"].to_str()?.to_owned();
    let (_, event) = host.client.get(&place).await?;
    assert_eq!(
        (&event["type"], &event["subject"], &event["data"]),
        (&json!("product.stocked"), &json!("Lamp one"), &stock)
    );
    assert!(
        event["attributes"]["traceparent"]
            .as_str()
            .is_some_and(|mine| mine.contains("0af7651916cd43dd8448eb211c80319c")),
        "{event}"
    );
    assert_eq!(event["subject_key"], Value::Null, "there is no such order");
    eventually("the stock", || async {
        Ok((host.client.get("/products/Lamp").await?.0 == StatusCode::OK).then_some(()))
    })
    .await?;

    host.client
        .post("/orders", &json!({ "order_id": "7", "user_id": "1", "items": ["Book"], "total": 1 }))
        .await?;
    let note = json!({ "specversion": "1.0", "id": "n1", "source": "/desk", "type": "desk.note", "subject": "7", "data": {"text": "hm"} });
    let structured = "application/cloudevents+json; charset=utf-8";
    let (status, first) = host.client.post_raw("/events", structured, note.to_string()).await?;
    assert_eq!((status, &first["duplicate"]), (StatusCode::ACCEPTED, &json!(false)), "{first}");
    let (_, again) = host.client.post_raw("/events", structured, note.to_string()).await?;
    assert_eq!(again["duplicate"], true);
    let binary = http
        .post(url("/events"))
        .header("ce-specversion", "1.0")
        .header("ce-id", "n1")
        .header("ce-source", "/desk");
    let binary = binary
        .header("ce-type", "desk.note")
        .header("content-type", "text/plain")
        .body("the same id")
        .send()
        .await?;
    // Other contents under its id are neither accepted nor taken for a repetition.
    assert_eq!(binary.status(), StatusCode::CONFLICT);
    assert_eq!(binary.json::<Value>().await?["type"], "/problems/event-exists");
    let binary = http
        .post(url("/events"))
        .header("ce-specversion", "1.0")
        .header("ce-id", "n1")
        .header("ce-source", "/desk")
        .header("ce-type", "desk.note")
        .header("ce-subject", "7")
        .header("content-type", "application/json")
        .body(r#"{ "text" : "hm" }"#)
        .send()
        .await?;
    assert_eq!(binary.json::<Value>().await?["duplicate"], true, "the key counts, not the mode");
    let batch =
        json!([note, { "specversion": "1.0", "id": "n2", "source": "/desk", "type": "desk.note" }]);
    let (status, answer) = host
        .client
        .post_raw("/events", "application/cloudevents-batch+json", batch.to_string())
        .await?;
    assert_eq!(
        (status, &answer["accepted"], &answer["duplicates"]),
        (StatusCode::ACCEPTED, &json!(1), &json!(1))
    );
    let other =
        json!([{ "specversion": "1.0", "id": "n2", "source": "/desk", "type": "desk.other" }]);
    let (_, answer) = host
        .client
        .post_raw("/events", "application/cloudevents-batch+json", other.to_string())
        .await?;
    assert_eq!(
        (&answer["accepted"], &answer["conflicts"], &answer["items"][0]["conflict"]),
        (&json!(0), &json!(1), &json!(true)),
        "{answer}"
    );
    let notes = log(&host.client, "type=desk.%23").await?;
    assert_eq!(
        notes.iter().map(|event| &event["subject_key"]).collect::<Vec<_>>(),
        [&json!("order/7"), &Value::Null]
    );
    assert_eq!(
        log(&host.client, "subject=order/7&type=desk.note").await?.len(),
        1,
        "it is part of the order's history"
    );

    // Every problem is reported together, and nothing changes.
    let before = log(&host.client, "source=/desk").await?.len();
    let bad = json!([note, { "specversion": "0.3", "id": "", "source": "/desk", "type": "postrider.dead-lettered", "time": "soon" }, 1]);
    let (status, problem) = host
        .client
        .post_raw("/events", "application/cloudevents-batch+json", bad.to_string())
        .await?;
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|error| error["pointer"].as_str())
        .collect();
    assert_eq!(
        (status, pointers),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            vec!["/1/specversion", "/1/id", "/1/time", "/1/type", "/2"]
        ),
        "{problem}"
    );
    for (path, kind, body, expected) in [
        ("/events/postrider.secret", "application/json", "{}", StatusCode::UNPROCESSABLE_ENTITY),
        ("/events/a..b", "application/json", "{}", StatusCode::UNPROCESSABLE_ENTITY),
        ("/events/desk.note", "application/json", "{", StatusCode::UNPROCESSABLE_ENTITY),
        ("/events", "application/json", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("/events", "application/cloudevents+json", "[", StatusCode::BAD_REQUEST),
    ] {
        let (status, problem) = host.client.post_raw(path, kind, body).await?;
        assert_eq!(
            (status, &problem["status"]),
            (expected, &json!(expected.as_u16())),
            "{path} {problem}"
        );
    }
    assert_eq!(log(&host.client, "source=/desk").await?.len(), before);
    host.stop().await
}

async fn log_is_filtered(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    for id in ["a", "b"] {
        ordered(&host, id, "1").await?;
    }
    let all = log(&host.client, "").await?;
    assert_eq!(all.len(), 10);
    assert!(all.is_sorted_by_key(|event| event["seq"].as_i64()));
    let of_a = log(&host.client, "subject=order/a").await?;
    assert_eq!(
        types(&of_a),
        [
            "order.created",
            "payment.authorized",
            "inventory.reserved",
            "shipping.ready",
            "notification.sent"
        ]
    );
    assert_eq!(
        types(&log(&host.client, "type=payment.*&subject=order/b").await?),
        ["payment.authorized"]
    );
    assert_eq!(
        types(&log(&host.client, "stage=shipping").await?),
        ["shipping.ready", "shipping.ready"]
    );
    let first = of_a[0]["id"].as_str().context("an id")?;
    assert_eq!(log(&host.client, &format!("correlation={first}")).await?.len(), 5);
    let last_ms = all[9]["logged_at_ms"].as_u64().context("a time")?;
    assert!(log(&host.client, &format!("since={}", last_ms + 1)).await?.is_empty());
    assert_eq!(log(&host.client, &format!("until={}", last_ms + 1)).await?.len(), 10);
    assert!(!log(&host.client, &format!("since={last_ms}")).await?.is_empty());
    let (status, problem) = host.client.get("/events?since=soon&until=never&limit=0").await?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(["since:", "until:", "limit:"].iter().all(|name| detail.contains(name)), "{problem}");
    assert_eq!(host.client.get("/events/nothing").await?.0, StatusCode::NOT_FOUND);
    host.stop().await
}

async fn log_is_read_from_either_end(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    for id in ["a", "b"] {
        ordered(&host, id, "1").await?;
    }
    let reversed = |mut events: Vec<Value>| {
        events.reverse();
        events
    };
    for filter in ["", "subject=order/a", "type=payment.*", "stage=shipping"] {
        let newest = log(&host.client, &format!("order=newest&{filter}")).await?;
        assert!(!newest.is_empty(), "{filter}");
        assert_eq!(newest, reversed(log(&host.client, filter).await?), "{filter}");
    }
    let all = log(&host.client, "order=oldest").await?;
    // A cursor is a position in both orders.
    let cursor = &all[4]["seq"];
    let (_, before) = host.client.get(&format!("/events?order=newest&cursor={cursor}")).await?;
    assert_eq!(before["items"], Value::from(reversed(all[..4].to_vec())));
    let (_, after) = host.client.get(&format!("/events?cursor={cursor}")).await?;
    assert_eq!(after["items"], Value::from(all[5..].to_vec()));
    let (status, problem) = host.client.get("/events?order=latest").await?;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    let export = host.client.text("/events/export?order=newest").await?;
    let exported: Vec<Value> =
        export.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(types(&exported), types(&all), "an export is always oldest first");
    host.stop().await
}

async fn exported_events_are_imported_once(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    for id in 0..3 {
        ordered(&host, &format!("x-{id}"), "1").await?;
    }
    let text = host.client.text("/events/export?subject=order/x-1").await?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 5);
    assert!(
        lines
            .iter()
            .all(|event| event["specversion"] == "1.0" && event["postridersubject"] == "order/x-1"),
        "{text}"
    );
    let file = env.folder.path().join("events.jsonl").display().to_string();
    let (code, _, told) =
        postrider(&["events", "export", "--url", &host.client.url, "--output", &file]).await?;
    assert_eq!(code, 0, "{told}");
    assert_eq!(std::fs::read_to_string(&file)?.lines().count(), 15);
    let (code, answer, told) =
        postrider(&["events", "import", "--json", "--url", &host.client.url, &file]).await?;
    assert_eq!(
        (code, answer.trim()),
        (0, r#"{"accepted":0,"conflicts":0,"duplicates":15,"skipped":0}"#),
        "{told}"
    );
    assert_eq!(log(&host.client, "").await?.len(), 15);

    // A host without these events processes them, and its stages emit events with the same ids.
    let other = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let fresh = other.start().await?;
    std::fs::write(
        &file,
        text.lines().take(1).map(|line| format!("{line}\n\n")).collect::<String>(),
    )?;
    let (code, answer, told) =
        postrider(&["events", "import", "--json", "--url", &fresh.client.url, &file]).await?;
    assert_eq!(
        (code, answer.trim()),
        (0, r#"{"accepted":1,"conflicts":0,"duplicates":0,"skipped":0}"#),
        "{told}"
    );
    // Events of hosts are skipped, and problems name the lines of the file.
    let event = |id: &str, event_type: &str| {
        json!({ "specversion": "1.0", "id": id, "source": "/d", "type": event_type }).to_string()
    };
    let lines = [
        event("1", "postrider.dead-lettered"),
        String::new(),
        event("1", "a.b"),
        event("2", "postrider.plugin-rolled-back"),
        event("3", ""),
    ];
    std::fs::write(&file, lines.join("\n"))?;
    let (code, _, told) =
        postrider(&["events", "import", "--url", &fresh.client.url, &file]).await?;
    assert!(code == 1 && told.contains("line 5: type is missing"), "{told}");
    std::fs::write(&file, lines[..4].join("\n"))?;
    let (code, answer, told) =
        postrider(&["events", "import", "--json", "--url", &fresh.client.url, &file]).await?;
    let expected = r#"{"accepted":1,"conflicts":0,"duplicates":0,"skipped":2}"#;
    assert_eq!((code, answer.trim()), (0, expected), "{told}");
    let changed = format!("{}\n{}\n", event("9", "a.b"), event("1", "a.c"));
    for (lines, problem) in [(&*changed, "in line 2"), ("{\"id\": 1}\nnot JSON\n", "line 2")] {
        std::fs::write(&file, lines)?;
        let (code, _, told) =
            postrider(&["events", "import", "--url", &fresh.client.url, &file]).await?;
        assert!(code == 1 && told.contains(problem), "{told}");
    }
    fresh.stop().await?;
    host.stop().await
}

async fn orders_are_listed_by_filter_and_cursor(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    host.client.post("/stages/shipping/pause", &json!({})).await?;
    for (id, customer) in [("a", "1"), ("b", "2"), ("c", "1")] {
        host.client
            .post(
                "/orders",
                &json!({ "order_id": id, "user_id": customer, "items": ["Book"], "total": 1 }),
            )
            .await?;
        host.client.wait_for_status(id, "reserved").await?;
    }
    let ids = async |query: &str| -> Result<Vec<String>> {
        let orders = host.client.get_all(&format!("/orders?limit=1&{query}")).await?;
        Ok(orders
            .iter()
            .filter_map(|order| order["order_id"].as_str().map(str::to_owned))
            .collect())
    };
    assert_eq!(ids("").await?, ["c", "b", "a"]);
    assert_eq!(ids("customer=1").await?, ["c", "a"]);
    assert_eq!(ids("stage=shipping").await?, ["c", "b", "a"]);
    assert_eq!(ids("stage=payment").await?, [""; 0]);
    assert_eq!(ids("stage=shipping&status=reserved&customer=2").await?, ["b"]);
    let (_, b) = host.client.get("/orders/b").await?;
    let at_ms = b["created_at_ms"].as_u64().context("a time")?;
    assert_eq!(ids(&format!("until={at_ms}")).await?, ["a"]);
    assert_eq!(ids(&format!("since={at_ms}&until={}", at_ms + 1)).await?, ["b"]);
    let (status, problem) = host.client.get("/orders?cursor=-7&since=soon").await?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(
        status == StatusCode::BAD_REQUEST
            && detail.contains("cursor:")
            && detail.contains("since:"),
        "{problem}"
    );
    let (code, listed, _) =
        postrider(&["orders", "list", "--json", "--customer", "1", "--url", &host.client.url])
            .await?;
    assert_eq!((code, listed.lines().count()), (0, 2), "{listed}");
    host.client.post("/stages/shipping/resume", &json!({})).await?;
    host.client.wait_for_status("a", "ready").await?;
    host.stop().await
}

async fn idempotency_key_belongs_to_one_request(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let order = |total: u32| json!({ "user_id": "1", "items": ["Book"], "total": total });
    let post = async |path: &str, body: &Value, key: &str| {
        host.client.post_with_header(path, body, ("idempotency-key", key)).await
    };
    let (status, first) = post("/orders", &order(1), "k-1").await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    host.client.wait_for_status(first["order_id"].as_str().context("an id")?, "ready").await?;
    // The order has progressed; the response is that of the first request.
    assert_eq!(post("/orders", &order(1), "\"k-1\"").await?, (StatusCode::ACCEPTED, first));
    let (status, problem) = post("/orders", &order(2), "k-1").await?;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/problems/idempotency-key-reused"))
    );
    let named = json!({ "order_id": "named", "user_id": "1", "items": ["Book"], "total": 1 });
    assert_eq!(
        post("/orders", &named, "k-1").await?.0,
        StatusCode::UNPROCESSABLE_ENTITY,
        "also when the body names another order"
    );
    for key in ["", "two words", &"x".repeat(129), "a\"b"] {
        let (status, problem) = post("/orders", &order(1), key).await?;
        assert_eq!(
            (status, &problem["type"]),
            (StatusCode::BAD_REQUEST, &json!("/problems/invalid-header")),
            "{key}"
        );
    }
    // The key of an event: the same rules, and a space of its own.
    for (path, body, expected) in [
        ("/events/desk.note", json!({ "n": 1 }), StatusCode::ACCEPTED),
        ("/events/desk.note", json!({ "n": 1 }), StatusCode::ACCEPTED),
        ("/events/desk.note", json!({ "n": 2 }), StatusCode::UNPROCESSABLE_ENTITY),
        ("/events/other.kind", json!({ "n": 1 }), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        for key in ["k-3", "order-777", "stock-k-2"] {
            let (status, answer) = post(path, &body, key).await?;
            assert_eq!(status, expected, "{key}: {answer}");
        }
    }
    assert_eq!(log(&host.client, "type=desk.note").await?.len(), 3);
    let named = json!({ "order_id": "777", "items": ["Book"] });
    assert_eq!(host.client.post("/orders", &named).await?.0, StatusCode::ACCEPTED);
    host.client.wait_for_status("777", "ready").await?;
    let stock = |quantity: u32| json!({ "sku": "Lamp", "stock": quantity });
    for (quantity, expected) in [
        (1, StatusCode::ACCEPTED),
        (1, StatusCode::ACCEPTED),
        (2, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        assert_eq!(post("/products", &stock(quantity), "k-2").await?.0, expected);
    }
    assert_eq!(log(&host.client, "type=product.stocked").await?.len(), 1);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_routes_are_neither_ids_nor_types() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start().await?;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", host.client.url);
    for (method, path, expected, allowed) in [
        (Method::GET, "/events/import", 405, Some("POST")),
        (Method::DELETE, "/events/import", 405, Some("POST")),
        (Method::POST, "/events/export", 405, Some("GET,HEAD")),
        (Method::POST, "/api/v1/events/export", 405, Some("GET,HEAD")),
        (Method::GET, "/api/v1/events/import", 404, None),
        (Method::POST, "/api/v1/events/import", 404, None),
    ] {
        let response = http.request(method.clone(), url(path)).send().await?;
        let allow = response.headers().get("allow").and_then(|value| value.to_str().ok());
        assert_eq!(allow, allowed, "{method} {path}");
        assert_eq!(response.status(), expected, "{method} {path}");
        let problem: Value = response.json().await?;
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(path)), "{problem}");
    }
    for id in ["import", "export"] {
        let event = json!({ "specversion": "1.0", "id": id, "source": "/d", "type": "desk.note" });
        let response = http
            .post(url("/events"))
            .header("content-type", "application/cloudevents+json")
            .body(event.to_string())
            .send()
            .await?;
        let location = response.headers()["location"].to_str()?.to_owned();
        let (status, shown) = host.client.get(&location).await?;
        assert_eq!((status, &shown["id"]), (StatusCode::OK, &json!(id)), "{location}: {shown}");
    }
    host.stop().await
}
