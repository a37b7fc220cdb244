//! A message with its place in a history, in the row that a relay reads and in the frame that travels.

use chrono::{DateTime, SecondsFormat, Utc};

use super::headers::{BUCKET, CONTENT_TYPE, CUT, FORMAT, GENERATION, Headers, ID, KEPT, KEY, SOURCE, TIME};
use super::{JSON, Message, MessageId, NAME_BYTES_MAX, Version, WIRE_FORMAT};
use crate::error::{Error, Result};

/// How the CloudEvents specification 1.0.2 wants its attributes called in AMQP (binding, 3.1.3.1): the
/// separator `_` is preferred to `:`.
const CLOUD_EVENTS: [&str; 2] = ["cloudEvents_", "cloudEvents:"];
/// The last microsecond that every database's times can hold: the end of the year 9999.
const TIME_MAX: i64 = 253_402_300_799_999_999;

/// The columns of an outbox row, as a relay reads them.
///
/// ```
/// use outbox_core::{MessageId, OutboxRow, Recorded};
///
/// let row = OutboxRow {
///     id: 42,
///     message_id: MessageId::now().as_bytes().to_vec(),
///     aggregate_type: "product".into(),
///     aggregate_id: "7".into(),
///     event_type: "seen".into(),
///     headers: br#"{"tenant":"eu"}"#.to_vec(),
///     payload: b"{}".to_vec(),
///     created_at_us: 1_700_000_000_000_000,
/// };
/// let recorded = Recorded::from_row("shop", 1, row)?;
/// assert_eq!((recorded.message.kind().as_str(), recorded.version.id), ("product.seen", 42));
/// assert_eq!(recorded.message.headers().get("tenant"), Some("eu"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
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
///
/// ```
/// use chrono::DateTime;
/// use outbox_core::{Message, Recorded, Version};
///
/// let recorded = Recorded {
///     message: Message::new("product", "7", "seen", b"{}".to_vec())?.with_header("tenant", "eu")?,
///     source: "shop".into(),
///     version: Version { generation: 1, id: 42 },
///     recorded_at: DateTime::UNIX_EPOCH,
/// };
/// let frame = recorded.to_frame();
/// assert_eq!((frame.headers.get("outbox-source"), frame.headers.get("outbox-id")), (Some("shop"), Some("42")));
/// assert_eq!(Recorded::from_frame(&frame)?, recorded);
/// # Ok::<(), outbox_core::Error>(())
/// ```
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
    ///
    /// ```
    /// # use outbox_core::MessageId;
    /// use outbox_core::{OutboxRow, Recorded};
    ///
    /// # let row = OutboxRow {
    /// #     id: 42, message_id: MessageId::now().as_bytes().to_vec(), aggregate_type: "product".into(),
    /// #     aggregate_id: "7".into(), event_type: "seen".into(), headers: b"{}".to_vec(), payload: b"{}".to_vec(),
    /// #     created_at_us: 0,
    /// # };
    /// // Somebody has put a row in by hand, without a key.
    /// let row = OutboxRow { aggregate_id: String::new(), ..row };
    /// let error = Recorded::from_row("shop", 1, row).unwrap_err();
    /// assert!(error.to_string().starts_with("outbox shop, row 42: product.seen: the key is empty"));
    /// ```
    pub fn from_row(source: &str, generation: i64, row: OutboxRow) -> Result<Self> {
        let id = row.id;
        let parse = |row: OutboxRow| -> Result<Self> {
            let message_id = MessageId::from_slice(&row.message_id)?;
            let mut message = Message::with_id(
                message_id,
                row.aggregate_type,
                row.aggregate_id,
                row.event_type,
                row.payload,
            )?;
            message.headers = Headers::from_json(&row.headers)?;
            message.check_headers()?;
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
        // It stays among the headers too: what sets a message aside keeps these and no properties.
        let content_type = headers.get(CONTENT_TYPE).unwrap_or(JSON).to_owned();
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
            content_type,
            headers,
            body: message.payload.clone(),
        }
    }

    /// The form that travels, with the attributes of a CloudEvent 1.0 in binary content mode as headers
    /// besides: the outbox is the source, the key the subject.
    ///
    /// Source: the CloudEvents AMQP protocol binding, 3.1.
    ///
    /// ```
    /// use outbox_core::Recorded;
    /// # use outbox_core::{Message, Version};
    /// # let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
    /// # let version = Version { generation: 1, id: 42 };
    /// # let recorded_at = chrono::DateTime::UNIX_EPOCH;
    /// # let recorded = Recorded { message, source: "shop".into(), version, recorded_at };
    ///
    /// let frame = recorded.to_cloud_event();
    /// let attribute = |name: &str| frame.headers.get(&format!("cloudEvents_{name}"));
    /// assert_eq!((attribute("specversion"), attribute("type")), (Some("1.0"), Some("product.seen")));
    /// assert_eq!((attribute("source"), attribute("subject")), (Some("/outbox/shop"), Some("7")));
    /// assert_eq!(Recorded::from_frame(&frame)?, recorded, "as from `to_frame`");
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn to_cloud_event(&self) -> Frame {
        let mut frame = self.to_frame();
        let message = &self.message;
        let [prefix, _] = CLOUD_EVENTS;
        let mut set = |name: &str, value: String| frame.headers.set(&format!("{prefix}{name}"), value);
        set("specversion", "1.0".into());
        set("id", message.id().to_string());
        set("source", format!("/outbox/{}", self.source));
        set("type", message.kind());
        set("subject", message.key().to_owned());
        set("time", self.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true));
        if let Some(schema) = message.schema() {
            set("dataschema", format!("urn:outbox:schema:{schema}"));
        }
        // The distributed tracing extension.
        for name in ["traceparent", "tracestate"] {
            if let Some(value) = message.headers().get(name) {
                set(name, value.to_owned());
            }
        }
        frame
    }

    /// The message in a frame.
    ///
    /// # Errors
    /// `Invalid`, naming the header or property that is missing or wrong: a source that is not 1 to 100 visible ASCII
    /// characters, a time that is not within 1970 to 9999.
    ///
    /// ```
    /// use outbox_core::{ErrorKind, Recorded};
    /// # use outbox_core::{Message, Version};
    /// # let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
    /// # let version = Version { generation: 1, id: 42 };
    /// # let recorded_at = chrono::DateTime::UNIX_EPOCH;
    /// # let recorded = Recorded { message, source: "shop".into(), version, recorded_at };
    ///
    /// let mut frame = recorded.to_frame();
    /// frame.headers = frame.headers.iter().filter(|(name, _)| *name != "outbox-source").collect();
    /// let error = Recorded::from_frame(&frame).unwrap_err();
    /// assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Invalid, "header outbox-source is missing"));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn from_frame(frame: &Frame) -> Result<Self> {
        let header = |name: &str| {
            frame.headers.get(name).ok_or_else(|| Error::invalid(format!("header {name} is missing")))
        };
        let number = |name: &str| -> Result<i64> {
            header(name)?.parse().map_err(|_| Error::invalid(format!("header {name} is not a number")))
        };
        if let Some(bytes) = frame.headers.get(CUT) {
            return Err(Error::invalid(format!(
                "only the beginning of its {bytes} bytes was kept: discard it, and have its source send it again"
            )));
        }
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
        let id = MessageId::parse(&frame.message_id)?;
        let mut message = Message::with_id(id, aggregate, header(KEY)?, event, frame.body.clone())?;
        message.headers =
            frame.headers.iter().filter(|(name, _)| KEPT.contains(name) || !is_of_the_way(name)).collect();
        let content_type = Some(frame.content_type.as_str()).filter(|text| !text.is_empty());
        if let Some(content_type) = content_type.or(frame.headers.get(CONTENT_TYPE)) {
            message.set_content_type(content_type);
        }
        let source = header(SOURCE)?;
        if !(1..=NAME_BYTES_MAX).contains(&source.len()) || !source.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::invalid(format!(
                "header {SOURCE} has {} bytes: 1 to {NAME_BYTES_MAX} visible ASCII characters name an outbox",
                source.len()
            )));
        }
        let recorded_at = Some(number(TIME)?)
            .filter(|micros| (0..=TIME_MAX).contains(micros))
            .and_then(DateTime::from_timestamp_micros)
            .ok_or_else(|| Error::invalid(format!("header {TIME} is out of range")))?;
        Ok(Self {
            message,
            source: source.to_owned(),
            version: Version { generation: number(GENERATION)?, id: number(ID)? },
            recorded_at,
        })
    }
}

/// Whether a header was put on by a relay or a broker: `x-…` is what the broker noted on the way, such as
/// `x-delivery-count`.
fn is_of_the_way(name: &str) -> bool {
    ["outbox-", "x-"].iter().chain(&CLOUD_EVENTS).any(|prefix| name.starts_with(prefix))
}

/// A message as a broker carries it; brokers know nothing else.
///
/// ```
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::broker::{Broker, Publisher};
/// # use outbox_core::Recorded;
/// # use outbox_core::{Message, Version};
/// # let message = Message::new("product", "7", "seen", b"{}".to_vec())?;
/// # let version = Version { generation: 1, id: 42 };
/// # let recorded_at = chrono::DateTime::UNIX_EPOCH;
/// # let recorded = Recorded { message, source: "shop".into(), version, recorded_at };
///
/// let frame = recorded.to_frame();
/// assert_eq!((frame.routing_key.as_str(), frame.kind.as_str()), ("product.seen.41", "product.seen"));
/// assert_eq!((frame.content_type.as_str(), frame.body.as_slice()), ("application/json", b"{}".as_slice()));
/// assert_eq!(frame.message_id, recorded.message.id().to_string());
/// assert!(frame.size() > frame.body.len());
///
/// let broker = MemoryBroker::new();
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// runtime.block_on(async { broker.publisher().await?.publish(&[frame.clone()]).await })?;
/// assert_eq!(broker.unrouted(), [frame], "no queue wants it");
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// `{aggregate}.{event}.{bucket:02}`, at most 255 bytes.
    pub routing_key: String,
    /// The text of the [`MessageId`]; what a returned message is recognised by.
    pub message_id: String,
    /// `{aggregate}.{event}`, AMQP property `type`.
    pub kind: String,
    /// What the body is; empty where a delivery does not say.
    pub content_type: String,
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

    use super::super::{HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX, bucket_of};
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
        let too_large = error("a", "1", "e", &vec![b' '; PAYLOAD_BYTES_MAX + 1]);
        assert_eq!(too_large.kind(), crate::ErrorKind::Invalid);
        assert!(
            too_large.to_string().contains("a.e of key 1: the payload has 16777217 bytes"),
            "{too_large}"
        );
        assert!(Message::new("a", "1", "e", vec![b' '; PAYLOAD_BYTES_MAX]).is_ok());
    }

    #[test]
    fn broker_headers_are_refused() {
        let mut headers = Headers::default();
        for name in ["cc", "CC", "bcc", "x-death", "outbox-id", "", "ü"] {
            assert!(headers.insert(name, "v").is_err(), "{name}");
        }
        headers.insert("tenant", "7").unwrap();
    }

    #[test]
    fn headers_and_content_types_are_bounded_and_the_error_says_of_what() {
        let message = || Message::new("a", "7", "e", b"{}".to_vec()).unwrap();
        let error = message().with_header("h", "x".repeat(HEADERS_BYTES_MAX)).unwrap_err().to_string();
        assert!(error.contains("a.e of key 7: the headers have"), "{error}");
        for wrong in ["", "text/ä", &"x".repeat(256)] {
            assert!(message().with_content_type(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cloud_event_has_the_required_attributes_and_comes_back_as_the_same_message() {
        let message = Message::new("product", "7", "updated", b"{}".to_vec()).unwrap().with_schema("abc");
        let there = recorded(message.with_header("traceparent", "00-1-2-01").unwrap());
        let frame = there.to_cloud_event();
        let attribute = |name: &str| frame.headers.get(&format!("cloudEvents_{name}")).unwrap();
        assert_eq!(attribute("specversion"), "1.0");
        assert_eq!(attribute("id"), there.message.id().to_string());
        assert_eq!(attribute("source"), "/outbox/product");
        assert_eq!(attribute("type"), "product.updated");
        assert_eq!(attribute("subject"), "7");
        assert_eq!(attribute("time"), "2023-11-14T22:13:20.123456Z");
        assert_eq!(attribute("dataschema"), "urn:outbox:schema:abc");
        assert_eq!(attribute("traceparent"), "00-1-2-01");
        assert_eq!(frame.content_type, "application/json");
        assert_eq!(Recorded::from_frame(&frame).unwrap(), there);
    }

    #[test]
    fn a_frame_that_no_inbox_can_note_does_not_decode() {
        let frame = recorded(Message::new("a", "1", "b", vec![]).unwrap()).to_frame();
        let error = |name: &str, value: &str| {
            let mut frame = frame.clone();
            frame.headers.set(name, value);
            Recorded::from_frame(&frame).unwrap_err().to_string()
        };
        for source in ["", "größe", "a b", "s\0", &"s".repeat(101)] {
            assert!(error(SOURCE, source).contains(SOURCE), "{source}");
        }
        for time in ["-1", "253402300800000000", "noon"] {
            assert!(error(TIME, time).contains(TIME), "{time}");
        }
        assert!(error(CUT, "20000000").contains("20000000 bytes"));
        let mut longest = frame.clone();
        longest.headers.set(SOURCE, "s".repeat(100));
        assert!(Recorded::from_frame(&longest).is_ok());
    }

    proptest! {
        #[test]
        fn a_frame_gives_back_what_was_put_in(
            aggregate in "[A-Za-z0-9_-]{1,100}", event in "[a-z_]{1,100}", key in "\\PC{1,60}",
            payload in "\\PC{0,200}", value in "\\PC{0,50}", content_type in "[a-z/+.]{1,20}",
            version in 1_u32..4, entity_version in proptest::option::of(any::<i64>()), is_cloud_event in any::<bool>(),
        ) {
            let message = Message::new(aggregate, key, event, payload.into_bytes())
                .unwrap().with_header("tenant", value).unwrap().with_schema("abc")
                .with_content_type(&content_type).unwrap()
                .with_schema_version(version).with_entity_version(entity_version);
            let row = OutboxRow {
                id: 42,
                message_id: message.id().as_bytes().to_vec(),
                aggregate_type: message.aggregate().into(),
                aggregate_id: message.key().into(),
                event_type: message.event().into(),
                headers: message.headers().to_json().into_bytes(),
                payload: message.payload().to_vec(),
                created_at_us: 1_700_000_000_123_456,
            };
            let there = Recorded::from_row("product", 1, row).unwrap();
            prop_assert_eq!(&there, &recorded(message));
            prop_assert_eq!(there.message.schema_version(), version);
            prop_assert_eq!(there.message.entity_version(), entity_version);
            prop_assert_eq!(there.message.content_type(), content_type);
            let frame = if is_cloud_event { there.to_cloud_event() } else { there.to_frame() };
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
