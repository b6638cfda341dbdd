//! `postrider orders`: submit, get, watch.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::client::{Target, read_json, text};

/// How often `watch` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Orders.
#[derive(Debug, Subcommand)]
pub(super) enum OrdersCommand {
    /// Submit an order.
    Submit {
        #[command(flatten)]
        target: Target,
        /// JSON file, or - for standard input.
        body: String,
    },
    /// Show an order and what happened to it.
    Get {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: String,
    },
    /// Cancel an order; what was done for it is undone.
    Cancel {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Follow an order's events until nothing is left to do.
    Watch {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: String,
    },
}

pub(super) async fn run(command: OrdersCommand, json: bool) -> Result<ExitCode> {
    match command {
        OrdersCommand::Submit { target, body } => {
            let answer = target.post("/orders", &read_json(&body)?).await?;
            print(&answer, json, |answer| println!("order {} is {}", text(&answer["order_id"]), text(&answer["status"])));
        }
        OrdersCommand::Get { target, id } => print(&target.get(&format!("/orders/{id}")).await?, json, story),
        OrdersCommand::Cancel { target, id, reason } => {
            let answer = target.post(&format!("/orders/{id}/cancel"), &serde_json::json!({ "reason": reason })).await?;
            print(&answer, json, |answer| println!("order {} is {}", text(&answer["order_id"]), text(&answer["status"])));
        }
        OrdersCommand::Watch { target, id } => watch(&target, &id, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(answer: &Value, json: bool, text: impl Fn(&Value)) {
    if json { println!("{answer:#}") } else { text(answer) }
}

fn story(order: &Value) {
    println!("order {} is {}", text(&order["order_id"]), text(&order["status"]));
    for step in order["timeline"].as_array().into_iter().flatten() {
        let plugin = &step["plugin"];
        println!(
            "  {:<14} {:<20} {:<8} attempt {}  {}  {} ms",
            text(&step["stage"]),
            text(&step["event"]["type"]),
            text(&step["status"]),
            step["attempt"],
            plugin["version"].as_str().unwrap_or("-"),
            step["duration_ms"]
        );
        for failure in step["failures"].as_array().into_iter().flatten() {
            println!("    attempt {}: {}: {}", failure["attempt"], text(&failure["code"]), text(&failure["message"]));
        }
    }
}

async fn watch(target: &Target, id: &str, json: bool) -> Result<()> {
    let mut after = 0;
    loop {
        // The order is read before its events: what is settled then has all its events in the log.
        let order = target.get(&format!("/orders/{id}")).await?;
        let events = target.get(&format!("/orders/{id}/events?after={after}&limit=200")).await?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        for event in &events {
            after = event["seq"].as_i64().unwrap_or(after);
            print(event, json, |event| println!("{:<22} from {}", text(&event["type"]), text(&event["source"])));
        }
        let open = order["timeline"].as_array().into_iter().flatten().any(|step| step["status"] == "open");
        if events.is_empty() && !open {
            print(&order, json, |order| println!("order {id} is {}", text(&order["status"])));
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}
