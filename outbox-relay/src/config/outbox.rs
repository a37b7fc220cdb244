//! `[[outbox]]`: an outbox to relay, and the reasons of its defaults.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{ByteSize, Interval, Secret, database_problem};
use crate::outbox::store::{Database, Kind};

/// How long a lease lasts without renewal. Ten seconds: a takeover after a crash is quick, and three
/// renewals may fail before a lease is lost.
const LEASE: Duration = Duration::from_secs(10);
/// Rows of one read. A thousand unconfirmed messages are the knee of RabbitMQ's throughput.
const BATCH_ROWS: u32 = 1000;
/// Bytes of one read; with the read ahead and the frames on their way a relay needs a few times as much.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
/// The first wait of an idle relay: not felt by anybody, and no busy loop.
const POLL_MIN: Duration = Duration::from_millis(5);
/// The longest wait of an idle relay: with the lease's statements under four queries a second.
const POLL_MAX: Duration = Duration::from_millis(350);
/// Refusals before a key is parked.
const ATTEMPTS: u32 = 5;
/// The wait after the first refusal.
const RETRY_INITIAL: Duration = Duration::from_secs(1);
/// How long it is known who replayed or discarded what: until the next yearly look at it.
const AUDIT_RETENTION: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How an outbox is followed.
///
/// ```
/// use outbox_relay::OutboxConfig;
/// use outbox_relay::config::Mode;
///
/// let tailed = |url| OutboxConfig { mode: Mode::Tail, ..OutboxConfig::new("product", url) };
/// assert!(tailed("postgres://relay@localhost/product").problems().is_empty());
/// let problems = tailed("sqlite:///var/lib/product.db").problems();
/// assert!(problems[0].starts_with("mode: \"tail\" needs a server"));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By reading it again and again.
    #[default]
    Poll,
    /// By being told of commits, with slow polling as a net below. Not with SQLite.
    Tail,
}

impl Mode {
    /// Why an outbox in this database cannot be followed so.
    fn problem(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::Poll, _) | (Self::Tail, Kind::Postgres) => None,
            (Self::Tail, Kind::Mysql) if !cfg!(feature = "binlog") => Some(
                "mode: \"tail\" on MySQL and MariaDB is not part of this build; build it with feature \"binlog\", or use \
                 \"poll\"",
            ),
            (Self::Tail, Kind::Mysql) => None,
            (Self::Tail, Kind::Sqlite) => Some(
                "mode: \"tail\" needs a server, nothing in SQLite tells of commits; use \"poll\", and a shorter \
                 poll_max if the first change after a quiet time comes too late",
            ),
        }
    }
}

/// One outbox.
///
/// ```
/// use std::time::Duration;
/// use outbox_relay::OutboxConfig;
///
/// let outbox = OutboxConfig {
///     poll_max: Duration::from_millis(50).into(),
///     batch_bytes: (1 << 20).into(),
///     in_flight_per_key: 2000,
///     ..OutboxConfig::new("product", "sqlite:///var/lib/product.db")
/// };
/// assert_eq!(outbox.problems(), ["in_flight_per_key: 1 to 1000"]);
/// assert_eq!(outbox.lease.get(), Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxConfig {
    /// Its name, which travels with every message: `[a-z0-9_-]`, at most 100 characters. Never change it:
    /// copies follow one source.
    pub name: String,
    /// `mysql://`, `postgres://` or `sqlite://`.
    pub database: Secret,
    /// Whether the connection is encrypted, and the server's certificate and name verified. Default false.
    pub tls: bool,
    /// A PEM file with CAs that are trusted besides the system's, with `tls`.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate that the relay shows to a server which asks for one.
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with its key, without a password; for MySQL and MariaDB an RSA key in PKCS#1.
    pub client_key: Option<PathBuf>,
    /// How it is followed. Default `poll`; `tail` needs PostgreSQL, MySQL or MariaDB.
    pub mode: Mode,
    /// How long a lease lasts without renewal, 200ms to 10m. Default 10s; under 2s a busy machine loses some.
    pub lease: Interval,
    /// Rows of one read, 1 to 10 000. Default 1000.
    pub batch_rows: u32,
    /// Bytes of one read, 64 KiB to 1 GiB; one row is always taken. Default 8 MiB.
    pub batch_bytes: ByteSize,
    /// The first wait of an idle relay. Default 5ms.
    pub poll_min: Interval,
    /// The longest wait of an idle relay. Default 350ms. In tail mode while commits are told: at least 5s.
    pub poll_max: Interval,
    /// Refusals before a key is parked, 1 to 1000. Default 5.
    pub attempts: u32,
    /// The wait after the first refusal; it doubles from there. Default 1s.
    pub retry_initial: Interval,
    /// The longest wait between attempts. Default 60s.
    pub retry_max: Interval,
    /// Unconfirmed messages of one key at a time, 1 to 1000. Default 1, which keeps their order whatever
    /// happens; more only for aggregates that nothing but copies follow. Of these a message that the broker refuses
    /// at first can come after a later one of its key: copies then set it aside as `stale-unknown`.
    pub in_flight_per_key: u32,
    /// Whether messages have the attributes of CloudEvents 1.0 as headers besides. Default false.
    pub cloudevents: bool,
    /// How long lines of `outbox_audit` are kept, 1d to 36500d. Default 365d.
    pub audit_retention: Interval,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            database: Secret::default(),
            tls: false,
            ca: None,
            client_certificate: None,
            client_key: None,
            mode: Mode::default(),
            lease: LEASE.into(),
            batch_rows: BATCH_ROWS,
            batch_bytes: BATCH_BYTES.into(),
            poll_min: POLL_MIN.into(),
            poll_max: POLL_MAX.into(),
            attempts: ATTEMPTS,
            retry_initial: RETRY_INITIAL.into(),
            retry_max: RETRY_MAX.into(),
            in_flight_per_key: 1,
            cloudevents: false,
            audit_retention: AUDIT_RETENTION.into(),
        }
    }
}

impl OutboxConfig {
    /// An outbox with every default.
    ///
    /// ```
    /// let outbox = outbox_relay::OutboxConfig::new("product", "sqlite:///var/lib/product.db");
    /// assert!(outbox.problems().is_empty());
    /// ```
    pub fn new(name: impl Into<String>, database: impl Into<String>) -> Self {
        Self { name: name.into(), database: Secret::new(database), ..Self::default() }
    }

    /// What is wrong with it, each problem with the key.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |is_right: bool, text: &str| {
            if !is_right {
                found.push(text.to_owned());
            }
        };
        let name_is_right = (1..=100).contains(&self.name.len())
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        check(name_is_right, "name: is needed, 1 to 100 of [a-z0-9_-]; it travels with every message");
        let lease = self.lease.get();
        check(
            (Duration::from_millis(200)..=Duration::from_secs(600)).contains(&lease),
            "lease: 200ms to 10m; shorter is lost by a slow statement, longer delays a takeover",
        );
        check((1..=10_000).contains(&self.batch_rows), "batch_rows: 1 to 10000");
        check(
            (64 * 1024..=1024 * 1024 * 1024).contains(&self.batch_bytes.get()),
            "batch_bytes: 64 KiB to 1 GiB",
        );
        check(self.poll_min.get() >= Duration::from_millis(1), "poll_min: at least 1ms");
        check(self.poll_min.get() <= self.poll_max.get(), "poll_max: cannot be shorter than poll_min");
        check(self.poll_max.get() <= Duration::from_secs(60), "poll_max: at most 60s");
        check((1..=1000).contains(&self.attempts), "attempts: 1 to 1000");
        check(self.retry_initial.get() >= Duration::from_millis(1), "retry_initial: at least 1ms");
        check(
            self.retry_initial.get() <= self.retry_max.get(),
            "retry_max: cannot be shorter than retry_initial",
        );
        check(self.retry_max.get() <= Duration::from_secs(24 * 3600), "retry_max: at most 24h");
        let day = Duration::from_secs(24 * 3600);
        check(
            (day..=36_500 * day).contains(&self.audit_retention.get()),
            "audit_retention: 1d to 36500d; a hundred years is for ever",
        );
        check((1..=1000).contains(&self.in_flight_per_key), "in_flight_per_key: 1 to 1000");
        match database_problem(&self.database, Database::of(self)) {
            Ok(database) => found.extend(self.mode.problem(database.kind()).map(str::to_owned)),
            Err(problem) => found.push(problem),
        }
        found.extend(self.tls_problems());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_refused_where_nothing_tells_of_commits() {
        let mysql = if cfg!(feature = "binlog") { None } else { Some("feature \"binlog\"") };
        for (url, tls, told) in [
            ("mysql://u@h/db", false, mysql),
            ("mysql://u@h/db", true, mysql),
            ("sqlite:///tmp/product.db", false, Some("needs a server")),
            ("postgres://u@h/db", true, None),
        ] {
            let outbox = OutboxConfig { mode: Mode::Tail, tls, ..OutboxConfig::new("product", url) };
            let problems = outbox.problems();
            match told {
                Some(part) => assert!(problems.len() == 1 && problems[0].contains(part), "{problems:?}"),
                None => assert!(problems.is_empty(), "{problems:?}"),
            }
        }
    }
}
