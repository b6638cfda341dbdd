//! The integration tests: one binary, real stores, real guests. `harness` starts hosts; every other
//! module is one area.

mod harness;
mod load;
mod process;
mod proxy;
mod servers;

mod capabilities;
mod contract;
mod controls;
mod crash;
mod dead_letters;
mod dev;
mod doctor;
mod documented;
mod egress;
mod embedding;
mod events;
mod faults;
mod foreign;
mod full_disk;
mod hostile;
mod hostile_languages;
mod hosts;
mod interleavings;
mod languages;
mod observed;
mod openapi;
mod orders;
mod outage;
mod provenance;
mod reload;
mod replay;
mod saga;
mod schedule;
mod secrets;
mod stock;
mod streams;
mod structure;
mod dead_letter_jobs;
