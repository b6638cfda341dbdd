//! The program's own Postgres pool and transactions.

use anyhow::{Context as _, Result, ensure};
use futures::{FutureExt as _, StreamExt as _};
use postrider::{BuildError, EventQuery, Host, HostHandle, Submission, SubmitError, Submitted};
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};

use super::{approving, order};
use crate::support::harness::{Backend, TestEnv, eventually};

/// A program with a table, a pool and a host of its own.
struct Shop {
    env: TestEnv,
    pool: PgPool,
    handle: HostHandle,
}

impl Shop {
    async fn start() -> Result<Self> {
        let env = TestEnv::empty_on(Backend::Servers, "").await?;
        let pool = pool(&env, 4).await?;
        let table = "CREATE SCHEMA shop; CREATE TABLE shop.carts (id TEXT PRIMARY KEY)";
        sqlx::raw_sql(table).execute(&pool).await?;
        let mut config = env.config()?;
        // Whatever the URL says, the pool is used.
        config.store.url = "sqlite:/nonexistent/orders.db".into();
        let builder = approving(Host::builder().config(config)).pool(pool.clone());
        let handle = builder.build().await?.start()?;
        Ok(Self { env, pool, handle })
    }

    async fn wait_for(&self, id: &str, status: &str) -> Result<()> {
        let app = self.handle.app();
        eventually(&format!("order {id} to be {status}"), || async {
            Ok((app.status(&format!("order/{id}").parse()?).await?.as_deref() == Some(status))
                .then_some(()))
        })
        .await
    }

    async fn count(&self, query: &'static str) -> Result<i64> {
        self.env.query_count(query).await
    }
}

/// A pool whose sessions have a path of their own.
async fn pool(env: &TestEnv, connections: u32) -> Result<PgPool> {
    let url = env.servers.as_ref().context("no servers")?.database_url();
    let options = PgPoolOptions::new().max_connections(connections).after_connect(|conn, _| {
        let path = sqlx::raw_sql("SET search_path = shop, public; SET statement_timeout = 12345");
        async move { path.execute(conn).await.map(drop) }.boxed()
    });
    Ok(options.connect(&url).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_shares_the_pool_of_the_program_and_leaves_its_sessions_as_they_are() -> Result<()> {
    let shop = Shop::start().await?;
    for id in 0..20 {
        let _ = shop.handle.submit("order", order(&id.to_string())).await?;
    }
    for id in 0..20 {
        shop.wait_for(&id.to_string(), "authorized").await?;
    }
    // Reads that are cancelled half-way.
    let app = shop.handle.app();
    let key = "order/1".parse()?;
    for _ in 0..50 {
        let read = app.status(&key);
        tokio::pin!(read);
        if futures::poll!(&mut read).is_pending() {
            tokio::task::yield_now().await;
            let _ = futures::poll!(&mut read);
        }
    }
    // While the host runs, whichever connection the program gets.
    let settings = "SELECT current_setting('search_path') || ' ' || \
                    current_setting('statement_timeout') || ' ' || current_setting('enable_seqscan')";
    for _ in 0..50 {
        let found: String = sqlx::query_scalar(settings).fetch_one(&shop.pool).await?;
        assert_eq!(found, "shop, public 12345ms on");
        sqlx::raw_sql("SELECT * FROM carts").execute(&shop.pool).await?;
    }
    assert!(shop.pool.size() <= 4);
    let name = shop.env.servers.as_ref().context("no servers")?.database_url();
    let (_, name) = name.rsplit_once('/').context("no database")?;
    let sessions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = $1")
            .bind(name)
            .fetch_one(&shop.pool)
            .await?;
    assert!(sessions <= 5, "{sessions} sessions: those of the pool, and the writer's");
    shop.handle.shutdown().await?;
    assert!(!shop.pool.is_closed(), "the pool is the program's");
    let found: String = sqlx::query_scalar(settings).fetch_one(&shop.pool).await?;
    assert_eq!(found, "shop, public 12345ms on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_that_is_too_small_is_refused() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, "").await?;
    let builder = Host::builder().config(env.config()?).pool(pool(&env, 1).await?);
    let error = builder.build().await.err().context("it was accepted")?;
    assert!(matches!(error, BuildError::Store(_)), "{error}");
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("at most 1 connection(s); the host needs 2"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_submitted_with_the_transaction_of_the_caller() -> Result<()> {
    let shop = Shop::start().await?;
    let app = shop.handle.app();
    let mut transaction = shop.pool.begin().await?;
    sqlx::query("INSERT INTO carts VALUES ('kept')").execute(&mut *transaction).await?;
    let submitted =
        app.submit_within(&mut transaction, "order", order("kept"), Submission::default()).await?;
    assert!(matches!(submitted, Submitted::New(_)));
    // The session is as it was, for what the program does next.
    sqlx::query("INSERT INTO carts VALUES ('too')").execute(&mut *transaction).await?;
    let timeout: String = sqlx::query_scalar("SELECT current_setting('statement_timeout')")
        .fetch_one(&mut *transaction)
        .await?;
    assert_eq!(timeout, "12345ms");
    assert_eq!(
        app.status(&"order/kept".parse()?).await?,
        None,
        "nothing is visible before the commit"
    );
    assert_eq!(shop.count("SELECT count(*) FROM outbox WHERE owner IS NULL").await?, 0);
    transaction.commit().await?;
    shop.wait_for("kept", "authorized").await?;
    assert_eq!(shop.count("SELECT count(*) FROM shop.carts").await?, 2);
    eventually("the outbox to be empty", || async {
        Ok((shop.count("SELECT count(*) FROM outbox").await? == 0).then_some(()))
    })
    .await?;
    Ok(shop.handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_submitted_when_the_transaction_rolls_back() -> Result<()> {
    let shop = Shop::start().await?;
    let app = shop.handle.app();
    let mut transaction = shop.pool.begin().await?;
    let _ =
        app.submit_within(&mut transaction, "order", order("gone"), Submission::default()).await?;
    transaction.rollback().await?;
    // Dropped, without a word.
    let mut transaction = shop.pool.begin().await?;
    let _ =
        app.submit_within(&mut transaction, "order", order("gone"), Submission::default()).await?;
    drop(transaction);
    let accepted = shop.handle.submit("order", order("gone")).await?;
    assert!(matches!(accepted, Submitted::New(_)), "it was never submitted");
    shop.wait_for("gone", "authorized").await?;
    assert_eq!(shop.count("SELECT count(*) FROM events WHERE type = 'order.created'").await?, 1);
    Ok(shop.handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_order_leaves_the_transaction_usable() -> Result<()> {
    let shop = Shop::start().await?;
    let app = shop.handle.app();
    let _ = shop.handle.submit("order", order("1")).await?;
    let mut transaction = shop.pool.begin().await?;
    let submit = async |transaction: &mut sqlx::PgTransaction<'_>, order: Value| {
        app.submit_within(transaction, "order", order, Submission::default()).await
    };
    assert!(matches!(submit(&mut transaction, order("1")).await?, Submitted::Duplicate(_)));
    let conflict = submit(&mut transaction, json!({ "order_id": "1", "items": ["Lamp"] })).await;
    assert!(
        matches!(&conflict, Err(SubmitError::Conflict { key }) if &**key == "order/1"),
        "{conflict:?}"
    );
    let invalid = submit(&mut transaction, json!({})).await;
    assert!(matches!(invalid, Err(SubmitError::Invalid(_))), "{invalid:?}");
    // Two of one transaction know of each other.
    assert!(matches!(submit(&mut transaction, order("2")).await?, Submitted::New(_)));
    assert!(matches!(submit(&mut transaction, order("2")).await?, Submitted::Duplicate(_)));
    sqlx::query("INSERT INTO carts VALUES ('kept')").execute(&mut *transaction).await?;
    transaction.commit().await?;
    shop.wait_for("2", "authorized").await?;
    Ok(shop.handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_on_another_database_is_refused() -> Result<()> {
    let shop = Shop::start().await?;
    let other = TestEnv::empty_on(Backend::Servers, "").await?;
    let url = other.servers.as_ref().context("no servers")?.database_url();
    let elsewhere = PgPool::connect(&url).await?;
    let mut transaction = elsewhere.begin().await?;
    let app = shop.handle.app();
    let refused =
        app.submit_within(&mut transaction, "order", order("1"), Submission::default()).await;
    assert!(matches!(refused, Err(SubmitError::OtherDatabase)), "{refused:?}");
    sqlx::raw_sql("SELECT 1").execute(&mut *transaction).await?;
    shop.handle.shutdown().await?;
    // A host on the embedded store has no Postgres database at all.
    let embedded = TestEnv::empty("")?;
    let host = Host::builder().config(embedded.config()?).build().await?;
    let refused = host
        .app()
        .submit_within(&mut transaction, "order", order("1"), Submission::default())
        .await;
    assert!(matches!(refused, Err(SubmitError::OtherDatabase)), "{refused:?}");
    drop(transaction);
    elsewhere.close().await;
    Ok(())
}

/// The transaction has the lower position and commits later: a reader that passed it would never
/// see its event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursor_does_not_skip_an_event_of_a_transaction_that_commits_late() -> Result<()> {
    let shop = Shop::start().await?;
    let app = shop.handle.app();
    let mut stream = app.events(EventQuery::new().event_type("order.created"))?;
    let mut transaction = shop.pool.begin().await?;
    let _ =
        app.submit_within(&mut transaction, "order", order("late"), Submission::default()).await?;
    let _ = shop.handle.submit("order", order("early")).await?;
    // Stages go on in the meantime; readers of the log stop before the open transaction.
    shop.wait_for("early", "authorized").await?;
    let next = stream.next();
    tokio::pin!(next);
    let passed = tokio::time::timeout(std::time::Duration::from_millis(600), &mut next).await;
    ensure!(passed.is_err(), "the reader passed an open transaction: {passed:?}");
    transaction.commit().await?;
    let first = next.await.context("no event")?;
    let second = stream.next().await.context("no event")?;
    assert_eq!((first.event.subject.as_str(), second.event.subject.as_str()), ("late", "early"));
    assert!(first.cursor < second.cursor);
    Ok(shop.handle.shutdown().await?)
}
