//! `postrider orders`: submit, get, list, watch.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use console::style;
use serde_json::Value;

use crate::client::{Target, place, read_json, text};
use crate::events::line;
use crate::follow::follow;

/// Orders.
#[derive(Debug, Subcommand)]
pub(crate) enum OrdersCommand {
    /// Submit an order.
    Submit {
        #[command(flatten)]
        target: Target,
        /// JSON file, or - for standard input.
        body: String,
        /// Names the request: sent again with the same key, the order counts once.
        #[arg(long)]
        idempotency_key: Option<String>,
        /// Begin its journey then (RFC 3339).
        #[arg(long, conflicts_with = "delay")]
        deliver_at: Option<String>,
        /// Begin its journey after this span: 90s, 30m, 1h, 2d.
        #[arg(long)]
        delay: Option<String>,
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
    /// List orders, newest first.
    List(ListArgs),
    /// Follow an order's events until nothing is left to do.
    ///
    /// Exit code 0 when it rests in a final status (or in the one that --expect names), 1 when it
    /// waits for a person.
    Watch {
        #[command(flatten)]
        target: Target,
        /// Its id.
        id: String,
        /// The status that counts as success.
        #[arg(long)]
        expect: Option<String>,
    },
}

/// Which orders.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: Target,
    /// Only this status.
    #[arg(long)]
    status: Option<String>,
    /// Only this customer.
    #[arg(long)]
    customer: Option<String>,
    /// Only those that wait at this stage: open there, or dead.
    #[arg(long)]
    stage: Option<String>,
    /// Only those created since (RFC 3339).
    #[arg(long)]
    since: Option<String>,
    /// Only those created before (RFC 3339).
    #[arg(long)]
    until: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub(crate) async fn run(command: OrdersCommand, json: bool) -> Result<ExitCode> {
    match command {
        OrdersCommand::Submit { target, body, idempotency_key, deliver_at, delay } => {
            let mut headers = vec![("content-type", "application/json".to_owned())];
            headers.extend(idempotency_key.map(|key| ("idempotency-key", key)));
            headers.extend(deliver_at.map(|at| ("deliver-at", at)));
            headers.extend(delay.map(|delay| ("delay", delay)));
            let answer =
                target.post_body("/orders", &headers, read_json(&body)?.to_string().into()).await?;
            print(&answer, json, |answer| {
                println!("order {} is {}", text(&answer["order_id"]), text(&answer["status"]))
            });
        }
        OrdersCommand::Get { target, id } => {
            print(&target.ask(&["orders", &id], &[]).await?, json, history)
        }
        OrdersCommand::Cancel { target, id, reason } => {
            let answer = target
                .post(&format!("/orders/{id}/cancel"), &serde_json::json!({ "reason": reason }))
                .await?;
            print(&answer, json, |answer| {
                println!("order {} is {}", text(&answer["order_id"]), text(&answer["status"]))
            });
        }
        OrdersCommand::List(args) => list(&args, json).await?,
        OrdersCommand::Watch { target, id, expect } => {
            return watch(&target, &id, expect.as_deref(), json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(answer: &Value, json: bool, text: impl Fn(&Value)) {
    if json { println!("{answer:#}") } else { text(answer) }
}

/// A status in its colour.
fn colored(status: &str) -> console::StyledObject<String> {
    let status = style(status.to_owned());
    match status.to_string().as_str() {
        "failed" => status.red(),
        "declined" | "rejected" | "refunded" | "cancelled" | "cancelling" => status.yellow(),
        _ => status.green(),
    }
}

fn history(order: &Value) {
    println!(
        "order {} is {}",
        style(text(&order["order_id"])).bold(),
        colored(&text(&order["status"]))
    );
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
            println!(
                "    attempt {}: {}: {}",
                failure["attempt"],
                text(&failure["code"]),
                text(&failure["message"])
            );
        }
    }
}

/// Page by page, up to the limit. In JSON one order a line.
async fn list(args: &ListArgs, json: bool) -> Result<()> {
    let mut left = args.limit;
    let mut cursor: Option<String> = None;
    if !json {
        println!(
            "{}",
            style(format!("{:<38} {:<12} {:<16} CREATED", "ORDER", "STATUS", "CUSTOMER")).dim()
        );
    }
    while left > 0 {
        let limit = left.min(200).to_string();
        let (status, customer, stage) =
            (args.status.as_deref(), args.customer.as_deref(), args.stage.as_deref());
        let named = [
            ("status", status),
            ("customer", customer),
            ("stage", stage),
            ("since", args.since.as_deref()),
            ("until", args.until.as_deref()),
            ("cursor", cursor.as_deref()),
            ("limit", Some(&limit)),
        ];
        let query: Vec<(&str, &str)> =
            named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page = args.target.ask(&["orders"], &query).await?;
        for order in page["items"].as_array().into_iter().flatten() {
            if json {
                println!("{order}");
            } else {
                println!("{}", row(order));
            }
            left -= 1;
        }
        cursor = page["next"].as_i64().map(|next| next.to_string());
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

fn row(order: &Value) -> String {
    let created =
        postrider::domain::timestamp::text(order["created_at_ms"].as_u64().unwrap_or_default());
    let customer = order["customer"].as_str().unwrap_or("-");
    format!(
        "{:<38} {:<12} {customer:<16} {created}",
        text(&order["order_id"]),
        colored(&text(&order["status"]))
    )
}

async fn watch(target: &Target, id: &str, expect: Option<&str>, json: bool) -> Result<ExitCode> {
    let tell = |event: &Value| if json { println!("{event}") } else { println!("{}", line(event)) };
    let end = follow(target, &place(&["orders", id, "events"], &[])?, tell).await?;
    let order = target.ask(&["orders", id], &[]).await?;
    let status = text(&end["status"]);
    if json {
        println!("{order}");
    } else {
        println!("order {} is {}", style(id).bold(), colored(&status));
    }
    let as_expected = expect.map_or(end["final"] == true, |expected| expected == status);
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
