//! The WebAssembly side: bindings generated from the contract, and the adapter from a [`Stage`] to the
//! component's handler.

use std::marker::PhantomData;
use std::sync::Once;

use crate::{Context, Emit, Event, Failure, Host, Level, Stage};

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "stage",
        pub_export_macro: true,
        export_macro_name: "export_stage",
    });
}

use bindings::exports::postrider::stage::handler as contract;
use bindings::postrider::stage::{config, delivery, log, state};

/// Implements the contract's handler with a [`Stage`].
pub struct Adapter<S>(PhantomData<S>);

impl<S: Stage> contract::Guest for Adapter<S> {
    fn describe() -> contract::Description {
        log_panics();
        let description = S::describe();
        let attributes = description.attributes();
        let crate::Description { name, version, summary, consumes, emits, .. } = description;
        contract::Description { name, version, summary, consumes, emits, attributes }
    }

    fn handle(event: contract::Event) -> Result<Vec<contract::Emitted>, contract::Failure> {
        log_panics();
        let contract::Event {
            id,
            event_type,
            source,
            subject,
            time_ms,
            content_type,
            data,
            attributes,
        } = event;
        let event =
            Event { id, event_type, source, subject, time_ms, content_type, data, attributes };
        match S::handle(&mut Context(&mut Sandbox), &event) {
            Ok(emits) => Ok(emits.into_iter().map(to_contract).collect()),
            Err(Failure { retryable, code, message, retry_after_ms }) => {
                Err(contract::Failure { retryable, code, message, retry_after_ms })
            }
        }
    }
}

fn to_contract(emit: Emit) -> contract::Emitted {
    let Emit { event_type, content_type, data, subject, delay_ms, attributes } = emit;
    contract::Emitted { event_type, content_type, data, subject, delay_ms, attributes }
}

/// Logs panic messages before the trap, because a guest without standard error would lose them.
fn log_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| log::log(log::Level::Error, &info.to_string(), &[])))
    });
}

/// The host functions imported by the component.
struct Sandbox;

impl Host for Sandbox {
    fn stage(&self) -> String {
        delivery::stage()
    }

    fn attempt(&self) -> u32 {
        delivery::attempt()
    }

    fn idempotency_key(&self) -> String {
        delivery::idempotency_key()
    }

    fn now_ms(&self) -> u64 {
        delivery::now_ms()
    }

    fn remaining_ms(&self) -> u32 {
        delivery::remaining_ms()
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        state::get(key)
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        state::set(key, value);
    }

    fn remove(&mut self, key: &str) {
        state::remove(key);
    }

    fn list_keys(&self, prefix: &str, after: &str, limit: u32) -> Vec<String> {
        state::list_keys(prefix, after, limit)
    }

    fn config(&self, key: &str) -> Option<String> {
        config::get(key)
    }

    fn log(&self, level: Level, message: &str, fields: &[(String, String)]) {
        let level = match level {
            Level::Trace => log::Level::Trace,
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::log(level, message, fields);
    }
}
