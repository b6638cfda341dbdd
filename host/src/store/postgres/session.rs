//! The settings that the statements of this module need, and how a session that belongs to the
//! embedding program gets its own back.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

/// Settings of a session, by name.
pub(super) struct Session(Vec<(&'static str, String)>);

/// For how long borrowed settings hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Until they are restored.
    Session,
    /// Until they are restored, or the transaction ends.
    Transaction,
}

/// The settings that a session had before they were borrowed.
pub(super) struct Before {
    scope: Scope,
    settings: Vec<(&'static str, String)>,
}

impl Session {
    /// Finds its tables in `schema`; none: where the server or the URL says.
    pub(super) fn new(schema: Option<&str>, timeout: Duration) -> Self {
        let timeout_ms = timeout.as_millis().to_string();
        let idle = ("idle_in_transaction_session_timeout", timeout_ms.clone());
        let mut session = Self::borrowed(schema, timeout_ms);
        session.0.push(idle);
        session
    }

    /// For the statements of this module inside a transaction of the embedding program, which may
    /// pause between its own statements for as long as it likes.
    pub(super) fn within_transaction(schema: &str, timeout: Duration) -> Self {
        Self::borrowed(Some(schema), timeout.as_millis().to_string())
    }

    fn borrowed(schema: Option<&str>, timeout_ms: String) -> Self {
        let off = |name| (name, "off".to_owned());
        let mut settings = vec![
            // The server aborts a statement when this host stops waiting for it.
            ("statement_timeout", timeout_ms),
            // Every statement of this module finds its rows by key: a plan made while the tables
            // were small must not scan them when they are large.
            off("enable_seqscan"),
            off("enable_hashjoin"),
            off("enable_mergejoin"),
            off("enable_memoize"),
            off("jit"),
            // They get few keys at a time, so one plan serves all: by itself, the server would plan
            // joins again for each execution, which takes longer than running them.
            ("plan_cache_mode", "force_generic_plan".to_owned()),
        ];
        settings.extend(schema.map(|schema| ("search_path", schema.to_owned())));
        Self(settings)
    }

    /// Sets up a session of this host. An error when it is read-only.
    pub(super) async fn set_up(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let sql = format!("SELECT {READ_ONLY}, {}", self.setters(Scope::Session));
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(conn).await?;
        if row.try_get(0)? { Err(read_only()) } else { Ok(()) }
    }

    /// Sets up a session of the embedding program, in one round trip. An error when it is
    /// read-only.
    pub(super) async fn borrow(
        &self,
        conn: &mut PgConnection,
        scope: Scope,
    ) -> Result<Before, sqlx::Error> {
        let getters = self.0.iter().map(|(name, _)| format!(", current_setting('{name}')"));
        let getters: String = getters.collect();
        let sql = format!("SELECT {READ_ONLY}{getters}; SELECT {}", self.setters(scope));
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *conn).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let values = self.0.iter().enumerate();
        let settings = values.map(|(at, (name, _))| Ok((*name, row.try_get(at + 1)?)));
        let before = Before { scope, settings: settings.collect::<Result<_, sqlx::Error>>()? };
        if row.try_get(0)? {
            before.restore(conn).await?;
            return Err(read_only());
        }
        Ok(before)
    }

    fn setters(&self, scope: Scope) -> String {
        let local = scope == Scope::Transaction;
        let setters = self.0.iter().map(|(name, value)| {
            let value = value.replace('\'', "''");
            format!("set_config('{name}', '{value}', {local})")
        });
        setters.collect::<Vec<_>>().join(", ")
    }
}

impl Before {
    /// Gives a session its settings back.
    pub(super) async fn restore(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let local = self.scope == Scope::Transaction;
        let setters = self.settings.iter().enumerate();
        let setters =
            setters.map(|(at, (name, _))| format!("set_config('{name}', ${}, {local})", at + 1));
        let sql = format!("SELECT {}", setters.collect::<Vec<_>>().join(", "));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (_, value) in &self.settings {
            query = query.bind(value);
        }
        query.execute(conn).await.map(drop)
    }
}

const READ_ONLY: &str = "current_setting('transaction_read_only') = 'on'";

/// The error of a server that accepts no writes.
pub(super) fn read_only() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::ReadOnlyFilesystem,
        "Postgres accepts no writes: it is a standby, or read-only",
    ))
}
