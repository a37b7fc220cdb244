//! What goes into a store's statements and comes out of them, alike for every database.

use std::collections::BTreeMap;

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, SmallInt, Text};

/// Which rows to read.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Rows of these buckets.
    pub held: &'a [u16],
    /// Not these ids: they are on their way.
    pub except: &'a [i64],
    /// Not rows with the keys of these ids.
    pub besides: &'a [i64],
    /// At most this many.
    pub rows: u32,
}

/// The row of `outbox_meta`.
#[derive(Debug, Clone, QueryableByName)]
pub struct Meta {
    /// Rises when ids may have started again.
    #[diesel(sql_type = BigInt)]
    pub generation: i64,
    /// How many buckets writers hash into.
    #[diesel(sql_type = SmallInt)]
    pub buckets: i16,
    /// The name of that hash.
    #[diesel(sql_type = Text)]
    pub bucket_hash: String,
    /// How many buckets have a row in `outbox_lease`.
    #[diesel(sql_type = BigInt)]
    pub leases: i64,
}

/// A row of `outbox`, with headers and payload if they are small, and what `outbox_key` knows of its key.
///
/// Names are bytes: a row that somebody else wrote may hold what is no UTF-8, and must not stop the read.
#[derive(Debug, Clone, QueryableByName)]
pub struct Head {
    /// The row's id.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// 16 bytes.
    #[diesel(sql_type = Binary)]
    pub message_id: Vec<u8>,
    /// Which relay may take it.
    #[diesel(sql_type = SmallInt)]
    pub bucket: i16,
    /// First word of the kind.
    #[diesel(sql_type = Binary)]
    pub aggregate_type: Vec<u8>,
    /// The key.
    #[diesel(sql_type = Binary)]
    pub aggregate_id: Vec<u8>,
    /// Second word of the kind.
    #[diesel(sql_type = Binary)]
    pub event_type: Vec<u8>,
    /// Microseconds since 1970.
    #[diesel(sql_type = BigInt)]
    pub created_at_us: i64,
    /// Of headers and payload together.
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
    /// Missing when `bytes` is above [`super::INLINE_BYTES_MAX`].
    #[diesel(sql_type = Nullable<Binary>)]
    pub headers: Option<Vec<u8>>,
    /// Missing when `bytes` is above [`super::INLINE_BYTES_MAX`].
    #[diesel(sql_type = Nullable<Binary>)]
    pub payload: Option<Vec<u8>>,
    /// How often the key's first message was refused; missing when the key is in order.
    #[diesel(sql_type = Nullable<Integer>)]
    pub attempts: Option<i32>,
    /// Which message that was.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub head_id: Option<i64>,
    /// From `outbox_meta`, as it was at the time of the read.
    #[diesel(sql_type = BigInt)]
    pub generation: i64,
}

/// What a large row was read without.
#[derive(Debug, Clone, QueryableByName)]
pub struct Body {
    /// The row's id.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// A JSON object of strings.
    #[diesel(sql_type = Binary)]
    pub headers: Vec<u8>,
    /// JSON text.
    #[diesel(sql_type = Binary)]
    pub payload: Vec<u8>,
}

/// A refused message, to be noted with its key.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The row.
    pub id: i64,
    /// Its bucket, under the lease it was read with.
    pub bucket: u16,
    /// That lease.
    pub epoch: i64,
    /// How often it was refused, this time included.
    pub attempts: i32,
    /// Not tried again until somebody says so.
    pub parked: bool,
    /// Otherwise tried again after this many milliseconds.
    pub wait_ms: i64,
    /// Why, at most [`super::super::ERROR_CHARS_MAX`] characters.
    pub error: String,
}

/// A row of the query for leases: one per held bucket, or a single one without a bucket.
#[derive(Debug, Clone, QueryableByName)]
pub struct LeaseRow {
    /// A held bucket.
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub bucket: Option<i16>,
    /// Its epoch.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub epoch: Option<i64>,
    /// How often in a row it was taken over from a relay that had not given it back.
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub unclean: Option<i16>,
    /// Relays alive.
    #[diesel(sql_type = BigInt)]
    pub live: i64,
    /// Relays alive whose name sorts before this one's.
    #[diesel(sql_type = BigInt)]
    pub rank_: i64,
    /// Keys that wait for their next attempt.
    #[diesel(sql_type = BigInt)]
    pub waiting: i64,
    /// Keys that are parked.
    #[diesel(sql_type = BigInt)]
    pub parked: i64,
}

/// What a relay holds, and how many relays there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    /// Bucket to epoch.
    pub held: BTreeMap<u16, i64>,
    /// How often in a row held buckets were taken over from relays that had not given them back, if at all.
    pub unclean: BTreeMap<u16, u32>,
    /// Relays alive, this one included once it has a heartbeat.
    pub live: u64,
    /// Relays alive whose name sorts before this one's: 0 for the first.
    pub rank: u64,
    /// Keys that wait for their next attempt.
    pub waiting: u64,
    /// Keys that are parked.
    pub parked: u64,
}

impl Leases {
    pub(super) fn from_rows(rows: Vec<LeaseRow>) -> Self {
        let mut leases = Self::default();
        for row in rows {
            leases.live = row.live.unsigned_abs();
            leases.rank = row.rank_.unsigned_abs();
            leases.waiting = row.waiting.unsigned_abs();
            leases.parked = row.parked.unsigned_abs();
            if let (Some(bucket), Some(epoch)) = (row.bucket.and_then(|b| u16::try_from(b).ok()), row.epoch) {
                leases.held.insert(bucket, epoch);
                if let Some(unclean) = row.unclean.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0) {
                    leases.unclean.insert(bucket, unclean);
                }
            }
        }
        leases
    }
}

/// About how much waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, QueryableByName)]
pub struct Backlog {
    /// The lowest id; missing when the outbox is empty.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub first_id: Option<i64>,
    /// The highest id.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last_id: Option<i64>,
    /// How long ago the first row was recorded, by the database's clock.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub oldest_ms: Option<i64>,
}

impl Backlog {
    /// At most this many rows wait: ids between the first and the last may be gone or never used.
    pub fn rows_max(&self) -> i64 {
        match (self.first_id, self.last_id) {
            (Some(first), Some(last)) => last.saturating_sub(first).saturating_add(1),
            _ => 0,
        }
    }
}

/// What waits in a bucket.
#[derive(Debug, Clone, QueryableByName)]
pub struct Bucket {
    /// The bucket.
    #[diesel(sql_type = SmallInt)]
    pub bucket: i16,
    /// The relay process that holds it; missing when it is free.
    #[diesel(sql_type = Nullable<Text>)]
    pub owner: Option<String>,
    /// The lowest id; missing when nothing waits.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub first_id: Option<i64>,
    /// The highest id.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last_id: Option<i64>,
    /// How long ago the first row was recorded, by the database's clock.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub oldest_ms: Option<i64>,
}

/// So many rows of a bucket are counted at most.
pub const DEPTH_MAX: u64 = 1000;

/// How many rows wait in a bucket.
#[derive(Debug, Clone, QueryableByName)]
pub(super) struct Depth {
    #[diesel(sql_type = BigInt)]
    pub(super) bucket: i64,
    #[diesel(sql_type = BigInt)]
    pub(super) depth: i64,
}

/// A relay that lives.
#[derive(Debug, Clone, QueryableByName)]
pub(super) struct Alive {
    #[diesel(sql_type = Text)]
    pub(super) owner: String,
}

/// Who holds buckets.
#[derive(Debug, Clone, QueryableByName)]
pub struct Owner {
    /// The relay process; missing for free buckets.
    #[diesel(sql_type = Nullable<Text>)]
    pub owner: Option<String>,
    /// How many buckets.
    #[diesel(sql_type = BigInt)]
    pub buckets: i64,
    /// Milliseconds until the first of these leases ends; negative when it is over.
    #[diesel(sql_type = BigInt)]
    pub expires_in_ms: i64,
}

/// A key that waits or is parked.
#[derive(Debug, Clone, QueryableByName)]
pub struct HeldKey {
    /// The aggregate type.
    #[diesel(sql_type = Text)]
    pub aggregate_type: String,
    /// The key.
    #[diesel(sql_type = Text)]
    pub aggregate_id: String,
    /// The row that was refused.
    #[diesel(sql_type = BigInt)]
    pub head_id: i64,
    /// How often.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    /// Not tried again until somebody says so.
    #[diesel(sql_type = Bool)]
    pub parked: bool,
    /// Milliseconds until the next attempt.
    #[diesel(sql_type = BigInt)]
    pub next_in_ms: i64,
    /// Why.
    #[diesel(sql_type = Text)]
    pub last_error: String,
}

/// PostgreSQL's doorbell, for `mode = "tail"`.
#[derive(Debug, Clone, QueryableByName)]
pub struct Doorbell {
    /// Of the trigger: `ready`, `missing`, `disabled` or `changed`.
    #[diesel(sql_type = Text)]
    pub trigger_state: String,
    /// How many connections of relays listen.
    #[diesel(sql_type = BigInt)]
    pub listeners: i64,
    /// Whether the connection that was asked listens.
    #[diesel(sql_type = Bool)]
    pub listening: bool,
}

impl Doorbell {
    /// What is wrong with the trigger, and the statement or command that repairs it.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        match self.trigger_state.as_str() {
            "ready" => None,
            "disabled" => Some((
                "trigger outbox_bell on table outbox is disabled",
                "alter table outbox enable trigger outbox_bell;",
            )),
            "changed" => Some(("trigger outbox_bell on table outbox is not ours", "outbox-relay migrate")),
            _ => Some(("trigger outbox_bell on table outbox is missing", "outbox-relay migrate")),
        }
    }
}

/// A setting of the server.
#[derive(Debug, Clone, QueryableByName)]
pub struct Setting {
    /// Its name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// Its value.
    #[diesel(sql_type = Text)]
    pub value: String,
}
