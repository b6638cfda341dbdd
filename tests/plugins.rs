//! Plugin files: what they may do, and how they are loaded, replaced and contained.

mod capabilities;
mod comparisons;
mod compilation;
mod contract;
mod documents;
pub(crate) mod egress;
mod guest_memory;
mod guest_time;
mod handmade_guests;
mod hostile_guests;
mod hostile_languages;
mod kept_code;
pub(crate) mod languages;
mod provenance;
mod refusals;
mod reload;
mod secrets;
