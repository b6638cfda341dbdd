//! The integration tests: one binary, real stores, real brokers, real guests. Tests of one area are
//! in one folder; `support` has the tools.

mod support;

mod auth;
mod cli;
mod deploy;
mod embedding;
mod faults;
mod http;
mod pipeline;
mod plugins;
mod structure;
mod tls;
