//! A host on the program's own Postgres pool, and orders in the program's own transactions.

use std::error::Error;
use std::time::Duration;

use postrider::{Host, Submission};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use crate::approve::{Approve, Order};

pub async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("POSTRIDER_TEST_POSTGRES")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
    let server: PgConnectOptions = url.parse()?;
    let name = format!("embedding_{}", std::process::id());
    let mut admin = server.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
    let pool = PgPoolOptions::new().max_connections(4).connect_with(server.database(&name)).await?;
    let done = sell(&pool).await;
    pool.close().await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut admin).await?;
    done
}

async fn sell(pool: &PgPool) -> Result<(), Box<dyn Error>> {
    sqlx::raw_sql("CREATE TABLE carts (id TEXT PRIMARY KEY)").execute(pool).await?;
    let handle = Host::builder().pool(pool.clone()).stage(Approve).build().await?.start()?;
    let app = handle.app();

    // The cart and its order are written together, or not at all.
    let mut kept = pool.begin().await?;
    sqlx::query("INSERT INTO carts VALUES ('kept')").execute(&mut *kept).await?;
    let order = Order::of_a_book("kept");
    let _ = app.submit_within(&mut kept, "order", order, Submission::default()).await?;
    kept.commit().await?;
    let mut gone = pool.begin().await?;
    let order = Order::of_a_book("gone");
    let _ = app.submit_within(&mut gone, "order", order, Submission::default()).await?;
    gone.rollback().await?;

    while app
        .history(&"order/kept".parse()?, 0, 1)
        .await?
        .is_none_or(|history| history.deliveries.is_empty())
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(app.status(&"order/gone".parse()?).await?, None);
    handle.shutdown().await?;
    assert!(!pool.is_closed(), "the pool is the program's");
    Ok(())
}
