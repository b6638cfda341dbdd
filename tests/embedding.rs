//! The library as a program uses it that runs a host inside itself.

mod configuration;
mod database;
mod events;
mod http;
mod life_cycle;
mod metrics;
mod plugins;
mod several;
mod spans;

use async_trait::async_trait;
use postrider::{
    Description, Emitted, Event, HostBuilder, NativeContext, NativeError, NativeStage,
};
use serde_json::{Value, json};

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
        tracing::info!("approving");
        Ok(vec![Emitted::json("payment.authorized", &json!({ "order_id": event.subject }))])
    }
}

/// A builder of a host with this stage and without plugins.
fn approving(builder: HostBuilder) -> HostBuilder {
    builder.stage(Approve)
}

fn order(id: &str) -> Value {
    json!({ "order_id": id, "user_id": "1", "items": ["Book"] })
}
