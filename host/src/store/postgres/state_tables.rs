//! The tables that hold the state of stages: the namespace's own, and one for each stage that has a
//! place of its own (`[stages.<name>.store]`).
//!
//! Every statement on state names its table as `state AS s` and runs through [`StateTable`], which
//! puts the stage's own table there. Without such a stage, the statements are constants. Costs: a
//! group takes one more statement for each such stage in it, in place of a part of the common one.
//! Guarantee: statements take their tables in one order, the common one first, so that two groups
//! lock in the same order.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Postgres};

use super::sql::{
    TransactionError, database_message, execute, fetch, is_conflict, sql_state, store_error,
};
use crate::domain::state_place::{StatePlace, StatePlaces};
use crate::store::StoreError;

/// How statements name the table.
const NAME: &str = "state AS s";
/// Names of constraints that refuse the state of a stage at a place from which it was moved.
pub(super) const MOVED: &str = "state_moved_";
/// `insufficient_privilege`, `undefined_table`, `invalid_schema_name`: an operator has to repair the
/// place of one stage.
const OUT_OF_REACH: [&str; 3] = ["42501", "42P01", "3F000"];

/// Where the state of each stage is.
#[derive(Default)]
pub(super) struct StateTables {
    shared: StateTable,
    own: BTreeMap<String, StateTable>,
    /// Where this host looks for the state of stages.
    places: StatePlaces,
    /// Stages whose state is elsewhere since.
    moved: RwLock<BTreeSet<String>>,
}

/// A table of state.
#[derive(Default)]
pub(super) struct StateTable(Option<OwnTable>);

/// The table of one stage.
struct OwnTable {
    stage: String,
    /// The view through which the host uses it: qualified and quoted.
    view: String,
}

impl StateTables {
    pub(super) fn new(places: &StatePlaces) -> Self {
        let own = places.iter().map(|(stage, place)| {
            let own = OwnTable { stage: stage.clone(), view: view(&place.schema) };
            (stage.clone(), StateTable(Some(own)))
        });
        Self { own: own.collect(), places: places.clone(), ..Self::default() }
    }

    /// The table of a stage.
    pub(super) fn of(&self, stage: &str) -> &StateTable {
        self.own.get(stage).unwrap_or(&self.shared)
    }

    /// The table of a stage; an error when its state was moved.
    pub(super) fn usable(&self, stage: &str) -> Result<&StateTable, StoreError> {
        let moved = self.moved.read().unwrap_or_else(PoisonError::into_inner);
        if moved.contains(stage) { Err(moved_state(stage)) } else { Ok(self.of(stage)) }
    }

    /// Compares the places of this host with those that are recorded.
    pub(super) fn compare(&self, recorded: &StatePlaces) {
        let schema = |places: &StatePlaces, stage: &str| {
            places.get(stage).map(|place: &StatePlace| place.schema.clone())
        };
        let is_elsewhere = |stage: &&String| schema(&self.places, stage) != schema(recorded, stage);
        let stages = self.places.keys().chain(recorded.keys());
        let elsewhere: BTreeSet<String> = stages.filter(is_elsewhere).cloned().collect();
        let mut moved = self.moved.write().unwrap_or_else(PoisonError::into_inner);
        for stage in elsewhere.difference(&moved) {
            tracing::error!(stage, error = %moved_state(stage), "a stage cannot run on this host");
        }
        *moved = elsewhere;
    }

    /// The stages that have a table of their own.
    pub(super) fn placed(&self) -> impl Iterator<Item = &str> {
        self.own.keys().map(String::as_str)
    }

    /// All tables.
    pub(super) fn all(&self) -> impl Iterator<Item = &StateTable> {
        std::iter::once(&self.shared).chain(self.own.values())
    }

    /// Rows by table; `stage` tells the stage of a row. Within a table, they stay in their order.
    pub(super) fn group<T>(
        &self,
        rows: impl IntoIterator<Item = T>,
        stage: impl Fn(&T) -> &str,
    ) -> Vec<(&StateTable, Vec<T>)> {
        if self.own.is_empty() {
            return vec![(&self.shared, rows.into_iter().collect())];
        }
        let mut groups: BTreeMap<Option<&str>, (&StateTable, Vec<T>)> = BTreeMap::new();
        for row in rows {
            let own = self.own.get_key_value(stage(&row));
            let key = own.map(|(stage, _)| stage.as_str());
            let table = own.map_or(&self.shared, |(_, table)| table);
            groups.entry(key).or_insert_with(|| (table, Vec::new())).1.push(row);
        }
        groups.into_values().collect()
    }
}

impl StateTable {
    /// Its name in a statement.
    pub(super) fn name(&self) -> &str {
        self.0.as_ref().map_or("state", |own| &own.view)
    }

    /// A statement on this table.
    fn sql(&self, sql: &'static str) -> AssertSqlSafe<Cow<'static, str>> {
        AssertSqlSafe(match &self.0 {
            None => Cow::Borrowed(sql),
            // The name was quoted.
            Some(own) => Cow::Owned(sql.replace(NAME, &format!("{} AS s", own.view))),
        })
    }

    /// Runs a statement; returns the number of rows that it changed.
    pub(super) async fn execute(
        &self,
        conn: &mut PgConnection,
        sql: &'static str,
        args: PgArguments,
    ) -> Result<u64, TransactionError> {
        execute(conn, self.sql(sql), args).await.map_err(|error| self.failed(&error))
    }

    /// Runs a query.
    pub(super) async fn fetch<'e, E>(
        &self,
        executor: E,
        sql: &'static str,
        args: PgArguments,
    ) -> Result<Vec<PgRow>, TransactionError>
    where
        E: Executor<'e, Database = Postgres>,
    {
        fetch(executor, self.sql(sql), args).await.map_err(|error| self.failed(&error))
    }

    /// What an error means: one that concerns a single stage must not hold up the others.
    fn failed(&self, error: &sqlx::Error) -> TransactionError {
        if is_conflict(error) {
            return TransactionError::Conflict;
        }
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        let moved = constraint.and_then(|name| name.strip_prefix(MOVED));
        let code = sql_state(error);
        let out_of_reach = code.is_some_and(|code| OUT_OF_REACH.contains(&code.as_str()));
        TransactionError::Store(match (moved, &self.0) {
            (Some(stage), _) => moved_state(stage),
            (None, Some(own)) if out_of_reach => StoreError::StateUnavailable {
                stage: own.stage.clone(),
                problem: format!("{}: check it with `postrider doctor`", database_message(error)),
            },
            _ => store_error(error),
        })
    }
}

/// The error of a host that was started before the state of a stage was moved.
pub(super) fn moved_state(stage: &str) -> StoreError {
    let problem = format!(
        "it was moved since this host started: set stages.{stage}.store as the other hosts of the \
         namespace have it, and restart"
    );
    StoreError::StateUnavailable { stage: stage.to_owned(), problem }
}

/// A name as SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table of a stage in its schema.
pub(super) fn table(schema: &str) -> String {
    format!("{}.state", quoted(schema))
}

/// The view through which the host uses the table: Postgres checks the permissions of the view's
/// owner, which is the stage's role, when a statement uses the table through it.
pub(super) fn view(schema: &str) -> String {
    format!("{}.state_access", quoted(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_grouped_by_table_in_one_order() {
        let place = |schema: &str| StatePlace { schema: schema.to_owned(), role: None };
        let tables = StateTables::new(&StatePlaces::from([
            ("payment".to_owned(), place("money")),
            ("audit".to_owned(), place("a\"b")),
        ]));
        let rows = ["payment", "shipping", "audit", "payment"];
        let groups = tables.group(rows.iter().enumerate(), |row| row.1);
        let named: Vec<(&str, Vec<usize>)> = groups
            .iter()
            .map(|(table, rows)| (table.name(), rows.iter().map(|row| row.0).collect()))
            .collect();
        assert_eq!(
            named,
            [
                ("state", vec![1]),
                ("\"a\"\"b\".state_access", vec![2]),
                ("\"money\".state_access", vec![0, 3]),
            ]
        );
        let sql = tables.of("payment").sql("SELECT s.key FROM state AS s");
        assert_eq!(sql.0, "SELECT s.key FROM \"money\".state_access AS s");
        let sql = tables.of("shipping").sql("SELECT s.key FROM state AS s");
        assert!(matches!(sql.0, Cow::Borrowed(_)), "the common statements are constants");
    }
}
