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

pub mod clock;
pub mod event;
pub mod trace;
pub mod mistake;
pub mod orders;
pub mod times;
pub mod cloud_events;
pub mod ingress;
pub mod http;
pub mod app;
pub mod store;
pub mod tail;
pub mod relay;
pub mod broker;
pub mod pipeline;
pub mod worker;
pub mod state;
pub mod recording;
pub mod handler;
pub mod runtime;
pub mod egress;
pub mod settings;
pub mod plugins;
pub mod provenance;
pub mod supervisor;
pub mod decide;
pub mod cause;
pub mod replay;
pub mod breaker;
pub mod rate;
pub mod guard;
pub mod meter;
pub mod reconciler;
pub mod undertaker;
pub mod workbench;
pub mod controls;
pub mod bindings;
pub mod retention;
pub mod config;
pub mod host;
pub mod doctor;
pub mod telemetry;
pub mod cli;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
