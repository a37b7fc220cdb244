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

/// The span of handling a message: a child of the span that recorded it, where OpenTelemetry is on.
#[cfg(feature = "opentelemetry")]
pub(crate) fn handling(kind: &str, headers: &Headers) -> tracing::Span {
    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    let span =
        tracing::info_span!("handle", otel.name = format!("handle {kind}"), otel.kind = "consumer", kind);
    let carrier: std::collections::HashMap<String, String> =
        headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let parent = TraceContextPropagator::new().extract(&carrier);
    let parent = BaggagePropagator::new().extract_with_context(&parent, &carrier);
    // Refused for a span that is off or has begun: then it is no child.
    let _ = span.set_parent(parent);
    span
}

/// The span of handling a message.
#[cfg(not(feature = "opentelemetry"))]
pub(crate) fn handling(kind: &str, _: &Headers) -> tracing::Span {
    tracing::info_span!("handle", kind)
}
