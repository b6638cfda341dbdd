//! The integration tests: one binary, real stores, real guests. `harness` starts hosts; every other module is one area.

mod harness;
mod process;
mod servers;

mod capabilities;
mod contract;
mod crash;
mod dead_letters;
mod embedding;
mod full_disk;
mod hostile;
mod orders;
mod outage;
mod reload;
mod stock;
mod structure;
