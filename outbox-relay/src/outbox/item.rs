//! A row of the outbox on its way: where it stands, which key it belongs to, and what travels.

use outbox_core::{Frame, HEADERS_BYTES_MAX, OutboxRow, PAYLOAD_BYTES_MAX, Recorded, bucket_of};

use super::store::Head;

/// No row of outbox_core's has more headers and payload than this.
const BYTES_MAX: u64 = (PAYLOAD_BYTES_MAX + HEADERS_BYTES_MAX) as u64;

/// What an outbox's messages say of where they come from.
#[derive(Debug)]
pub(super) struct Origin {
    /// The outbox.
    pub(super) name: String,
    /// They are CloudEvents besides.
    pub(super) is_cloud_event: bool,
}

/// A row that was read under a lease.
#[derive(Debug)]
pub struct Item {
    id: i64,
    bucket: u16,
    epoch: i64,
    key: String,
    attempts: u32,
    has_key_row: bool,
    recorded_at_us: i64,
    frame: Option<Result<Frame, String>>,
}

impl Item {
    /// The item of a row whose headers and payload are there.
    pub(super) fn of(origin: &Origin, epoch: i64, bucket: u16, head: Head) -> Self {
        let key = key(&head.aggregate_type, &head.aggregate_id);
        // Attempts belong to the message that was refused; a later one of the key starts afresh.
        let is_same = head.head_id == Some(head.id);
        let attempts = head.attempts.filter(|_| is_same).unwrap_or_default();
        Self {
            id: head.id,
            bucket,
            epoch,
            key,
            attempts: u32::try_from(attempts).unwrap_or_default(),
            has_key_row: head.attempts.is_some(),
            recorded_at_us: head.created_at_us,
            frame: Some(frame(origin, bucket, head)),
        }
    }

    /// Whether a row can never be published for its size; it is not even loaded.
    pub(super) fn is_too_large(head: &Head) -> bool {
        head.bytes.unsigned_abs() > BYTES_MAX
    }

    /// The row's id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The bucket it was read under.
    pub fn bucket(&self) -> u16 {
        self.bucket
    }

    /// The lease it was read under.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Aggregate type and key with a zero byte between them.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key for people.
    pub(super) fn label(&self) -> String {
        label_of(&self.key)
    }

    /// When the row was inserted, by the database's clock, in microseconds since 1970.
    pub fn recorded_at_us(&self) -> i64 {
        self.recorded_at_us
    }

    /// How often this message was refused before.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the key has a row in `outbox_key`.
    pub(super) fn has_key_row(&self) -> bool {
        self.has_key_row
    }

    /// What travels, once.
    ///
    /// # Errors
    /// Why the row can never be published.
    pub fn take_frame(&mut self) -> Result<Frame, String> {
        self.frame.take().unwrap_or_else(|| Err("the message was taken out before".into()))
    }
}

/// A row's key.
fn key(aggregate_type: &[u8], aggregate_id: &[u8]) -> String {
    format!("{}\0{}", String::from_utf8_lossy(aggregate_type), String::from_utf8_lossy(aggregate_id))
}

/// A row's key for people.
pub(super) fn label(aggregate_type: &[u8], aggregate_id: &[u8]) -> String {
    label_of(&key(aggregate_type, aggregate_id))
}

fn label_of(key: &str) -> String {
    key.replacen('\0', " ", 1)
}

fn frame(origin: &Origin, bucket: u16, head: Head) -> Result<Frame, String> {
    if Item::is_too_large(&head) {
        return Err(format!(
            "headers and payload have {} bytes, at most {BYTES_MAX} are published",
            head.bytes
        ));
    }
    let generation = head.generation;
    let text =
        |bytes: Vec<u8>, what: &str| String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"));
    let row = OutboxRow {
        id: head.id,
        message_id: head.message_id,
        aggregate_type: text(head.aggregate_type, "aggregate_type")?,
        aggregate_id: text(head.aggregate_id, "aggregate_id")?,
        event_type: text(head.event_type, "event_type")?,
        headers: head.headers.unwrap_or_default(),
        payload: head.payload.unwrap_or_default(),
        created_at_us: head.created_at_us,
    };
    let right = bucket_of(&row.aggregate_type, &row.aggregate_id);
    if right != bucket {
        return Err(format!(
            "bucket {bucket} is not its key's, which is {right}: it was written by other code than outbox_core's"
        ));
    }
    let recorded = Recorded::from_row(&origin.name, generation, row).map_err(|e| e.to_string())?;
    Ok(if origin.is_cloud_event { recorded.to_cloud_event() } else { recorded.to_frame() })
}
