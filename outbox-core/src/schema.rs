//! The tables as Diesel sees them; `migrations/` creates them and explains their columns.

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
