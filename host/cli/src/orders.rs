//! `postrider orders`: submit, show, list, watch and cancel orders.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use console::style;
use serde_json::Value;

use crate::client::{Target, path, read_json, text};
use crate::events::line;
use crate::follow::follow;
use crate::output::Output;
use crate::time_args::time_ms;

#[derive(Debug, Subcommand)]
pub(crate) enum OrdersCommand {
    /// Submit an order.
    Submit(SubmitArgs),
    /// Show an order: its status and the timeline of the stages that processed it.
    #[command(visible_alias = "show")]
    Get {
        #[command(flatten)]
        target: Target,
        /// Order id.
        id: String,
    },
    /// Cancel an order and compensate what was done for it.
    Cancel {
        #[command(flatten)]
        target: Target,
        /// Order id.
        id: String,
        /// Reason, stored with the cancellation.
        #[arg(long)]
        reason: Option<String>,
    },
    /// List orders, newest first.
    List(ListArgs),
    /// Follow an order's events until no delivery is pending.
    ///
    /// Exits with 0 if the order ends in a final status (or in the one given with --expect), and
    /// with 1 if it has an open dead letter.
    Watch {
        #[command(flatten)]
        target: Target,
        /// Order id.
        id: String,
        /// Status that counts as success.
        #[arg(long)]
        expect: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    target: Target,
    /// The order: a JSON file, or - for standard input.
    #[arg(value_name = "FILE")]
    body: String,
    /// Idempotency key: a request repeated with the same key creates no second order.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Start processing at this time (RFC 3339).
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    deliver_at: Option<String>,
    /// Start processing after this duration: 90s, 30m, 1h, 2d.
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    target: Target,
    /// Filter by status.
    #[arg(long)]
    status: Option<String>,
    /// Filter by customer.
    #[arg(long)]
    customer: Option<String>,
    /// Filter by stage: orders with an open delivery or an open dead letter at this stage.
    #[arg(long)]
    stage: Option<String>,
    /// Created at or after this time: a duration ago (90s, 30m, 1h, 2d), or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<u64>,
    /// Created before this time.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<u64>,
    /// Maximum number of results.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Largest page of a host.
const PAGE: &str = "200";

pub(crate) async fn run(command: OrdersCommand, output: Output) -> Result<ExitCode> {
    match command {
        OrdersCommand::Submit(args) => output.print(&submit(args).await?, status)?,
        OrdersCommand::Get { target, id } => {
            output.print(&whole(&target, &id).await?, timeline)?;
        }
        OrdersCommand::Cancel { target, id, reason } => {
            let body = serde_json::json!({ "reason": reason });
            let path = path(&["orders", &id, "cancel"])?;
            output.print(&target.post(&path, &body).await?, status)?;
        }
        OrdersCommand::List(args) => list(&args, output).await?,
        OrdersCommand::Watch { target, id, expect } => {
            return watch(&target, &id, expect.as_deref(), output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An order with its whole timeline, page by page.
async fn whole(target: &Target, id: &str) -> Result<Value> {
    let mut order = target.query(&["orders", id], &[]).await?;
    while let Some(after) = order["next"].as_i64() {
        let after = after.to_string();
        let mut page = target.query(&["orders", id], &[("after", &after), ("limit", PAGE)]).await?;
        if let (Some(timeline), Some(more)) =
            (order["timeline"].as_array_mut(), page["timeline"].as_array_mut())
        {
            timeline.append(more);
        }
        order["next"] = page["next"].take();
    }
    Ok(order)
}

async fn submit(args: SubmitArgs) -> Result<Value> {
    let mut headers = vec![("content-type", "application/json".to_owned())];
    headers.extend(args.idempotency_key.map(|key| ("idempotency-key", key)));
    headers.extend(args.deliver_at.map(|at| ("deliver-at", at)));
    headers.extend(args.delay.map(|delay| ("delay", delay)));
    let body = read_json(&args.body)?.to_string().into();
    args.target.post_body("/orders", &headers, body).await
}

fn status(order: &Value) {
    outln!("order {} is {}", text(&order["order_id"]), text(&order["status"]));
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

fn timeline(order: &Value) {
    outln!(
        "order {} is {}",
        style(text(&order["order_id"])).bold(),
        colored(&text(&order["status"]))
    );
    for step in order["timeline"].as_array().into_iter().flatten() {
        let plugin = &step["plugin"];
        outln!(
            "  {:<14} {:<20} {:<8} attempt {}  {}  {} ms",
            text(&step["stage"]),
            text(&step["event"]["type"]),
            text(&step["status"]),
            step["attempt"],
            plugin["version"].as_str().unwrap_or("-"),
            step["duration_ms"]
        );
        for failure in step["failures"].as_array().into_iter().flatten() {
            outln!(
                "    attempt {}: {}: {}",
                failure["attempt"],
                text(&failure["code"]),
                text(&failure["message"])
            );
        }
    }
}

/// Fetches pages until the limit is reached. JSON output has one order per line.
async fn list(args: &ListArgs, output: Output) -> Result<()> {
    let mut left = args.limit;
    let mut cursor: Option<String> = None;
    let times = [args.since, args.until].map(|time| time.map(|ms| ms.to_string()));
    if output == Output::Text {
        outln!(
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
            ("since", times[0].as_deref()),
            ("until", times[1].as_deref()),
            ("cursor", cursor.as_deref()),
            ("limit", Some(&limit)),
        ];
        let query: Vec<(&str, &str)> =
            named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page = args.target.query(&["orders"], &query).await?;
        for order in page["items"].as_array().into_iter().flatten() {
            output.print_line(order, row);
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
        postrider::internals::timestamp::text(order["created_at_ms"].as_u64().unwrap_or_default());
    let customer = order["customer"].as_str().unwrap_or("-");
    format!(
        "{:<38} {:<12} {customer:<16} {created}",
        text(&order["order_id"]),
        colored(&text(&order["status"]))
    )
}

async fn watch(
    target: &Target,
    id: &str,
    expect: Option<&str>,
    output: Output,
) -> Result<ExitCode> {
    let path = path(&["orders", id, "events"])?;
    let end = follow(target, &path, |event| output.print_line(event, line)).await?;
    let order = target.query(&["orders", id], &[]).await?;
    let status = text(&end["status"]);
    output.print_line(&order, |_| format!("order {} is {}", style(id).bold(), colored(&status)));
    let as_expected = expect.map_or(end["final"] == true, |expected| expected == status);
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
