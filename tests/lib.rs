//! Private Postgres and RabbitMQ servers, for the integration tests and for `cargo xtask test`. The
//! tests themselves are in `main.rs`.

#[path = "support/private_servers.rs"]
pub mod private_servers;
