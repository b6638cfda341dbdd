//! A stage in WebAssembly: one message in, one outcome out.
//!
//! Each message gets a fresh instance unless the stage is configured for warm ones. An instance
//! handles one message at a time; one that trapped, timed out or exceeded a limit is dropped and
//! never used again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::guest::{CallData, Guest, Stop, bindings};
use super::load::{Linked, new_store};
use super::{InstancePolicy, StageLimits};
use crate::domain::event::{Envelope, Event};
use crate::domain::failure_fingerprint::is_machinery;
use crate::runtime::egress::Egress;
use crate::stage::handler::{
    Call, Description, Emitted, Failure, Handled, Limit, Outcome, StageHandler,
};

use bindings::exports::postrider::stage::handler as contract;

/// Host calls may take this much longer than the guest's deadline before the call is cut off.
const HOST_CALL_GRACE: Duration = Duration::from_millis(250);

struct Instance {
    store: Store<Guest>,
    started: Started,
}

/// The exports of an instance, and how it was used.
struct Started {
    bindings: bindings::Stage,
    calls: u32,
    used_at: Instant,
}

/// A plugin under the limits of one stage.
pub struct WasmStage {
    linked: Linked,
    limits: StageLimits,
    policy: InstancePolicy,
    egress: Option<Arc<Egress>>,
    /// Warm instances that are not in use, the one used last at the end.
    idle: Mutex<Vec<Instance>>,
}

impl WasmStage {
    /// Runs `linked` under these limits.
    pub fn new(linked: &Linked, limits: StageLimits, policy: InstancePolicy) -> Self {
        Self { linked: linked.clone(), limits, policy, egress: None, idle: Mutex::default() }
    }

    /// Lets it call what the stage was granted; without this it can call nothing.
    #[must_use]
    pub fn with_egress(mut self, egress: Option<Arc<Egress>>) -> Self {
        self.egress = egress;
        self
    }

    /// An idle warm instance, or an empty store for a fresh one.
    fn take(&self) -> (Store<Guest>, Option<Started>) {
        if let Some(Instance { store, started }) =
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            return (store, Some(started));
        }
        let guest = Guest::new(self.limits, self.linked.wasi).with_egress(self.egress.clone());
        (new_store(self.linked.pre.engine(), guest), None)
    }

    /// Keeps a healthy instance if the policy allows it.
    fn retire(&self, mut instance: Instance) {
        instance.started.calls += 1;
        instance.started.used_at = Instant::now();
        if let InstancePolicy::Warm(warm) = self.policy
            && instance.started.calls < warm.calls_max
            && instance.store.data().memory_bytes <= warm.memory_max_bytes
            && instance.store.data().has_room_to_write()
        {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
        }
    }

    /// Runs one call; its duration is left to the caller. The deadline covers whatever the guest
    /// does for the message, its start functions included.
    async fn run(&self, call: Call) -> Handled {
        let (mut store, started) = self.take();
        let Call { envelope, context, state } = call;
        let attributes = attributes(&envelope);
        let event = event(&envelope.event, &attributes);
        let data = CallData { context, state };
        store.data_mut().restart_deadline();
        store.set_epoch_deadline(1);
        let answering = async {
            let started = match started {
                Some(started) => started,
                None => Started {
                    bindings: self.linked.pre.instantiate_async(&mut store).await?,
                    calls: 0,
                    used_at: Instant::now(),
                },
            };
            store.data_mut().begin(data);
            let handler = started.bindings.postrider_stage_handler();
            let answer = handler.call_handle(&mut store, event).await?;
            Ok((started, answer))
        };
        let patience = Duration::from_millis(self.limits.deadline_ms) + HOST_CALL_GRACE;
        let answer = tokio::time::timeout(patience, answering).await;
        let guest = store.data_mut();
        let stderr = guest.stderr();
        if let Some(text) = &stderr {
            guest.log_stderr(text);
        }
        let said = guest.last_error.take().or(stderr);
        let (memory_bytes, external) = (guest.memory_bytes as u64, guest.external_calls());
        let writes = guest.call.take().map(|call| call.state.into_writes()).unwrap_or_default();
        let outcome = match answer {
            Ok(Ok((started, answer))) => {
                self.retire(Instance { store, started });
                self.accept(answer)
            }
            Ok(Err(error)) => self.explain(&error, said),
            Err(_) => self.timed_out(None),
        };
        Handled { outcome, writes, memory_bytes, external, ..Handled::nothing() }
    }

    fn accept(&self, answer: Result<Vec<contract::Emitted>, contract::Failure>) -> Outcome {
        let emitted = match answer {
            Ok(emitted) => emitted,
            Err(contract::Failure { retryable, code, message, retry_after_ms }) => {
                return Outcome::Failed(Failure { retryable, code, message, retry_after_ms });
            }
        };
        let max = self.limits.events_max;
        if emitted.len() > max {
            let message = format!("returned {} events; the limit is {max}", emitted.len());
            return Outcome::LimitExceeded { limit: Limit::Events, message };
        }
        let (bytes, max) =
            (emitted.iter().map(weight).sum::<usize>(), self.limits.output_max_bytes);
        if bytes > max {
            let message = format!("returned events of {bytes} bytes; the limit is {max}");
            return Outcome::LimitExceeded { limit: Limit::Output, message };
        }
        Outcome::Done(emitted.into_iter().map(from_contract).collect())
    }

    fn timed_out(&self, backtrace: Option<String>) -> Outcome {
        let message = format!("the stage did not answer within {} ms", self.limits.deadline_ms);
        Outcome::Trapped { kind: "timeout".into(), message, backtrace }
    }

    /// The outcome of a call that failed, by the error's type, never by its text.
    fn explain(&self, error: &wasmtime::Error, said: Option<String>) -> Outcome {
        let backtrace = error.downcast_ref::<WasmBacktrace>().map(symbolise);
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return match stop {
                Stop::Limit(limit, message) => {
                    Outcome::LimitExceeded { limit: *limit, message: message.clone() }
                }
                Stop::Unavailable(reason) => Outcome::Unavailable(reason.clone()),
                Stop::Deadline => self.timed_out(backtrace),
                Stop::DescribeOnly(_) => {
                    Outcome::Trapped { kind: "host".into(), message: stop.to_string(), backtrace }
                }
            };
        }
        if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            return Outcome::Unavailable("no instance is free: raise runtime.instances_max".into());
        }
        let (kind, what) = cause(error);
        let message = said.map_or(what, |said| said.trim_end().to_owned());
        Outcome::Trapped { kind: kind.into(), message, backtrace }
    }
}

#[async_trait]
impl StageHandler for WasmStage {
    fn description(&self) -> &Description {
        &self.linked.description
    }

    fn digest(&self) -> &str {
        &self.linked.digest
    }

    async fn handle(&self, call: Call) -> Handled {
        let began = Instant::now();
        let (settings, log) = (Arc::clone(&call.context.settings), call.context.log.clone());
        let handled = self.run(call).await;
        let outcome = settings.guard(handled.outcome, &handled.writes, log.as_deref());
        Handled { outcome, duration: began.elapsed(), ..handled }
    }

    fn drop_idle_instances(&self) {
        if let InstancePolicy::Warm(warm) = self.policy {
            let idle_max = Duration::from_millis(warm.idle_ms.max(1));
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|instance| instance.started.used_at.elapsed() < idle_max);
        }
    }
}

/// The kind of an error that is no [`Stop`], and what happened, without a backtrace.
pub(super) fn cause(error: &wasmtime::Error) -> (&'static str, String) {
    match (error.downcast_ref::<Trap>(), error.downcast_ref::<I32Exit>()) {
        (Some(trap), _) => (trap_kind(*trap), trap.to_string()),
        (_, Some(exit)) => ("exit", format!("the guest exited with code {}", exit.0)),
        _ => ("abi", error.root_cause().to_string()),
    }
}

/// What a guest sees of an event beside its attributes.
fn event<'a>(event: &'a Event, attributes: &'a Vec<(String, String)>) -> contract::Event<'a> {
    let Event { id, event_type, source, subject, time_ms, content_type, data, .. } = event;
    contract::Event {
        id,
        event_type,
        source,
        subject,
        time_ms: *time_ms,
        content_type,
        data,
        attributes,
    }
}

/// The attributes that a guest sees: those of the event, and its place in the chain.
fn attributes(envelope: &Envelope) -> Vec<(String, String)> {
    let Envelope { event, correlation_id, cause, .. } = envelope;
    let mut attributes = Vec::with_capacity(event.attributes.len() + 2);
    attributes.extend_from_slice(&event.attributes);
    attributes.push(("correlationid".into(), correlation_id.clone()));
    attributes.extend(cause.as_ref().map(|cause| ("causationid".into(), cause.id.clone())));
    attributes
}

/// Bytes of an emitted event.
fn weight(emitted: &contract::Emitted) -> usize {
    let attributes: usize =
        emitted.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    emitted.data.len()
        + emitted.event_type.len()
        + emitted.content_type.len()
        + emitted.subject.as_ref().map_or(0, String::len)
        + attributes
}

fn from_contract(emitted: contract::Emitted) -> Emitted {
    let contract::Emitted { event_type, content_type, data, subject, delay_ms, attributes } =
        emitted;
    Emitted { event_type, content_type, data: data.into(), subject, delay_ms, attributes }
}

fn trap_kind(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack-overflow",
        Trap::MemoryOutOfBounds => "memory-out-of-bounds",
        Trap::TableOutOfBounds => "table-out-of-bounds",
        Trap::IndirectCallToNull => "indirect-call-to-null",
        Trap::BadSignature => "bad-signature",
        Trap::IntegerOverflow => "integer-overflow",
        Trap::IntegerDivisionByZero => "integer-division-by-zero",
        Trap::BadConversionToInteger => "bad-conversion-to-integer",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::Interrupt => "timeout",
        _ => "other",
    }
}

/// One frame a line, innermost first: function, then file, line and column where the toolchain kept
/// them. It starts with the guest's own code, not with what the language does to panic.
fn symbolise(backtrace: &WasmBacktrace) -> String {
    let mut lines = Vec::new();
    for frame in backtrace.frames() {
        if frame.symbols().is_empty() {
            lines.push(frame.func_name().map_or_else(
                || format!("<function {}>", frame.func_index()),
                |name| format!("{:#}", rustc_demangle::demangle(name)),
            ));
        }
        for symbol in frame.symbols() {
            let name = symbol.name().or(frame.func_name()).unwrap_or("<unknown>");
            let column = symbol.column().filter(|column| *column > 0);
            let column = column.map(|column| format!(":{column}")).unwrap_or_default();
            let place = symbol
                .file()
                .map(|file| format!(" at {file}:{}{column}", symbol.line().unwrap_or(0)));
            let name = rustc_demangle::demangle(name);
            lines.push(format!("{name:#}{}", place.unwrap_or_default()));
        }
    }
    let own = lines.iter().position(|frame| !is_machinery(frame)).unwrap_or(0);
    lines[own..].join("\n")
}
