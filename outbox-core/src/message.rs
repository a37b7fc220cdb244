//! What a change or a domain event becomes: the same [`Message`] in the outbox row, on the wire and in a
//! delivery. This is the only place that knows both forms.

use std::fmt;
use std::hash::Hasher;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::entity::Operation;
use crate::error::{Error, ErrorKind, Result};

mod headers;
mod wire;

pub(crate) use headers::CUT;
pub use headers::Headers;
use headers::{CONTENT_TYPE, ENTITY_VERSION, SCHEMA, SCHEMA_VERSION};
pub use wire::{Frame, OutboxRow, Recorded};

/// The number of buckets that keys are hashed into, fixed for the life of an outbox and kept in
/// `outbox_meta`: a bucket is what one relay owns at a time.
pub const BUCKETS: u16 = 64;
/// The name of the hash behind [`bucket_of`], kept in `outbox_meta` beside the count.
pub const BUCKET_HASH: &str = "fnv1a64";
/// The longest key in bytes, so that it fits an AMQP short string and an index.
pub const KEY_BYTES_MAX: usize = 255;
/// The longest aggregate or event name in bytes; with both and a bucket a routing key stays under the 255
/// bytes of an AMQP short string.
pub const NAME_BYTES_MAX: usize = 100;
/// The largest payload in bytes: RabbitMQ 4 refuses messages above 16 MiB by default. MySQL and MariaDB take one only
/// where their `max_allowed_packet` is larger; MariaDB's default is 16 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest headers in bytes, as they stand in the outbox row: what a BLOB of MySQL's holds.
pub const HEADERS_BYTES_MAX: usize = 65_535;
/// The version of the wire form, header `outbox-format`.
pub const WIRE_FORMAT: &str = "1";

/// The content type of a payload that says nothing else.
pub(crate) const JSON: &str = "application/json";
/// The longest content type in bytes: it travels in an AMQP short string.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// The identity of a message, a UUIDv7 made by the writer: what subscribers deduplicate by.
///
/// ```
/// use outbox_core::MessageId;
///
/// let id = MessageId::now();
/// assert_eq!(MessageId::parse(&id.to_string())?, id);
/// assert_eq!(MessageId::from_slice(id.as_bytes())?, id);
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Uuid);

impl MessageId {
    /// A fresh id.
    pub fn now() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes, as they stand in the outbox and the inbox.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// When the writer made it, by its own clock, to the millisecond; `None` for ids made elsewhere and not
    /// as UUIDv7.
    ///
    /// ```
    /// use outbox_core::MessageId;
    ///
    /// let id = MessageId::parse("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")?;
    /// assert_eq!(id.made_at().map(|time| time.to_rfc3339()).as_deref(), Some("2022-02-22T19:22:22+00:00"));
    /// let random = MessageId::parse("919108f7-52d1-4320-9bac-f847db4148a8")?;
    /// assert_eq!(random.made_at(), None);
    /// let of_version_1 = MessageId::parse("c232ab00-9414-11ec-b3c8-9f6bdeced846")?;
    /// assert_eq!(of_version_1.made_at(), None);
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn made_at(&self) -> Option<DateTime<Utc>> {
        if self.0.get_version_num() != 7 {
            return None;
        }
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    }

    /// An id from its 16 bytes.
    ///
    /// # Errors
    /// `Invalid` when there are not 16 of them.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        Uuid::from_slice(bytes)
            .map(Self)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "a message id has 16 bytes", e))
    }

    /// An id from its text form.
    ///
    /// # Errors
    /// `Invalid` when it is no UUID.
    pub fn parse(text: &str) -> Result<Self> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "a message id is a UUID", e))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A change's place in the history of its source: copies take a change only if it is newer.
///
/// The generation rises when ids may have started again, the id is the outbox row's.
///
/// ```
/// use outbox_core::Version;
///
/// let applied = Version { generation: 1, id: 9_000 };
/// assert!(Version { generation: 1, id: 9_001 } > applied);
/// // After a restore from a backup the ids have begun again.
/// assert!(Version { generation: 2, id: 1 } > applied);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// From `outbox_meta`, 1 at first.
    pub generation: i64,
    /// The outbox row's id.
    pub id: i64,
}

/// The bucket of a key: FNV-1a (64 bit) over `aggregate`, a zero byte and `key`, modulo [`BUCKETS`].
///
/// ```
/// assert_eq!(outbox_core::bucket_of("product", "7"), outbox_core::bucket_of("product", "7"));
/// ```
pub fn bucket_of(aggregate: &str, key: &str) -> u16 {
    let mut hash = fnv::FnvHasher::default();
    hash.write(aggregate.as_bytes());
    hash.write(&[0]);
    hash.write(key.as_bytes());
    // Cannot truncate: the remainder is below BUCKETS, a u16.
    (hash.finish() % u64::from(BUCKETS)) as u16
}

/// A message before it has a place in the outbox: what a writer records.
///
/// ```
/// use outbox_core::{Message, bucket_of};
///
/// let raised = || Message::new("product", "7", "price_raised", br#"{"by_cents":45}"#.to_vec());
/// let message = raised()?.with_header("tenant", "eu")?;
/// assert_eq!((message.aggregate(), message.key(), message.event()), ("product", "7", "price_raised"));
/// assert_eq!(message.bucket(), bucket_of("product", "7"));
/// assert_eq!(message.payload(), br#"{"by_cents":45}"#);
/// assert!(message.headers().iter().eq([("tenant", "eu")]));
/// // Two messages, although they say the same: each has its own effect.
/// assert_ne!(message.id(), raised()?.id());
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    id: MessageId,
    aggregate: String,
    key: String,
    event: String,
    headers: Headers,
    payload: Vec<u8>,
}

impl Message {
    /// A message with a fresh id.
    ///
    /// `payload` is JSON text; it travels as it is.
    ///
    /// # Errors
    /// `Invalid`, naming the part: a name that is empty, longer than [`NAME_BYTES_MAX`] or not of
    /// `[A-Za-z0-9_-]`; a key that is empty or longer than [`KEY_BYTES_MAX`]; a payload that is not UTF-8 or
    /// larger than [`PAYLOAD_BYTES_MAX`]; an event called `current`, with which a resync sends what is there.
    ///
    /// ```
    /// let message = outbox_core::Message::new("product", "7", "price_raised", br#"{"by":5}"#.to_vec())?;
    /// assert_eq!(message.kind(), "product.price_raised");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn new(
        aggregate: impl Into<String>,
        key: impl Into<String>,
        event: impl Into<String>,
        payload: Vec<u8>,
    ) -> Result<Self> {
        let message = Self::fresh(aggregate, key, event, payload)?;
        if message.event == Operation::Current.name() {
            return Err(Error::invalid(format!(
                "{}: the event `current` is a resync's, and for copies alone; choose another name",
                message.kind()
            )));
        }
        Ok(message)
    }

    /// As [`new`](Self::new), of a resync too.
    pub(crate) fn fresh(
        aggregate: impl Into<String>,
        key: impl Into<String>,
        event: impl Into<String>,
        payload: Vec<u8>,
    ) -> Result<Self> {
        Self::with_id(MessageId::now(), aggregate, key, event, payload)
    }

    /// As [`new`](Self::new), of one that has been recorded.
    fn with_id(
        id: MessageId,
        aggregate: impl Into<String>,
        key: impl Into<String>,
        event: impl Into<String>,
        payload: Vec<u8>,
    ) -> Result<Self> {
        let (aggregate, key, event) = (aggregate.into(), key.into(), event.into());
        check_name("aggregate", &aggregate)?;
        check_name("event", &event)?;
        if key.is_empty() {
            return Err(Error::invalid(format!(
                "{aggregate}.{event}: the key is empty; give each message the key of its entity"
            )));
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "{aggregate}.{event}: the key has {} bytes, at most {KEY_BYTES_MAX} fit an AMQP short string; \
                 use a shorter key, for example a hash",
                key.len()
            )));
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::invalid(format!(
                "{aggregate}.{event} of key {key}: the payload has {} bytes, at most {PAYLOAD_BYTES_MAX} are \
                 allowed; skip large fields or store them elsewhere",
                payload.len()
            )));
        }
        if let Err(error) = std::str::from_utf8(&payload) {
            return Err(Error::with_source(
                ErrorKind::Invalid,
                format!("{aggregate}.{event} of key {key}: the payload is not UTF-8; encode bytes as text"),
                error,
            ));
        }
        Ok(Self { id, aggregate, key, event, headers: Headers::default(), payload })
    }

    /// The same message with a header more.
    ///
    /// ```
    /// let message = outbox_core::Message::new("product", "7", "seen", b"{}".to_vec())?;
    /// assert_eq!(message.with_header("tenant", "eu")?.headers().get("tenant"), Some("eu"));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Headers::insert`]; also when the headers grow past [`HEADERS_BYTES_MAX`].
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        self.headers.insert(name, value)?;
        self.check_headers()?;
        Ok(self)
    }

    /// The same message with another content type than `application/json`; the payload stays text.
    ///
    /// # Errors
    /// `Invalid` when it is empty, longer than 255 bytes or not of visible ASCII characters and blanks.
    ///
    /// ```
    /// let message = outbox_core::Message::new("report", "7", "made", b"<r/>".to_vec())?;
    /// assert_eq!(message.content_type(), "application/json");
    /// assert_eq!(message.with_content_type("application/xml")?.content_type(), "application/xml");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn with_content_type(mut self, content_type: &str) -> Result<Self> {
        let well_formed = (1..=CONTENT_TYPE_BYTES_MAX).contains(&content_type.len())
            && content_type.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !well_formed {
            return Err(Error::invalid(format!(
                "{}: content type {content_type:?}: use 1 to {CONTENT_TYPE_BYTES_MAX} visible ASCII characters",
                self.kind()
            )));
        }
        self.set_content_type(content_type);
        Ok(self)
    }

    fn set_content_type(&mut self, content_type: &str) {
        if content_type == JSON {
            self.headers.remove(CONTENT_TYPE);
        } else {
            self.headers.set(CONTENT_TYPE, content_type);
        }
    }

    /// Adds those of `defaults` that it has not.
    pub(crate) fn inherit(&mut self, defaults: &Headers) {
        self.headers.inherit(defaults);
    }

    /// Adds the caller's trace context, unless it has a parent of its own: a `tracestate` belongs to its
    /// `traceparent`. A write does not fail for its trace: what does not fit is left out.
    pub(crate) fn inherit_trace(&mut self, trace: &Headers) {
        if trace.is_empty() || self.headers.contains("traceparent") {
            return;
        }
        if self.headers.bytes() + trace.bytes() > HEADERS_BYTES_MAX {
            tracing::warn!(kind = self.kind(), "the trace context does not fit into the headers");
            return;
        }
        self.headers.inherit(trace);
    }

    pub(crate) fn check_headers(&self) -> Result<()> {
        if self.headers.bytes_at_most() <= HEADERS_BYTES_MAX {
            return Ok(());
        }
        let bytes = self.headers.bytes();
        if bytes <= HEADERS_BYTES_MAX {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{} of key {}: the headers have {bytes} bytes, at most {HEADERS_BYTES_MAX} are allowed; \
             put large values into the payload",
            self.kind(),
            self.key
        )))
    }

    pub(crate) fn with_schema(mut self, fingerprint: &str) -> Self {
        self.headers.set(SCHEMA, fingerprint);
        self
    }

    /// The first version is not said: subscribers take a message without one for it.
    pub(crate) fn with_schema_version(mut self, version: u32) -> Self {
        if version > 1 {
            self.headers.set(SCHEMA_VERSION, version.to_string());
        }
        self
    }

    pub(crate) fn with_entity_version(mut self, version: Option<i64>) -> Self {
        if let Some(version) = version {
            self.headers.set(ENTITY_VERSION, version.to_string());
        }
        self
    }

    /// The identity that subscribers deduplicate by.
    pub fn id(&self) -> MessageId {
        self.id
    }

    pub(crate) fn id_bytes(&self) -> &[u8] {
        self.id.as_bytes()
    }

    /// The aggregate type, for example `product`.
    pub fn aggregate(&self) -> &str {
        &self.aggregate
    }

    /// The aggregate's key: messages of one key stay in order.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What happened, for example `updated`.
    pub fn event(&self) -> &str {
        &self.event
    }

    /// `{aggregate}.{event}`, the name that subscribers ask for.
    pub fn kind(&self) -> String {
        format!("{}.{}", self.aggregate, self.event)
    }

    /// The bucket of the key, below [`BUCKETS`].
    pub fn bucket(&self) -> u16 {
        bucket_of(&self.aggregate, &self.key)
    }

    /// The headers, the schema's fingerprint among them.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The fingerprint of the entity's or event's schema, where the message has one.
    ///
    #[cfg_attr(
        feature = "derive",
        doc = r#"
```
use outbox_core::{Event, Message, OutboxEvent};

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "sold", key = product_id, version = 2)]
struct Sold { product_id: i64, count: i64 }

let (one, other) = (Sold { product_id: 7, count: 1 }.message()?, Sold { product_id: 8, count: 3 }.message()?);
assert!(one.schema().is_some());
assert_eq!(one.schema(), other.schema(), "the same fields");
assert_eq!((one.schema_version(), Sold::SCHEMA_VERSION), (2, 2));

let by_hand = Message::new("product", "7", "sold", b"{}".to_vec())?;
assert_eq!((by_hand.schema(), by_hand.schema_version()), (None, 1));
# Ok::<(), outbox_core::Error>(())
```
"#
    )]
    pub fn schema(&self) -> Option<&str> {
        self.headers.get(SCHEMA)
    }

    /// The version of the event's schema, `#[outbox(version = …)]`; 1 where nothing is said.
    pub fn schema_version(&self) -> u32 {
        self.headers.get(SCHEMA_VERSION).and_then(|version| version.parse().ok()).unwrap_or(1)
    }

    /// The entity's own version number, where it has a field with `#[outbox(version)]`.
    ///
    /// ```
    /// # use outbox_core::{MessageId, OutboxRow, Recorded};
    /// use outbox_core::Message;
    ///
    /// /// Whether a message of an entity is news to somebody who has seen this edition of it.
    /// fn is_news(message: &Message, seen: i64) -> bool {
    ///     message.entity_version().is_none_or(|edition| edition > seen)
    /// }
    /// # let with = |headers: &str| Recorded::from_row("shop", 1, OutboxRow {
    /// #     id: 42, message_id: MessageId::now().as_bytes().to_vec(), aggregate_type: "product".into(),
    /// #     aggregate_id: "7".into(), event_type: "updated".into(), headers: headers.into(), payload: b"{}".to_vec(),
    /// #     created_at_us: 0,
    /// # });
    /// # let message = with(r#"{"outbox-entity-version":"12"}"#)?.message;
    /// // `message` is of a row with 12 in that field.
    /// assert!(is_news(&message, 11) && !is_news(&message, 12));
    /// # let message = with("{}")?.message;
    /// # assert!(is_news(&message, 12));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn entity_version(&self) -> Option<i64> {
        self.headers.get(ENTITY_VERSION)?.parse().ok()
    }

    /// The payload's content type, `application/json` unless something else was said.
    pub fn content_type(&self) -> &str {
        self.headers.get(CONTENT_TYPE).unwrap_or(JSON)
    }

    /// The payload: JSON text, unless the content type says something else.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let well_formed = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if well_formed {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} name {name:?}: use 1 to {NAME_BYTES_MAX} of [A-Za-z0-9_-]; it becomes a word of the AMQP routing key"
    )))
}
