//! Postrider: an embeddable pipeline host whose stages are sandboxed WebAssembly plugins.
//!
//! ```text
//!    POST /orders
//!         │  store.accept_order        order + event + open deliveries + outbox row, one transaction (group-committed)
//!         ▼
//!    relay ──────────────► broker      publish, wait for the confirm, delete the outbox row
//!         ▲                   │        one queue per stage, bound to the event types it consumes
//!         │                   ▼
//!         │            stage worker    decode → already settled? → invoke plugin → decide → commit → ack
//!         │                   │
//!         └── store.commit ◄──┘        delivery + state + events + order status + outbox, one transaction
//! ```
//!
//! The modules stand in the order of the flow.

pub mod domain;
pub mod http;
pub mod app;
pub mod store;
pub mod relay;
pub mod broker;
pub mod pipeline;
pub mod services;
pub mod worker;
pub mod stage;
pub mod runtime;
pub mod plugins;
pub mod background;
pub mod config;
pub mod host;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
