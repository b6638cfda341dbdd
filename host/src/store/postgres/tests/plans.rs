//! How Postgres finds the rows of a page: by the index of its filter, also when the value is rare and the
//! statistics of the table do not know it.

use std::sync::Mutex;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _};

use super::{Database, server};
use crate::domain::clock::ManualClock;
use crate::domain::encryption::Encryption;
use crate::store::conformance::{START_MS, encryption};
use crate::store::postgres::pool::Pool;
use crate::store::postgres::session::Session;
use crate::store::queries::{self, Arg, Reader};
use crate::store::{DeadLetterFilter, DeadLetterStatus, Store as _, StoreError, SubjectFilter};

/// Explains queries instead of running them: they find nothing.
struct Explainer {
    conn: tokio::sync::Mutex<PgConnection>,
    plans: Mutex<Vec<String>>,
    encryption: std::sync::Arc<Encryption>,
}

impl Reader for Explainer {
    type Row = PgRow;
    const NAMED: &'static str = <Pool as Reader>::NAMED;
    const NAMED_WIDTH: usize = <Pool as Reader>::NAMED_WIDTH;

    async fn rows(&self, sql: String, args: &[Arg<'_>]) -> Result<Vec<PgRow>, StoreError> {
        let values = args.iter().map(|arg| match arg {
            Arg::Int(value) => value.to_string(),
            Arg::Text(text) => format!("'{text}'"),
            Arg::Named(_) => panic!("a page has no names"),
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let mut conn = self.conn.lock().await;
        let prepare = format!("DEALLOCATE ALL; PREPARE page AS {sql}");
        sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *conn).await.unwrap();
        let explain = format!("EXPLAIN EXECUTE page ({values})");
        let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut *conn).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        self.plans.lock().unwrap().push(plan.join("\n"));
        Ok(Vec::new())
    }

    fn encryption(&self) -> &Encryption {
        &self.encryption
    }
}

impl Explainer {
    /// Of a database with many subjects and dead letters that have all the same values.
    async fn of(database: &Database) -> Self {
        let store = database.open("here", std::sync::Arc::new(ManualClock::at(START_MS))).await;
        store.close().await;
        let mut conn = server().database(&database.name).connect().await.unwrap();
        let schema: String =
            sqlx::raw_sql("SELECT schemaname FROM pg_tables WHERE tablename = 'subjects'")
                .fetch_one(&mut conn)
                .await
                .unwrap()
                .get(0);
        Session::new(Some(&schema), Duration::from_secs(30)).set_up(&mut conn).await.unwrap();
        let fill = "INSERT INTO subjects (key, kind, customer, owner, status, body, fingerprint, created_ms, \
             updated_ms, finished_status, finished_ms) SELECT 'order/' || n, 'order', 'often', \
             'often', 'often', '{}', '', n, n, 'often', n FROM generate_series(1, 50000) n;
             INSERT INTO events (seq, id, source, type, subject, time_ms, content_type, data, correlation_id, \
             hops, expires_ms, logged_ms) SELECT n, 'e' || n, '/s', 't', 's', n, 'text/plain', '', 'c', 0, n, n \
             FROM generate_series(1, 50000) n;
             INSERT INTO dead_letters (event_seq, stage, round, code, message, digest, fingerprint, group_id, \
             dead_lettered_ms, status) SELECT n, 'often', 1, 'often', '', '', '', 'g', n, 'replayed' FROM \
             generate_series(1, 50000) n; ANALYZE";
        sqlx::raw_sql(fill).execute(&mut conn).await.unwrap();
        Self { conn: conn.into(), plans: Mutex::default(), encryption: encryption() }
    }

    /// The plan of the only query since the last call, or of the first one.
    fn plan(&self) -> String {
        std::mem::take(&mut *self.plans.lock().unwrap()).swap_remove(0)
    }
}

#[tokio::test]
async fn a_page_is_found_by_the_index_of_its_filter() {
    let database = Database::create().await;
    let explainer = Explainer::of(&database).await;
    let rare = || Some("rare".to_owned());
    for before in [None, Some(40_000)] {
        let all =
            SubjectFilter { kind: Some("order".into()), before, limit: 50, ..Default::default() };
        for (filter, index) in [
            (SubjectFilter { status: rare(), ..all.clone() }, "subjects_finished"),
            (SubjectFilter { customer: rare(), ..all.clone() }, "subjects_by_customer"),
            (SubjectFilter { owner: rare(), ..all.clone() }, "subjects_by_owner"),
            (SubjectFilter { owner: rare(), status: rare(), ..all.clone() }, "subjects_by_owner"),
        ] {
            queries::subjects(&explainer, &filter).await.unwrap();
            let plan = explainer.plan();
            assert!(plan.contains(index) && !plan.contains("subjects_pkey"), "{filter:?}: {plan}");
        }
        let all = DeadLetterFilter { before, limit: 50, ..Default::default() };
        let open = Some(DeadLetterStatus::Open);
        for (filter, index) in [
            (DeadLetterFilter { status: open, ..all.clone() }, "dead_letters_by_status"),
            (DeadLetterFilter { stage: rare(), ..all.clone() }, "dead_letters_by_stage"),
            (
                DeadLetterFilter { code: rare(), status: open, ..all.clone() },
                "dead_letters_by_code",
            ),
        ] {
            queries::dead_letters(&explainer, &filter).await.unwrap();
            let plan = explainer.plan();
            assert!(plan.contains(index), "{filter:?}: {plan}");
            queries::dead_letter_ids(&explainer, &filter, 10).await.unwrap();
            let plan = explainer.plan();
            assert!(plan.contains(index), "{filter:?}: {plan}");
        }
    }
}
