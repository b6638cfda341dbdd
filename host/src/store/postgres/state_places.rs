//! Prepares the places of stages whose state is in a schema of its own, and moves state there, away
//! and back.
//!
//! The table `state_places` of the namespace records where the state is, so a host whose
//! configuration says otherwise finds out before it runs. Everything happens under the lock of the
//! migrations, in one transaction: state is in one place or in the other. Guarantee: a host that
//! still runs with the former place cannot write there, because a constraint refuses it.

mod access;
mod change;

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use self::change::Change;
use super::sql::{args, fetch};
use crate::domain::state_place::{StatePlace, StatePlaces};
use crate::store::StoreError;
use crate::store::decode::Columns as _;

/// What prevents the use of a stage's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceProblem {
    /// The key of the configuration.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl std::fmt::Display for PlaceProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.problem, self.remedy)
    }
}

/// State that a migration moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedState {
    /// The stage.
    pub stage: String,
    /// Number of its keys.
    pub keys: u64,
    /// Where it was; none: in the namespace's table.
    pub from: Option<String>,
    /// Where it is.
    pub to: Option<String>,
}

impl std::fmt::Display for MovedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, keys, from, to } = self;
        let (from, to) = (named(from.as_deref()), named(to.as_deref()));
        write!(f, "moved {keys} key(s) of the stage {stage} from {from} to {to}")
    }
}

/// A place in words.
fn named(schema: Option<&str>) -> String {
    schema.map_or_else(
        || "the table of the namespace".to_owned(),
        |name| format!("the schema `{name}`"),
    )
}

/// Why the places are not as the configuration wants them.
#[derive(Debug)]
pub(super) enum PlaceError {
    /// An operator has to do something first.
    Problems(Vec<PlaceProblem>),
    /// The database refused a change.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for PlaceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StoreError> for PlaceError {
    fn from(error: StoreError) -> Self {
        Self::Database(sqlx::Error::Io(std::io::Error::other(error)))
    }
}

/// The namespace of this host, and where its configuration puts the state of stages.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) namespace: &'a str,
    pub(super) places: &'a StatePlaces,
}

impl Wanted<'_> {
    /// Makes the places what the configuration wants, under the lock of the migrations.
    pub(super) async fn apply(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<MovedState>, PlaceError> {
        let recorded = recorded(conn).await?;
        self.refuse_problems(conn, &recorded).await?;
        let changes = self.changes(&recorded);
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        change::wait_for_hosts(conn, &changes).await?;
        let moved = change::apply(conn, self.namespace, &changes).await?;
        // Whether they can be used: a grant may have had no effect.
        self.check(conn).await?;
        Ok(moved)
    }

    /// Fails unless the places are what the configuration wants. Changes nothing.
    pub(super) async fn check(&self, conn: &mut PgConnection) -> Result<(), PlaceError> {
        let recorded = recorded(conn).await?;
        self.refuse_problems(conn, &recorded).await?;
        let pending: Vec<PlaceProblem> =
            self.changes(&recorded).iter().map(Change::pending).collect();
        if pending.is_empty() { Ok(()) } else { Err(PlaceError::Problems(pending)) }
    }

    /// Every problem, and every change that a migration would make. Changes nothing.
    pub(super) async fn examine(
        &self,
        conn: &mut PgConnection,
    ) -> Result<(Vec<PlaceProblem>, Vec<PlaceProblem>), PlaceError> {
        let recorded = recorded(conn).await?;
        let problems = self.problems(conn, &recorded).await?;
        Ok((problems, self.changes(&recorded).iter().map(Change::pending).collect()))
    }

    async fn refuse_problems(
        &self,
        conn: &mut PgConnection,
        recorded: &StatePlaces,
    ) -> Result<(), PlaceError> {
        let problems = self.problems(conn, recorded).await?;
        if problems.is_empty() { Ok(()) } else { Err(PlaceError::Problems(problems)) }
    }

    async fn problems(
        &self,
        conn: &mut PgConnection,
        recorded: &StatePlaces,
    ) -> Result<Vec<PlaceProblem>, PlaceError> {
        let mut problems = Vec::new();
        for (stage, place) in self.places {
            let examined = access::Examined {
                namespace: self.namespace,
                stage,
                place,
                is_set_up: recorded.get(stage) == Some(place),
            };
            problems.extend(examined.problems(conn).await?);
        }
        Ok(problems)
    }

    /// Where the configuration differs from what is recorded.
    fn changes<'c>(&'c self, recorded: &'c StatePlaces) -> Vec<Change<'c>> {
        let stages: BTreeSet<&String> = self.places.keys().chain(recorded.keys()).collect();
        let changes = stages.into_iter().filter_map(|stage| {
            let (from, to) = (recorded.get(stage), self.places.get(stage));
            (from != to).then_some(Change { stage, from, to })
        });
        changes.collect()
    }
}

/// Where the state of stages is.
pub(super) async fn recorded(conn: &mut PgConnection) -> Result<StatePlaces, sqlx::Error> {
    let sql = "SELECT stage, schema_name, role_name FROM state_places";
    let rows = fetch(conn, sql, args![]).await?;
    let places = rows.iter().map(|row| {
        let place = StatePlace { schema: row.owned(1)?, role: row.maybe_owned(2)? };
        Ok::<_, StoreError>((row.owned(0)?, place))
    });
    let places: Result<BTreeMap<_, _>, _> = places.collect();
    places.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A key of a stage's place.
fn key(stage: &str, name: &str) -> String {
    format!("stages.{stage}.store.{name}")
}

/// Says whose state a table holds: the comment of each such table.
fn comment(namespace: &str, stage: &str) -> String {
    format!("Postrider: the state of the stage {stage} of the namespace {namespace}")
}
