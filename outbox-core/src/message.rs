//! What a change or a domain event becomes: the same [`Message`] in the outbox row, on the wire and in a
//! delivery. This is the only place that knows both forms.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

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
/// The largest payload in bytes: RabbitMQ 4 refuses messages above 16 MiB by default.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest headers in bytes, as they stand in the outbox row.
pub const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// The version of the wire form, header `outbox-format`.
pub const WIRE_FORMAT: &str = "1";

const SOURCE: &str = "outbox-source";
const ID: &str = "outbox-id";
const GENERATION: &str = "outbox-generation";
const KEY: &str = "outbox-key";
const BUCKET: &str = "outbox-bucket";
const SCHEMA: &str = "outbox-schema";
const FORMAT: &str = "outbox-format";
const TIME: &str = "outbox-time";

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
    pub fn made_at(&self) -> Option<DateTime<Utc>> {
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

/// Headers of a message: names in lower case, values in text.
///
/// Names that belong to the broker (`x-…`, `cc`, `bcc`) or to this crate (`outbox-…`) are refused: `CC` and
/// `BCC` are routing keys to RabbitMQ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// Adds a header of the user's.
    ///
    /// ```
    /// let mut headers = outbox_core::Headers::default();
    /// headers.insert("tenant", "eu")?;
    /// assert!(headers.insert("x-tenant", "eu").is_err(), "the broker's");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` when the name is not `[a-z][a-z0-9._-]*` of at most 100 bytes, or is reserved.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let name = name.into();
        let well_formed = name.len() <= NAME_BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        let reserved = name.starts_with("x-") || name.starts_with("outbox-") || name == "cc" || name == "bcc";
        if !well_formed || reserved {
            return Err(Error::invalid(format!(
                "header name {name:?}: use [a-z][a-z0-9._-]* and not x-*, outbox-*, cc or bcc"
            )));
        }
        self.0.insert(name, value.into());
        Ok(())
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All headers in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets a header whatever its name; for the ones of this crate and for frames as they arrive.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// The JSON object that stands in the outbox row.
    pub fn to_json(&self) -> String {
        // A map of strings always serializes.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// Headers from the JSON object of an outbox row.
    ///
    /// # Errors
    /// `Invalid` when it is not an object of strings.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).map(Self).map_err(|e| Error::from(e).context("message headers"))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    /// Headers as somebody else made them, unchecked.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A message before it has a place in the outbox: what a writer records.
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
    /// larger than [`PAYLOAD_BYTES_MAX`].
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
        Ok(Self { id: MessageId::now(), aggregate, key, event, headers: Headers::default(), payload })
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
        if self.headers.to_json().len() > HEADERS_BYTES_MAX {
            return Err(Error::invalid(format!("{}: headers above {HEADERS_BYTES_MAX} bytes", self.kind())));
        }
        Ok(self)
    }

    pub(crate) fn with_schema(mut self, fingerprint: &str) -> Self {
        self.headers.set(SCHEMA, fingerprint);
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
    pub fn schema(&self) -> Option<&str> {
        self.headers.get(SCHEMA)
    }

    /// The JSON text.
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

/// The columns of an outbox row, as a relay reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The row's id.
    pub id: i64,
    /// The 16 bytes of the [`MessageId`].
    pub message_id: Vec<u8>,
    /// The aggregate type.
    pub aggregate_type: String,
    /// The key.
    pub aggregate_id: String,
    /// What happened.
    pub event_type: String,
    /// A JSON object of strings.
    pub headers: Vec<u8>,
    /// JSON text.
    pub payload: Vec<u8>,
    /// When it was recorded, by the database's clock: microseconds since 1970, UTC.
    pub created_at_us: i64,
}

/// A message with its place in its source's history: what is published and what is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The message.
    pub message: Message,
    /// The name of the outbox it comes from.
    pub source: String,
    /// Its version.
    pub version: Version,
    /// When it was recorded, by the source database's clock.
    pub recorded_at: DateTime<Utc>,
}

impl Recorded {
    /// The message in an outbox row.
    ///
    /// # Errors
    /// `Invalid` when the row was not written by this crate and breaks one of [`Message::new`]'s bounds:
    /// such a row can never be published.
    pub fn from_row(source: &str, generation: i64, row: OutboxRow) -> Result<Self> {
        let id = row.id;
        let parse = |row: OutboxRow| -> Result<Self> {
            let mut message =
                Message::new(row.aggregate_type, row.aggregate_id, row.event_type, row.payload)?;
            message.id = MessageId::from_slice(&row.message_id)?;
            message.headers = Headers::from_json(&row.headers)?;
            let recorded_at = DateTime::from_timestamp_micros(row.created_at_us)
                .ok_or_else(|| Error::invalid("created_at is out of range"))?;
            Ok(Self { message, source: source.to_owned(), version: Version { generation, id }, recorded_at })
        };
        parse(row).map_err(|e| e.context(format!("outbox {source}, row {id}")))
    }

    /// The form that travels.
    pub fn to_frame(&self) -> Frame {
        let message = &self.message;
        let mut headers = message.headers.clone();
        headers.set(SOURCE, &self.source);
        headers.set(ID, self.version.id.to_string());
        headers.set(GENERATION, self.version.generation.to_string());
        headers.set(KEY, &message.key);
        headers.set(BUCKET, message.bucket().to_string());
        headers.set(FORMAT, WIRE_FORMAT);
        headers.set(TIME, self.recorded_at.timestamp_micros().to_string());
        Frame {
            routing_key: format!("{}.{}.{:02}", message.aggregate, message.event, message.bucket()),
            message_id: message.id.to_string(),
            kind: message.kind(),
            headers,
            body: message.payload.clone(),
        }
    }

    /// The message in a frame.
    ///
    /// # Errors
    /// `Invalid`, naming the header or property that is missing or wrong.
    pub fn from_frame(frame: &Frame) -> Result<Self> {
        let header = |name: &str| {
            frame.headers.get(name).ok_or_else(|| Error::invalid(format!("header {name} is missing")))
        };
        let number = |name: &str| -> Result<i64> {
            header(name)?.parse().map_err(|_| Error::invalid(format!("header {name} is not a number")))
        };
        if header(FORMAT)? != WIRE_FORMAT {
            return Err(Error::invalid(format!(
                "header {FORMAT} is {:?}, this version reads {WIRE_FORMAT:?}; upgrade the subscriber",
                header(FORMAT)?
            )));
        }
        let (aggregate, event) = frame
            .kind
            .split_once('.')
            .ok_or_else(|| Error::invalid("property type is not {aggregate}.{event}"))?;
        let mut message = Message::new(aggregate, header(KEY)?, event, frame.body.clone())?;
        message.id = MessageId::parse(&frame.message_id)?;
        message.headers = frame
            .headers
            .iter()
            // `x-…` is what the broker noted on the way, such as `x-delivery-count`.
            .filter(|(name, _)| *name == SCHEMA || !(name.starts_with("outbox-") || name.starts_with("x-")))
            .collect();
        let recorded_at = DateTime::from_timestamp_micros(number(TIME)?)
            .ok_or_else(|| Error::invalid(format!("header {TIME} is out of range")))?;
        Ok(Self {
            message,
            source: header(SOURCE)?.to_owned(),
            version: Version { generation: number(GENERATION)?, id: number(ID)? },
            recorded_at,
        })
    }
}

/// A message as a broker carries it; brokers know nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// `{aggregate}.{event}.{bucket:02}`, at most 255 bytes.
    pub routing_key: String,
    /// The text of the [`MessageId`]; what a returned message is recognised by.
    pub message_id: String,
    /// `{aggregate}.{event}`, AMQP property `type`.
    pub kind: String,
    /// All headers.
    pub headers: Headers,
    /// The payload.
    pub body: Vec<u8>,
}

impl Frame {
    /// About how many bytes it takes in memory.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.body.len() + headers + self.routing_key.len() + self.kind.len() + 64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(message: Message) -> Recorded {
        Recorded {
            message,
            source: "product".into(),
            version: Version { generation: 1, id: 42 },
            recorded_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
        }
    }

    #[test]
    fn bucket_is_pinned() {
        // A change here would send keys to other buckets than deployed writers do.
        assert_eq!(bucket_of("product", "7"), 41);
        assert_eq!(bucket_of("product", "8"), 52);
    }

    #[test]
    fn names_keys_and_payloads_are_checked() {
        let error = |a: &str, k: &str, e: &str, p: &[u8]| Message::new(a, k, e, p.to_vec()).unwrap_err();
        assert!(error("a.b", "1", "created", b"").to_string().contains("aggregate name"));
        assert!(error("a", "1", "", b"").to_string().contains("event name"));
        assert!(error("a", "", "e", b"").to_string().contains("key is empty"));
        assert!(error("a", &"k".repeat(256), "e", b"").to_string().contains("256 bytes"));
        assert!(error("a", "1", "e", &[0xff]).to_string().contains("not UTF-8"));
        assert!(Message::new("a", "k".repeat(255), "e", vec![]).is_ok());
    }

    #[test]
    fn broker_headers_are_refused() {
        let mut headers = Headers::default();
        for name in ["cc", "CC", "bcc", "x-death", "outbox-id", "", "ü"] {
            assert!(headers.insert(name, "v").is_err(), "{name}");
        }
        headers.insert("tenant", "7").unwrap();
    }

    proptest! {
        #[test]
        fn a_frame_gives_back_what_was_put_in(
            aggregate in "[A-Za-z0-9_-]{1,100}", event in "[a-z_]{1,100}", key in "\\PC{1,60}",
            payload in "\\PC{0,200}", value in "\\PC{0,50}",
        ) {
            let message = Message::new(aggregate, key, event, payload.into_bytes())
                .unwrap().with_header("tenant", value).unwrap().with_schema("abc");
            let there = recorded(message);
            let frame = there.to_frame();
            prop_assert!(frame.routing_key.len() <= 255);
            prop_assert_eq!(Recorded::from_frame(&frame).unwrap(), there);
        }

        #[test]
        fn any_frame_decodes_or_says_why(kind in "\\PC{0,20}", id in "\\PC{0,40}", body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut frame = recorded(Message::new("a", "1", "b", vec![]).unwrap()).to_frame();
            frame.kind = kind;
            frame.message_id = id;
            frame.body = body;
            let _ = Recorded::from_frame(&frame);
        }
    }
}
