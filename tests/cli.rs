//! Commands of `postrider`, run as programs.

mod closed_pipes;
mod configuration;
mod costs;
mod dev;
mod doctor;
mod logs;
mod namespaces;
mod plugin_tools;
mod replay;
