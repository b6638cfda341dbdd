//! `postrider encryption`: the keys of what is stored, and the erasure of a customer.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Target, text};
use crate::output::Output;
use crate::table::{self, column};

#[derive(Debug, Subcommand)]
pub(crate) enum EncryptionCommand {
    /// Show which keys encrypt what is stored, and how much each of them wraps.
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// Wrap the keys of all subjects again, after `primary` has changed in the key ring.
    ///
    /// Afterwards the old key can be removed from the ring.
    Rewrap {
        #[command(flatten)]
        target: Target,
    },
    /// Erase what is stored of a customer, for ever.
    ///
    /// Bodies, data of events, recordings, state and texts of failures are erased; which events there
    /// were, and when, remains. Unfinished subjects are listed and not erased.
    Erase {
        #[command(flatten)]
        target: Target,
        /// The customer's id, as in the bodies.
        #[arg(long)]
        customer: String,
        /// Only subjects of this kind.
        #[arg(long)]
        kind: Option<String>,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(crate) async fn run(command: EncryptionCommand, output: Output) -> Result<ExitCode> {
    match command {
        EncryptionCommand::Status { target } => {
            output.print(&target.get("/encryption").await?, status)?;
        }
        EncryptionCommand::Rewrap { target } => output.print(&rewrap(&target).await?, rewrapped)?,
        EncryptionCommand::Erase { target, customer, kind, reason } => {
            let request = json!({ "customer": customer, "kind": kind, "reason": reason });
            let answer = erase(&target, &request).await?;
            output.print(&answer, erased)?;
            if answer["unfinished"].as_array().is_some_and(|left| !left.is_empty()) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One batch after another; the sums.
async fn rewrap(target: &Target) -> Result<Value> {
    let (mut wrapped, mut lost, mut after) = (0, 0, json!(0));
    while !after.is_null() {
        let batch = target.post("/encryption/rewrap", &json!({ "after": after })).await?;
        wrapped += batch["wrapped"].as_u64().unwrap_or(0);
        lost += batch["lost"].as_u64().unwrap_or(0);
        after = batch["next"].clone();
    }
    Ok(json!({ "wrapped": wrapped, "lost": lost }))
}

async fn erase(target: &Target, request: &Value) -> Result<Value> {
    let mut subjects = 0;
    loop {
        let batch = target.post("/encryption/erase", request).await?;
        subjects += batch["subjects"].as_u64().unwrap_or(0);
        if batch["more"] != true {
            return Ok(json!({ "subjects": subjects, "unfinished": batch["unfinished"] }));
        }
    }
}

fn status(answer: &Value) {
    if answer["primary"].is_null() {
        outln!("nothing is encrypted: encryption.key_file and encryption.key_command are not set");
    }
    let row = |key: &Value| {
        let state = match (key["present"] == true, key["id"] == answer["primary"]) {
            (true, true) => "primary",
            (true, false) => "present",
            (false, _) => "MISSING",
        };
        vec![text(&key["id"]), state.to_owned(), key["wraps"].to_string()]
    };
    let rows: Vec<Vec<String>> = answer["keys"].as_array().into_iter().flatten().map(row).collect();
    if !rows.is_empty() {
        table::print(&[column("KEY"), column("STATE"), column("WRAPS")], &rows);
    }
}

fn rewrapped(answer: &Value) {
    outln!("keys wrapped again by the primary key: {}", answer["wrapped"]);
    if answer["lost"] != 0 {
        outln!("keys that could not be unwrapped, see `status`: {}", answer["lost"]);
    }
}

fn erased(answer: &Value) {
    outln!("subjects erased: {}", answer["subjects"]);
    let left: Vec<String> =
        answer["unfinished"].as_array().into_iter().flatten().map(text).collect();
    if !left.is_empty() {
        outln!("not erased, because something has to follow: {}", left.join(", "));
        outln!("finish or cancel them, then erase the customer again");
    }
}
