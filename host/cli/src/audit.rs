//! `postrider audit`: lists, exports and verifies what operators did.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use postrider::internals::{AuditPosition, AuditRecord};
use serde_json::{Value, json};

use crate::client::{Target, text};
use crate::output::Output;
use crate::table::{self, column};

/// Records that are asked for at a time.
const PAGE: &str = "200";

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List what operators did, oldest first.
    List(Filter),
    /// Print the records as JSON lines, for another system.
    Export(Filter),
    /// Check that no record was changed or removed. Exits with 1 if one was.
    ///
    /// Anyone who can write to the database could make a new log: keep the head that this prints elsewhere,
    /// and pass it with --head the next time.
    Verify {
        #[command(flatten)]
        target: Target,
        /// A record that must be in the log, as an earlier `verify` printed it.
        #[arg(long, value_name = "POSITION:HASH", value_parser = position)]
        head: Option<AuditPosition>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    #[command(flatten)]
    target: Target,
    /// Filter by the id of the actor.
    #[arg(long)]
    actor: Option<String>,
    /// Filter by action, such as `stage.pause`.
    #[arg(long)]
    action: Option<String>,
    /// Filter by object, such as `stage/payment`.
    #[arg(long)]
    object: Option<String>,
    /// Only records since then: RFC 3339, or a duration such as 24h.
    #[arg(long, value_parser = crate::value_parsers::time_ms)]
    since: Option<u64>,
}

fn position(text: &str) -> Result<AuditPosition, String> {
    let parsed = text.split_once(':').and_then(|(pos, hash)| {
        Some(AuditPosition { pos: pos.parse().ok()?, hash: hash.to_owned() })
    });
    parsed.ok_or_else(|| "expected POSITION:HASH, as `verify` prints it".to_owned())
}

impl Filter {
    /// Calls `each` with every record.
    async fn walk(&self, mut each: impl FnMut(&Value) -> Result<()>) -> Result<()> {
        let since = self.since.map(|since| since.to_string());
        let given = [
            ("actor", self.actor.as_deref()),
            ("action", self.action.as_deref()),
            ("object", self.object.as_deref()),
            ("since", since.as_deref()),
        ];
        let given: Vec<_> =
            given.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
        let mut cursor = "0".to_owned();
        loop {
            let mut query = given.clone();
            query.extend([("limit", PAGE), ("cursor", cursor.as_str())]);
            let page = self.target.query(&["audit"], &query).await?;
            for record in page["items"].as_array().into_iter().flatten() {
                each(record)?;
            }
            let Some(next) = page["next"].as_i64() else { return Ok(()) };
            cursor = next.to_string();
        }
    }
}

pub(crate) async fn run(command: AuditCommand, output: Output) -> Result<ExitCode> {
    match command {
        AuditCommand::List(filter) => {
            let mut records = Vec::new();
            filter
                .walk(|record| {
                    records.push(record.clone());
                    Ok(())
                })
                .await?;
            output.print(&json!({ "items": records }), list)?;
            Ok(ExitCode::SUCCESS)
        }
        AuditCommand::Export(filter) => {
            filter
                .walk(|record| {
                    outln!("{record}");
                    Ok(())
                })
                .await?;
            Ok(ExitCode::SUCCESS)
        }
        AuditCommand::Verify { target, head } => verify(&target, head.as_ref(), output).await,
    }
}

/// What a verification found.
struct Verified {
    records: u64,
    head: AuditPosition,
    problem: Option<String>,
}

async fn verify(
    target: &Target,
    known: Option<&AuditPosition>,
    output: Output,
) -> Result<ExitCode> {
    let Verified { records, head, problem } = walk_chain(target, known).await?;
    let report = json!({
        "ok": problem.is_none(), "records": records, "head": head.to_string(), "problem": problem,
    });
    output.print(&report, |_| match &problem {
        None => outln!("{records} records, unchanged and complete; head {head}"),
        Some(problem) => outln!("the audit log was tampered with: {problem}"),
    })?;
    Ok(if problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn walk_chain(target: &Target, known: Option<&AuditPosition>) -> Result<Verified> {
    let mut at: Option<AuditPosition> = None;
    let (mut records, mut known_seen) = (0, known.is_none_or(|known| known.pos == 0));
    loop {
        let cursor = at.as_ref().map_or(0, |at| at.pos).to_string();
        let page =
            target.query(&["audit"], &[("limit", PAGE), ("cursor", cursor.as_str())]).await?;
        let position = |name: &str| {
            serde_json::from_value::<AuditPosition>(page[name].clone())
                .context("the host sent an unexpected answer")
        };
        let (anchor, head) = (position("anchor")?, position("head")?);
        let here = at.get_or_insert_with(|| anchor.clone());
        // What retention deleted cannot be verified any more.
        known_seen |= known.is_some_and(|known| known.pos < anchor.pos || *known == anchor);
        for item in page["items"].as_array().into_iter().flatten() {
            let record: AuditRecord = serde_json::from_value(item.clone())?;
            if let Err(problem) = here.advance(&record) {
                return Ok(Verified { records, head: here.clone(), problem: Some(problem) });
            }
            records += 1;
            known_seen |= known.is_some_and(|known| *known == *here);
        }
        if page["next"].is_null() {
            let problem = if *here != head {
                Some(format!(
                    "the log ends at record {}, but its head is record {}",
                    here.pos, head.pos
                ))
            } else if known_seen {
                None
            } else {
                known.map(|known| format!("record {known} is not in the log"))
            };
            return Ok(Verified { records, head: here.clone(), problem });
        }
    }
}

fn list(answer: &Value) {
    let row = |record: &Value| {
        vec![
            text(&record["pos"]),
            table::time(&record["at_ms"]),
            text(&record["actor"]["id"]),
            record["actor"]["address"].as_str().unwrap_or_default().to_owned(),
            text(&record["action"]),
            text(&record["object"]),
            text(&record["outcome"]),
            record["reason"].as_str().unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        outln!("no records");
        return;
    }
    let columns = [
        column("POS"),
        column("TIME"),
        column("ACTOR"),
        column("ADDRESS").optional(),
        column("ACTION"),
        column("OBJECT"),
        column("OUTCOME").optional(),
        column("REASON").text(),
    ];
    table::print(&columns, &rows);
}
