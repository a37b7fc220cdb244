//! The tables as Diesel sees them; `migrations/` creates them and explains their columns.

use crate::message::Message;

diesel::table! {
    /// Messages not yet confirmed by the broker.
    outbox (id) {
        /// Rises in commit order per key.
        id -> BigInt,
        /// UUIDv7, 16 bytes.
        message_id -> Binary,
        /// Which relay may take it.
        bucket -> SmallInt,
        /// First word of the kind.
        aggregate_type -> Text,
        /// The key.
        aggregate_id -> Text,
        /// Second word of the kind.
        event_type -> Text,
        /// JSON object of strings.
        headers -> Binary,
        /// JSON text.
        payload -> Binary,
    }
}

diesel::table! {
    /// Messages that a consumer has applied.
    inbox (consumer, message_id) {
        /// The subscriber's name.
        consumer -> Text,
        /// UUIDv7, 16 bytes.
        message_id -> Binary,
    }
}

diesel::table! {
    /// Messages that a consumer has set aside; a part of the columns.
    inbox_held (consumer, message_id) {
        /// The subscriber's name.
        consumer -> Text,
        /// As it arrived.
        message_id -> Text,
        /// First word of the kind.
        aggregate_type -> Text,
        /// The key.
        aggregate_id -> Text,
        /// What waits behind it.
        holds -> Text,
    }
}

diesel::table! {
    /// Who has paused a consumer.
    inbox_pause (consumer) {
        /// The subscriber's name.
        consumer -> Text,
    }
}

diesel::table! {
    /// Versions at which keys of copies were deleted.
    copy_deleted (copy, aggregate_id) {
        /// The copy's table.
        copy -> Text,
        /// The key.
        aggregate_id -> Text,
        /// With the id the version.
        generation -> BigInt,
        /// With the generation the version.
        id -> BigInt,
    }
}

diesel::table! {
    /// The begin marks of resyncs that copies have seen last.
    copy_begun (copy, bucket) {
        /// The copy's table.
        copy -> Text,
        /// The bucket.
        bucket -> SmallInt,
        /// With the id the version of the mark.
        generation -> BigInt,
        /// With the generation the version of the mark.
        id -> BigInt,
        /// The number of the request.
        resync -> BigInt,
        /// The end mark has come.
        ended -> Bool,
    }
}

diesel::table! {
    /// Versions below a begin mark that were applied after it.
    copy_late (copy, bucket, generation, id) {
        /// The copy's table.
        copy -> Text,
        /// The bucket.
        bucket -> SmallInt,
        /// With the id the version.
        generation -> BigInt,
        /// With the generation the version.
        id -> BigInt,
        /// The key.
        aggregate_id -> Text,
    }
}

/// A message as it is inserted.
#[derive(Debug, diesel::Insertable)]
// So that many rows are one statement on SQLite too.
#[diesel(table_name = outbox, treat_none_as_default_value = false)]
pub(crate) struct NewOutboxRow<'a> {
    pub(crate) message_id: &'a [u8],
    pub(crate) bucket: i16,
    pub(crate) aggregate_type: &'a str,
    pub(crate) aggregate_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: &'a [u8],
}

impl<'a> NewOutboxRow<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        Self {
            message_id: message.id_bytes(),
            // Below BUCKETS, so it fits.
            bucket: message.bucket() as i16,
            aggregate_type: message.aggregate(),
            aggregate_id: message.key(),
            event_type: message.event(),
            headers: message.headers().to_json().into_bytes(),
            payload: message.payload(),
        }
    }
}
