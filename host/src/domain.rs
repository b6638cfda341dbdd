//! The vocabulary of the pipeline: events, subjects, time and names. Pure: no I/O, and it knows no other
//! module of the crate.

pub mod actor;
pub mod clock;
pub mod distribution;
pub mod steps;
pub mod event;
pub mod encryption;
pub mod fair_queue;
pub mod trace_context;
pub mod spans;
pub mod log_level;
pub mod name;
pub mod client_certificate;
pub mod connection_string;
pub mod field_error;
pub mod timestamp;
pub mod json;
pub mod body;
pub mod cloud_events;
pub mod body_fields;
pub mod body_schema;
pub mod body_shape;
pub mod stock;
pub mod state_place;
pub mod access;
pub mod api_key;
pub mod subject;
pub mod subject_kind;
pub mod subject_status;
pub mod failure_fingerprint;
