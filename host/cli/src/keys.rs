//! `postrider keys`: create, list, rotate and revoke API keys, on a running host or, with `--store`, in
//! the store of the configuration, which is how the first one is made.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use postrider::internals::{KeyRequest, OVERLAP_MS};
use postrider::{Actor, App, Clock as _, Role, SystemClock};
use serde_json::{Value, json};

use self::store::OpenStore;
use crate::client::{Target, path, text};
use crate::output::Output;
use crate::scope::Scope;
use crate::table::{self, column};
use crate::value_parsers::duration_ms;
use postrider::Config;

mod store;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key. It is printed once: only its digest is stored.
    Create {
        #[command(flatten)]
        place: Place,
        /// Name of the client whose key it is. A client has two valid keys at most.
        principal: String,
        /// What the key permits: read, submit, operate, admin, payloads or secret-names; read and operate
        /// may be limited to a stage (operate:stage/payment), submit to event types (submit:type/order.*).
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<Role>,
        /// What the client is, for people.
        #[arg(long, default_value_t)]
        description: String,
        /// Time until the key expires, such as 90d [default: never].
        #[arg(long, value_name = "TIME", value_parser = duration_ms)]
        expires_in: Option<u64>,
    },
    /// List the keys: whose they are, what they permit, and when they were last used.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Create the successor of a key, with its principal and roles. The old key stays valid for a while.
    Rotate {
        #[command(flatten)]
        place: Place,
        /// Id of the key, from `keys list`: the part of the key between pr_ and the second underscore.
        id: String,
        /// How long the old key stays valid [default: 1d].
        #[arg(long, value_name = "TIME", value_parser = duration_ms)]
        overlap: Option<u64>,
    },
    /// Revoke a key: within two seconds no host accepts it.
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Id of the key, from `keys list`.
        id: String,
    },
}

/// Where the keys are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    target: Target,
    /// Work on the store of the configuration, without a host and a token. An SQLite store must not be
    /// in use by a host.
    #[arg(long)]
    store: bool,
}

pub(crate) async fn run(command: KeysCommand, scope: &Scope, output: Output) -> Result<ExitCode> {
    let (answer, show): (Value, fn(&Value)) = match command {
        KeysCommand::Create { place, principal, roles, description, expires_in } => {
            let expires_at_ms = expires_in.map(|in_ms| SystemClock.now_ms().saturating_add(in_ms));
            let request =
                KeyRequest { principal, description, roles, expires_at_ms, created_by: None };
            (create(&place, scope, request).await?, issued)
        }
        KeysCommand::List { place } => {
            let keys = if place.store {
                let store = OpenStore::open(config(scope)?).await?;
                let keys = store.keys().list().await?;
                store.close().await;
                json!({ "items": keys.iter().map(store::shown).collect::<Vec<_>>() })
            } else {
                place.target.get("/keys").await?
            };
            (keys, list)
        }
        KeysCommand::Rotate { place, id, overlap } => {
            let overlap_ms = overlap.unwrap_or(OVERLAP_MS);
            let key = if place.store {
                let store = OpenStore::open(config(scope)?).await?;
                let rotated = acting(store.keys().rotate(&id, overlap_ms, None)).await;
                store.close().await;
                store::issued(&rotated?)
            } else {
                let body = json!({ "overlap_ms": overlap_ms });
                place.target.post(&path(&["keys", &id, "rotate"])?, &body).await?
            };
            (key, issued)
        }
        KeysCommand::Revoke { place, id } => {
            let key = if place.store {
                let store = OpenStore::open(config(scope)?).await?;
                let revoked = acting(store.keys().revoke(&id)).await;
                store.close().await;
                store::shown(&revoked?)
            } else {
                place.target.delete(&path(&["keys", &id])?).await?
            };
            (key, revoked)
        }
    };
    output.print(&answer, show)?;
    Ok(ExitCode::SUCCESS)
}

/// Does `work` as the command line, for the audit log of the store.
async fn acting<T>(work: impl Future<Output = T>) -> T {
    App::acting_as(Actor::new("command-line", "command-line"), work).await
}

fn config(scope: &Scope) -> Result<Config> {
    scope.one(Config::load(scope.config.as_deref())?)
}

async fn create(place: &Place, scope: &Scope, request: KeyRequest) -> Result<Value> {
    if place.store {
        let store = OpenStore::open(config(scope)?).await?;
        let created = acting(store.keys().create(request)).await;
        store.close().await;
        return Ok(store::issued(&created.map_err(|error| anyhow!(error))?));
    }
    let roles: Vec<String> = request.roles.iter().map(ToString::to_string).collect();
    let body = json!({
        "principal": request.principal,
        "description": request.description,
        "roles": roles,
        "expires_at": request.expires_at_ms,
    });
    place.target.post("/keys", &body).await
}

/// The key alone on standard output, so that a script can keep it; what to know about it beside.
fn issued(key: &Value) {
    outln!("{}", text(&key["token"]));
    errln!("key {} of {}; it is not shown again", text(&key["id"]), text(&key["principal"]));
}

fn revoked(key: &Value) {
    outln!("the key {} of {} is revoked", text(&key["id"]), text(&key["principal"]));
}

fn list(answer: &Value) {
    let roles = |key: &Value| {
        let roles = key["roles"].as_array().into_iter().flatten().map(text);
        roles.collect::<Vec<_>>().join(" ")
    };
    let now_ms = SystemClock.now_ms();
    let state = |key: &Value| {
        let expired = key["expires_at_ms"].as_u64().is_some_and(|at_ms| at_ms <= now_ms);
        if !key["revoked_at_ms"].is_null() {
            "revoked"
        } else if expired {
            "expired"
        } else {
            "valid"
        }
    };
    let row = |key: &Value| {
        vec![
            text(&key["id"]),
            text(&key["principal"]),
            table::state(state(key)),
            roles(key),
            table::time(&key["created_at_ms"]),
            table::time(&key["expires_at_ms"]),
            table::time(&key["last_used_at_ms"]),
            text(&key["description"]),
        ]
    };
    let rows: Vec<Vec<String>> =
        answer["items"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        outln!("no keys");
        return;
    }
    let columns = [
        column("ID"),
        column("PRINCIPAL"),
        column("STATE"),
        column("ROLES"),
        column("CREATED").optional(),
        column("EXPIRES").optional(),
        column("LAST USED"),
        column("DESCRIPTION").text(),
    ];
    table::print(&columns, &rows);
}
