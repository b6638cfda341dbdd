//! Commands of `postrider`, run as programs.

mod dev;
mod doctor;
mod replay;
