//! A program with a pipeline inside: one native stage, one order, and its way to the end.
//!
//! Run it with `cargo run -p postrider --example embedded`.

use async_trait::async_trait;
use postrider::{
    Config, Description, Emitted, Event, Host, NativeContext, NativeError, NativeStage,
};
use serde_json::json;

/// Approves every order.
struct Approve;

#[async_trait]
impl NativeStage for Approve {
    fn describe(&self) -> Description {
        Description::new("approve", "1.0.0", "Approves every order")
            .consumes(["order.created"])
            .emits(["payment.authorized"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        println!("approving order {}", event.subject);
        Ok(vec![Emitted::json("payment.authorized", &json!({ "order_id": event.subject }))])
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let mut config = Config::default();
    config.store.url = format!("sqlite:{}/orders.db", folder.path().display());

    let host = Host::builder().config(config).stage(Approve).build().await?;
    let handle = host.start()?;
    let order = json!({ "order_id": "1", "user_id": "42", "items": ["Book"] });
    let order = handle.submit("order", order).await?.into_subject();
    println!("{} is {}", order.key, order.status);
    while handle.app().status(&order.key).await?.as_deref() != Some("authorized") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    println!("{} is authorized", order.key);
    handle.shutdown().await?;
    Ok(())
}
