//! Sessions: poolers, fail-over, namespaces, migrations of several hosts, clocks that differ.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::{Database, server};
use crate::domain::clock::ManualClock;
use crate::domain::state_place::StatePlaces;
use crate::store::conformance::{START_MS, sample_event};
use crate::store::decode::Columns as _;
use crate::store::postgres::{OpenError, PostgresSettings, PostgresStore};
use crate::store::{AcceptedEvent, Direction, EventFilter, LogRange, Store, StoreError};

static NO_PLACES: StatePlaces = StatePlaces::new();

fn settings<'a>(url: &'a str, namespace: &'a str) -> PostgresSettings<'a> {
    PostgresSettings {
        url,
        namespace,
        places: &NO_PLACES,
        timeout: Duration::from_secs(5),
        migration_timeout: Duration::from_secs(30),
    }
}

/// The length of a message and its kind; the first one of a client has no kind.
async fn message(from: &mut TcpStream, has_kind: bool) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; if has_kind { 5 } else { 4 }];
    from.read_exact(&mut head).await?;
    let length = head[head.len() - 4..].try_into().map(u32::from_be_bytes).unwrap() as usize;
    let mut body = vec![0; length - 4];
    from.read_exact(&mut body).await?;
    head.extend(body);
    Ok(head)
}

/// Copies messages up to the end of an exchange; whether a transaction is open then.
async fn exchange(
    server: &mut TcpStream,
    client: &mut TcpStream,
    forward: bool,
) -> std::io::Result<bool> {
    loop {
        let reply = message(server, true).await?;
        if forward {
            client.write_all(&reply).await?;
        }
        if reply[0] == b'Z' {
            return Ok(reply[5] != b'I');
        }
    }
}

/// Serves one client as a transaction pooler does: any session for each transaction.
async fn pool(
    mut client: TcpStream,
    port: u16,
    idle: Arc<Mutex<Vec<TcpStream>>>,
) -> std::io::Result<()> {
    let startup = message(&mut client, false).await?;
    // A session of its own, to answer the start; then it serves any client.
    let mut first = TcpStream::connect(("127.0.0.1", port)).await?;
    first.write_all(&startup).await?;
    exchange(&mut first, &mut client, true).await?;
    idle.lock().await.push(first);
    let mut held: Option<TcpStream> = None;
    loop {
        let request = message(&mut client, true).await?;
        let mut session = match held.take() {
            Some(session) => session,
            None => match idle.lock().await.pop() {
                Some(session) => session,
                None => {
                    let mut more = TcpStream::connect(("127.0.0.1", port)).await?;
                    more.write_all(&startup).await?;
                    exchange(&mut more, &mut client, false).await?;
                    more
                }
            },
        };
        session.write_all(&request).await?;
        let is_open = if matches!(request[0], b'Q' | b'S') {
            exchange(&mut session, &mut client, true).await?
        } else {
            true
        };
        if is_open { held = Some(session) } else { idle.lock().await.push(session) }
    }
}

#[tokio::test]
async fn a_transaction_pooler_is_refused() {
    let database = Database::create().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, backend) = (listener.local_addr().unwrap().port(), server().get_port());
    tokio::spawn(async move {
        let idle = Arc::default();
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pool(client, backend, Arc::clone(&idle)));
        }
    });
    let direct = database.url();
    let (user, name) = (server().get_username().to_owned(), &database.name);
    let through = format!("postgres://{user}@127.0.0.1:{port}/{name}?sslmode=disable");
    let refused = PostgresStore::migrate(settings(&through, "orders")).await;
    assert!(matches!(refused, Err(OpenError::TransactionPooler { .. })), "{refused:?}");
    PostgresStore::migrate(settings(&direct, "orders")).await.unwrap();
}

#[tokio::test]
async fn every_connection_leaves_a_server_that_accepts_no_writes() {
    let database = Database::create().await;
    let store = database.open("here", Arc::new(ManualClock::at(START_MS))).await;
    store.accept_event(sample_event("e1", &["payment"])).await.unwrap();
    store.ping().await.unwrap();
    let mut admin = server().connect().await.unwrap();
    // What a standby answers to a write, and to the question whether it is one.
    let name = &database.name;
    let set = |on: &str| {
        AssertSqlSafe(format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}"))
    };
    sqlx::raw_sql(set("on")).execute(&mut admin).await.unwrap();
    // As a fail-over does: the old connections end, new ones reach a standby.
    let end = AssertSqlSafe(format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
    sqlx::raw_sql(end).execute(&mut admin).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    }
    let error = store.accept_event(sample_event("e2", &["payment"])).await.unwrap_err();
    assert!(error.to_string().contains("accepts no writes"), "{error}");
    sqlx::raw_sql(set("off")).execute(&mut admin).await.unwrap();
    store.accept_event(sample_event("e3", &["payment"])).await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn connections_are_used_again_until_the_server_ends_them() {
    let database = Database::create().await;
    let store = database.open("here", Arc::new(ManualClock::at(START_MS))).await;
    let read = || store.open_deliveries("payment", 10);
    // More queries than connections: each waits for one.
    for result in futures::future::join_all((0..50).map(|_| read())).await {
        result.unwrap();
    }
    let mut admin = server().connect().await.unwrap();
    let name = &database.name;
    let sessions =
        AssertSqlSafe(format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"));
    let count = sqlx::raw_sql(sessions).fetch_one(&mut admin).await.unwrap().int(0).unwrap();
    assert!(count > 2, "the writer's and several others: {count}");
    let end = AssertSqlSafe(format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
    sqlx::raw_sql(end).execute(&mut admin).await.unwrap();
    let mut failed = 0;
    for _ in 0..count {
        failed += u32::from(read().await.is_err());
    }
    assert!(failed <= 1, "{failed} queries failed on connections that were lost");
}

#[tokio::test]
async fn the_server_that_accepts_writes_is_found_among_several() {
    let database = Database::create().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let (user, real) = (server().get_username().to_owned(), server().get_port());
    let url = format!(
        "postgres://{user}@127.0.0.1:{port},127.0.0.1:{real}/{}?target_session_attrs=read-write",
        database.name
    );
    PostgresStore::migrate(settings(&url, "orders")).await.unwrap();
}

#[tokio::test]
async fn namespaces_have_tables_and_logs_of_their_own() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(START_MS));
    let subjects = database.open("here", Arc::clone(&clock)).await;
    let shop = database.open_in("shop-1", "here", Arc::clone(&clock)).await;
    subjects.accept_event(sample_event("e1", &["payment"])).await.unwrap();
    let (accepted, _) = shop.accept_event(sample_event("e1", &["payment"])).await.unwrap();
    assert_eq!(accepted, AcceptedEvent::New, "an id belongs to one namespace");
    assert_eq!(subjects.open_deliveries("payment", 10).await.unwrap().len(), 1);
    // A transaction of one namespace does not hold up the log of another.
    let mut writing = server().database(&database.name).connect().await.unwrap();
    let sql = "BEGIN; SELECT nextval('numbers') FROM pg_advisory_xact_lock_shared(1886352244, \
               to_regnamespace(current_schema()::text)::oid::int4)";
    sqlx::raw_sql(sql).execute(&mut writing).await.unwrap();
    let last = async |store: &PostgresStore| {
        let range = LogRange { after: 0, up_to: i64::MAX, limit: 10, direction: Direction::Oldest };
        let page = store.events(EventFilter::default(), range).await.unwrap();
        page.items.last().unwrap().seq
    };
    assert!(shop.log_end().await.unwrap() >= last(&shop).await);
    assert!(
        subjects.log_end().await.unwrap() < last(&subjects).await,
        "it may still write before that"
    );
    // Tables belong to the namespace that made them.
    let taken = format!("{}?options=-c%20search_path%3Dpostrider_shop_1", database.plain_url());
    let refused = PostgresStore::migrate(settings(&taken, "orders")).await;
    assert!(matches!(refused, Err(OpenError::OtherNamespace { .. })), "{refused:?}");
    let url = database.url();
    PostgresStore::drop_namespace(settings(&url, "shop-1")).await.unwrap();
    subjects.ping().await.unwrap();
}

#[tokio::test]
async fn a_migration_waits_for_another_hosts_and_ignores_the_request_time_out() {
    let database = Database::create().await;
    let url = database.url();
    let mut other: PgConnection = server().database(&database.name).connect().await.unwrap();
    sqlx::migrate::Migrate::lock(&mut other).await.unwrap();
    let short =
        PostgresSettings { timeout: Duration::from_millis(300), ..settings(&url, "orders") };
    let impatient = PostgresSettings { migration_timeout: Duration::from_millis(600), ..short };
    let refused = PostgresStore::migrate(impatient).await;
    assert!(matches!(refused, Err(OpenError::MigrationTimeout { .. })), "{refused:?}");
    let waits = PostgresStore::migrate(short);
    let releases = async {
        // Longer than the time-out for requests: nothing else would show that it does not apply.
        tokio::time::sleep(Duration::from_millis(500)).await;
        other.close().await.unwrap();
    };
    let (migrated, ()) = tokio::join!(waits, releases);
    migrated.unwrap();
}

#[tokio::test]
async fn a_delay_is_as_long_as_the_host_asked_whatever_its_clock_shows() {
    const HOUR_MS: i64 = 3_600_000;
    let database = Database::create().await;
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
            as i64;
    for (name, off_ms) in [("behind", -HOUR_MS), ("ahead", HOUR_MS)] {
        let host_ms = (now_ms + off_ms) as u64;
        let clock = Arc::new(ManualClock::at(host_ms));
        let store = database.open_by_database_time(name, clock).await;
        let mut later = sample_event(&format!("later-{name}"), &["payment"]);
        later.due_at_ms = host_ms + 60_000;
        assert!(store.accept_event(later).await.unwrap().1.is_empty(), "{name}: it is due later");
        let mut now = sample_event(&format!("now-{name}"), &["payment"]);
        now.due_at_ms = host_ms;
        assert_eq!(store.accept_event(now).await.unwrap().1.len(), 1, "{name}: it is due now");
        let mut conn = server().database(&database.name).connect().await.unwrap();
        let sql = "SELECT max(due_ms) - (extract(epoch FROM clock_timestamp()) * 1000)::int8 FROM \
                   outbox";
        let (wait_ms,): (i64,) = sqlx::query_as(sql).fetch_one(&mut conn).await.unwrap();
        assert!((30_000..=60_500).contains(&wait_ms), "{name}: due in {wait_ms} ms");
        sqlx::raw_sql("TRUNCATE outbox").execute(&mut conn).await.unwrap();
    }
}
