//! Servers of one's own, for the integration tests and for `cargo xtask test`. The tests themselves
//! are in `main.rs`.

pub mod private;
