//! Forged messages become dead letters with the reason, in a bounded number, and no order changes.

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::message::Delivery;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use serde_json::json;

use super::{
    ATTEMPT, CONFIG, Outsider, ROUND, Route, SIGNATURE, dead_letters, drained, order, seen, with,
};
use crate::support::harness::{Backend, TestEnv, eventually};
use crate::support::load::AMPLE_STOCK;

/// A stage with every event in its queue, so that each forged message reaches one.
struct Everything;

#[async_trait]
impl NativeStage for Everything {
    fn describe(&self) -> Description {
        Description::new("audit", "1.0.0", "Receives everything").consumes(["#"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        Ok(vec![])
    }
}

/// A forgery: what a forger changes in a genuine message, or makes up.
struct Forgery {
    name: String,
    properties: BasicProperties,
    body: Vec<u8>,
    /// What the dead letter says.
    expected: &'static str,
}

/// Headers and their values; those without one are removed.
type Changes<'a> = Vec<(&'a str, Option<&'a str>)>;

const UNSIGNED: &str = "it has no signature";
const CHANGED: &str = "its signature does not match";

/// Every field of a host's message that a forger may choose: without a signature, and under the
/// signature of the genuine message. Genuine: the first event of the order `A`.
#[expect(clippy::too_many_lines, reason = "a table with a line for each field")]
fn forgeries(genuine: &Delivery, namespace: &str) -> Vec<Forgery> {
    let api = format!("/{namespace}/api");
    let payment = format!("/{namespace}/stages/payment");
    let cheap = br#"{"order_id":"A","items":[{"sku":"Book","quantity":1}],"total":0.01}"#;
    let own = genuine.data.clone();
    let fields: Vec<(&str, Changes<'_>, Vec<u8>)> = vec![
        ("another body", vec![], cheap.to_vec()),
        ("an empty body", vec![], Vec::new()),
        ("an attempt", vec![(ATTEMPT, Some("2"))], cheap.to_vec()),
        ("a late attempt", vec![(ATTEMPT, Some("1000000"))], own.clone()),
        ("an attempt that is no number", vec![(ATTEMPT, Some("x"))], own.clone()),
        ("a round", vec![(ROUND, Some("7"))], own.clone()),
        ("an expiry", vec![("postrider-expires-ms", Some("1"))], own.clone()),
        ("no expiry", vec![("postrider-expires-ms", None)], own.clone()),
        ("hops", vec![("postrider-hops", Some("63"))], own.clone()),
        ("a subject", vec![("postrider-subject", Some("order/B"))], own.clone()),
        ("no subject", vec![("postrider-subject", None)], own.clone()),
        ("a correlation", vec![("postrider-correlation", Some("order-B"))], own.clone()),
        (
            "a cause",
            vec![("postrider-cause-source", Some(&*api)), ("postrider-cause-id", Some("order-B"))],
            own.clone(),
        ),
        ("the id of an order to come", vec![("cloudEvents_id", Some("order-C"))], own.clone()),
        ("another source", vec![("cloudEvents_source", Some(&*payment))], own.clone()),
        ("a source of others", vec![("cloudEvents_source", Some("/desk"))], own.clone()),
        ("another type", vec![("cloudEvents_type", Some("order.cancelled"))], own.clone()),
        ("another subject", vec![("cloudEvents_subject", Some("B"))], own.clone()),
        (
            "a payment",
            vec![
                ("cloudEvents_id", Some("forged")),
                ("cloudEvents_source", Some(&*payment)),
                ("cloudEvents_type", Some("payment.authorized")),
            ],
            own.clone(),
        ),
        (
            "an event of the host",
            vec![
                ("cloudEvents_id", Some("forged")),
                ("cloudEvents_source", Some(&*payment)),
                ("cloudEvents_type", Some("postrider.dead-lettered")),
            ],
            own.clone(),
        ),
        ("an attribute", vec![("cloudEvents_zone", Some("x"))], own.clone()),
        ("another time", vec![("cloudEvents_time", Some("2020-01-01T00:00:00Z"))], cheap.to_vec()),
        ("no id", vec![("cloudEvents_id", None)], own.clone()),
        ("an event that cannot be sent", vec![("postrider-unsendable", Some("x"))], cheap.to_vec()),
    ];
    let mut forgeries = Vec::new();
    for (name, mut changes, body) in fields {
        let forged = Forgery {
            name: format!("{name}, signed"),
            properties: with(&genuine.properties, &changes),
            body: body.clone(),
            expected: CHANGED,
        };
        forgeries.push(forged);
        changes.push((SIGNATURE, None));
        let properties = with(&genuine.properties, &changes);
        forgeries.push(Forgery { name: name.to_owned(), properties, body, expected: UNSIGNED });
    }
    for (name, signature, expected) in [
        ("another tag", "00000000.AAAAAAAAAAAAAAAAAAAAAA", "that the store does not have"),
        ("no tag", "garbage", "not one that hosts make"),
    ] {
        let changes = [(SIGNATURE, Some(signature)), ("postrider-hops", Some("1"))];
        let properties = with(&genuine.properties, &changes);
        forgeries.push(Forgery { name: name.to_owned(), properties, body: own.clone(), expected });
    }
    forgeries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_messages_become_dead_letters_and_change_no_order() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{CONFIG}{AMPLE_STOCK}")).await?;
    let host = env.start_with(|builder| builder.stage(Everything)).await?;
    let client = &host.client;
    let outsider = Outsider::connect(env.servers.as_ref().context("servers")?).await?;
    // One order waits for its next attempt, one is done, and one will come.
    order(client, "A", json!({ "total": 5000, "force_fail": true })).await?;
    order(client, "B", json!({})).await?;
    client.wait_for_status("B", "ready").await?;
    let genuine = outsider.capture("order-A").await?;
    let open = "SELECT count(*) FROM deliveries WHERE stage = 'payment' AND status = 'open' AND attempt = 2";
    eventually("the next attempt", || async {
        Ok((env.query_count(open).await? == 1).then_some(()))
    })
    .await?;
    let nothing = "SELECT count(*) FROM deliveries WHERE status = 'open'";
    eventually("the others", || async { Ok((env.query_count(nothing).await? == 1).then_some(())) })
        .await?;
    let before = [seen(client, "A").await?, seen(client, "B").await?];

    // Each of them straight to the stage's queue, and to every stage that is bound to the routing key.
    let forgeries = forgeries(&genuine, &outsider.namespace);
    for forgery in &forgeries {
        let properties = forgery.properties.clone().with_user_id("guest".into());
        outsider.send(Route::Queue("payment"), properties.clone(), &forgery.body).await?;
        outsider.send(Route::Events("desk.note"), properties, &forgery.body).await?;
    }
    let found = dead_letters(client, forgeries.len() * 2).await?;
    drained(&env, &["payment", "audit"]).await?;
    assert_eq!(found.len(), forgeries.len() * 2, "{found:#?}");
    for stage in ["payment", "audit"] {
        let said: Vec<&str> = found
            .iter()
            .filter(|one| one["stage"] == stage && one["code"] == "forged")
            .filter_map(|one| one["message"].as_str())
            .collect();
        for expected in
            [UNSIGNED, CHANGED, "that the store does not have", "not one that hosts make"]
        {
            let count =
                |texts: &[&str]| texts.iter().filter(|text| text.contains(expected)).count();
            let wanted = forgeries.iter().filter(|one| one.expected == expected).count();
            assert_eq!(count(&said), wanted, "{stage}: {expected}: {said:#?}");
        }
    }
    for one in &found {
        assert!(one["subject_key"].is_null() && one["code"] == "forged", "{one}");
        let attributes = &one["event"]["attributes"];
        let (exchange, key) = match one["stage"].as_str() {
            Some("payment") => (String::new(), format!("{}.stage.payment", outsider.namespace)),
            _ => (format!("{}.events", outsider.namespace), "desk.note".to_owned()),
        };
        assert_eq!(attributes["amqpexchange"], exchange, "{one}");
        assert_eq!(attributes["amqproutingkey"], key, "{one}");
        let properties = attributes["amqpproperties"].as_str().unwrap_or_default();
        assert!(properties.contains(r#""user-id":"guest""#), "{one}");
    }
    let names: Vec<&str> = forgeries.iter().map(|one| one.name.as_str()).collect();
    assert_eq!([seen(client, "A").await?, seen(client, "B").await?], before, "one of {names:?}");

    // The order to come has its own first event, and the one that waits its own body.
    order(client, "C", json!({})).await?;
    client.wait_for_status("C", "ready").await?;
    let (_, event) = client.get("/orders/A/events?limit=1").await?;
    assert_eq!(event["items"][0]["data"]["total"], 5000, "{event}");
    outsider.close().await?;
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_messages_is_bounded() -> Result<()> {
    const MAX: usize = 5;
    let config = format!("ingress.dead_letters_max = {MAX}\n{CONFIG}{AMPLE_STOCK}");
    let env = TestEnv::shipped_on(Backend::Servers, &config).await?;
    let host = env.start_consuming().await?;
    let outsider = Outsider::connect(env.servers.as_ref().context("servers")?).await?;
    for number in 0..40 {
        let headers = [("postrider-correlation", Some("x"))];
        let properties = with(&BasicProperties::default(), &headers);
        // Every other one is unreadable.
        let properties = if number % 2 == 0 { properties } else { BasicProperties::default() };
        let body = number.to_string();
        outsider.send(Route::Queue("payment"), properties, body.as_bytes()).await?;
    }
    let refused = eventually("the others to be counted", || async {
        let metrics = host.client.text("/metrics").await?;
        let refused = metrics.lines().find_map(|line| {
            line.strip_prefix("postrider_refused_messages_total{stage=\"payment\"} ")
        });
        let refused: usize = refused.context("the metric")?.parse()?;
        Ok((refused + MAX >= 40).then_some(refused))
    })
    .await?;
    assert_eq!(refused, 40 - MAX);
    assert_eq!(dead_letters(&host.client, MAX).await?.len(), MAX);
    // Orders are not held up by them.
    order(&host.client, "A", json!({})).await?;
    host.client.wait_for_status("A", "ready").await?;
    outsider.close().await?;
    host.stop().await
}
