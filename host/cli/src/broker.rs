//! `postrider broker`: the keys with which hosts sign their messages.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use crate::client::{Target, path, text};
use crate::output::Output;
use crate::table::{self, column};

#[derive(Debug, Subcommand)]
pub(crate) enum BrokerCommand {
    /// List the keys with which hosts sign their messages to RabbitMQ, the newest first.
    Keys {
        #[command(flatten)]
        target: Target,
    },
    /// Add a key with which every host signs from now on.
    ///
    /// Messages that are signed with older keys are accepted until `remove-key`.
    RotateKey {
        #[command(flatten)]
        target: Target,
    },
    /// Stop accepting messages that are signed with an older key.
    ///
    /// Those that still wait in a queue are taken from the store, so no order is lost.
    RemoveKey {
        #[command(flatten)]
        target: Target,
        /// Name of the key, as `keys` shows it.
        key: String,
    },
}

pub(crate) async fn run(command: BrokerCommand, output: Output) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        BrokerCommand::Keys { target } => (target.get("/broker/keys").await?, list),
        BrokerCommand::RotateKey { target } => {
            (target.post("/broker/keys", &Value::Null).await?, rotated)
        }
        BrokerCommand::RemoveKey { target, key } => {
            (target.delete(&path(&["broker", "keys", &key])?).await?, removed)
        }
    };
    output.print(&answer, show)?;
    Ok(ExitCode::SUCCESS)
}

fn list(answer: &Value) {
    let row = |key: &Value| {
        let state = if key["signs"] == true { "signs" } else { "accepted" };
        vec![text(&key["id"]), state.to_owned(), table::time(&key["created_at_ms"])]
    };
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        outln!("no keys: the broker is embedded");
        return;
    }
    table::print(&[column("KEY"), column("STATE"), column("ADDED")], &rows);
}

fn rotated(answer: &Value) {
    list(answer);
    outln!("hosts sign with the first key; remove the others once no message of theirs waits");
}

fn removed(answer: &Value) {
    outln!("messages that are signed with {} are no longer accepted", text(&answer["id"]));
}
