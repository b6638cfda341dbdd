//! `postrider subjects`: submit, show, list, watch and cancel subjects of any kind. `postrider orders`
//! does the same for the kind `order`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use console::style;
use postrider::SubjectKey;
use serde_json::Value;

use crate::client::{Target, path, read_json, text};
use crate::events::line;
use crate::follow::follow;
use crate::output::Output;
use crate::value_parsers::time_ms;

#[derive(Debug, Subcommand)]
pub(crate) enum SubjectsCommand {
    /// List the kinds of subjects that the host is configured with.
    Kinds {
        #[command(flatten)]
        target: Target,
    },
    /// Submit a subject.
    Submit {
        /// Kind of the subject.
        kind: String,
        #[command(flatten)]
        args: SubmitArgs,
    },
    /// Show a subject: its status and the timeline of the stages that processed it.
    #[command(visible_alias = "show")]
    Get {
        #[command(flatten)]
        target: Target,
        /// Kind and id, such as order/123.
        #[arg(value_name = "KIND/ID")]
        subject: SubjectKey,
    },
    /// Cancel a subject and compensate what was done for it.
    Cancel {
        #[command(flatten)]
        target: Target,
        /// Kind and id, such as order/123.
        #[arg(value_name = "KIND/ID")]
        subject: SubjectKey,
        /// Reason, stored with the cancellation.
        #[arg(long)]
        reason: Option<String>,
    },
    /// List the subjects of a kind, newest first.
    List {
        /// Kind of the subjects.
        kind: String,
        #[command(flatten)]
        args: ListArgs,
    },
    /// Follow a subject's events until no delivery is pending.
    ///
    /// Exits with 0 if the subject ends in a final status (or in the one given with --expect), and
    /// with 1 if it has an open dead letter.
    Watch {
        #[command(flatten)]
        target: Target,
        /// Kind and id, such as order/123.
        #[arg(value_name = "KIND/ID")]
        subject: SubjectKey,
        /// Status that counts as success.
        #[arg(long)]
        expect: Option<String>,
    },
}

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
    /// The body: a JSON file, or - for standard input.
    #[arg(value_name = "FILE")]
    body: String,
    /// Idempotency key: a request repeated with the same key creates no second subject.
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
    /// Filter by stage: subjects with an open delivery or an open dead letter at this stage.
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

/// A kind of subjects, as the host declares it.
struct Kind {
    name: String,
    /// The segment of its path.
    segment: String,
    id_field: String,
    display: Vec<String>,
}

impl Kind {
    /// Asks the host for a kind.
    async fn find(target: &Target, name: &str) -> Result<Self> {
        let kinds = target.query(&["subjects"], &[]).await?;
        let kinds = kinds["items"].as_array().cloned().unwrap_or_default();
        let Some(kind) = kinds.iter().find(|kind| kind["name"] == name) else {
            let names: Vec<String> = kinds.iter().map(|kind| text(&kind["name"])).collect();
            bail!("unknown kind `{name}`: this host has {}", names.join(", "));
        };
        let display = kind["display"].as_array().into_iter().flatten().map(text).collect();
        Ok(Self {
            name: name.to_owned(),
            segment: text(&kind["path"]).trim_start_matches('/').to_owned(),
            id_field: text(&kind["id_field"]),
            display,
        })
    }

    /// `order 123 is ready`
    fn status(&self, subject: &Value) {
        outln!("{} {} is {}", self.name, text(&subject[&self.id_field]), text(&subject["status"]));
    }
}

/// The kind that `postrider orders` is about.
const ORDER: &str = "order";

/// What to do with one subject, or with the subjects of a kind.
enum Action {
    Submit(SubmitArgs),
    Get(String),
    Cancel(String, Option<String>),
    List(ListArgs),
    Watch(String, Option<String>),
}

pub(crate) async fn run(command: SubjectsCommand, output: Output) -> Result<ExitCode> {
    let (target, kind, action) = match command {
        SubjectsCommand::Kinds { target } => {
            output.print(&target.query(&["subjects"], &[]).await?, kinds)?;
            return Ok(ExitCode::SUCCESS);
        }
        SubjectsCommand::Submit { kind, args } => (args.target.clone(), kind, Action::Submit(args)),
        SubjectsCommand::List { kind, args } => (args.target.clone(), kind, Action::List(args)),
        SubjectsCommand::Get { target, subject } => {
            (target, subject.kind().to_owned(), Action::Get(subject.id().to_owned()))
        }
        SubjectsCommand::Cancel { target, subject, reason } => {
            (target, subject.kind().to_owned(), Action::Cancel(subject.id().to_owned(), reason))
        }
        SubjectsCommand::Watch { target, subject, expect } => {
            (target, subject.kind().to_owned(), Action::Watch(subject.id().to_owned(), expect))
        }
    };
    act(&target, &kind, action, output).await
}

pub(crate) async fn run_orders(command: OrdersCommand, output: Output) -> Result<ExitCode> {
    let (target, action) = match command {
        OrdersCommand::Submit(args) => (args.target.clone(), Action::Submit(args)),
        OrdersCommand::List(args) => (args.target.clone(), Action::List(args)),
        OrdersCommand::Get { target, id } => (target, Action::Get(id)),
        OrdersCommand::Cancel { target, id, reason } => (target, Action::Cancel(id, reason)),
        OrdersCommand::Watch { target, id, expect } => (target, Action::Watch(id, expect)),
    };
    act(&target, ORDER, action, output).await
}

async fn act(target: &Target, kind: &str, action: Action, output: Output) -> Result<ExitCode> {
    let kind = Kind::find(target, kind).await?;
    match action {
        Action::Submit(args) => {
            output.print(&submit(&kind, args).await?, |subject| kind.status(subject))?;
        }
        Action::Get(id) => {
            let subject = whole(target, &kind, &id).await?;
            output.print(&subject, |subject| timeline(&kind, subject))?;
        }
        Action::Cancel(id, reason) => {
            let body = serde_json::json!({ "reason": reason });
            let path = path(&[&kind.segment, &id, "cancel"])?;
            output.print(&target.post(&path, &body).await?, |subject| kind.status(subject))?;
        }
        Action::List(args) => list(&kind, &args, output).await?,
        Action::Watch(id, expect) => {
            return watch(target, (&kind, &id), expect.as_deref(), output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kinds(kinds: &Value) {
    outln!("{}", style(format!("{:<20} {:<20} FIRST EVENT", "KIND", "PATH")).dim());
    for kind in kinds["items"].as_array().into_iter().flatten() {
        outln!(
            "{:<20} {:<20} {}",
            text(&kind["name"]),
            text(&kind["path"]),
            text(&kind["first_event"])
        );
    }
}

/// A subject with its whole timeline, page by page.
async fn whole(target: &Target, kind: &Kind, id: &str) -> Result<Value> {
    let place = [kind.segment.as_str(), id];
    let mut subject = target.query(&place, &[]).await?;
    while let Some(after) = subject["next"].as_i64() {
        let after = after.to_string();
        let mut page = target.query(&place, &[("after", &after), ("limit", PAGE)]).await?;
        if let (Some(timeline), Some(more)) =
            (subject["timeline"].as_array_mut(), page["timeline"].as_array_mut())
        {
            timeline.append(more);
        }
        subject["next"] = page["next"].take();
    }
    Ok(subject)
}

async fn submit(kind: &Kind, args: SubmitArgs) -> Result<Value> {
    let mut headers = vec![("content-type", "application/json".to_owned())];
    headers.extend(args.idempotency_key.map(|key| ("idempotency-key", key)));
    headers.extend(args.deliver_at.map(|at| ("deliver-at", at)));
    headers.extend(args.delay.map(|delay| ("delay", delay)));
    let body = read_json(&args.body)?.to_string().into();
    args.target.post_body(&format!("/{}", kind.segment), &headers, body).await
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

fn timeline(kind: &Kind, subject: &Value) {
    outln!(
        "{} {} is {}",
        kind.name,
        style(text(&subject[&kind.id_field])).bold(),
        colored(&text(&subject["status"]))
    );
    if let Some(why) = subject["unreadable"].as_str() {
        outln!("  its body cannot be read: {why}");
    }
    for step in subject["timeline"].as_array().into_iter().flatten() {
        let plugin = &step["plugin"];
        outln!(
            "  {:<14} {:<20} {:<8} attempt {}  {}  {} ms{}",
            text(&step["stage"]),
            text(&step["event"]["type"]),
            text(&step["status"]),
            step["attempt"],
            plugin["version"].as_str().unwrap_or("-"),
            step["duration_ms"],
            on_host("  ", step)
        );
        for failure in step["failures"].as_array().into_iter().flatten() {
            outln!(
                "    attempt {}{}: {}: {}",
                failure["attempt"],
                on_host(" ", failure),
                text(&failure["code"]),
                text(&failure["message"])
            );
        }
    }
}

/// ` on a-host`, after `space`; nothing if no host is known.
fn on_host(space: &str, of: &Value) -> String {
    of["host"].as_str().map(|host| format!("{space}on {host}")).unwrap_or_default()
}

/// Fetches pages until the limit is reached. JSON output has one subject per line.
async fn list(kind: &Kind, args: &ListArgs, output: Output) -> Result<()> {
    let mut left = args.limit;
    let mut cursor: Option<String> = None;
    let times = [args.since, args.until].map(|time| time.map(|ms| ms.to_string()));
    if output == Output::Text {
        outln!("{}", style(header(kind)).dim());
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
        let page = args.target.query(&[&kind.segment], &query).await?;
        for subject in page["items"].as_array().into_iter().flatten() {
            output.print_line(subject, |subject| row(kind, subject));
            left -= 1;
        }
        cursor = page["next"].as_i64().map(|next| next.to_string());
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

fn header(kind: &Kind) -> String {
    let id = kind.name.to_uppercase();
    let shown: String =
        kind.display.iter().map(|name| format!("  {}", name.to_uppercase())).collect();
    format!("{id:<38} {:<12} {:<16} {:<24}{shown}", "STATUS", "CUSTOMER", "CREATED")
        .trim_end()
        .to_owned()
}

fn row(kind: &Kind, subject: &Value) -> String {
    let created = postrider::internals::timestamp::text(
        subject["created_at_ms"].as_u64().unwrap_or_default(),
    );
    let customer = subject["customer"].as_str().unwrap_or("-");
    let shown: String =
        kind.display.iter().map(|name| format!("  {}", text(&subject["display"][name]))).collect();
    format!(
        "{:<38} {:<12} {customer:<16} {created:<24}{shown}",
        text(&subject[&kind.id_field]),
        colored(&text(&subject["status"]))
    )
    .trim_end()
    .to_owned()
}

async fn watch(
    target: &Target,
    (kind, id): (&Kind, &str),
    expect: Option<&str>,
    output: Output,
) -> Result<ExitCode> {
    let path = path(&[&kind.segment, id, "events"])?;
    let end = follow(target, &path, |event| output.print_line(event, line)).await?;
    let subject = target.query(&[&kind.segment, id], &[]).await?;
    let status = text(&end["status"]);
    output.print_line(&subject, |_| {
        format!("{} {} is {}", kind.name, style(id).bold(), colored(&status))
    });
    let as_expected = expect.map_or(end["final"] == true, |expected| expected == status);
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
