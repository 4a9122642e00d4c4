//! The log of this process on standard error, and traces for those who collect them.
//!
//! Traces go by OTLP over HTTP, in protobuf, to where `up --otlp` says, from a thread of their own: who collects slowly holds up
//! nobody, and what does not fit into the queue is dropped. A span stands for a request to the API or for a task, with their ids.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use super::LogFormat;
use super::error::CliError;

/// How long a batch of spans may take to be taken, and how long the last one may at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where collectors take traces, below an address without a path (OTLP specification).
const TRACES: &str = "/v1/traces";

/// The running log. Dropping it sends what waits.
#[derive(Debug, Default)]
pub struct Logging {
    traces: Option<SdkTracerProvider>,
}

impl Logging {
    /// Begins to log. Call it once, outside of any runtime.
    ///
    /// # Errors
    /// When `otlp` is no address that traces can be sent to.
    pub(super) fn begin(
        verbosity: u8,
        format: LogFormat,
        otlp: Option<&str>,
    ) -> Result<Self, CliError> {
        let traces = otlp.map(provider).transpose()?;
        let layer = traces.as_ref().map(|provider| {
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("opencloud"));
            // Of this program alone: what the exporter does must not be exported.
            layer.with_filter(Targets::new().with_target("node", Level::INFO))
        });
        tracing_subscriber::registry().with(lines(verbosity, format)).with(layer).init();
        Ok(Self { traces })
    }
}

fn lines(verbosity: u8, format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let default = match verbosity {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        // It would tell of a line that it cannot write on standard error, too, and panic there: a full disk with the log on it
        // would end the node.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

fn provider(url: &str) -> Result<SdkTracerProvider, CliError> {
    let failed = |detail: String| CliError::usage(format!("--otlp {url}: {detail}"));
    let parsed = reqwest::Url::parse(url).map_err(|error| failed(error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(failed("it has to begin with http:// or https://".to_owned()));
    }
    let endpoint = if parsed.path() == "/" {
        format!("{}{TRACES}", url.trim_end_matches('/'))
    } else {
        url.to_owned()
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    // What the environment says of this process (`OTEL_RESOURCE_ATTRIBUTES`) is part of it.
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource =
        Resource::builder().with_service_name("opencloud").with_attribute(version).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces {
            // Who collects may be gone; then the last spans are lost with it.
            let _ = traces.shutdown_with_timeout(EXPORT_TIMEOUT);
        }
    }
}
