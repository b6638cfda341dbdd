//! Runs a stage that is written with the Rust SDK as native code: the same source as the plugin,
//! without the sandbox.
//!
//! For embedders who trust their own stages, and for measuring what the sandbox costs. The SDK is
//! synchronous: a read that the lane has not cached blocks its thread until the store answers, so
//! the runtime needs several threads.

use std::marker::PhantomData;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use postrider_stage as sdk;

use super::guest_log::guest_line;
use super::handler::{Description, Emitted, Failure, NativeContext, NativeError, NativeStage};
use crate::domain::event::Event;
use crate::domain::log_level::LogLevel;
use crate::stage::state::StateError;

/// Runs `S` natively.
///
/// ```no_run
/// use postrider::{Config, Host, SdkStage};
/// use postrider_stage::{Context, Description, Emit, Event, Failure, Stage};
///
/// struct Audit;
///
/// impl Stage for Audit {
///     fn describe() -> Description {
///         Description::new("audit", "1.0.0", "Logs subjects").consumes(&["order.created"])
///     }
///
///     fn handle(cx: &mut Context<'_>, event: &Event) -> Result<Vec<Emit>, Failure> {
///         cx.info(&event.subject);
///         Ok(Vec::new())
///     }
/// }
///
/// let builder = Host::builder().stage(SdkStage::<Audit>::default());
/// ```
pub struct SdkStage<S>(PhantomData<fn() -> S>);

impl<S> Default for SdkStage<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

#[async_trait]
impl<S: sdk::Stage + 'static> NativeStage for SdkStage<S> {
    fn describe(&self) -> Description {
        let description = S::describe();
        let attributes = description.attributes();
        let sdk::Description { name, version, summary, consumes, emits, .. } = description;
        let described = Description::new(name, version, summary).consumes(consumes).emits(emits);
        Description { attributes, ..described }
    }

    async fn handle(
        &self,
        cx: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        let event = sdk::Event {
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            source: event.source.clone(),
            subject: event.subject.clone(),
            time_ms: event.time_ms,
            content_type: event.content_type.clone(),
            data: event.data.to_vec(),
            attributes: event.attributes.clone(),
        };
        let mut host =
            NativeHost { cx: std::cell::RefCell::new(cx), broken: std::cell::RefCell::new(None) };
        let outcome = sdk::run::<S>(&mut host, &event);
        if let Some(error) = host.broken.into_inner() {
            return Err(error.into());
        }
        outcome.map(|emits| emits.into_iter().map(emitted).collect()).map_err(|failure| {
            let sdk::Failure { retryable, code, message, retry_after_ms } = failure;
            NativeError::Failure(Failure { retryable, code, message, retry_after_ms })
        })
    }
}

fn emitted(emit: sdk::Emit) -> Emitted {
    let sdk::Emit { event_type, content_type, data, subject, delay_ms, attributes } = emit;
    Emitted { event_type, content_type, data: data.into(), subject, delay_ms, attributes }
}

/// The host as the SDK sees it.
struct NativeHost<'a> {
    cx: std::cell::RefCell<&'a mut NativeContext>,
    /// The first error of a state operation; it ends the call.
    broken: std::cell::RefCell<Option<StateError>>,
}

impl NativeHost<'_> {
    fn checked<T: Default>(&self, result: Result<T, StateError>) -> T {
        result.unwrap_or_else(|error| {
            self.broken.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

/// Polls once, which is enough for a cached value, and blocks otherwise.
macro_rules! wait_for {
    ($future:expr) => {
        match $future.now_or_never() {
            Some(ready) => ready,
            None => {
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on($future))
            }
        }
    };
}

impl sdk::Host for NativeHost<'_> {
    fn stage(&self) -> String {
        self.cx.borrow().call.stage.to_string()
    }

    fn attempt(&self) -> u32 {
        self.cx.borrow().call.attempt
    }

    fn idempotency_key(&self) -> String {
        self.cx.borrow().call.idempotency_key.clone()
    }

    fn now_ms(&self) -> u64 {
        self.cx.borrow().call.now_ms
    }

    /// A native stage has no deadline.
    fn remaining_ms(&self) -> u32 {
        u32::MAX
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut cx = self.cx.borrow_mut();
        let read = wait_for!(cx.state.get(key));
        self.checked(read).map(|value| value.to_vec())
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        let written = self.cx.borrow_mut().state.set(key.to_owned(), Bytes::copy_from_slice(value));
        self.checked(written);
    }

    fn remove(&mut self, key: &str) {
        let removed = self.cx.borrow_mut().state.remove(key.to_owned());
        self.checked(removed);
    }

    fn list_keys(&self, prefix: &str, after: &str, limit: u32) -> Vec<String> {
        let mut cx = self.cx.borrow_mut();
        let keys = wait_for!(cx.state.list_keys(prefix, after, limit));
        self.checked(keys)
    }

    fn config(&self, key: &str) -> Option<String> {
        self.cx.borrow().call.setting(key).map(str::to_owned)
    }

    fn log(&self, level: sdk::Level, message: &str, fields: &[(String, String)]) {
        let cx = self.cx.borrow();
        let (message, fields) = cx.call.settings.redact_line(message.to_owned(), fields.to_vec());
        let level = match level {
            sdk::Level::Trace => LogLevel::Trace,
            sdk::Level::Debug => LogLevel::Debug,
            sdk::Level::Info => LogLevel::Info,
            sdk::Level::Warn => LogLevel::Warn,
            sdk::Level::Error => LogLevel::Error,
        };
        guest_line(Some(&cx.call), level, &message, &fields);
    }
}
