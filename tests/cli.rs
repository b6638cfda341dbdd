//! Commands of `postrider`, run as programs.

mod configuration;
mod dev;
mod doctor;
mod plugin_tools;
mod replay;
