//! Messages carry the trace context of the span around the write, and handlers go on with it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use opentelemetry::KeyValue;
use opentelemetry::baggage::BaggageExt as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::testing::{memory_pool, run_until_idle};
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

/// What another service has sent: its span, and what its vendor keeps of the trace.
fn remote(state: &str) -> opentelemetry::Context {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

    let (trace, span) = (TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex("b7ad6b7169203331").unwrap());
    let state: TraceState = state.parse().unwrap();
    let remote = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, state);
    opentelemetry::Context::new().with_remote_span_context(remote)
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Each of two transactions that take turns on one thread is in the span of its own future.
#[cfg(feature = "async-sqlite")]
#[tokio::test]
async fn the_span_around_an_async_write_travels_with_the_state_of_the_trace() {
    use diesel_async::AsyncConnection as _;
    use outbox_core::{AsyncOutboxConnection as _, AsyncSqliteConnection};
    use tracing::Instrument as _;
    use tracing::instrument::WithSubscriber as _;

    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    let folder = tempfile::tempdir().unwrap();
    let write = async |name: &str, state: &str| {
        let path = folder.path().join(name).display().to_string();
        let mut writer = SqliteConnection::establish(&path).unwrap();
        migrate::run(&mut writer, &migrate::OUTBOX).unwrap();
        let mut connection = AsyncSqliteConnection::establish(&path).await.unwrap();
        let span = tracing::info_span!("write");
        span.set_parent(remote(state)).unwrap();
        connection
            .outbox_transaction(async |tx| {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                    tx.record_message(message(name));
                }
                Ok(())
            })
            .instrument(span)
            .await
            .unwrap();
        headers(&mut writer)
    };
    let (one, other) = async { tokio::join!(write("one", "vendor=1"), write("other", "vendor=2")) }
        .with_subscriber(subscriber)
        .await;
    for (headers, state) in [(one, "vendor=1"), (other, "vendor=2")] {
        assert_eq!(headers.len(), 3);
        for headers in headers {
            assert_eq!(headers["tracestate"], state);
            let parent = headers["traceparent"].as_str().unwrap();
            assert!(
                parent.starts_with(&format!("00-{TRACE}-")) && !parent.contains("b7ad6b7169203331"),
                "{parent}"
            );
        }
    }
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

/// Keeps what has ended.
#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Ended {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[test]
fn a_handlers_span_is_a_child_of_the_span_that_recorded() {
    let (pool, broker) = (memory_pool(), MemoryBroker::new());
    let handling = outbox_core::Subscriber::new("order", broker.clone(), pool.clone())
        .on_raw("thing.made", |_, incoming| {
            tracing::info_span!("inside", key = incoming.message().key()).in_scope(|| Ok(()))
        });
    let ended = Ended::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(ended.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let mut connection = pool.get().unwrap();
        let write = || {
            connection.outbox_transaction(|tx| {
                tx.record_message(message("7"));
                Ok(())
            })
        };
        tracing::info_span!("write").in_scope(write).unwrap();
        run_until_idle(&mut *connection, &broker, &[&handling]).unwrap();
    });

    let spans = ended.0.lock().unwrap();
    let find = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        let [one] = found[..] else { panic!("{name}: {spans:?}") };
        one
    };
    let (write, handle, inside) = (find("write"), find("handle thing.made"), find("inside"));
    assert_eq!(handle.parent_span_id, write.span_context.span_id());
    assert_eq!(inside.parent_span_id, handle.span_context.span_id());
    let traces = [handle, inside].map(|span| span.span_context.trace_id());
    assert_eq!(traces, [write.span_context.trace_id(); 2]);
    assert!(handle.parent_span_is_remote);
}
