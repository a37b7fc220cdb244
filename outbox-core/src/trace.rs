//! The caller's trace context, in the form that the W3C gives it: `traceparent`, `tracestate`, `baggage`.

use crate::message::Headers;

/// Of the current `tracing` span where it has an OpenTelemetry context, else of OpenTelemetry's own current
/// context; empty without either.
#[cfg(feature = "opentelemetry")]
pub(crate) fn current() -> Headers {
    use opentelemetry::baggage::BaggageExt as _;
    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry::trace::TraceContextExt as _;
    use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    let (of_span, attached) = (tracing::Span::current().context(), opentelemetry::Context::current());
    let traced = if of_span.has_active_span() { &of_span } else { &attached };
    // A span holds the baggage from when it began; what is attached now is newer.
    let baggage = if attached.baggage().is_empty() { &of_span } else { &attached };
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(traced, &mut carrier);
    BaggagePropagator::new().inject_context(baggage, &mut carrier);
    carrier.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// Nothing: the feature `opentelemetry` is off.
#[cfg(not(feature = "opentelemetry"))]
pub(crate) fn current() -> Headers {
    Headers::default()
}
