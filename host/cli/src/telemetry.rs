//! Logs: pretty on a terminal, JSON elsewhere. `RUST_LOG` selects what is logged; default `info`.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// What is logged unless `RUST_LOG` says otherwise.
pub const DEFAULT: &str = "info";

/// Sends log lines to standard error; `default` is what `RUST_LOG` may override. Only the first
/// call of a process has an effect.
pub fn init(format: LogFormat, default: &str) {
    let mut wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| default.to_owned());
    // The AMQP client logs as errors what the broker module expects and reports in its own words.
    if !wanted.contains("lapin") {
        wanted += ",lapin=off";
    }
    // The HTTP bindings trace what guests pass them, paths and queries included: secrets are among
    // it, so nobody may ask for that.
    let harmless = wanted.split(',').filter(|directive| !directive.contains("wasmtime_wasi_http"));
    let wanted = harmless.chain(["wasmtime_wasi_http=info"]).collect::<Vec<_>>().join(",");
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    // A second initialisation in one process (tests, embedders with their own subscriber) is no
    // error.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).try_init()
    };
}
