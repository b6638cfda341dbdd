//! How orders and events pass through the stages.

mod cancellation;
mod broker_trust;
mod chains;
mod circuit_breaker;
mod cluster;
mod dead_letter_jobs;
mod dead_letters;
mod embedding;
mod encryption;
mod external_events;
mod fairness;
mod hand_over;
mod interleavings;
mod logs;
mod namespaces;
mod retention;
mod scheduling;
mod several_hosts;
mod stage_controls;
mod stage_order;
mod state_places;
mod stock;
mod subjects;
mod unrouted_events;
