//! A store that does not answer uses up no attempt: the stage runs again with the same attempt
//! number.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, NativeContext, NativeError, NativeStage};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;

use crate::support::harness::{TestEnv, eventually};

/// Takes the database's write lock in its first call, so that the commit of that call fails, and
/// releases it in its second.
struct Blocker {
    database: std::path::PathBuf,
    lock: Mutex<Option<SqliteConnection>>,
    attempts: Arc<std::sync::Mutex<Vec<u32>>>,
}

#[async_trait]
impl NativeStage for Blocker {
    fn describe(&self) -> Description {
        Description::new("blocker", "1.0.0", "Blocks the database").consumes(["order.created"])
    }

    async fn handle(&self, cx: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.attempts.lock().expect("the list").push(cx.call.attempt);
        let mut lock = self.lock.lock().await;
        match lock.take() {
            None => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.database);
                let mut connection =
                    SqliteConnection::connect_with(&options).await.expect("the database opens");
                sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.expect("the lock");
                *lock = Some(connection);
            }
            Some(connection) => connection.close().await.expect("the lock is given back"),
        }
        Ok(vec![])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unresponsive_store_uses_no_attempt() -> Result<()> {
    let env = TestEnv::empty("")?;
    let attempts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let blocker = Blocker {
        database: env.database(),
        lock: Mutex::new(None),
        attempts: Arc::clone(&attempts),
    };
    let host = env.start_with(|builder| builder.stage(blocker)).await?;
    host.client
        .post("/orders", &json!({ "order_id": "1", "user_id": "1", "items": ["Book"] }))
        .await?;
    let order = eventually("the delivery to be settled", || async {
        let (_, order) = host.client.get("/orders/1").await?;
        Ok((order["timeline"][0]["status"] == "done").then_some(order))
    })
    .await?;
    assert_eq!(*attempts.lock().expect("the list"), [1, 1], "the same try, twice");
    assert_eq!(order["timeline"][0]["attempt"], 1, "{order}");
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    assert_eq!(
        env.query_count("SELECT count(*) FROM deliveries WHERE attempt > 1 OR round > 1").await?,
        0
    );
    host.stop().await
}
