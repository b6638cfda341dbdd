//! Log output on standard error. `RUST_LOG` selects what is logged; the default is `info`.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use postrider::StageLogLevels;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::bench::costs::{self, CostLayer};

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line per event.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Filter used when `RUST_LOG` is not set.
pub(crate) const DEFAULT: &str = "info";

/// Installs the subscriber; `RUST_LOG` overrides the filter `default`. Only the first call in a
/// process has an effect.
pub(crate) fn init(format: LogFormat, default: &str) {
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    let filter = filter(default).or(StageLevels);
    // A second initialisation in one process (tests, embedders with their own subscriber) is not
    // an error.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// Lets lines pass that the log level of their stage asks for, although the filter of the process does
/// not. It costs nothing until a level is set.
struct StageLevels;

impl<S> Filter<S> for StageLevels {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        StageLogLevels::enabled(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let may_be =
            StageLogLevels::covers(metadata) && *metadata.level() <= StageLogLevels::max_level();
        if may_be { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(StageLogLevels::max_level())
    }
}

/// For `bench --costs`, which also counts what the host's spans and events tell. The stages log every
/// order, which is of no interest here.
pub(crate) fn init_with_costs() {
    let log = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let subscriber = tracing_subscriber::registry()
        .with(log.with_filter(filter("warn")))
        .with(CostLayer.with_filter(costs::targets()));
    let _ = subscriber.try_init();
}

/// What is logged: `RUST_LOG`, or else `default`, and of some targets never.
fn filter(default: &str) -> EnvFilter {
    let mut wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| default.to_owned());
    // The AMQP client logs as errors what the broker module expects and reports itself.
    if !wanted.contains("lapin") {
        wanted += ",lapin=off";
    }
    // Spans tell hosts of one process apart, and there is one.
    if !wanted.contains("postrider::span") {
        wanted += ",postrider::span=off";
    }
    // The HTTP bindings trace what guests pass them, including paths and queries. These may contain
    // secrets, so RUST_LOG cannot turn that on.
    let harmless = wanted.split(',').filter(|directive| !directive.contains("wasmtime_wasi_http"));
    let wanted = harmless.chain(["wasmtime_wasi_http=info"]).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new("info"))
}
