//! `outbox-relay dead` for subscribers: shows what they have set aside, and tells them what to do with it. The
//! subscriber does it, in order, within seconds if it runs.

use std::fmt;

use outbox_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::config::{Config, SubscriberConfig};
use crate::dead::{json_or_text, seconds};
use crate::outbox::store::{Database, DeadFilter, HeldAction, HeldLetter, Store};

/// How many are acted on in one transaction.
const PAGE: u32 = 200;

/// A message that a subscriber has set aside.
#[derive(Debug, Serialize)]
pub struct HeldReport {
    /// The subscriber.
    pub subscriber: String,
    /// The number by which the other verbs find it.
    pub id: i64,
    /// `{aggregate}.{event}`, as it arrived.
    pub kind: String,
    /// The key; empty when it did not decode.
    pub key: String,
    /// The message's id, as it arrived.
    pub message_id: String,
    /// How often it was tried.
    pub attempts: i32,
    /// How long ago it was set aside.
    pub held_seconds: f64,
    /// How long ago it failed first; missing when it was never tried.
    pub first_failed_seconds: Option<f64>,
    /// How long ago it failed last.
    pub last_failed_seconds: Option<f64>,
    /// The routing key with which it arrived.
    pub routing_key: String,
    /// The outbox it came from; missing when it did not decode.
    pub source: Option<String>,
    /// Its version, `{generation}/{id}`; missing when it did not decode.
    pub version: Option<String>,
    /// Why it was set aside.
    pub error: String,
}

impl fmt::Display for HeldReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscriber, id, kind, key, attempts, held_seconds, error, .. } = self;
        write!(
            f,
            "{subscriber} {id}: {kind} key {key}, {attempts} attempts, set aside {held_seconds:.0} s ago: {error}"
        )
    }
}

impl HeldReport {
    /// When it failed, and the routing key with which it arrived, in words.
    pub fn history(&self) -> String {
        let failed = match (self.first_failed_seconds, self.last_failed_seconds) {
            (Some(first), Some(last)) => format!("failed first {first:.0} s ago and last {last:.0} s ago"),
            _ => "never tried".to_owned(),
        };
        format!("arrived with routing key {:?}, {failed}", self.routing_key)
    }

    fn of(subscriber: &str, letter: HeldLetter) -> Self {
        Self {
            subscriber: subscriber.to_owned(),
            id: letter.sequence,
            kind: letter.kind,
            key: letter.aggregate_id,
            message_id: letter.message_id,
            attempts: letter.attempts,
            held_seconds: seconds(letter.held_ms),
            first_failed_seconds: letter.first_failed_ms.map(seconds),
            last_failed_seconds: letter.last_failed_ms.map(seconds),
            routing_key: letter.routing_key,
            source: letter.source,
            version: letter.generation.zip(letter.id).map(|(generation, id)| format!("{generation}/{id}")),
            error: letter.error,
        }
    }
}

/// A message that a subscriber has set aside, with what it carries.
#[derive(Debug, Serialize)]
pub struct HeldMessage {
    /// What is known of it.
    #[serde(flatten)]
    pub letter: HeldReport,
    /// What the error came from, the root last.
    pub causes: Vec<String>,
    /// Its headers.
    pub headers: serde_json::Value,
    /// Its payload: JSON, or a text when it is none.
    pub payload: serde_json::Value,
}

/// What a subscriber was told, or would be.
#[derive(Debug, Serialize)]
pub struct HeldOutcome {
    /// The subscriber.
    pub subscriber: String,
    /// `replay`, `force` or `discard`.
    pub action: &'static str,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Of how many messages.
    pub count: u64,
}

/// The subscribers of a configuration, or the one of this name.
///
/// # Errors
/// `Invalid` when there is none of this name.
pub fn subscribers<'c>(config: &'c Config, name: Option<&str>) -> Result<Vec<&'c SubscriberConfig>> {
    let found: Vec<_> =
        config.subscriber.iter().filter(|one| name.is_none_or(|name| one.name == name)).collect();
    match (found.is_empty(), name) {
        (true, Some(name)) => {
            let names: Vec<_> = config.subscriber.iter().map(|one| one.name.as_str()).collect();
            let text = format!("there is no subscriber {name:?}; the configuration has {}", names.join(", "));
            Err(Error::new(ErrorKind::Invalid, text))
        }
        _ => Ok(found),
    }
}

fn store(subscriber: &SubscriberConfig) -> Result<Store> {
    Ok(Store::new(Database::of_subscriber(subscriber)?, ""))
}

/// What a subscriber has set aside that meets the filter, in the order of arrival.
///
/// # Errors
/// The database's.
pub async fn list(subscriber: &SubscriberConfig, filter: &DeadFilter, limit: u32) -> Result<Vec<HeldReport>> {
    let letters = store(subscriber)?.held(&subscriber.name, filter, 0, limit).await?;
    Ok(letters.into_iter().map(|letter| HeldReport::of(&subscriber.name, letter)).collect())
}

/// One of them with what it carries; `None` when there is none of this number.
///
/// # Errors
/// The database's.
pub async fn show(subscriber: &SubscriberConfig, id: i64) -> Result<Option<HeldMessage>> {
    let mut store = store(subscriber)?;
    let filter = DeadFilter { id: Some(id), ..DeadFilter::default() };
    let letter = store.held(&subscriber.name, &filter, 0, 1).await?.pop();
    let Some((letter, body)) = letter.zip(store.held_body(id).await?) else { return Ok(None) };
    Ok(Some(HeldMessage {
        letter: HeldReport::of(&subscriber.name, letter),
        causes: body.causes.iter().flat_map(|causes| causes.lines()).map(str::to_owned).collect(),
        headers: json_or_text(&body.headers),
        payload: json_or_text(&body.payload),
    }))
}

/// Tells a subscriber what to do with all that meet the filter, or only counts them.
///
/// What is set aside while it runs is left alone: it acts on what was there when it began.
///
/// # Errors
/// The database's; the pages before it are done then.
pub async fn act(
    subscriber: &SubscriberConfig,
    filter: &DeadFilter,
    action: HeldAction,
    actor: &str,
    dry_run: bool,
) -> Result<HeldOutcome> {
    let mut store = store(subscriber)?;
    let name = subscriber.name.clone();
    let there = store.count_held(&name, filter).await?;
    if dry_run {
        let count = there.count.unsigned_abs();
        return Ok(HeldOutcome { subscriber: name, action: action.name(), dry_run, count });
    }
    let (mut count, mut after) = (0, 0);
    // What fails again at once stands where it stood: each is asked for once.
    while after < there.last {
        let page = store.held(&name, filter, after, PAGE).await?;
        let page: Vec<_> =
            page.iter().map(|letter| letter.sequence).filter(|number| *number <= there.last).collect();
        let Some(last) = page.last() else { break };
        after = *last;
        count += store.act_on_held(&name, action, &page, actor).await? as u64;
    }
    Ok(HeldOutcome { subscriber: name, action: action.name(), dry_run, count })
}
