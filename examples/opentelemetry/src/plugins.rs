//! What the spans of plugins need besides: their parents, and their names.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Span, Subscriber, dispatcher};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::{Context, Layer};

/// The target of the spans of plugins.
const GUEST: &str = "controllerbus::guest";

/// Puts a plugin's span with the field `traceparent` into the span that this names. It comes after the layer of OpenTelemetry, which
/// must not begin a span when it is entered (`with_context_activation(false)`).
pub struct Linked;

/// What a plugin's span says of its parent.
#[derive(Default)]
struct Parent(Option<String>);

impl Visit for Parent {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        // The fields of plugins come as one text.
        if field.name() == "fields" {
            let found = value.split(' ').find_map(|part| part.strip_prefix("traceparent=\"")?.strip_suffix('"'));
            self.0 = found.map(str::to_owned);
        }
    }
}

impl<S: Subscriber> Layer<S> for Linked {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().target() != GUEST {
            return;
        }
        let mut parent = Parent::default();
        attributes.record(&mut parent);
        let Some(parent) = parent.0 else { return };
        let headers = HashMap::from([("traceparent".to_owned(), parent)]);
        dispatcher::get_default(|subscriber| {
            // Those of a plugin in a process of its own are never entered here, and only a span that is can be had.
            subscriber.enter(id);
            let _ = Span::current().set_parent(TraceContextPropagator::new().extract(&headers));
            subscriber.exit(id);
        });
    }
}

/// Gives the spans of plugins their own names: for `tracing`, whose names are constants, all of them are `guest`.
#[derive(Debug)]
pub struct Named<E>(pub E);

impl<E: SpanExporter> SpanExporter for Named<E> {
    fn export(&self, mut batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        for span in batch.iter_mut().filter(|span| span.name == "guest") {
            let name = span.attributes.iter().find(|attribute| attribute.key.as_str() == "name");
            if let Some(name) = name.map(|attribute| attribute.value.to_string()) {
                span.name = name.into();
            }
        }
        self.0.export(batch)
    }
}
