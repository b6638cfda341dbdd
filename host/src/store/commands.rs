//! What hosts ask each other to do, by way of the store: one row for each command and host.
//!
//! Guarantee: a command is taken once, so a host that ends while it carries one out leaves it without
//! an answer. Bounds: [`TAKEN_MAX`] commands are taken together; one that was not taken within
//! [`VALID_MS`] is void, and its row is deleted after [`KEPT_MS`].

use super::StoreError;
use super::decode::Columns;

/// A command that no host took for this long is void.
pub(super) const VALID_MS: u64 = 60_000;
/// A row is deleted after this long.
pub(super) const KEPT_MS: u64 = 60 * 60 * 1_000;
/// Most commands that are taken together.
pub(super) const TAKEN_MAX: i64 = 100;

/// Something that another host shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommand {
    /// The host.
    pub host: String,
    /// What it shall do: JSON.
    pub command: String,
}

/// Something that this host shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenCommand {
    /// Its id, for the answer.
    pub id: i64,
    /// What to do: JSON.
    pub command: String,
}

/// Writes one: host, command, time.
pub(super) const SEND: &str =
    "INSERT INTO host_commands (host, command, created_ms) VALUES ($1, $2, $3) RETURNING id";
/// Deletes those that were written by then.
pub(super) const DELETE_OLD: &str = "DELETE FROM host_commands WHERE created_ms <= $1";
/// Takes those of a host, for [`decode`]: host, time, the time after which they were written, the most.
pub(super) const TAKE: &str = "UPDATE host_commands SET taken_ms = $2 WHERE id IN (SELECT id FROM \
                               host_commands WHERE host = $1 AND taken_ms IS NULL AND created_ms > \
                               $3 ORDER BY id LIMIT $4) AND taken_ms IS NULL RETURNING id, command";
/// Answers one: id, answer, host.
pub(super) const ANSWER: &str = "UPDATE host_commands SET answer = $2 WHERE id = $1 AND host = $3";

pub(super) fn decode(rows: &[impl Columns]) -> Result<Vec<TakenCommand>, StoreError> {
    let taken = rows.iter().map(|row| Ok(TakenCommand { id: row.int(0)?, command: row.owned(1)? }));
    let mut taken = taken.collect::<Result<Vec<_>, StoreError>>()?;
    taken.sort_by_key(|command| command.id);
    Ok(taken)
}

pub(super) fn decode_answers(rows: &[impl Columns]) -> Result<Vec<(i64, String)>, StoreError> {
    rows.iter().map(|row| Ok((row.int(0)?, row.owned(1)?))).collect()
}
