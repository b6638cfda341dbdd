//! State of stages in schemas of their own: permissions, atomicity, moves, and hosts that disagree.

use sqlx::PgConnection;

use super::*;
use crate::store::postgres::{MovedState, OpenError, PlaceProblem};
use crate::store::{StoreError, Version};

/// Roles of a test, which are those of the whole server. To be declared before the database, which
/// has to be dropped first.
struct Roles(Vec<String>);

impl Drop for Roles {
    fn drop(&mut self) {
        let sql = self.0.iter().map(|role| format!("DROP ROLE IF EXISTS {role};")).collect();
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { run(&mut server().connect().await.unwrap(), sql).await });
        });
        assert!(dropped.join().is_ok() || std::thread::panicking(), "a role was left behind");
    }
}

async fn run(conn: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

impl Database {
    async fn connect(&self) -> PgConnection {
        server().database(&self.name).connect().await.unwrap()
    }

    async fn run(&self, sql: impl Into<String>) {
        run(&mut self.connect().await, sql.into()).await;
    }

    /// Runs a statement as a role; returns the code of its error.
    async fn refused(&self, role: &str, sql: &str) -> Option<String> {
        let mut conn = self.connect().await;
        run(&mut conn, format!("SET ROLE {role}")).await;
        let refused = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut conn).await;
        refused.err()?.as_database_error()?.code().map(std::borrow::Cow::into_owned)
    }

    async fn count(&self, sql: &str) -> i64 {
        let mut conn = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap()
    }

    /// Options of a host whose times are the database's.
    fn placed(&self, host: &str, places: StatePlaces) -> PostgresOptions {
        let clock = Arc::new(ManualClock::at(conformance::START_MS));
        let options = self.options(DEFAULT_NAMESPACE, host, clock);
        PostgresOptions { host_time: false, places, ..options }
    }

    async fn start_in(&self, host: &str, places: StatePlaces) -> Arc<PostgresStore> {
        Self::start(self.placed(host, places)).await
    }
}

/// Opens a store that must be refused; returns why.
async fn problems(options: PostgresOptions) -> Vec<PlaceProblem> {
    match PostgresStore::open(options).await {
        Err(OpenError::Places(problems)) => problems,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it opens"),
    }
}

fn only(problems: Vec<PlaceProblem>) -> (String, String) {
    let [problem] = &problems[..] else { panic!("{problems:#?}") };
    (problem.key.clone(), format!("{}; {}", problem.problem, problem.remedy))
}

fn write(stage: &str, key: &str, version: Version, value: Option<&str>) -> Batch {
    Batch {
        stage: stage.into(),
        settlements: Vec::new(),
        reads: vec![(key.into(), version)],
        writes: vec![(key.into(), value.map(|value| value.to_owned().into()))],
    }
}

async fn put(store: &PostgresStore, stage: &str, key: &str, version: Version, value: &str) {
    let commit = store.commit(write(stage, key, version, Some(value))).await.unwrap();
    assert!(matches!(commit, Commit::Done { .. }), "{stage} {key}: {commit:?}");
}

async fn value(store: &PostgresStore, key: &str) -> Option<(Version, String)> {
    let row = store.state_get("payment", key).await.unwrap()?;
    Some((row.version, String::from_utf8(row.value?.to_vec()).unwrap()))
}

/// A batch that settles the delivery of a new event and writes state.
async fn settling(store: &PostgresStore, id: &str) -> Batch {
    let event = conformance::sample_event(id, &["payment"]);
    store.accept_event(event.clone()).await.unwrap();
    let settlement = Settlement { recording: Some("{}".into()), ..skipped(&event) };
    Batch { settlements: vec![settlement], ..write("payment", id, 0, Some("settled")) }
}

fn state_unavailable(result: Result<Commit, StoreError>) -> String {
    match result {
        Err(StoreError::StateUnavailable { stage, problem }) => format!("{stage}: {problem}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn state_and_delivery_are_committed_together_or_not_at_all() {
    let database = Database::create().await;
    let store = database.start_in("here", payment_in("money", None)).await;
    let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
    let state = "SELECT count(*) FROM money.state";
    // After the state, the recording is written, which fails.
    database.run("ALTER TABLE recordings ADD CONSTRAINT never CHECK (FALSE)").await;
    let batch = settling(&store, "e1").await;
    let refused = store.commit(batch).await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })), "{refused:?}");
    assert_eq!((database.count(open).await, database.count(state).await), (1, 0));
    database.run("ALTER TABLE recordings DROP CONSTRAINT never").await;
    // Before the state, the delivery is settled; then the state fails.
    database.run("ALTER TABLE money.state ADD CONSTRAINT never CHECK (FALSE)").await;
    let refused = store.commit(settling(&store, "e2").await).await;
    assert!(matches!(refused, Err(StoreError::Rejected { .. })), "{refused:?}");
    assert_eq!((database.count(open).await, database.count(state).await), (2, 0));
    database.run("ALTER TABLE money.state DROP CONSTRAINT never").await;
    let commit = store.commit(settling(&store, "e3").await).await.unwrap();
    assert!(matches!(commit, Commit::Done { .. }), "{commit:?}");
    assert_eq!((database.count(open).await, database.count(state).await), (2, 1));
    assert_eq!(database.count("SELECT count(*) FROM state").await, 0);
    store.close().await;
}

#[tokio::test]
async fn a_merged_group_of_several_places_is_one_transaction() {
    let database = Database::create().await;
    let mut places = payment_in("money", None);
    places.extend([("audit".to_owned(), StatePlace { schema: "books".into(), role: None })]);
    let store = database.start_in("here", places).await;
    // The writer is busy with a transaction that waits, so these three become one group.
    let mut blocker = database.connect().await;
    run(&mut blocker, "BEGIN; LOCK TABLE books.state IN EXCLUSIVE MODE".into()).await;
    let stages = ["payment", "shipping", "audit"];
    let commits = stages.map(|stage| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(write(stage, "k", 0, Some("v"))).await })
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
                   wait_event_type = 'Lock'";
    while database.count(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    // The transaction is open: other sessions see none of it.
    let all = "SELECT (SELECT count(*) FROM money.state) + (SELECT count(*) FROM state)";
    assert_eq!(database.count(all).await, 0);
    run(&mut blocker, "ROLLBACK".into()).await;
    for commit in commits {
        assert!(matches!(commit.await.unwrap().unwrap(), Commit::Done { .. }));
    }
    // The same transaction wrote all rows of one group.
    let transactions = "SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM money.state UNION ALL \
                        SELECT xmin FROM state UNION ALL SELECT xmin FROM books.state) s";
    let rows = "SELECT (SELECT count(*) FROM money.state) + (SELECT count(*) FROM state) + (SELECT \
                count(*) FROM books.state)";
    assert_eq!((database.count(rows).await, database.count(transactions).await), (3, 1));
    store.close().await;
}

#[tokio::test]
async fn a_stage_uses_its_state_with_the_permissions_of_its_role() {
    let name = format!("postrider_role_{}", std::process::id());
    let (app, pay, reader) = (format!("{name}_app"), format!("{name}_pay"), format!("{name}_ro"));
    let _roles = Roles(vec![app.clone(), pay.clone(), reader.clone()]);
    let database = Database::create().await;
    database.run(format!("CREATE ROLE {app} LOGIN; CREATE ROLE {reader}")).await;
    database.run(format!("GRANT CREATE ON DATABASE {} TO {app}", database.name)).await;
    let url = server().database(&database.name).username(&app).to_url_lossy().to_string();
    let options = |migrate| PostgresOptions {
        url: url.clone(),
        namespace: "shop".into(),
        migrate,
        ..database.placed("here", payment_in("money", Some(&pay)))
    };
    // Each thing that is missing is named with the statement that adds it.
    let key = "stages.payment.store.role".to_owned();
    let create = format!("CREATE ROLE \"{pay}\" NOLOGIN");
    let (at, problem) = only(problems(options(true)).await);
    assert!(at == key && problem.contains(&create), "{at}: {problem}");
    database.run(create).await;
    let grant = format!("GRANT \"{pay}\" TO \"{app}\";");
    let (at, problem) = only(problems(options(true)).await);
    assert!(at == key && problem.contains(&grant) && problem.contains("not a member"), "{problem}");
    database.run(grant).await;
    let store = Database::start(options(true)).await;
    put(&store, "payment", "k", 0, "v").await;
    put(&store, "shipping", "k", 0, "v").await;
    store.close().await;
    // The role reads its table, and nothing else of the host's.
    assert_eq!(database.refused(&pay, "SELECT * FROM money.state").await, None);
    for table in ["subjects", "state", "events"] {
        let sql = format!("SELECT * FROM postrider_shop.{table}");
        assert_eq!(database.refused(&pay, &sql).await.as_deref(), Some("42501"), "{table}");
    }
    let sql = "SELECT * FROM money.state";
    assert_eq!(database.refused(&reader, sql).await.as_deref(), Some("42501"));
    // From now on the login needs the view alone: the table is closed to it.
    database.run(format!("REVOKE {pay} FROM {app}")).await;
    assert_eq!(database.refused(&app, sql).await.as_deref(), Some("42501"));
    let store = Database::start(options(false)).await;
    put(&store, "payment", "k", 1, "w").await;
    // What the role may not do, the stage may not do; other stages go on.
    database.run(format!("REVOKE UPDATE ON money.state FROM {pay}")).await;
    let (refused, other) = tokio::join!(
        store.commit(write("payment", "k", 2, Some("x"))),
        store.commit(write("shipping", "k", 1, Some("x")))
    );
    let problem = state_unavailable(refused);
    assert!(problem.contains("permission denied for table state"), "{problem}");
    assert!(matches!(other, Ok(Commit::Done { .. })), "{other:?}");
    assert_eq!(value(&store, "k").await, Some((2, "w".to_owned())));
    store.close().await;
    let (at, problem) = only(problems(options(false)).await);
    assert!(at == "stages.payment.store.schema" && problem.contains("GRANT SELECT"), "{problem}");
    // Only the view's owner may give the view away.
    database.run(format!("GRANT UPDATE ON money.state TO {pay}")).await;
    database.run(format!("REVOKE SELECT ON money.state_access FROM {app}")).await;
    let (_, problem) = only(problems(options(false)).await);
    assert!(problem.contains("ON \"money\".state_access TO"), "{problem}");
}

#[tokio::test]
async fn a_login_that_may_not_create_the_schema_is_told_what_to_run() {
    let app = format!("postrider_poor_{}", std::process::id());
    let _roles = Roles(vec![app.clone()]);
    let database = Database::create().await;
    database.run(format!("CREATE ROLE {app} LOGIN; GRANT CREATE ON SCHEMA public TO {app}")).await;
    let url = server().database(&database.name).username(&app).to_url_lossy().to_string();
    let options = || PostgresOptions {
        url: url.clone(),
        ..database.placed("here", payment_in("money", None))
    };
    let create = format!("CREATE SCHEMA \"money\" AUTHORIZATION \"{app}\";");
    let (key, problem) = only(problems(options()).await);
    assert!(key == "stages.payment.store.schema" && problem.contains(&create), "{problem}");
    database.run("CREATE SCHEMA money").await;
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA \"money\" TO \"{app}\";");
    let (_, problem) = only(problems(options()).await);
    assert!(problem.contains(&grant), "{problem}");
    database.run(grant).await;
    let store = Database::start(options()).await;
    put(&store, "payment", "k", 0, "v").await;
    store.close().await;
}

#[tokio::test]
async fn a_schema_belongs_to_one_stage_of_one_namespace() {
    let database = Database::create().await;
    let store = database.start_in("here", payment_in("money", None)).await;
    store.close().await;
    let of = |namespace: &str, places| PostgresOptions {
        namespace: namespace.to_owned(),
        ..database.placed("there", places)
    };
    let (key, problem) = only(problems(of("shop", payment_in("money", None))).await);
    assert_eq!(key, "stages.payment.store.schema");
    assert!(problem.contains("the stage payment of the namespace orders"), "{problem}");
    let other = StatePlaces::from([(
        "audit".to_owned(),
        StatePlace { schema: "money".to_owned(), role: None },
    )]);
    let (_, problem) = only(problems(of("shop", other)).await);
    assert!(problem.contains("not this stage's"), "{problem}");
    // The schema of a namespace, whichever it is; and a table of another program.
    let (_, problem) = only(problems(of("shop", payment_in("public", None))).await);
    assert!(problem.contains("the one of a namespace"), "{problem}");
    database.run("CREATE SCHEMA theirs; CREATE TABLE theirs.state (a int)").await;
    let (_, problem) = only(problems(of("shop", payment_in("theirs", None))).await);
    assert!(problem.contains("not made by Postrider"), "{problem}");
}

#[tokio::test]
async fn state_is_moved_with_its_versions_there_and_back() {
    let database = Database::create().await;
    let store = database.start_in("here", StatePlaces::new()).await;
    put(&store, "payment", "a", 0, "1").await;
    put(&store, "payment", "a", 1, "2").await;
    put(&store, "payment", "gone", 0, "1").await;
    store.commit(write("payment", "gone", 1, None)).await.unwrap();
    put(&store, "shipping", "a", 0, "s").await;
    store.close().await;
    let shared = "SELECT count(*) FROM state WHERE stage = 'payment'";
    for (places, kept) in [
        (payment_in("money", None), (0, Some("money"))),
        (payment_in("bank", None), (0, Some("bank"))),
        (StatePlaces::new(), (2, None)),
        (payment_in("money", None), (0, Some("money"))),
    ] {
        // Without the right to migrate, a host does not begin without its state.
        let options = database.placed("here", places.clone());
        let (key, problem) = only(problems(PostgresOptions { migrate: false, ..options }).await);
        assert_eq!(key, "stages.payment.store.schema");
        assert!(problem.contains("run `postrider migrate`"), "{problem}");
        let store = database.start_in("here", places).await;
        assert_eq!(value(&store, "a").await, Some((2, "2".to_owned())), "{kept:?}");
        assert_eq!(value(&store, "gone").await, None);
        // The versions of removed keys keep growing.
        let stale = store.commit(write("payment", "gone", 0, Some("x"))).await.unwrap();
        assert!(matches!(stale, Commit::Conflict { .. }), "{stale:?}");
        assert_eq!(database.count(shared).await, kept.0);
        if let Some(schema) = kept.1 {
            assert_eq!(database.count(&format!("SELECT count(*) FROM {schema}.state")).await, 2);
        }
        store.close().await;
    }
    assert_eq!(database.count("SELECT count(*) FROM bank.state").await, 0);
    assert_eq!(database.count("SELECT count(*) FROM state WHERE stage = 'shipping'").await, 1);
    let settings = super::super::PostgresSettings {
        url: &database.url(),
        namespace: DEFAULT_NAMESPACE,
        places: &StatePlaces::new(),
        timeout: std::time::Duration::from_secs(5),
        migration_timeout: std::time::Duration::from_secs(30),
    };
    let moved = PostgresStore::migrate(settings).await.unwrap();
    let expected =
        MovedState { stage: "payment".into(), keys: 2, from: Some("money".into()), to: None };
    assert_eq!(moved, [expected]);
}

#[tokio::test]
async fn a_role_takes_over_the_table_and_gives_it_back() {
    let pay = format!("postrider_over_{}", std::process::id());
    let _roles = Roles(vec![pay.clone()]);
    let database = Database::create().await;
    database.run(format!("CREATE ROLE {pay}")).await;
    let owner = "SELECT count(*) FROM pg_tables WHERE schemaname = 'money' AND tableowner = ";
    for (version, role) in [None, Some(pay.as_str()), None].into_iter().enumerate() {
        if role.is_some() {
            database.run(format!("GRANT USAGE, CREATE ON SCHEMA money TO {pay}")).await;
        }
        let store = database.start_in("here", payment_in("money", role)).await;
        put(&store, "payment", "k", version as Version, "v").await;
        let name = role.map_or_else(|| "current_user".to_owned(), |role| format!("'{role}'"));
        assert_eq!(database.count(&format!("{owner}{name}")).await, 1, "{role:?}");
        store.close().await;
    }
}

/// A host that was cut off while the state was moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_missed_a_move_commits_nothing_of_the_stage() {
    let database = Database::create().await;
    let (before, after) = (StatePlaces::new(), payment_in("money", None));
    for (version, (old, new)) in
        [(before.clone(), after.clone()), (after, before)].into_iter().enumerate()
    {
        let version = version as Version;
        let missed = database.start_in("missed", old).await;
        put(&missed, "payment", "k", version, "v").await;
        let moved = database.start_in("moved", new).await;
        let (refused, other) = tokio::join!(
            missed.commit(write("payment", "k", version + 1, Some("lost"))),
            missed.commit(write("shipping", "k", version, Some("v")))
        );
        // Not even after a read that found nothing.
        let problem = match refused {
            Ok(Commit::Conflict { .. }) => {
                assert_eq!(value(&missed, "k").await, None);
                state_unavailable(missed.commit(write("payment", "k", 0, Some("lost"))).await)
            }
            refused => state_unavailable(refused),
        };
        assert!(problem.contains("set stages.payment.store as the other hosts"), "{problem}");
        assert!(matches!(other, Ok(Commit::Done { .. })), "{other:?}");
        let mut only_reads = write("payment", "k", 0, None);
        only_reads.writes.clear();
        state_unavailable(missed.commit(only_reads).await);
        // With its next report it knows, and reads nothing either.
        missed.record_host(&crate::store::SharedSettings::new(), "{}").await.unwrap();
        let read = missed.state_keys("payment", "", "", 10).await;
        assert!(matches!(read, Err(StoreError::StateUnavailable { .. })), "{read:?}");
        state_unavailable(missed.commit(settling(&missed, "e").await).await);
        assert_eq!(value(&moved, "k").await, Some((version + 1, "v".to_owned())));
        missed.close().await;
        moved.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_not_moved_while_another_host_runs() {
    let database = Database::create().await;
    let one = database.start_in("one", StatePlaces::new()).await;
    put(&one, "payment", "k", 0, "v").await;
    let settings = crate::store::SharedSettings::new();
    one.record_host(&settings, "{}").await.unwrap();
    let reporting = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            one.record_host(&settings, "{}").await.unwrap();
        }
    };
    let options = database.placed("other", payment_in("money", None));
    let refused = tokio::select! {
        refused = problems(options) => refused,
        () = reporting => unreachable!("it reports for ever"),
    };
    let (key, problem) = only(refused);
    assert_eq!(key, "stages.payment.store.schema");
    assert!(problem.contains("other hosts run: one"), "{problem}");
    // A host that stops says so: nothing has to be waited for.
    put(&one, "payment", "k", 1, "w").await;
    one.close().await;
    let other = database.start_in("other", payment_in("money", None)).await;
    assert_eq!(value(&other, "k").await, Some((2, "w".to_owned())));
    other.close().await;
}
