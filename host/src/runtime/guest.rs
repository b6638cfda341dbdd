//! The imports of the contract, implemented on the data of one call.
//!
//! Host calls return no errors to the guest: exceeding a limit or losing the store ends the call
//! with a [`Stop`].

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::StageLimits;
use super::http::Http;
use crate::domain::log_level::LogLevel;
use crate::runtime::egress::Egress;
use crate::stage::guest_log::guest_line;
use crate::stage::handler::{CallContext, ExternalCalls, Limit};
use crate::stage::state::{StateError, StateView};

/// Generated from the contract.
#[allow(missing_docs, clippy::pedantic, unreachable_pub, reason = "generated code")]
pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "stage",
        imports: {
            "postrider:stage/state.get": async | trappable,
            "postrider:stage/state.list-keys": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

use bindings::postrider::stage::{config, delivery, log, state};

/// Why the host ended a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("{1}")]
    Limit(Limit, String),
    #[error("{0}")]
    Unavailable(String),
    #[error("the deadline of this attempt has passed")]
    Deadline,
    #[error("`describe` may not call `{0}`: it must be pure and may only call `log`")]
    DescribeOnly(&'static str),
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Limit { limit, message } => Self::Limit(limit, message),
            StateError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// The message that a guest handles.
pub(super) struct CallData {
    pub(super) context: CallContext,
    pub(super) state: StateView,
}

/// The data of a wasmtime store: one instance, and the call it serves.
pub(super) struct Guest {
    pub(super) call: Option<CallData>,
    pub(super) limits: StageLimits,
    pub(super) deadline: Instant,
    /// The last line that the guest logged as an error: a panic hook's, when a trap follows.
    pub(super) last_error: Option<String>,
    pub(super) memory_bytes: usize,
    log_lines: u32,
    log_bytes: usize,
    wasi: Option<Wasi>,
    http: Http,
}

/// Most streams, requests, headers and the like that a guest may hold: they use the host's memory.
const RESOURCES_MAX: usize = 1_000;

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    stderr: MemoryOutputPipe,
    stderr_max_bytes: usize,
    /// What earlier calls of the instance wrote.
    stderr_before: usize,
}

impl Wasi {
    /// No files, no network, no arguments, no environment; standard error is captured.
    fn without_grants(stderr_max_bytes: usize) -> Self {
        let stderr = MemoryOutputPipe::new(stderr_max_bytes);
        let ctx = WasiCtxBuilder::new().stderr(stderr.clone()).build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self { ctx, table, stderr, stderr_max_bytes, stderr_before: 0 }
    }
}

impl Guest {
    /// The data of one instance; `wasi`: with WASI without grants, and standard error captured.
    pub(super) fn new(limits: StageLimits, wasi: bool) -> Self {
        let wasi = wasi.then(|| Wasi::without_grants(limits.log_bytes_max));
        let deadline = Instant::now() + Duration::from_millis(limits.deadline_ms);
        let http = Http::without_grants();
        Self {
            call: None,
            limits,
            deadline,
            last_error: None,
            memory_bytes: 0,
            log_lines: 0,
            log_bytes: 0,
            wasi,
            http,
        }
    }

    /// Lets it call what the stage was granted.
    pub(super) fn with_egress(mut self, egress: Option<Arc<Egress>>) -> Self {
        self.http.grant(egress);
        self
    }

    /// How the external calls of this call went so far.
    pub(super) fn external_calls(&self) -> ExternalCalls {
        self.http.external_calls()
    }

    /// Gives the guest the time of one call from now on.
    pub(super) fn restart_deadline(&mut self) {
        self.deadline = Instant::now() + Duration::from_millis(self.limits.deadline_ms);
    }

    /// Starts a call with fresh budgets; its deadline runs already.
    pub(super) fn begin(&mut self, call: CallData) {
        self.http.begin(&call, self.deadline);
        self.call = Some(call);
        (self.log_lines, self.log_bytes, self.last_error) = (0, 0, None);
        if let Some(wasi) = &mut self.wasi {
            wasi.stderr_before = wasi.stderr.contents().len();
        }
    }

    /// What the guest wrote to its standard error in this call.
    pub(super) fn stderr(&self) -> Option<String> {
        let wasi = self.wasi.as_ref()?;
        let all = wasi.stderr.contents();
        let mut text = all.get(wasi.stderr_before..)?;
        if all.len() >= self.limits.log_bytes_max {
            // The end may be the beginning of a secret.
            let longest =
                self.call.as_ref().map_or(0, |call| call.context.settings.secret_max_bytes());
            text = &text[..text.len().saturating_sub(longest)];
        }
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }

    /// Logs it line by line.
    pub(super) fn log_stderr(&self, text: &str) {
        let call = self.call.as_ref().map(|call| &call.context);
        let text = call.map_or(Cow::Borrowed(text), |call| call.settings.redact(text));
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            guest_line(call, LogLevel::Info, line, &[]);
        }
    }

    /// Whether standard error has room for another call: it is bounded per instance.
    pub(super) fn has_room_to_write(&self) -> bool {
        self.wasi
            .as_ref()
            .is_none_or(|wasi| wasi.stderr.contents().len() <= wasi.stderr_max_bytes / 2)
    }

    fn call(&mut self, import: &'static str) -> wasmtime::Result<&mut CallData> {
        self.call.as_mut().ok_or_else(|| wasmtime::Error::new(Stop::DescribeOnly(import)))
    }

    fn grow(&mut self, by: usize) -> wasmtime::Result<()> {
        self.memory_bytes = self.memory_bytes.saturating_add(by);
        let max = self.limits.memory_max_bytes;
        if self.memory_bytes > max {
            let message = format!(
                "the guest asked for {} bytes of memory; the limit is {max}",
                self.memory_bytes
            );
            return Err(wasmtime::Error::new(Stop::Limit(Limit::Memory, message)));
        }
        Ok(())
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current)).map(|()| true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(size_of::<usize>())).map(|()| true)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Only guests that import WASI call this, and they have one.
        let max_bytes = self.limits.log_bytes_max;
        let wasi = self.wasi.get_or_insert_with(|| Wasi::without_grants(max_bytes));
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let max_bytes = self.limits.log_bytes_max;
        let wasi = self.wasi.get_or_insert_with(|| Wasi::without_grants(max_bytes));
        self.http.view(&mut wasi.table)
    }
}

impl bindings::postrider::stage::types::Host for Guest {}

impl delivery::Host for Guest {
    fn stage(&mut self) -> wasmtime::Result<String> {
        Ok(self.call("delivery")?.context.stage.to_string())
    }

    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.call("delivery")?.context.attempt)
    }

    fn idempotency_key(&mut self) -> wasmtime::Result<String> {
        Ok(self.call("delivery")?.context.idempotency_key.clone())
    }

    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.call("delivery")?.context.now_ms)
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u32> {
        self.call("delivery")?;
        Ok(self.deadline.saturating_duration_since(Instant::now()).as_millis() as u32)
    }

    fn trace_headers(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.call("delivery")?.context.trace_headers())
    }
}

impl state::Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let value = self.call("state")?.state.get(&key).await.map_err(stop)?;
        Ok(value.map(Vec::from))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<()> {
        self.call("state")?.state.set(key, value.into()).map_err(stop)
    }

    fn remove(&mut self, key: String) -> wasmtime::Result<()> {
        self.call("state")?.state.remove(key).map_err(stop)
    }

    async fn list_keys(
        &mut self,
        prefix: String,
        after: String,
        limit: u32,
    ) -> wasmtime::Result<Vec<String>> {
        self.call("state")?.state.list_keys(&prefix, &after, limit).await.map_err(stop)
    }
}

fn stop(error: StateError) -> wasmtime::Error {
    wasmtime::Error::new(Stop::from(error))
}

impl config::Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.call("config")?.context.setting(&key).map(str::to_owned))
    }
}

impl log::Host for Guest {
    fn log(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.log_lines += 1;
        self.log_bytes += message.len()
            + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let (lines, bytes) = (self.limits.log_lines_max, self.limits.log_bytes_max);
        if self.log_lines > lines || self.log_bytes > bytes {
            let message = format!("the call logged more than {lines} lines or {bytes} bytes");
            return Err(wasmtime::Error::new(Stop::Limit(Limit::Log, message)));
        }
        let (message, fields) = match &self.call {
            Some(call) => call.context.settings.redact_line(message, fields),
            None => (message, fields),
        };
        let call = self.call.as_ref().map(|call| &call.context);
        guest_line(call, level_of(level), &message, &fields);
        if matches!(level, log::Level::Error) {
            self.last_error = Some(message);
        }
        Ok(())
    }
}

fn level_of(level: log::Level) -> LogLevel {
    match level {
        log::Level::Trace => LogLevel::Trace,
        log::Level::Debug => LogLevel::Debug,
        log::Level::Info => LogLevel::Info,
        log::Level::Warn => LogLevel::Warn,
        log::Level::Error => LogLevel::Error,
    }
}
