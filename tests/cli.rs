//! Commands of `postrider`.

mod dev;
mod doctor;
mod replay;
