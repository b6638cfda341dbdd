//! What the command line, the integration tests and the fuzzers need beside the public surface.
//!
//! No stability promise: items come and go in any release. Programs that embed a host use what the
//! crate root re-exports.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use crate::app::keys::{IssuedKey, KeyError, KeyRequest, Keys, OVERLAP_MS};
pub use crate::app::{FailingTask, as_json};
pub use crate::background::faults::TaskFaults;
pub use crate::background::task::{Impact, Task, TaskName};
#[cfg(feature = "rabbitmq")]
pub use crate::broker::rabbit::{MessageKeys, QueueStatus, Rabbit, RabbitOptions, RabbitServer};
pub use crate::config::{Beside, BrokerUrl, HttpSettings, OTHER_VARIABLES, StoreUrl};
pub use crate::domain::access::Permission;
pub use crate::domain::client_certificate::ClientCertificate;
pub use crate::domain::cloud_events::BATCH;
pub use crate::domain::event::{HOST_EVENT_PREFIX, PRODUCT_STOCKED};
pub use crate::domain::event::{hex, idempotency_key, topic_matches};
pub use crate::domain::field_error::pointer;
pub use crate::domain::name::is_name;
pub use crate::domain::state_place::{StatePlace, StatePlaces};
pub use crate::domain::steps::{COSTS, STEPS};
pub use crate::domain::subject_kind::{SubjectKind, SubjectKinds};
pub use crate::domain::trace_context::TraceContext;
pub use crate::domain::{timestamp, trace_context};
#[cfg(feature = "http")]
pub use crate::http::{Peer, document as openapi_document};
#[cfg(fuzzing)]
pub use crate::internals::fuzz::{Contract, Loader, Message};
pub use crate::pipeline::chains::{CHAIN_LIMIT_CODE, ChainStatus};
pub use crate::pipeline::routes::Routes;
pub use crate::pipeline::{Pipeline, Topology, TopologyStage};
pub use crate::runtime::WarmPolicy;
#[cfg(feature = "wasm")]
pub use crate::runtime::egress::{Egress, HttpMock};
pub use crate::runtime::provenance::{Policy, signature_of};
#[cfg(feature = "wasm")]
pub use crate::runtime::{CONTRACT, Linked, Runtime, WasmStage, producers};
pub use crate::runtime::{InstanceMode, InstancePolicy, Pool, RuntimeSettings, StageLimits};
pub use crate::services::{SPANS, Services};
pub use crate::stage::event_settings::{
    SETTINGS_SCHEMA, handles as handled_event_types, problem as event_settings_problem,
};
pub use crate::stage::handler::{Call, Handled, Logs, Native, Outcome, StageHandler};
pub use crate::stage::policy::StagePolicy;
pub use crate::stage::recording::{
    CallResult, Decided, JsonBytes, ListQuery, Listed, Recorded, RecordedEmit, RecordedEvent,
    RecordedInputs, RecordedOutcome, Recorder, Recording, Writes,
};
pub use crate::stage::settings::{SECRET_LEAK, Secrets, Settings};
pub use crate::stage::state::{BatchState, LaneCache, StateLimits};
pub use crate::store::memory::MemoryState;
#[cfg(feature = "postgres")]
pub use crate::store::postgres::{
    DatabaseStatus, MovedState, PlaceProblem, PostgresOptions, PostgresSettings, PostgresStore,
    TableWrites, WriteAheadLog,
};
#[cfg(feature = "sqlite")]
pub use crate::store::sqlite::{FileStatus, SchemaStatus, SqliteOptions, SqliteStore};
pub use crate::store::{
    ApiKey, AuditPosition, AuditRecord, Batch, Cancelled, Commit, DeadLetterAction,
    DeadLetterFilter, DeadLetterStatus, DeliveryStatus, HostReport, Listeners, LostDeliveries,
    NewCancel, NewEvent, NewSubject, OutboxRow, Publishing, StateRow, StateSource, Store,
    SubjectCursor, UnroutedEvents,
};
#[cfg(feature = "tls")]
pub use crate::tls::{ClientFiles, NamedFile, client_config, explain, install_default_provider};
pub use crate::worker::decide::{self, Attempt, Decision, DecisionInputs, Progress, decide};
pub use crate::worker::replay::{Nowhere, Replay, ReplayReport, ReplayVerdict, ReplayedEvent};
