//! A batch whose hot keys are locked before it runs: hosts that write the same keys take turns
//! instead of running batches in vain.
//!
//! Bounds: one pooled connection for as long as the batch runs, which the server ends when nothing
//! happens on it for longer than the time-out. Guarantee: the same checks as any other commit; the
//! lock only saves work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use tokio::time::timeout;

use super::sql::{Refused, args, columns, execute, fetch, push};
use super::{Begun, Context, committer, write};
use crate::store::decode;
use crate::store::transaction::{Numbers, Op, Reply, Times};
use crate::store::{Batch, Commit, LockedState, StateRow, StoreError};

/// A transaction that holds the keys.
pub(super) struct Locked {
    conn: Begun,
    context: Arc<Context>,
    timeout: Duration,
    times: Times,
    numbers: Numbers,
    rows: Vec<StateRow>,
}

/// Locks `keys` of `stage`, absent ones included.
pub(super) async fn lock(
    pool: &PgPool,
    context: &Arc<Context>,
    (stage, keys): (&str, &[String]),
    timeout: Duration,
) -> Result<Locked, StoreError> {
    Ok(lock_or_race(pool, context, (stage, keys), timeout).await?)
}

async fn lock_or_race(
    pool: &PgPool,
    context: &Arc<Context>,
    (stage, keys): (&str, &[String]),
    timeout: Duration,
) -> Result<Locked, Refused> {
    let mut conn = super::begin_on(pool).await?;
    let (times, numbers) = committer::begin(&mut conn, context).await?;
    let ordered: BTreeSet<(&str, &str)> = keys.iter().map(|key| (stage, key.as_str())).collect();
    write::lock_keys(&mut conn, &ordered).await?;
    let sql = "SELECT s.key, s.value, s.version FROM unnest($1::text[]) k (key) JOIN state s ON s.stage = $2 AND s.key = k.key";
    let mut args = columns![keys; String::as_str];
    push(&mut args, stage);
    let rows = fetch(&mut *conn, sql, args)
        .await?
        .iter()
        .map(decode::state_row)
        .collect::<Result<_, _>>()?;
    Ok(Locked { conn, context: Arc::clone(context), timeout, times, numbers, rows })
}

#[async_trait]
impl LockedState for Locked {
    fn rows(&self) -> &[StateRow] {
        &self.rows
    }

    async fn commit(mut self: Box<Self>, batch: Batch) -> Result<Commit, StoreError> {
        let op = Op::Commit(batch);
        let limit = self.timeout;
        let settled = timeout(limit, async {
            let replies = committer::settle(
                &mut self.conn,
                &self.context,
                &[&op],
                (self.times, &mut self.numbers),
            )
            .await?;
            execute(&mut self.conn, "COMMIT", args![]).await?;
            Ok::<_, Refused>(replies)
        });
        let replies = match settled.await {
            Ok(Ok(replies)) => replies,
            // Another host was faster with something that was not locked: the batch is run again.
            Ok(Err(Refused::Raced)) => {
                return Ok(Commit::Conflict { stale: Vec::new(), conflicts: Vec::new() });
            }
            Ok(Err(Refused::Store(error))) => return Err(error),
            Err(_) => {
                return Err(StoreError::Unavailable(format!(
                    "no answer within {} ms",
                    limit.as_millis()
                )));
            }
        };
        self.conn.keep();
        match replies.into_iter().next() {
            Some(Reply::Commit(commit)) => Ok(commit),
            _ => Err(StoreError::Corrupt("a batch was left without an answer".to_owned())),
        }
    }
}
