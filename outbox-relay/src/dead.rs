//! `outbox-relay dead`: shows what the relay has set aside, and replays or discards it. What subscribers have set
//! aside is in `held`.
//!
//! A dead letter is a key that is parked with the message that was refused. Replayed, the message goes
//! first and what waits behind it follows, in order; discarded, what waits behind it goes on.

use std::fmt;

use outbox_core::{Error, ErrorKind, MessageId, Result};
use serde::Serialize;

use crate::config::{Config, OutboxConfig};
use crate::outbox::store::{Database, DeadAction, DeadFilter, DeadLetter, Store};

/// How many are acted on in one transaction.
const PAGE: u32 = 200;

/// A dead letter of an outbox.
#[derive(Debug, Serialize)]
pub struct DeadReport {
    /// The outbox.
    pub outbox: String,
    /// The row of the refused message, by which the other verbs find it.
    pub id: i64,
    /// The aggregate type.
    pub aggregate: String,
    /// The key: all its later messages wait.
    pub key: String,
    /// What happened; missing when the row is gone.
    pub event: Option<String>,
    /// The message's id; missing when the row is gone.
    pub message_id: Option<String>,
    /// How often it was refused.
    pub attempts: i32,
    /// How long ago it was set aside.
    pub parked_seconds: f64,
    /// Why it was refused.
    pub error: String,
}

impl fmt::Display for DeadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}.{} key {}, {} attempts, parked {:.0} s ago: {}",
            self.outbox,
            self.id,
            self.aggregate,
            self.event.as_deref().unwrap_or("(row is gone)"),
            self.key,
            self.attempts,
            self.parked_seconds,
            self.error
        )
    }
}

impl DeadReport {
    fn of(outbox: &str, letter: DeadLetter) -> Self {
        let message_id = letter.message_id.and_then(|bytes| MessageId::from_slice(&bytes).ok());
        Self {
            outbox: outbox.to_owned(),
            id: letter.head_id,
            aggregate: letter.aggregate_type,
            key: letter.aggregate_id,
            event: letter.event_type,
            message_id: message_id.map(|id| id.to_string()),
            attempts: letter.attempts,
            parked_seconds: seconds(letter.parked_ms),
            error: letter.last_error,
        }
    }
}

/// A dead letter with what it carries.
#[derive(Debug, Serialize)]
pub struct DeadMessage {
    /// What is known of it.
    #[serde(flatten)]
    pub letter: DeadReport,
    /// Its headers; missing when the row is gone or they are no JSON.
    pub headers: Option<serde_json::Value>,
    /// Its payload: JSON, or a text when it is none; missing when the row is gone.
    pub payload: Option<serde_json::Value>,
}

/// What was done in an outbox, or would be.
#[derive(Debug, Serialize)]
pub struct DeadOutcome {
    /// The outbox.
    pub outbox: String,
    /// `replay` or `discard`.
    pub action: &'static str,
    /// Nothing was changed.
    pub dry_run: bool,
    /// How many dead letters.
    pub count: u64,
}

/// The outboxes of a configuration, or the one of this name.
///
/// # Errors
/// `Invalid` when there is none of this name.
pub fn outboxes<'c>(config: &'c Config, name: Option<&str>) -> Result<Vec<&'c OutboxConfig>> {
    let found: Vec<_> =
        config.outbox.iter().filter(|outbox| name.is_none_or(|name| outbox.name == name)).collect();
    match (found.is_empty(), name) {
        (true, Some(name)) => {
            let names: Vec<_> = config.outbox.iter().map(|outbox| outbox.name.as_str()).collect();
            let text = format!("there is no outbox {name:?}; the configuration has {}", names.join(", "));
            Err(Error::new(ErrorKind::Invalid, text))
        }
        _ => Ok(found),
    }
}

/// Milliseconds as seconds; exact for anything shorter than ten thousand years.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// What bytes hold: JSON, or a text when it is none.
pub(crate) fn json_or_text(bytes: &[u8]) -> serde_json::Value {
    let text = || serde_json::Value::from(String::from_utf8_lossy(bytes).into_owned());
    serde_json::from_slice(bytes).unwrap_or_else(|_| text())
}

fn store(outbox: &OutboxConfig) -> Result<Store> {
    Ok(Store::new(Database::of(outbox)?, ""))
}

/// The dead letters of an outbox that meet the filter, the longest parked first.
///
/// # Errors
/// The database's.
pub async fn list(outbox: &OutboxConfig, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadReport>> {
    let letters = store(outbox)?.dead(filter, limit).await?;
    Ok(letters.into_iter().map(|letter| DeadReport::of(&outbox.name, letter)).collect())
}

/// A dead letter with headers and payload; `None` when there is none with this row.
///
/// # Errors
/// The database's.
pub async fn show(outbox: &OutboxConfig, id: i64) -> Result<Option<DeadMessage>> {
    let mut store = store(outbox)?;
    let filter = DeadFilter { id: Some(id), ..DeadFilter::default() };
    let Some(letter) = store.dead(&filter, 1).await?.pop() else { return Ok(None) };
    let body = store.bodies(&[id]).await?.pop();
    let (headers, payload) = match body {
        None => (None, None),
        Some(body) => {
            let headers = serde_json::from_slice(&body.headers).ok();
            (headers, Some(json_or_text(&body.payload)))
        }
    };
    Ok(Some(DeadMessage { letter: DeadReport::of(&outbox.name, letter), headers, payload }))
}

/// Replays or discards all dead letters of an outbox that meet the filter, or only counts them.
///
/// What is set aside while it runs is left alone: it acts on what was there when it began.
///
/// # Errors
/// The database's; the pages before it are done then.
pub async fn act(
    outbox: &OutboxConfig,
    filter: &DeadFilter,
    action: DeadAction,
    actor: &str,
    dry_run: bool,
) -> Result<DeadOutcome> {
    let mut store = store(outbox)?;
    let there = store.count_dead(filter).await?;
    let mut outcome = DeadOutcome { outbox: outbox.name.clone(), action: action.name(), dry_run, count: 0 };
    if dry_run {
        outcome.count = there;
        return Ok(outcome);
    }
    while outcome.count < there {
        let page: Vec<i64> = store.dead(filter, PAGE).await?.iter().map(|letter| letter.head_id).collect();
        let acted = store.act_on_dead(action, &page, actor).await? as u64;
        outcome.count += acted;
        if acted == 0 {
            break;
        }
    }
    Ok(outcome)
}
