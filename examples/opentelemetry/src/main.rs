//! Exports the spans of a request to OpenTelemetry, those of a plugin among them.
//!
//! The collector is one in memory, and what it has got is printed. A program of yours has an exporter of `opentelemetry-otlp` in
//! its place.
#![forbid(unsafe_code)]

mod plugins;

use std::collections::HashMap;
use std::path::Path;

use controllerbus::prelude::*;
use hot_runtime::{HotRuntime, Isolation};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use plugins::{Linked, Named};
use tracing::{Instrument, Level, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "traced/greet", value = String, key = name)]
struct Greet {
    name: String,
    traceparent: String,
}

fn main() -> Result<()> {
    // This executable also serves plugins in processes of their own; then this call does not return.
    hot_runtime::plugin_host();
    serve()
}

#[tokio::main]
async fn serve() -> Result<()> {
    let collector = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(Named(collector.clone())).build();
    let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("host")).with_context_activation(false);
    // The spans that say whose a line is last as long as their controllers, and would be parents of everything.
    let wanted = filter_fn(|of| of.target() != "controllerbus::run" && *of.level() <= Level::INFO);
    tracing_subscriber::registry().with(traces.with_filter(wanted)).with(Linked).init();

    let isolation: Isolation = std::env::args().nth(1).as_deref().unwrap_or("none").parse().map_err(Error::msg)?;
    let bus = Bus::new();
    let greeter = Path::new(env!("CARGO_MANIFEST_DIR")).join("greeter");
    let runtime = HotRuntime::builder(&bus).watch(greeter).isolation(isolation).start().await?;
    bus.apply(ConfigSet::from_yaml("greeter: { id: traced/greeter }")?).await?.all_running()?;

    let greeting = greet(&bus, "Ada").instrument(info_span!("request", path = "/greet/Ada")).await?;
    println!("{greeting}");

    // The plugin ends its spans before it is unloaded.
    runtime.shutdown().await;
    provider.force_flush().map_err(Error::msg)?;
    let spans = collector.get_finished_spans().map_err(Error::msg)?;
    if let Some(request) = spans.iter().find(|span| span.name == "request") {
        show(&spans, request, 0);
    }
    Ok(())
}

/// Asks, and says within which span.
async fn greet(bus: &Bus, name: &str) -> Result<String> {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    let traceparent = headers.remove("traceparent").unwrap_or_default();
    let greeting = bus.resolve(Greet { name: name.to_owned(), traceparent }).await?;
    Ok(greeting.to_string())
}

/// Prints a span, and below it what was done within it.
fn show(spans: &[SpanData], span: &SpanData, depth: usize) {
    println!("{}{}", "  ".repeat(depth), span.name);
    let id: SpanId = span.span_context.span_id();
    let is_inside =
        |other: &&SpanData| other.parent_span_id == id && other.span_context.trace_id() == span.span_context.trace_id();
    spans.iter().filter(is_inside).for_each(|inside| show(spans, inside, depth + 1));
}
