//! Exports the host's spans by OTLP over HTTP, as the variables of OpenTelemetry say:
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.
//!
//! Nothing is exported unless an endpoint is set. The export has a thread of its own and a bounded queue:
//! a receiver that hangs or is absent costs spans, and nothing else.

mod sampler;

use std::env;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, Config, SpanData, SpanExporter as Exports, SpanProcessor,
};
use postrider::HostBuilder;

/// Where spans are sent: the base URL of a receiver, or that of its traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
/// How long the end of the program waits for the last spans.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// The export of spans, until it is finished.
pub(crate) struct Traces(Option<Arc<BatchSpanProcessor>>);

impl Traces {
    /// As the environment says.
    ///
    /// # Errors
    /// A variable has a value that this program cannot follow.
    pub(crate) fn from_environment() -> Result<Self> {
        let Some(endpoint) = first_of(&ENDPOINTS) else { return Ok(Self(None)) };
        let is = |name: &str, value: &str| variable(name).is_some_and(|set| set == value);
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(Self(None));
        }
        if let Some(protocol) = first_of(&PROTOCOLS).filter(|protocol| protocol != "http/protobuf")
        {
            bail!(
                "OTEL_EXPORTER_OTLP_PROTOCOL: `{protocol}` is not supported: use `http/protobuf`, \
                 and the receiver's port for OTLP over HTTP, which is usually 4318"
            );
        }
        let url = reqwest::Url::parse(&endpoint);
        if !url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            bail!(
                "OTEL_EXPORTER_OTLP_ENDPOINT: `{endpoint}` is not a URL such as \
                 http://collector:4318"
            );
        }
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let exporter = exporter.build().context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let exporter = Reporting { exporter, endpoint, failing: AtomicBool::new(false) };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource());
        Ok(Self(Some(Arc::new(processor))))
    }

    /// A builder whose host exports its spans: those of the traces that `OTEL_TRACES_SAMPLER` selects, or
    /// else those that callers record and a bounded number of new ones.
    pub(crate) fn export(&self, builder: HostBuilder) -> HostBuilder {
        let Some(processor) = &self.0 else { return builder };
        let sampler = match variable(SAMPLER) {
            Some(_) => Config::default().sampler,
            None => sampler::limited(),
        };
        builder.spans(Arc::clone(processor) as _, sampler)
    }

    /// Exports what is left, if the receiver takes it soon enough.
    pub(crate) async fn finish(self) {
        let Some(processor) = self.0 else { return };
        let finishing = move || {
            let _ = processor.shutdown_with_timeout(LAST_EXPORT);
        };
        let _ = tokio::task::spawn_blocking(finishing).await;
    }
}

/// The service is `postrider` unless the environment names it.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let found = Resource::builder().with_attribute(version.clone()).build();
    let name = found.get(&Key::new("service.name")).map(|name| name.to_string());
    // The SDK's own name for a service without one.
    if name.is_some_and(|name| !name.starts_with("unknown_service")) {
        return found;
    }
    Resource::builder().with_attribute(version).with_service_name("postrider").build()
}

/// Logs when the receiver stops to take spans, and when it takes them again.
#[derive(Debug)]
struct Reporting {
    exporter: SpanExporter,
    endpoint: String,
    failing: AtomicBool,
}

impl Exports for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        let endpoint = &self.endpoint;
        match &exported {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!(endpoint, "spans are exported again");
            }
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    endpoint, spans, %error,
                    "spans could not be exported and are lost, until the receiver takes them again"
                );
            }
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn first_of(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| variable(name))
}

/// A variable that is set, and not to nothing.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}
