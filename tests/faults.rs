//! Hosts, services and disks that fail under load.

mod background_tasks;
mod full_disk;
mod generated_inputs;
pub(crate) mod host_crashes;
mod large_messages;
mod leftovers;
mod lost_deliveries;
mod refused_rows;
mod service_failures;
mod shutdown;
mod store_outage;
