//! Test support: hosts, processes, servers, load.

pub(crate) mod certificates;
pub(crate) mod guests;
pub(crate) mod harness;
pub(crate) mod load;
pub(crate) mod namespaces;
pub(crate) mod otlp;
pub(crate) mod process;
pub(crate) mod metrics;
pub(crate) mod prometheus;
pub(crate) mod promtool;
pub(crate) mod proxy;
pub(crate) mod servers;
pub(crate) mod shifted_clock;
pub(crate) mod yaml;
