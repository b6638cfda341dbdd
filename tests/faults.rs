//! Hosts, services and disks that fail under load.

mod background_tasks;
mod full_disk;
pub(crate) mod host_crashes;
mod leftovers;
mod service_failures;
mod store_outage;
