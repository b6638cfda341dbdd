//! What other programs may send: the same over HTTP and AMQP, and nothing that reschedules the events of
//! others.

use anyhow::{Context as _, Result};
use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{
    ATTEMPT, CONFIG, Outsider, ROUND, Route, dead_letters, drain, drained, order, seen, with,
};
use crate::support::harness::{Backend, RunningHost, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;

/// What an outsider may not send, over HTTP and AMQP alike, and what the answer says.
async fn refused(host: &RunningHost, outsider: &Outsider, event: &Value, why: &str) -> Result<()> {
    let (status, problem) =
        host.client.post_raw("/events", "application/cloudevents+json", event.to_string()).await?;
    assert_eq!(status.as_u16(), 422, "{event}: {problem}");
    assert!(problem["errors"].to_string().contains(why), "{event}: {problem}");
    let known = host.client.get_all("/dead-letters?limit=200").await?.len();
    let structured =
        BasicProperties::default().with_content_type("application/cloudevents+json".into());
    let body = event.to_string();
    outsider.send(Route::Queue("payment"), structured, body.as_bytes()).await?;
    let found = dead_letters(&host.client, known + 1).await?;
    let message = found[0]["message"].as_str().unwrap_or_default();
    assert!(message.contains(why), "{event}: {message}");
    assert_eq!(found[0]["code"], "unreadable", "{event}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outsiders_send_what_is_allowed_over_http_and_amqp_alike() -> Result<()> {
    let allow = "ingress.allow = [\"desk.*\", \"shipping.dispatched\", { types = [\"carrier.#\"], \
                 sources = [\"/carrier/*\"] }]\n";
    let config = format!("{allow}{CONFIG}{AMPLE_STOCK}");
    let env = TestEnv::shipped_on(Backend::Servers, &config).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(env.servers.as_ref().context("servers")?).await?;
    let api = format!("/{}/api", outsider.namespace);
    let event = |event_type: &str, source: &str| {
        json!({ "specversion": "1.0", "id": event_type, "source": source, "type": event_type,
            "subject": "A", "data": {} })
    };
    order(&host.client, "A", json!({ "force_fail": true })).await?;
    let open = "SELECT count(*) FROM deliveries WHERE status = 'open' AND attempt = 2";
    eventually("the attempt", || async { Ok((env.query_count(open).await? == 1).then_some(())) })
        .await?;
    let before = seen(&host.client, "A").await?;
    for (event_type, source, why) in [
        ("payment.authorized", "/bank", "names the type in full"),
        ("order.cancelled", "/desk", "names the type in full"),
        ("inventory.released", "/warehouse", "names the type in full"),
        ("product.stocked", "/warehouse", "names the type in full"),
        ("other.type", "/desk", "has no pattern"),
        ("carrier.collected", "/desk", "has no source"),
        ("desk.note", &api, "is a source of the host"),
        ("postrider.dead-lettered", "/desk", "types that start with"),
    ] {
        refused(&host, &outsider, &event(event_type, source), why).await?;
    }
    let path = "/events/payment.authorized";
    let (status, problem) = host.client.post(path, &json!({})).await?;
    assert_eq!(status.as_u16(), 422, "{problem}");
    assert_eq!(seen(&host.client, "A").await?, before);
    for (event_type, source) in
        [("desk.note", "/desk"), ("carrier.collected", "/carrier/7"), ("shipping.dispatched", "/x")]
    {
        let body = event(event_type, source).to_string();
        let (status, answer) =
            host.client.post_raw("/events", "application/cloudevents+json", body).await?;
        assert!(status.is_success(), "{event_type}: {answer}");
    }
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outsiders_do_not_reschedule_the_events_of_others() -> Result<()> {
    let desk = "[stages.notification.settings]\nreceipt_on = \"desk.note\"\n";
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{CONFIG}{desk}")).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(env.servers.as_ref().context("servers")?).await?;
    let mut event = json!({ "specversion": "1.0", "id": "later", "source": "/desk",
        "type": "desk.note", "data": {} });
    let scheduled =
        host.client.post_with_header("/events/desk.note", &json!({}), ("delay", "1h")).await?;
    assert!(scheduled.0.is_success(), "{scheduled:?}");
    let (_, logged) = host.client.get("/events?type=desk.note").await?;
    let logged = logged["items"][0].clone();
    // The same event, now, in another chain.
    event["id"] = logged["id"].clone();
    event["source"] = logged["source"].clone();
    event["postridercorrelation"] = json!("another");
    let structured =
        BasicProperties::default().with_content_type("application/cloudevents+json".into());
    let body = event.to_string();
    outsider.send(Route::Events("desk.note"), structured, body.as_bytes()).await?;
    drained(&env, &["notification"]).await?;
    let (_, deliveries) = host.client.get("/events?type=desk.note").await?;
    assert_eq!(deliveries["items"].as_array().map(Vec::len), Some(1), "{deliveries}");
    let waiting = "SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event_seq \
                   WHERE d.status = 'open' AND e.due_ms > d.created_ms + 3000000";
    assert_eq!(env.query_count(waiting).await?, 1);
    assert_eq!(dead_letters(&host.client, 0).await?, Vec::<Value>::new());
    outsider.close().await?;
    host.stop().await
}

/// They are not those of a host without the header that every message of a host has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_hosts_mean_nothing_in_events_of_outsiders() -> Result<()> {
    const EVENTS: i64 = 7;
    let desk = "[stages.notification.settings]\nreceipt_on = \"desk.note\"\n";
    let config = format!("{CONFIG}{AMPLE_STOCK}{desk}");
    let env = TestEnv::shipped_on(Backend::Servers, &config).await?;
    let host = env.start_consuming().await?;
    let client = &host.client;
    let outsider = Outsider::connect(env.servers.as_ref().context("servers")?).await?;
    drain(client, "notification").await?;
    for (id, name, value) in [
        // Two copies of one event, which are in one batch.
        ("twice", ATTEMPT, "1"),
        ("twice", ATTEMPT, "2"),
        ("late", ATTEMPT, "1000000"),
        ("replayed", ROUND, "7"),
        ("replayed-often", ROUND, "1000000"),
        ("expired", "postrider-expires-ms", "1"),
        ("far", "postrider-hops", "1000000"),
        ("of-an-order", "postrider-subject", "order/A"),
    ] {
        let attributes =
            [("specversion", "1.0"), ("id", id), ("source", "/desk"), ("type", "desk.note")];
        let names = attributes.map(|(name, _)| format!("cloudEvents_{name}"));
        let mut headers = vec![(name, Some(value))];
        headers
            .extend(names.iter().zip(attributes).map(|(name, (_, value))| (&**name, Some(value))));
        let properties = BasicProperties::default().with_content_type("application/json".into());
        outsider.send(Route::Events("desk.note"), with(&properties, &headers), b"{}").await?;
    }
    order(client, "A", json!({})).await?;
    client.post("/stages/notification/resume", &json!({})).await?;
    client.wait_for_status("A", "ready").await?;
    let first = "SELECT count(*) FROM deliveries d JOIN events e ON e.seq = d.event_seq WHERE \
                 e.source = '/desk' AND d.status = 'done' AND d.round = 1 AND d.attempt = 1";
    eventually("the events", || async {
        Ok((env.query_count(first).await? == EVENTS).then_some(()))
    })
    .await?;
    drained(&env, &["notification"]).await?;
    let all = "SELECT count(*) FROM events WHERE source = '/desk' AND subject_key IS NULL";
    assert_eq!(env.query_count(all).await?, EVENTS);
    assert_eq!(dead_letters(client, 0).await?, Vec::<Value>::new());
    outsider.close().await?;
    host.stop().await
}
