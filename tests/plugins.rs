//! Plugin files: what they may do, and how they are loaded, replaced and contained.

mod capabilities;
mod contract;
pub(crate) mod egress;
mod hostile_guests;
mod hostile_languages;
pub(crate) mod languages;
mod provenance;
mod refusals;
mod reload;
mod secrets;
