//! Messages carry the trace context of the span around the write.

#![allow(clippy::unwrap_used, missing_docs)]

use diesel::prelude::*;
use opentelemetry::KeyValue;
use opentelemetry::baggage::BaggageExt as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use outbox_core::{Message, OutboxConnection as _, migrate};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

fn message(key: &str) -> Message {
    Message::new("thing", key, "made", b"{}".to_vec()).unwrap()
}

fn headers(connection: &mut SqliteConnection) -> Vec<serde_json::Value> {
    let column = diesel::dsl::sql::<diesel::sql_types::Binary>("select headers from outbox order by id");
    let rows: Vec<Vec<u8>> = column.load(connection).unwrap();
    rows.iter().map(|json| serde_json::from_slice(json).unwrap()).collect()
}

#[test]
fn the_span_around_the_write_travels() {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    let record = |connection: &mut SqliteConnection, message: Message| {
        connection
            .outbox_transaction(|tx| {
                tx.record_message(message);
                Ok(())
            })
            .unwrap();
    };

    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    let trace_id = tracing::subscriber::with_default(subscriber, || {
        record(&mut connection, message("no span"));
        let span = tracing::info_span!("write");
        let baggage = opentelemetry::Context::new().with_baggage([KeyValue::new("tenant", "a b")]);
        span.set_parent(baggage).unwrap();
        let _entered = span.enter();
        record(&mut connection, message("in a span"));
        let own = message("own").with_header("traceparent", "00-mine").unwrap();
        record(&mut connection, own);
        span.context().span().span_context().trace_id().to_string()
    });

    let headers = headers(&mut connection);
    assert_eq!(headers[0], serde_json::json!({}));
    let parent = headers[1]["traceparent"].as_str().unwrap();
    assert_eq!((&parent[..3], &parent[3..35], parent.len()), ("00-", trace_id.as_str(), 55));
    assert_eq!(headers[1]["baggage"], "tenant=a%20b");
    assert_eq!(headers[2]["traceparent"], "00-mine", "the message's own wins");
}

#[test]
fn opentelemetrys_own_context_travels_without_tracing() {
    use opentelemetry::trace::Tracer as _;
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    let provider = SdkTracerProvider::builder().build();
    provider.tracer("test").in_span("write", |_| {
        connection
            .outbox_transaction(|tx| {
                tx.set_header("tenant", "7")?;
                tx.record_message(message("a"));
                Ok(())
            })
            .unwrap();
    });
    let headers = headers(&mut connection);
    assert!(headers[0]["traceparent"].as_str().is_some_and(|parent| parent.starts_with("00-")));
    assert_eq!(headers[0]["tenant"], "7");
}
