//! Cancels at every point of an order's processing: each completed step is compensated once, no
//! further step runs, and a dispatched order can no longer be cancelled.

use anyhow::{Result, ensure};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use rand::RngExt as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};

on_both_back_ends![
    cancel_is_idempotent_and_explains_a_refusal,
    cancel_before_any_stage_compensates_exactly_what_was_done,
    cancel_ends_a_pending_retry,
    order_with_a_dead_lettered_payment_can_be_cancelled,
    cancel_recalls_a_ready_order_and_refuses_a_dispatched_one,
    cancel_and_a_concurrent_event_never_both_win,
];

const STOCK: &str = "[stages.inventory.settings]\ndefault_stock = \"1000\"\n";

/// Dispatches ready orders once `may_collect` is set.
struct Carrier {
    may_collect: watch::Receiver<bool>,
}

#[async_trait]
impl NativeStage for Carrier {
    fn describe(&self) -> Description {
        Description::new("carrier", "1.0.0", "Collects parcels")
            .consumes(["shipping.ready"])
            .emits(["carrier.collected"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        // The channel closes at the end of the test.
        let _ = self.may_collect.clone().wait_for(|may| *may).await;
        Ok(vec![Emitted::json("carrier.collected", &json!({}))])
    }
}

async fn start_with_carrier(env: &TestEnv) -> Result<(RunningHost, watch::Sender<bool>)> {
    let (collect, may_collect) = watch::channel(false);
    Ok((env.start_with(|builder| builder.stage(Carrier { may_collect })).await?, collect))
}

async fn order(client: &Client, id: &str) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": "1", "items": [{ "sku": "Lamp", "quantity": 2 }], "total": 30 });
    ensure!(client.post("/orders", &order).await?.0.is_success());
    Ok(())
}

async fn cancel(client: &Client, id: &str) -> Result<(StatusCode, Value)> {
    client.post(&format!("/orders/{id}/cancel"), &json!({ "reason": "too slow" })).await
}

/// An order's events of these types, in the order of the log.
async fn event_types_of(client: &Client, id: &str, types: &[&str]) -> Result<Vec<String>> {
    let (_, events) = client.get(&format!("/orders/{id}/events?limit=200")).await?;
    let all =
        events["items"].as_array().into_iter().flatten().filter_map(|event| event["type"].as_str());
    Ok(all.filter(|event_type| types.contains(event_type)).map(str::to_owned).collect())
}

const UNDONE: [&str; 3] = ["payment.refunded", "inventory.released", "shipping.recalled"];

/// The compensations of an order, by event type.
async fn undone(client: &Client, id: &str) -> Result<Vec<String>> {
    let mut undone = event_types_of(client, id, &UNDONE).await?;
    undone.sort_unstable();
    Ok(undone)
}

/// Waits until an order has no open delivery.
async fn settled(client: &Client, id: &str) -> Result<Value> {
    eventually(&format!("order {id} to be settled"), || async {
        let (_, order) = client.get(&format!("/orders/{id}")).await?;
        let open = order["timeline"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|delivery| delivery["status"] == "open");
        Ok((!open).then_some(order))
    })
    .await
}

async fn available_lamps(client: &Client) -> Result<Option<i64>> {
    Ok(client.get("/products/Lamp").await?.1["available"].as_i64())
}

async fn cancel_is_idempotent_and_explains_a_refusal(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, STOCK).await?;
    let host = env.start().await?;
    let client = &host.client;
    assert_eq!(
        client.get("/topology").await?.1["warnings"],
        json!([]),
        "every consumed event type is emitted"
    );
    assert_eq!(cancel(client, "1").await?.0, StatusCode::NOT_FOUND);
    client.post("/stages/payment/pause", &json!({})).await?;
    order(client, "1").await?;
    // Without a body, and under the other path prefix.
    let (status, begun) =
        client.post_raw("/api/v1/orders/1/cancel", "application/json", "").await?;
    assert_eq!(
        (status, begun["order_id"].as_str(), begun["status"].as_str()),
        (StatusCode::ACCEPTED, Some("1"), Some("cancelling"))
    );
    assert_eq!(cancel(client, "1").await?, (StatusCode::ACCEPTED, begun));
    client.post("/stages/payment/resume", &json!({})).await?;
    client.wait_for_status("1", "cancelled").await?;
    let (status, done) = cancel(client, "1").await?;
    assert_eq!((status, done["status"].as_str()), (StatusCode::OK, Some("cancelled")));
    assert_eq!(event_types_of(client, "1", &["order.cancelled"]).await?.len(), 1);

    let (status, problem) =
        client.post("/orders/1/cancel", &json!({ "reason": 7, "why": "x" })).await?;
    let pointers: Vec<_> = problem["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|error| error["pointer"].clone())
        .collect();
    assert_eq!(
        (status, pointers),
        (StatusCode::UNPROCESSABLE_ENTITY, vec![json!("/why"), json!("/reason")]),
        "{problem}"
    );

    let declined =
        json!({ "order_id": "2", "user_id": "1", "items": ["Lamp"], "total": 1, "decline": true });
    client.post("/orders", &declined).await?;
    client.wait_for_status("2", "declined").await?;
    let (status, problem) = cancel(client, "2").await?;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::CONFLICT, Some("/problems/subject-not-cancellable"))
    );
    let expected = "order `2` is `declined`; it can be cancelled while it is `received`, `authorized`, `reserved`, `ready` or `failed`";
    assert_eq!(problem["detail"], expected);
    host.stop().await
}

/// The paused stage, the expected compensations, and the remaining lamps.
type Point = (&'static str, &'static [&'static str]);

async fn cancel_before_any_stage_compensates_exactly_what_was_done(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, STOCK).await?;
    let host = env.start().await?;
    let client = &host.client;
    let points: [Point; 4] = [
        ("payment", &[]),
        ("inventory", &["payment.refunded"]),
        ("shipping", &["inventory.released", "payment.refunded"]),
        ("notification", &["inventory.released", "payment.refunded", "shipping.recalled"]),
    ];
    for ((stage, expected), before) in
        points.into_iter().zip(["received", "authorized", "reserved", "ready"])
    {
        client.post(&format!("/stages/{stage}/pause"), &json!({})).await?;
        order(client, stage).await?;
        client.wait_for_status(stage, before).await?;
        assert_eq!(cancel(client, stage).await?.0, StatusCode::ACCEPTED);
        client.post(&format!("/stages/{stage}/resume"), &json!({})).await?;
        client.wait_for_status(stage, "cancelled").await?;
        let history = settled(client, stage).await?;
        assert_eq!(undone(client, stage).await?, expected, "cancelled before {stage}");
        let held = history["timeline"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["stage"] == stage && one["status"] == "skipped");
        assert!(held.is_some(), "what waited for {stage} was skipped: {history}");
        let (_, events) = client.get(&format!("/orders/{stage}/events?limit=200")).await?;
        let notices: Vec<_> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| event["data"]["kind"] == "cancellation")
            .collect();
        assert_eq!(notices.len(), 1, "one cancellation notice: {events}");
        assert_eq!(available_lamps(client).await?.unwrap_or(1_000), 1_000);
    }
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    host.stop().await
}

async fn cancel_ends_a_pending_retry(backend: Backend) -> Result<()> {
    let slow = "[stages.payment.retry]\nmax_attempts = 3\ninitial_ms = 1500\njitter = 0.0\n";
    let env = TestEnv::shipped_on(backend, slow).await?;
    let host = env.start().await?;
    let client = &host.client;
    let failing = json!({ "order_id": "1", "user_id": "1", "items": ["Lamp"], "total": 1, "force_fail": true });
    client.post("/orders", &failing).await?;
    eventually("a failed attempt", || async {
        Ok((env.query_count("SELECT count(*) FROM attempts").await? == 1).then_some(()))
    })
    .await?;
    assert_eq!(cancel(client, "1").await?.0, StatusCode::ACCEPTED);
    // A pending retry does not delay the cancel, because it is no compensation.
    client.wait_for_status("1", "cancelled").await?;
    let history = settled(client, "1").await?;
    assert_eq!(
        (&history["timeline"][0]["stage"], &history["timeline"][0]["status"]),
        (&json!("payment"), &json!("skipped")),
        "{history}"
    );
    assert_eq!(history["status"], "cancelled");
    assert_eq!(undone(client, "1").await?, Vec::<String>::new());
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    host.stop().await
}

async fn order_with_a_dead_lettered_payment_can_be_cancelled(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, "[stages.payment.retry]\nmax_attempts = 1\n").await?;
    let host = env.start().await?;
    let client = &host.client;
    let failing = json!({ "order_id": "1", "user_id": "1", "items": ["Lamp"], "total": 1, "force_fail": true });
    client.post("/orders", &failing).await?;
    client.wait_for_status("1", "failed").await?;
    assert_eq!(cancel(client, "1").await?.0, StatusCode::ACCEPTED);
    client.wait_for_status("1", "cancelled").await?;
    // A later replay charges no payment.
    let (_, dead_letters) = client.get("/dead-letters?status=open").await?;
    let dead_letter = &dead_letters["items"][0]["id"];
    let corrected = json!({ "data": { "order_id": "1", "items": [{ "sku": "Lamp", "quantity": 1 }], "total": 1 } });
    assert!(
        client
            .post(&format!("/dead-letters/{dead_letter}/replay"), &corrected)
            .await?
            .0
            .is_success()
    );
    let history = settled(client, "1").await?;
    assert_eq!(history["status"], "cancelled");
    assert_eq!(
        event_types_of(client, "1", &["payment.authorized"]).await?,
        Vec::<String>::new(),
        "{history}"
    );
    host.stop().await
}

async fn cancel_recalls_a_ready_order_and_refuses_a_dispatched_one(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, STOCK).await?;
    let (host, collect) = start_with_carrier(&env).await?;
    let client = &host.client;
    order(client, "1").await?;
    client.wait_for_status("1", "ready").await?;
    assert_eq!(cancel(client, "1").await?.0, StatusCode::ACCEPTED);
    client.wait_for_status("1", "cancelled").await?;
    // The carrier arrives after the cancel.
    collect.send(true)?;
    assert_eq!(settled(client, "1").await?["status"], "cancelled");
    assert_eq!(
        undone(client, "1").await?,
        ["inventory.released", "payment.refunded", "shipping.recalled"]
    );
    assert_eq!(
        event_types_of(client, "1", &["carrier.collected", "shipping.dispatched"]).await?,
        Vec::<String>::new()
    );

    order(client, "2").await?;
    client.wait_for_status("2", "dispatched").await?;
    for _twice in 0..2 {
        let (status, problem) = cancel(client, "2").await?;
        assert_eq!(
            (status, problem["type"].as_str()),
            (StatusCode::CONFLICT, Some("/problems/subject-not-cancellable"))
        );
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("`dispatched`")),
            "{problem}"
        );
    }
    assert_eq!(settled(client, "2").await?["status"], "dispatched");
    assert_eq!(undone(client, "2").await?, Vec::<String>::new());
    assert_eq!(available_lamps(client).await?, Some(998));
    host.stop().await
}

/// Posts an order and, after a while, sends two concurrent cancels. Returns whether it was
/// cancelled.
async fn order_and_cancel(client: Client, id: String, patience: u32) -> Result<bool> {
    order(&client, &id).await?;
    for _ in 0..patience {
        client.get(&format!("/orders/{id}")).await?;
    }
    let (one, other) = tokio::try_join!(cancel(&client, &id), cancel(&client, &id))?;
    let won = |answer: &(StatusCode, Value)| answer.0.is_success();
    ensure!(won(&one) == won(&other), "two cancels of {id}: {one:?} and {other:?}");
    ensure!(won(&one) || one.0 == StatusCode::CONFLICT, "cancel of {id}: {one:?}");
    Ok(won(&one))
}

async fn cancel_and_a_concurrent_event_never_both_win(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, STOCK).await?;
    let (host, collect) = start_with_carrier(&env).await?;
    collect.send(true)?;
    let mut orders = tokio::task::JoinSet::new();
    for number in 0..150 {
        let (client, id) = (host.client.clone(), format!("r-{number}"));
        let patience = rand::rng().random_range(0..25);
        orders.spawn(async move {
            Ok::<_, anyhow::Error>((order_and_cancel(client, id.clone(), patience).await?, id))
        });
    }
    let mut dispatched = 0;
    while let Some(done) = orders.join_next().await {
        let (cancelled, id) = done??;
        dispatched += i64::from(!cancelled);
        host.client
            .wait_for_status(&id, if cancelled { "cancelled" } else { "dispatched" })
            .await?;
        settled(&host.client, &id).await?;
    }
    println!("{backend:?}: {dispatched} of 150 were dispatched before they were cancelled");
    for query in [
        "SELECT count(*) FROM (SELECT subject_key FROM events WHERE type <> 'notification.sent' GROUP BY subject_key, type HAVING count(*) > 1) twice",
        "SELECT count(*) FROM subjects s JOIN events e ON e.subject_key = s.key WHERE s.status = 'cancelled' AND e.type = 'shipping.dispatched'",
        "SELECT count(*) FROM subjects s JOIN events e ON e.subject_key = s.key WHERE s.status = 'dispatched' AND e.type = 'payment.refunded'",
        "SELECT count(*) FROM dead_letters",
    ] {
        assert_eq!(env.query_count(query).await?, 0, "{query}");
    }
    let paid =
        env.query_count("SELECT count(*) FROM events WHERE type = 'payment.authorized'").await?;
    let refunded =
        env.query_count("SELECT count(*) FROM events WHERE type = 'payment.refunded'").await?;
    assert_eq!(paid - refunded, dispatched, "only what was dispatched is paid for");
    assert_eq!(
        available_lamps(&host.client).await?.unwrap_or(1_000),
        1_000 - 2 * dispatched,
        "only what was dispatched left the stock"
    );
    host.stop().await
}
