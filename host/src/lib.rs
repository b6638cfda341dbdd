//! Postrider: an embeddable pipeline host whose stages are sandboxed WebAssembly plugins.
//!
//! ```text
//!    POST /orders
//!         │  store.accept_subject      subject + event + open deliveries + outbox row, one transaction (group-committed)
//!         ▼
//!    relay ──────────────► broker      publish, wait for the confirm, delete the outbox row
//!         ▲                   │        one queue per stage, bound to the event types it consumes
//!         │                   ▼
//!         │            stage worker    decode → already settled? → invoke plugin → decide → commit → ack
//!         │                   │
//!         └── store.commit ◄──┘        delivery + state + events + subject status + outbox, one transaction
//! ```
//!
//! The modules stand in the order of the flow. They are private: what an embedding program needs is
//! re-exported here, and only that is covered by semantic versioning.
//!
//! - **Run a host**: [`Host::builder`], [`Host::start`], [`HostHandle::shutdown`]; [`Config`].
//! - **Run several pipelines in it**: [`Config::beside`], [`HostBuilder::namespace`].
//! - **Write a stage in Rust**: [`NativeStage`]; [`SdkStage`] runs one that was written with the
//!   `postrider-stage` SDK.
//! - **Use a running host**: [`App`].
//! - **Decide who may use its API**: [`Authenticator`], [`Principal`], [`Role`].
//! - **Follow outcomes**: [`HostBuilder::observe`] with [`Settlement`].
//!
//! ```no_run
//! use async_trait::async_trait;
//! use postrider::{Config, Description, Emitted, Event, Host};
//! use postrider::{NativeContext, NativeError, NativeStage};
//!
//! struct Approve;
//!
//! #[async_trait]
//! impl NativeStage for Approve {
//!     fn describe(&self) -> Description {
//!         Description::new("approve", "1.0.0", "Approves every order")
//!             .consumes(["order.created"])
//!             .emits(["payment.authorized"])
//!     }
//!
//!     async fn handle(
//!         &self,
//!         _: &mut NativeContext,
//!         event: &Event,
//!     ) -> Result<Vec<Emitted>, NativeError> {
//!         let data = serde_json::json!({ "order_id": event.subject });
//!         Ok(vec![Emitted::json("payment.authorized", &data)])
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::builder().config(Config::load(None)?).stage(Approve).build().await?;
//! let handle = host.start()?;
//! let order = serde_json::json!({ "order_id": "1", "items": ["Book"] });
//! let order = handle.submit("order", order).await?.into_subject();
//! println!("{} is {}", order.key, order.status);
//! handle.shutdown().await?;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(all(
        feature = "encryption",
        feature = "http",
        feature = "postgres",
        feature = "rabbitmq",
        feature = "sqlite",
        feature = "tls",
        feature = "wasm"
    )),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        unused_variables,
        reason = "only a missing feature uses it; the complete build checks for dead code"
    )
)]
// Items are `pub` inside the private modules where `internals` passes them on.
#![allow(unreachable_pub)]

mod domain;
mod tls;
#[cfg(feature = "http")]
mod http;
mod app;
mod store;
mod relay;
mod broker;
mod pipeline;
mod services;
mod worker;
mod stage;
mod runtime;
mod plugins;
mod background;
mod config;
mod host;
#[doc(hidden)]
pub mod internals;

// A host.
pub use crate::app::{
    App, ChainControl, EventQuery, EventStream, PluginState, PluginStatus, Readiness, RollBack,
    SkippedPlugin, StageDeletion, StageStatus, StreamedEvent, SubjectHistory, Submission,
    SubmitError, Submitted, TooManyStreams,
};
pub use crate::config::{
    Config, ConfigError, IngressRule, StageConfig, StageStoreConfig, SubjectConfig,
};
pub use crate::domain::access::{Principal, Role, RoleError};
pub use crate::domain::actor::Actor;
pub use crate::domain::clock::{Clock, ManualClock, SystemClock};
pub use crate::domain::field_error::FieldError;
pub use crate::domain::log_level::LogLevel;
pub use crate::domain::subject::SubjectKey;
pub use crate::host::{BuildError, Host, HostBuilder, HostHandle, RunError};
#[cfg(feature = "http")]
pub use crate::http::{AuthenticationError, Authenticator};
pub use crate::pipeline::chains::ChainReport;
pub use crate::store::{StoreError, Subject};

// A compiler of plugin files in a process of its own.
#[cfg(feature = "wasm")]
pub use crate::runtime::CompilerProgram;

// A stage.
pub use crate::domain::event::Event;
pub use crate::stage::handler::{
    CallContext, Description, Emitted, Failure, NativeContext, NativeError, NativeStage,
};
pub use crate::stage::sdk::SdkStage;
pub use crate::stage::state::{StateError, StateView};

// A subscriber of log lines.
pub use crate::stage::log_level::StageLogLevels;

// An observer.
pub use crate::domain::event::{DeliveryKey, Envelope};
pub use crate::store::{Settlement, Verdict};
