//! Creates the table of a stage, and moves its state.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{MovedState, PlaceError, PlaceProblem, comment, key, named};
use crate::domain::state_place::StatePlace;
use crate::store::decode::Columns as _;
use crate::store::hosts::LIVE_MS;
use crate::store::postgres::sql::{args, execute, fetch};
use crate::store::postgres::state_tables::{MOVED, quoted, table, view};

/// `query_canceled`: the migration took too long.
const CANCELED: &str = "57014";
/// Pause between two looks at the other hosts.
const HOSTS_POLL: Duration = Duration::from_millis(250);

/// A stage whose state is to be elsewhere. None: in the namespace's table.
pub(super) struct Change<'a> {
    pub(super) stage: &'a str,
    pub(super) from: Option<&'a StatePlace>,
    pub(super) to: Option<&'a StatePlace>,
}

impl Change<'_> {
    fn source_schema(&self) -> Option<&str> {
        self.from.map(|place| place.schema.as_str())
    }

    fn target_schema(&self) -> Option<&str> {
        self.to.map(|place| place.schema.as_str())
    }

    /// Only the role changes.
    fn stays(&self) -> bool {
        self.source_schema() == self.target_schema()
    }

    /// The change as a reason not to start.
    pub(super) fn pending(&self) -> PlaceProblem {
        let role = |place: Option<&StatePlace>| {
            place.and_then(|place| place.role.clone()).unwrap_or_else(|| "none".to_owned())
        };
        let (name, problem) = if self.stays() {
            ("role", format!("the role of its table is {}, not {}", role(self.from), role(self.to)))
        } else {
            let (from, to) = (named(self.source_schema()), named(self.target_schema()));
            ("schema", format!("the state of the stage is in {from}, not in {to}"))
        };
        let remedy = "stop every host of the namespace and run `postrider migrate`, or change the \
                      configuration back";
        PlaceProblem { key: key(self.stage, name), problem, remedy: remedy.to_owned() }
    }
}

/// Fails while other hosts run, which use the former places: one that ended without saying so counts
/// until it would have reported again. A stage without state may get its place beside them.
pub(super) async fn wait_for_hosts(
    conn: &mut PgConnection,
    changes: &[Change<'_>],
) -> Result<(), PlaceError> {
    let mut moving = Vec::new();
    for change in changes {
        if change.from.is_some() || has_state(conn, change.stage).await? {
            moving.push(change);
        }
    }
    let mut first: Option<BTreeMap<String, i64>> = None;
    while !moving.is_empty() {
        let sql = "SELECT host, seen_ms FROM hosts WHERE seen_ms > \
                   (extract(epoch FROM clock_timestamp()) * 1000)::int8 - $1";
        let rows = fetch(&mut *conn, sql, args![LIVE_MS as i64]).await?;
        let mut seen = BTreeMap::new();
        for row in &rows {
            seen.insert(row.owned(0)?, row.int(1)?);
        }
        let Some(first) = &first else {
            if !seen.is_empty() {
                let hosts = listed(&seen);
                tracing::info!(
                    hosts,
                    "waiting for other hosts to stop, whose state is to be moved"
                );
            }
            first = Some(seen);
            continue;
        };
        if seen.is_empty() {
            break;
        }
        if seen.iter().any(|(host, at)| first.get(host) != Some(at)) {
            let refused = moving.iter().map(|change| PlaceProblem {
                problem: format!(
                    "{}, and other hosts run: {}",
                    change.pending().problem,
                    listed(&seen)
                ),
                ..change.pending()
            });
            return Err(PlaceError::Problems(refused.collect()));
        }
        tokio::time::sleep(HOSTS_POLL).await;
    }
    Ok(())
}

fn listed(hosts: &BTreeMap<String, i64>) -> String {
    hosts.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

async fn has_state(conn: &mut PgConnection, stage: &str) -> Result<bool, PlaceError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM state WHERE stage = $1)";
    let rows = fetch(conn, sql, args![stage]).await?;
    Ok(rows.first().map_or(Ok(false), |row| row.flag(0))?)
}

/// Makes all changes, or none.
pub(super) async fn apply(
    conn: &mut PgConnection,
    namespace: &str,
    changes: &[Change<'_>],
) -> Result<Vec<MovedState>, PlaceError> {
    run(conn, "BEGIN".to_owned()).await?;
    let mut all = Vec::new();
    for change in changes {
        match change.make(conn, namespace).await {
            Ok(moved) => all.extend(moved),
            Err(error) => {
                run(conn, "ROLLBACK".to_owned()).await?;
                return Err(change.failed(error));
            }
        }
    }
    run(conn, "COMMIT".to_owned()).await?;
    for moved in &all {
        tracing::info!("{moved}");
    }
    Ok(all)
}

impl Change<'_> {
    async fn make(
        &self,
        conn: &mut PgConnection,
        namespace: &str,
    ) -> Result<Option<MovedState>, PlaceError> {
        self.find_source(conn).await?;
        if let Some(place) = self.to {
            if self.stays() {
                change_owner(conn, place).await?;
            }
            create(conn, place, &comment(namespace, self.stage)).await?;
        }
        let moved = if self.stays() { None } else { Some(self.move_rows(conn).await?) };
        let sql = "DELETE FROM state_places WHERE stage = $1";
        execute(conn, sql, args![self.stage]).await?;
        if let Some(StatePlace { schema, role }) = self.to {
            let sql =
                "INSERT INTO state_places (stage, schema_name, role_name) VALUES ($1, $2, $3)";
            execute(conn, sql, args![self.stage, schema.as_str(), role.as_deref()]).await?;
        }
        Ok(moved.filter(|moved| moved.keys > 0))
    }

    /// Fails when the table is gone that has the state.
    async fn find_source(&self, conn: &mut PgConnection) -> Result<(), PlaceError> {
        let Some(place) = self.from else { return Ok(()) };
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = \
                   c.relnamespace WHERE n.nspname = $1 AND c.relname = 'state')";
        let rows = fetch(conn, sql, args![place.schema.as_str()]).await?;
        if rows.first().map_or(Ok(false), |row| row.flag(0))? {
            return Ok(());
        }
        let stage = self.stage;
        Err(PlaceError::Problems(vec![PlaceProblem {
            key: key(stage, "schema"),
            problem: format!(
                "the table {} is missing, in which the state is",
                table(&place.schema)
            ),
            remedy: format!(
                "restore it, or begin without state: DELETE FROM state_places WHERE stage = '{stage}';"
            ),
        }]))
    }

    /// What the database refused, with the key.
    fn failed(&self, error: PlaceError) -> PlaceError {
        match &error {
            PlaceError::Database(sqlx::Error::Database(cause))
                if cause.code().as_deref() != Some(CANCELED) =>
            {
                PlaceError::Problems(vec![PlaceProblem {
                    problem: format!("{}: {}", self.pending().problem, cause.message()),
                    remedy: "nothing was changed".to_owned(),
                    ..self.pending()
                }])
            }
            _ => error,
        }
    }

    /// Moves the rows; then the former table refuses those of the stage, and the new one accepts
    /// them.
    async fn move_rows(&self, conn: &mut PgConnection) -> Result<MovedState, PlaceError> {
        let shared = || "state".to_owned();
        let source = self.source_schema().map_or_else(shared, table);
        let target = self.target_schema().map_or_else(shared, table);
        let fence = quoted(&format!("{MOVED}{}", self.stage));
        let stage = self.stage;
        // Readers wait as well: one that began before must not write afterwards.
        as_owner(conn, self.from, format!("LOCK TABLE {source} IN ACCESS EXCLUSIVE MODE")).await?;
        let unfence = format!("ALTER TABLE {target} DROP CONSTRAINT IF EXISTS {fence}");
        as_owner(conn, self.to, unfence).await?;
        // Each is used as a host does, with the permissions of its role.
        let source = self.source_schema().map_or_else(shared, view);
        let target = self.target_schema().map_or_else(shared, view);
        let sql = format!(
            "INSERT INTO {target} (stage, key, value, version, removed_ms) SELECT stage, key, value, \
             version, removed_ms FROM {source} WHERE stage = $1"
        );
        let keys = execute(conn, AssertSqlSafe(sql), args![stage]).await?;
        let sql = format!("DELETE FROM {source} WHERE stage = $1");
        execute(conn, AssertSqlSafe(sql), args![stage]).await?;
        let source = self.source_schema().map_or_else(shared, table);
        // The name of a stage contains no quote.
        let sql = format!(
            "ALTER TABLE {source} ADD CONSTRAINT {fence} CHECK (stage <> '{stage}') NOT VALID"
        );
        as_owner(conn, self.from, sql).await?;
        let owned = |schema: Option<&str>| schema.map(str::to_owned);
        let (from, to) = (owned(self.source_schema()), owned(self.target_schema()));
        Ok(MovedState { stage: stage.to_owned(), keys, from, to })
    }
}

/// Gives the table to the role of a place, or to the host's own.
async fn change_owner(conn: &mut PgConnection, place: &StatePlace) -> Result<(), PlaceError> {
    let owner = place.role.as_deref().map_or_else(|| "CURRENT_USER".to_owned(), quoted);
    let (table, view) = (table(&place.schema), view(&place.schema));
    run(conn, format!("ALTER TABLE {table} OWNER TO {owner}; ALTER VIEW {view} OWNER TO {owner}"))
        .await
}

/// Creates the schema, the table and the view, unless they exist. The view's owner is the table's.
async fn create(
    conn: &mut PgConnection,
    place: &StatePlace,
    comment: &str,
) -> Result<(), PlaceError> {
    let schema = quoted(&place.schema);
    let rows = fetch(
        &mut *conn,
        "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1), quote_ident(current_user)",
        args![place.schema.as_str()],
    )
    .await?;
    let row = rows.first().ok_or_else(crate::store::StoreError::missing_row)?;
    let (exists, login) = (row.flag(0)?, row.owned(1)?);
    if !exists {
        let owner = place.role.as_deref().map(|role| format!("AUTHORIZATION {}", quoted(role)));
        run(conn, format!("CREATE SCHEMA {schema} {}", owner.unwrap_or_default())).await?;
    }
    let (table, view) = (table(&place.schema), view(&place.schema));
    let comment = comment.replace('\'', "''");
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {table} (stage TEXT COLLATE \"C\" NOT NULL, key TEXT COLLATE \"C\" \
         NOT NULL, value BYTEA, version BIGINT NOT NULL, removed_ms BIGINT, PRIMARY KEY (stage, key)) \
         WITH (fillfactor = 70); \
         CREATE INDEX IF NOT EXISTS state_removed ON {table} (removed_ms) WHERE removed_ms IS NOT \
         NULL; \
         COMMENT ON TABLE {table} IS '{comment}'; \
         CREATE OR REPLACE VIEW {view} AS SELECT stage, key, value, version, removed_ms FROM {table}; \
         GRANT USAGE ON SCHEMA {schema} TO {login}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON {view} TO {login}"
    );
    as_owner(conn, Some(place), sql).await
}

/// Runs statements with the permissions of a place's role.
async fn as_owner(
    conn: &mut PgConnection,
    place: Option<&StatePlace>,
    sql: String,
) -> Result<(), PlaceError> {
    let Some(role) = place.and_then(|place| place.role.as_deref()) else {
        return run(conn, sql).await;
    };
    // A program's pool may have set a role of its own.
    let rows = fetch(&mut *conn, "SELECT current_setting('role')", args![]).await?;
    let before = rows.first().map_or(Ok("none".to_owned()), |row| row.owned(0))?;
    run(conn, format!("SET LOCAL ROLE {}; {sql}", quoted(role))).await?;
    let sql = "SELECT set_config('role', $1, TRUE)";
    fetch(conn, sql, args![before]).await?;
    Ok(())
}

async fn run(conn: &mut PgConnection, sql: String) -> Result<(), PlaceError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}
