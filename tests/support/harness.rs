//! A host in the test's process with its own folder and real guests, and a client that waits for
//! conditions.
//!
//! Nothing sleeps for a fixed time: [`eventually`] polls a condition, with a generous limit.

use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use postrider::internals::install_default_provider;
use postrider::{Config, Host, HostBuilder, RunError};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::servers::Servers;

/// The stages in `plugins/`.
pub(crate) const SHIPPED: [&str; 4] = ["payment", "inventory", "shipping", "notification"];

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// A body compressed as much as possible.
pub(crate) fn gzip(body: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(body)?;
    Ok(encoder.finish()?)
}

/// A built guest: a shipped stage or a fixture.
pub(crate) fn guest(name: &str) -> Result<PathBuf> {
    let places = [
        root().join("plugins").join(format!("{name}.wasm")),
        root().join("target/fixtures").join(format!("{name}.wasm")),
    ];
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("the guest `{name}` is not built: run `cargo xtask plugins`"))
}

/// Polls until `condition` returns a value. Fails after three minutes, because machines may be
/// busy.
pub(crate) async fn eventually<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        ensure!(began.elapsed() < Duration::from_mins(3), "waited three minutes for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Generates two tests from each `async fn name(backend: Backend)`, one per back end.
macro_rules! on_both_back_ends {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() -> anyhow::Result<()> {
                    super::$name($crate::support::harness::Backend::Embedded).await
                }
            )*
        }
        mod servers {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() -> anyhow::Result<()> {
                    super::$name($crate::support::harness::Backend::Servers).await
                }
            )*
        }
    };
}
pub(crate) use on_both_back_ends;

/// The store and broker of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The embedded store and queue.
    Embedded,
    /// Postgres and RabbitMQ: a database and a namespace of the test's own.
    Servers,
}

/// A test environment: a folder with configuration, plugins and data, and what a host in it
/// connects to.
pub(crate) struct TestEnv {
    /// Exists as long as the environment or one of its hosts does.
    pub(crate) folder: Arc<tempfile::TempDir>,
    pub(crate) toml: String,
    pub(crate) servers: Option<Servers>,
}

impl TestEnv {
    /// With the shipped stages, and `toml` added to a configuration that retries quickly.
    pub(crate) fn shipped(toml: &str) -> Result<Self> {
        let env = Self::empty(toml)?;
        for stage in SHIPPED {
            env.add_plugin(stage, stage)?;
        }
        Ok(env)
    }

    /// The same on a back end.
    pub(crate) async fn shipped_on(backend: Backend, toml: &str) -> Result<Self> {
        let mut env = Self::shipped(toml)?;
        if backend == Backend::Servers {
            env.servers = Some(Servers::create().await?);
        }
        Ok(env)
    }

    /// Without stages.
    pub(crate) fn empty(toml: &str) -> Result<Self> {
        // Of the HTTP clients.
        install_default_provider();
        let folder = Arc::new(tempfile::tempdir()?);
        std::fs::create_dir(folder.path().join("plugins"))?;
        Ok(Self { folder, toml: toml.to_owned(), servers: None })
    }

    /// The same on a back end.
    pub(crate) async fn empty_on(backend: Backend, toml: &str) -> Result<Self> {
        let mut env = Self::empty(toml)?;
        if backend == Backend::Servers {
            env.servers = Some(Servers::create().await?);
        }
        Ok(env)
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("data/postrider.db")
    }

    /// Installs the guest `name` as `<file>.wasm`, atomically.
    pub(crate) fn add_plugin(&self, name: &str, file: &str) -> Result<()> {
        let temporary = self.folder.path().join(format!("{file}.part"));
        std::fs::copy(guest(name)?, &temporary)?;
        std::fs::rename(temporary, self.plugins().join(format!("{file}.wasm")))?;
        Ok(())
    }

    /// Queries the database for one number.
    pub(crate) async fn query_count(&self, query: &'static str) -> Result<i64> {
        Ok(match &self.servers {
            Some(servers) => {
                sqlx::query_scalar(query).fetch_one(&mut servers.connect().await?).await?
            }
            None => sqlx::query_scalar(query).fetch_one(&mut self.open_database().await?).await?,
        })
    }

    /// Changes the database, as an operator would.
    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.servers {
            Some(servers) => {
                sqlx::raw_sql(sql).execute(&mut servers.connect().await?).await?;
            }
            None => {
                let options = sqlx::sqlite::SqliteConnectOptions::new()
                    .filename(self.database())
                    .busy_timeout(Duration::from_secs(30));
                let mut database =
                    <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await?;
                sqlx::raw_sql(sql).execute(&mut database).await?;
            }
        }
        Ok(())
    }

    /// Queries the database for one text per row.
    pub(crate) async fn query_texts(&self, query: &'static str) -> Result<Vec<String>> {
        Ok(match &self.servers {
            Some(servers) => {
                sqlx::query_scalar(query).fetch_all(&mut servers.connect().await?).await?
            }
            None => sqlx::query_scalar(query).fetch_all(&mut self.open_database().await?).await?,
        })
    }

    /// The whole database as text: each row of each table, binary columns in hexadecimal.
    pub(crate) async fn dump(&self) -> Result<String> {
        let mut rows: Vec<String> = Vec::new();
        match &self.servers {
            Some(servers) => {
                let mut database = servers.connect().await?;
                let tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()";
                for table in
                    sqlx::query_scalar::<_, String>(tables).fetch_all(&mut database).await?
                {
                    let all = sqlx::AssertSqlSafe(format!("SELECT row.*::text FROM {table} row"));
                    rows.extend(
                        sqlx::query_scalar::<_, String>(all).fetch_all(&mut database).await?,
                    );
                }
            }
            None => {
                let mut database = self.open_database().await?;
                let columns = "SELECT 'SELECT coalesce(quote(\"' || c.name || '\"), '''') FROM \"' || t.name || '\"'
                               FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'";
                for column in
                    sqlx::query_scalar::<_, String>(columns).fetch_all(&mut database).await?
                {
                    rows.extend(
                        sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(column))
                            .fetch_all(&mut database)
                            .await?,
                    );
                }
            }
        }
        Ok(rows.join("\n"))
    }

    async fn open_database(&self) -> Result<sqlx::SqliteConnection> {
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(self.database()).read_only(true);
        Ok(<sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await?)
    }

    /// The whole configuration file.
    pub(crate) fn config_text(&self) -> String {
        let folder = self.folder.path().display();
        // All tests share a compilation cache, so a guest is compiled once.
        let cache = root().join("target/test-cache");
        let back_end = match &self.servers {
            None => format!("store.url = \"sqlite:{folder}/data/postrider.db\"\n"),
            Some(servers) => servers.config_text(),
        };
        format!(
            "{back_end}plugins.dir = \"{folder}/plugins\"\nplugins.debounce_ms = 20\nplugins.archive_dir = \"{folder}/kept\"\nruntime.cache_dir = \"{}\"\n{}",
            cache.display(),
            self.toml
        )
    }

    pub(crate) fn config(&self) -> Result<Config> {
        Ok(Config::from_toml(&self.config_text())?)
    }

    /// Starts a host in this environment.
    pub(crate) async fn start(&self) -> Result<RunningHost> {
        self.start_with(|builder| builder).await
    }

    /// Starts a host and waits until all its stages consume: a message that another program sends
    /// before has no queue, and the broker drops it.
    pub(crate) async fn start_consuming(&self) -> Result<RunningHost> {
        let host = self.start().await?;
        eventually("all stages to consume", || async {
            Ok((host.client.get("/ready").await?.0.is_success()).then_some(()))
        })
        .await?;
        Ok(host)
    }

    /// Starts a host whose builder `adapt` changes.
    pub(crate) async fn start_with(
        &self,
        adapt: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Result<RunningHost> {
        self.start_as("http://127.0.0.1", reqwest::Client::new(), adapt).await
    }

    /// Starts a host that is reached at `base` and its port, by a client that trusts it.
    pub(crate) async fn start_as(
        &self,
        base: &str,
        client: reqwest::Client,
        adapt: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Result<RunningHost> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("{base}:{}", listener.local_addr()?.port());
        let host = adapt(Host::builder().config(self.config()?).listener(listener)).build().await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(host.run_until(async { _ = stopped.await }));
        let running = RunningHost {
            client: Client::with(url, client),
            stop: Some(stop),
            task: Some(task),
            _folder: Arc::clone(&self.folder),
        };
        running.client.wait_until_ready().await?;
        Ok(running)
    }
}

/// A host that runs in the test's process.
pub(crate) struct RunningHost {
    pub(crate) client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), RunError>>>,
    _folder: Arc<tempfile::TempDir>,
}

impl RunningHost {
    /// Stops gracefully. Returns the host's error, if any.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        Ok(self.task.take().expect("stopped once").await??)
    }
}

impl Drop for RunningHost {
    fn drop(&mut self) {
        // A test that ends early has an error to report, which a panic here would hide.
        if self.task.is_some() {
            eprintln!("a test ended without `stop`: its host's errors go unseen");
        }
    }
}

/// A client of a host's API.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) url: String,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(url: String) -> Self {
        install_default_provider();
        Self::with(url, reqwest::Client::new())
    }

    /// With a client that trusts the host.
    pub(crate) fn with(url: String, http: reqwest::Client) -> Self {
        Self { url, http }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        let response = self.http.get(format!("{}{path}", self.url)).send().await?;
        Ok((response.status(), response.json().await.unwrap_or(Value::Null)))
    }

    /// Every item of a list, from all pages. `path` must have a query.
    pub(crate) async fn get_all(&self, path: &str) -> Result<Vec<Value>> {
        let (mut items, mut at) = (Vec::new(), String::new());
        loop {
            let (status, page) = self.get(&format!("{path}{at}")).await?;
            ensure!(status.is_success(), "{page}");
            items.extend(page["items"].as_array().into_iter().flatten().cloned());
            match page["next"].as_i64() {
                Some(next) => at = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let response = self.http.post(format!("{}{path}", self.url)).json(body).send().await?;
        Ok((response.status(), response.json().await.unwrap_or(Value::Null)))
    }

    /// As `post`; returns the response's headers.
    pub(crate) async fn post_for_headers(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, reqwest::header::HeaderMap)> {
        let response = self.http.post(format!("{}{path}", self.url)).json(body).send().await?;
        Ok((response.status(), response.headers().clone()))
    }

    /// As `post`, with an additional header.
    pub(crate) async fn post_with_header(
        &self,
        path: &str,
        body: &Value,
        header: (&'static str, &str),
    ) -> Result<(StatusCode, Value)> {
        let response = self
            .http
            .post(format!("{}{path}", self.url))
            .json(body)
            .header(header.0, header.1)
            .send()
            .await?;
        Ok((response.status(), response.json().await.unwrap_or(Value::Null)))
    }

    /// The body of a response as text.
    pub(crate) async fn text(&self, path: &str) -> Result<String> {
        Ok(self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(StatusCode, Value)> {
        let response = self.http.delete(format!("{}{path}", self.url)).send().await?;
        Ok((response.status(), response.json().await.unwrap_or(Value::Null)))
    }

    /// As `post`, with any body and content type.
    pub(crate) async fn post_raw(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(StatusCode, Value)> {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("content-type", content_type)
            .body(body);
        let response = request.send().await?;
        Ok((response.status(), response.json().await.unwrap_or(Value::Null)))
    }

    /// Waits until the host is healthy.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        eventually("the host to be ready", || async {
            let up = self
                .http
                .get(format!("{}/health", self.url))
                .send()
                .await
                .is_ok_and(|response| response.status().is_success());
            Ok(up.then_some(()))
        })
        .await
    }

    /// The item of a list whose `field` is `value`, or null.
    async fn item(&self, list: &str, field: &str, value: &str) -> Result<Value> {
        let (_, answer) = self.get(list).await?;
        Ok(answer["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|item| item[field] == value)
            .cloned()
            .unwrap_or(Value::Null))
    }

    /// The status of a plugin file, or null.
    pub(crate) async fn plugin(&self, file: &str) -> Result<Value> {
        self.item("/plugins", "file", file).await
    }

    /// The plugin that serves a stage, or null.
    pub(crate) async fn plugin_of_stage(&self, stage: &str) -> Result<Value> {
        self.item("/plugins", "stage", stage).await
    }

    /// The status of a stage, or null.
    pub(crate) async fn stage(&self, name: &str) -> Result<Value> {
        self.item("/stages", "stage", name).await
    }

    /// What the host that answers runs of a stage, or null.
    pub(crate) async fn stage_here(&self, name: &str) -> Result<Value> {
        let (_, hosts) = self.get("/hosts").await?;
        let stage = self.stage(name).await?;
        let mut on_hosts = stage["hosts"].as_array().into_iter().flatten();
        let here = on_hosts.find(|host| host["host"] == hosts["answered_by"]);
        Ok(here.cloned().unwrap_or(Value::Null))
    }

    /// Waits until a plugin file serves. Fails when the file is refused.
    pub(crate) async fn wait_until_serving(&self, file: &str) -> Result<()> {
        eventually(&format!("{file} to serve"), || async {
            let plugin = self.plugin(file).await?;
            ensure!(plugin["last_error"].is_null(), "{plugin}");
            Ok((plugin["state"] == "serving").then_some(()))
        })
        .await
    }

    /// Waits until an order has `status`. Returns the order.
    pub(crate) async fn wait_for_status(&self, id: &str, status: &str) -> Result<Value> {
        self.wait_for_subject(&format!("/orders/{id}"), status).await
    }

    /// Adds stock of a product that has none, and waits until orders can have it: before, an order of it is
    /// refunded.
    pub(crate) async fn stock(&self, sku: &str, quantity: u64) -> Result<()> {
        let stock = serde_json::json!({ "sku": sku, "stock": quantity });
        let (status, answer) = self.post("/products", &stock).await?;
        ensure!(status.is_success(), "{answer}");
        eventually("the stock", || async {
            let (_, product) = self.get(&format!("/products/{sku}")).await?;
            Ok((product["available"] == quantity).then_some(()))
        })
        .await
    }

    /// Waits until the subject at `path` has `status`. Returns the subject.
    pub(crate) async fn wait_for_subject(&self, path: &str, status: &str) -> Result<Value> {
        eventually(&format!("{path} to be {status}"), || async {
            let (_, subject) = self.get(path).await?;
            Ok((subject["status"] == status).then_some(subject))
        })
        .await
    }
}
