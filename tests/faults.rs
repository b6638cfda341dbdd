//! Hosts, services and disks that fail under load.

mod background_tasks;
mod full_disk;
mod generated_inputs;
pub(crate) mod host_crashes;
mod large_messages;
mod leftovers;
mod lost_deliveries;
mod memory;
mod refused_rows;
mod service_failures;
mod shutdown;
mod slow_clients;
mod store_outage;
