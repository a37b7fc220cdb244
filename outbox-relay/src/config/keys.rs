//! The keys that a configuration may have, so that a wrong one can be told together with what was meant.

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Text,
    /// Text that may also be `file:PATH`.
    Secret,
    Bool,
    Integer,
    Interval,
    /// An integer, or text with a unit.
    Bytes,
    OneOf(&'static [&'static str]),
    /// A list of texts; in the environment one text, with commas between.
    Texts,
    /// A list of tables with the keys of this section.
    Sections(&'static str),
}

/// A key: its section, its name, its value.
pub(super) type Key = (&'static str, &'static str, Value);

/// Sections that are single tables.
pub(super) const TABLES: &[&str] = &["admin", "broker"];
/// Sections that come any number of times.
pub(super) const LISTS: &[&str] = &["outbox", "subscriber", "replication"];

pub(super) const KEYS: &[Key] = &[
    ("admin", "listen", Value::Text),
    ("admin", "token", Value::Secret),
    ("broker", "url", Value::Secret),
    ("broker", "exchange", Value::Text),
    ("broker", "declare", Value::Bool),
    ("broker", "unrouted", Value::OneOf(&["queue", "refuse"])),
    ("broker", "discard", Value::Texts),
    ("broker", "auth", Value::OneOf(&["plain", "external"])),
    ("broker", "ca", Value::Text),
    ("broker", "client_certificate", Value::Text),
    ("broker", "client_key", Value::Text),
    ("outbox", "name", Value::Text),
    ("outbox", "database", Value::Secret),
    ("outbox", "tls", Value::Bool),
    ("outbox", "ca", Value::Text),
    ("outbox", "client_certificate", Value::Text),
    ("outbox", "client_key", Value::Text),
    ("outbox", "mode", Value::OneOf(&["poll", "tail"])),
    ("outbox", "lease", Value::Interval),
    ("outbox", "batch_rows", Value::Integer),
    ("outbox", "batch_bytes", Value::Bytes),
    ("outbox", "poll_min", Value::Interval),
    ("outbox", "poll_max", Value::Interval),
    ("outbox", "attempts", Value::Integer),
    ("outbox", "retry_initial", Value::Interval),
    ("outbox", "retry_max", Value::Interval),
    ("outbox", "in_flight_per_key", Value::Integer),
    ("outbox", "cloudevents", Value::Bool),
    ("outbox", "audit_retention", Value::Interval),
    ("subscriber", "name", Value::Text),
    ("subscriber", "database", Value::Secret),
    ("subscriber", "tls", Value::Bool),
    ("subscriber", "ca", Value::Text),
    ("subscriber", "client_certificate", Value::Text),
    ("subscriber", "client_key", Value::Text),
    ("replication", "name", Value::Text),
    ("replication", "source", Value::Secret),
    ("replication", "source_tls", Value::Bool),
    ("replication", "source_ca", Value::Text),
    ("replication", "source_client_certificate", Value::Text),
    ("replication", "source_client_key", Value::Text),
    ("replication", "target", Value::Secret),
    ("replication", "target_tls", Value::Bool),
    ("replication", "target_ca", Value::Text),
    ("replication", "target_client_certificate", Value::Text),
    ("replication", "target_client_key", Value::Text),
    ("replication", "server_id", Value::Integer),
    ("replication", "hash_key", Value::Secret),
    ("replication", "memory_bytes", Value::Bytes),
    ("replication", "chunk_bytes", Value::Bytes),
    ("replication", "table", Value::Sections("replication.table")),
    ("replication.table", "source", Value::Text),
    ("replication.table", "target", Value::Text),
    ("replication.table", "columns", Value::Texts),
    ("replication.table", "where", Value::Text),
    ("replication.table", "key", Value::Texts),
    ("replication.table", "create", Value::Bool),
];

/// The value of a key of a section.
pub(super) fn find(section: &str, name: &str) -> Option<Value> {
    KEYS.iter().find(|(s, n, _)| *s == section && *n == name).map(|(_, _, value)| *value)
}

/// The known name most like `wrong`, as the end of a sentence; the whole list when none is near.
pub(super) fn meant<'a>(wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let nearest = known
        .clone()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().max(wrong.len()).div_ceil(2));
    match nearest {
        Some((_, name)) => format!("did you mean {name:?}?"),
        None => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The names of a section's keys.
pub(super) fn names(section: &str) -> impl Iterator<Item = &'static str> + Clone {
    let section = section.to_owned();
    KEYS.iter().filter(move |(s, _, _)| *s == section).map(|(_, name, _)| *name)
}
