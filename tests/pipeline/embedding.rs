//! The library as an embedder uses it: a native stage beside sandboxed ones, and orders submitted
//! in the process.

use anyhow::Result;
use async_trait::async_trait;
use postrider::{
    Description, Emitted, Event, Host, NativeContext, NativeError, NativeStage, SubmitError,
    Submitted,
};
use serde_json::json;

use crate::support::harness::{TestEnv, eventually};

/// Counts shipments per customer in its own state.
struct Loyalty;

#[async_trait]
impl NativeStage for Loyalty {
    fn describe(&self) -> Description {
        Description::new("loyalty", "1.0.0", "Counts shipments")
            .consumes(["shipping.ready"])
            .emits(["loyalty.counted"])
    }

    async fn handle(&self, cx: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        let count = cx
            .state
            .get("count")
            .await?
            .map_or(0, |bytes| String::from_utf8_lossy(&bytes).parse().unwrap_or(0))
            + 1;
        cx.state.set("count".into(), count.to_string().into())?;
        Ok(vec![Emitted::json("loyalty.counted", &json!({ "count": count }))])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_stage_shares_the_pipeline_with_sandboxed_stages() -> Result<()> {
    let env = TestEnv::shipped("[stages.inventory.settings]\ndefault_stock = \"100\"\n")?;
    let host = env.start_with(|builder| builder.stage(Loyalty)).await?;
    for id in 0..20 {
        host.client
            .post(
                "/orders",
                &json!({ "order_id": format!("n-{id}"), "user_id": "1", "items": ["Book"] }),
            )
            .await?;
    }
    let mut counts = Vec::new();
    for id in 0..20 {
        let count = eventually("the count", || async {
            let (_, events) = host.client.get(&format!("/orders/n-{id}/events")).await?;
            let counted = events["items"].as_array().and_then(|all| {
                all.iter().find(|event| event["type"] == "loyalty.counted").cloned()
            });
            Ok(counted.and_then(|event| event["data"]["count"].as_i64()))
        })
        .await?;
        counts.push(count);
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>(), "each shipment was counted once");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submit_reports_a_conflicting_order_as_an_error() -> Result<()> {
    let env = TestEnv::empty("")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let host = Host::builder().config(env.config()?).listener(listener).build().await?;
    let order = json!({ "order_id": "1", "items": ["Book"] });
    assert!(matches!(host.submit("order", order.clone()).await?, Submitted::New(_)));
    let Submitted::Duplicate(stored) = host.submit("order", order).await? else {
        panic!("the same order is a duplicate")
    };
    assert_eq!(stored.id(), "1");
    let other = host.submit("order", json!({ "order_id": "1", "items": ["Lamp"] })).await;
    assert!(matches!(&other, Err(SubmitError::Conflict { key }) if key.id() == "1"), "{other:?}");
    let invalid = host.submit("order", json!({ "order_id": "2" })).await;
    assert!(matches!(&invalid, Err(SubmitError::Invalid(_))), "{invalid:?}");
    Ok(host.run_until(async {}).await?)
}
