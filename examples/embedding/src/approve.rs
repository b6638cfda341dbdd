//! A stage that is a Rust value.

use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use serde::{Deserialize, Serialize};

/// What the shop submits: any type that serialises to an order.
#[derive(Debug, Clone, Serialize)]
pub struct Order {
    pub order_id: String,
    pub user_id: String,
    pub items: Vec<&'static str>,
    pub total: f64,
}

impl Order {
    pub fn of_a_book(id: &str) -> Self {
        Self { order_id: id.to_owned(), user_id: "42".to_owned(), items: vec!["Book"], total: 20.0 }
    }
}

/// What the stage emits, and what a stream reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Approved {
    pub order_id: String,
    pub by: String,
}

/// Approves every order.
pub struct Approve;

#[async_trait]
impl NativeStage for Approve {
    fn describe(&self) -> Description {
        Description::new("approve", "1.0.0", "Approves every order")
            .consumes(["order.created"])
            .emits(["shop.approved"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        // In the span of the call, which is in that of the host, which is in the program's.
        tracing::info!(order = event.subject, "approving");
        let approved = Approved { order_id: event.subject.clone(), by: "the shop".to_owned() };
        Ok(vec![Emitted::json("shop.approved", &serde_json::json!(approved))])
    }
}
