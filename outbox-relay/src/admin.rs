//! What a running relay serves over HTTP: `/healthz` and `/readyz` for probes, and behind the token `/metrics`
//! for Prometheus and `/api/status` for people. It reads the pipes' status and what was last seen of
//! subscribers, and touches no database.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use outbox_core::{Error, ErrorKind};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{AdminConfig, Secret};
use crate::status::{Shown, State as PipeState};

/// The content type that Prometheus asks OpenMetrics by.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Shared {
    shown: Shown,
    token: watch::Receiver<Secret>,
}

/// Serves until `shutdown`; what is given back takes another token while it serves. Without a token in the
/// configuration nothing is served.
///
/// # Errors
/// `Invalid` when the address cannot be listened on.
pub async fn serve(
    config: &AdminConfig,
    shown: impl Into<Shown>,
    shutdown: CancellationToken,
) -> outbox_core::Result<Option<watch::Sender<Secret>>> {
    let Some(token) = &config.token else {
        info!("admin: there is no token in the configuration, so no health or metrics are served");
        return Ok(None);
    };
    let listener = TcpListener::bind(&config.listen).await.map_err(|e| {
        let text = format!("admin.listen: {} cannot be listened on", config.listen);
        Error::with_source(ErrorKind::Invalid, text, e)
    })?;
    info!("admin: http://{}", config.listen);
    let (sender, token) = watch::channel(token.clone());
    let router = router(shown.into(), token);
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::warn!("admin: {error}");
        }
    });
    Ok(Some(sender))
}

fn router(shown: Shown, token: watch::Receiver<Secret>) -> Router {
    let shared = Arc::new(Shared { shown, token });
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/status", get(all))
        .route_layer(middleware::from_fn_with_state(shared.clone(), ask_for_token));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(guarded)
        .with_state(shared)
}

async fn ask_for_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_authorized = is_authorized(request.headers(), shared.token.borrow().expose());
    if is_authorized {
        return next.run(request).await;
    }
    let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, ask, "send `Authorization: Bearer TOKEN`, with the token of [admin]\n")
        .into_response()
}

/// Compares all bytes whatever the first ones are, so that the time tells nothing of the token.
fn is_authorized(headers: &HeaderMap, token: &str) -> bool {
    let given =
        headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| {
        given.len() == token.len()
            && given.iter().zip(token.as_bytes()).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    })
}

/// 200 while everything runs; else 503 and what does not. A relay that is paused is alive and must not be
/// restarted for it: that is what `/healthz` says.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let outboxes = shared.shown.outboxes.iter().map(|status| status.snapshot());
    let not_running = outboxes.filter(|s| s.state != PipeState::Running);
    // Not why: texts of errors are for those who have the token.
    let names: Vec<_> = not_running.map(|s| format!("{}: {}\n", s.name, s.state.name())).collect();
    #[cfg(feature = "binlog")]
    let names = {
        let replications = shared.shown.replications.iter().map(|status| status.snapshot());
        let not_ready = replications.filter(|s| !s.state.is_ready());
        [names, not_ready.map(|s| format!("{}: {}\n", s.replication, s.state.name())).collect()].concat()
    };
    if names.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, names.concat()).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match crate::metrics::text(&shared.shown) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Outboxes and subscribers in one list: an entry has a `name`, or a `subscriber`.
async fn all(State(shared): State<Arc<Shared>>) -> Response {
    let outboxes = shared.shown.outboxes.iter().map(|status| serde_json::to_value(status.snapshot()));
    let subscribers = shared.shown.subscribers.reports().into_iter().map(serde_json::to_value);
    let all: Result<Vec<_>, _> = outboxes.chain(subscribers).collect();
    #[cfg(feature = "binlog")]
    let all = all.and_then(|mut all| {
        for status in &shared.shown.replications {
            all.push(serde_json::to_value(status.snapshot())?);
        }
        Ok(all)
    });
    match all {
        Ok(all) => Json(all).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
