//! Hosts, services and disks that fail under load.

mod full_disk;
pub(crate) mod host_crashes;
mod service_failures;
mod store_outage;
