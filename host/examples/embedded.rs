//! A program with a pipeline inside: one native stage, one order, and its way to the end.
//!
//! Run it with `cargo run -p postrider --example embedded`.

use async_trait::async_trait;
use postrider::config::Config;
use postrider::event::Event;
use postrider::handler::{Description, Emitted, NativeContext, NativeError, NativeStage};
use postrider::host::Host;
use serde_json::json;

/// Approves every order.
struct Approve;

#[async_trait]
impl NativeStage for Approve {
    fn describe(&self) -> Description {
        Description {
            name: "approve".into(),
            version: "1.0.0".into(),
            summary: "Approves every order".into(),
            consumes: vec!["order.created".into()],
            emits: vec!["payment.authorized".into()],
            attributes: vec![],
        }
    }

    async fn handle(&self, _: &mut NativeContext, event: &Event) -> Result<Vec<Emitted>, NativeError> {
        println!("approving order {}", event.subject);
        Ok(vec![Emitted {
            event_type: "payment.authorized".into(),
            content_type: event.content_type.clone(),
            data: event.data.clone(),
            subject: None,
            delay_ms: 0,
            attributes: vec![],
        }])
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("plugins"))?;
    let mut config = Config::default();
    config.store.url = format!("sqlite:{}/orders.db", folder.path().display());
    config.plugins.dir = folder.path().join("plugins");
    config.http.listen = "127.0.0.1:0".into();

    let host = Host::builder(config).stage(Approve).build().await?;
    host.submit(json!({ "order_id": "1", "user_id": "42", "items": ["Book"] })).await?;
    let app = host.app();
    host.run_until(async move {
        while app.status("1").await.ok().flatten().as_deref() != Some("authorized") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        println!("order 1 is authorized");
    })
    .await
}
