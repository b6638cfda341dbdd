//! A schema for one benchmark, dropped at its end.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use super::open::OpenError;

/// A schema in a database that other programs may use.
pub struct Scratch {
    options: PgConnectOptions,
    schema: String,
}

impl Scratch {
    /// Creates the schema.
    pub async fn create(url: &str, schema: &str) -> Result<Self, OpenError> {
        let options: PgConnectOptions = url.parse().map_err(OpenError::Url)?;
        let scratch = Self { options, schema: schema.to_owned() };
        scratch.run(format!("CREATE SCHEMA {schema}")).await?;
        Ok(scratch)
    }

    /// A URL whose tables are those of the schema.
    pub fn url(&self) -> String {
        let mut url = self.options.to_url_lossy();
        url.query_pairs_mut().append_pair("options", &format!("-c search_path={}", self.schema));
        url.to_string()
    }

    /// Drops the schema and everything in it.
    pub async fn remove(self) -> Result<(), OpenError> {
        self.run(format!("DROP SCHEMA {} CASCADE", self.schema)).await
    }

    async fn run(&self, sql: String) -> Result<(), OpenError> {
        let connect =
            |source| OpenError::Connect { server: super::open::server(&self.options), source };
        let mut conn = self.options.connect().await.map_err(connect)?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.map_err(connect)?;
        Ok(())
    }
}
