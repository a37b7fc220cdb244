//! `outbox-relay.toml`: what can be set, its defaults with their reasons, and what is wrong with a file, all
//! at once. `load` reads it; nothing here connects to anything.
//!
//! Every key can be overridden by an environment variable: `OUTBOX_`, then the path in capitals with two
//! underscores between its words, for example `OUTBOX_BROKER__URL` or, for the first `[[outbox]]`,
//! `OUTBOX_OUTBOX__0__DATABASE`. A text may hold `${NAME}`, which becomes that environment variable; a URL
//! or token may be `file:PATH`, which becomes the content of that file without its last line break.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::outbox::store::{Database, Kind};

mod keys;
mod load;
mod replication;
mod tls;
mod value;

pub use self::load::{Environment, from_file, from_text};
pub use self::replication::{ReplicationConfig, ReplicationTableConfig};
pub(crate) use self::tls::TlsFiles;
pub use self::value::{ByteSize, Interval, Secret};

/// A commented configuration, as `outbox-relay init` writes it.
pub const EXAMPLE: &str = include_str!("config/example.toml");

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
/// The longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What was wrong with a configuration: every problem at once, each with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A whole configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Console, API, metrics.
    pub admin: AdminConfig,
    /// Where messages go.
    pub broker: BrokerConfig,
    /// The outboxes to relay.
    pub outbox: Vec<OutboxConfig>,
    /// Subscribers whose databases people look into, and act in, from here.
    pub subscriber: Vec<SubscriberConfig>,
    /// The tables to keep copies of.
    pub replication: Vec<ReplicationConfig>,
}

/// Health, metrics and status over HTTP, served when there is a token.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port. Default `127.0.0.1:9090`: reachable from this machine only.
    pub listen: String,
    /// What a request has to show, as `Authorization: Bearer …`; `/healthz` and `/readyz` need none.
    pub token: Option<Secret>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".into(), token: None }
    }
}

/// Where messages go.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// `amqp://user:password@host:port/vhost`; `amqps://` is TLS, which verifies certificate and name.
    pub url: Secret,
    /// How the broker is told who the relay is. Default `plain`.
    pub auth: Auth,
    /// A PEM file with CAs that are trusted besides the system's, for `amqps://`.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate that the relay shows to a broker which asks for one.
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with its key, without a password.
    pub client_key: Option<PathBuf>,
    /// The topic exchange. Default `outbox`.
    pub exchange: String,
    /// Whether the relay declares exchanges and queues, or only checks that they are there. Default true.
    pub declare: bool,
    /// What happens to a message that no queue wants. Default `queue`.
    pub unrouted: Unrouted,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            auth: Auth::default(),
            ca: None,
            client_certificate: None,
            client_key: None,
            exchange: "outbox".into(),
            declare: true,
            unrouted: Unrouted::default(),
        }
    }
}

/// How the broker is told who the relay is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// By the user and the password in the URL.
    #[default]
    Plain,
    /// By the client certificate (SASL EXTERNAL).
    External,
}

/// What happens to a message that no queue wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unrouted {
    /// It goes to the queue `outbox.unrouted`: a service that goes live before its subscribers stops
    /// nothing.
    #[default]
    Queue,
    /// It is refused: the row stays, its key waits and is parked in the end.
    Refuse,
}

/// How an outbox is followed.
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
    fn problem(self, kind: Kind, tls: bool) -> Option<&'static str> {
        match (self, kind) {
            (Self::Poll, _) | (Self::Tail, Kind::Postgres) => None,
            (Self::Tail, Kind::Mysql) if !cfg!(feature = "binlog") => Some(
                "mode: \"tail\" on MySQL and MariaDB is not part of this build; build it with feature \"binlog\", or use \
                 \"poll\"",
            ),
            (Self::Tail, Kind::Mysql) if tls => Some(
                "mode: \"tail\" on MySQL and MariaDB reads the binary log, whose connection speaks no TLS; use \"poll\" \
                 with `tls`",
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
    /// happens; more only for aggregates that nothing but copies follow.
    pub in_flight_per_key: u32,
    /// Whether messages have the attributes of CloudEvents 1.0 as headers besides. Default false.
    pub cloudevents: bool,
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
        }
    }
}

/// One subscriber's database: for `dead`, `status`, `check`, `migrate` and metrics. The relay itself needs none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubscriberConfig {
    /// The name that the service gives its `Subscriber`.
    pub name: String,
    /// `mysql://`, `postgres://` or `sqlite://`. Several subscribers may share one.
    pub database: Secret,
    /// Whether the connection is encrypted, and the server's certificate and name verified. Default false.
    pub tls: bool,
    /// A PEM file with CAs that are trusted besides the system's, with `tls`.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate that is shown to a server which asks for one.
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with its key, without a password; for MySQL and MariaDB an RSA key in PKCS#1.
    pub client_key: Option<PathBuf>,
}

impl SubscriberConfig {
    /// A subscriber without TLS.
    ///
    /// ```
    /// let subscriber = outbox_relay::config::SubscriberConfig::new("order", "sqlite:///var/lib/order.db");
    /// assert!(subscriber.problems().is_empty());
    /// ```
    pub fn new(name: impl Into<String>, database: impl Into<String>) -> Self {
        Self { name: name.into(), database: Secret::new(database), ..Self::default() }
    }

    /// What is wrong with it, each problem with the key.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name_is_right = (1..=100).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !name_is_right {
            found.push(
                "name: is needed, 1 to 100 of [A-Za-z0-9_-], as the service's Subscriber has it".into(),
            );
        }
        found.extend(database_problem(&self.database, Database::of_subscriber(self)).err());
        found.extend(self.tls_problems());
        found
    }
}

/// The database, or what is wrong with its keys.
fn database_problem(url: &Secret, database: outbox_core::Result<Database>) -> Result<Database, String> {
    if url.is_empty() {
        return Err("database: is needed, a URL of mysql://, postgres:// or sqlite://".into());
    }
    database.map_err(|error| {
        let text = error.to_string();
        if text.starts_with("tls: ") { text } else { format!("database: {text}") }
    })
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
        check((1..=1000).contains(&self.in_flight_per_key), "in_flight_per_key: 1 to 1000");
        match database_problem(&self.database, Database::of(self)) {
            Ok(database) => found.extend(self.mode.problem(database.kind(), self.tls).map(str::to_owned)),
            Err(problem) => found.push(problem),
        }
        found.extend(self.tls_problems());
        found
    }
}

impl BrokerConfig {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.url.is_empty() {
            found.push("broker.url: is needed, amqp://user:password@host:port/vhost".into());
        } else {
            #[cfg(feature = "rabbitmq")]
            found.extend(self.rabbitmq().err().map(|error| format!("broker.url: {error}")));
        }
        found.extend(self.tls_problems().into_iter().map(|problem| format!("broker.{problem}")));
        let exchange_is_right =
            (1..=100).contains(&self.exchange.len()) && !self.exchange.starts_with("amq.");
        if !exchange_is_right {
            found.push("broker.exchange: 1 to 100 bytes, not amq.*, which belongs to the broker".into());
        }
        found
    }
}

#[cfg(feature = "rabbitmq")]
impl BrokerConfig {
    /// The broker that it describes, not connected yet.
    ///
    /// # Errors
    /// `Invalid` when the URL is.
    pub fn rabbitmq(&self) -> outbox_core::Result<outbox_core::broker::rabbitmq::RabbitMq> {
        use outbox_core::broker::rabbitmq::{Auth as AuthAt, RabbitMq, Unrouted as AtBroker};
        let unrouted = match self.unrouted {
            Unrouted::Queue => AtBroker::Queue,
            Unrouted::Refuse => AtBroker::Refuse,
        };
        let broker = RabbitMq::new(self.url.expose())?;
        #[cfg(feature = "tls")]
        let broker = broker.tls(self.trust());
        // A URL may ask for EXTERNAL itself.
        let broker = if self.auth == Auth::External { broker.auth(AuthAt::External) } else { broker };
        Ok(broker
            .exchange(&self.exchange)
            .unrouted(unrouted)
            .declare(self.declare)
            .connection_name("outbox-relay"))
    }
}

impl Config {
    /// Everything that is wrong, each problem with its key. Empty is right.
    pub fn validate(&self) -> Vec<String> {
        // Copies of tables need no broker.
        let has_broker =
            !self.outbox.is_empty() || !self.broker.url.is_empty() || self.replication.is_empty();
        let mut found = if has_broker { self.broker.problems() } else { Vec::new() };
        if self.admin.listen.parse::<std::net::SocketAddr>().is_err() {
            found.push(format!(
                "admin.listen: {:?} is no address with a port, as 127.0.0.1:9090",
                self.admin.listen
            ));
        }
        if self.outbox.is_empty() && self.subscriber.is_empty() && self.replication.is_empty() {
            let text =
                "outbox: there is none; add a section [[outbox]] with name and database, or [[replication]]";
            found.push(text.into());
        }
        for (number, subscriber) in self.subscriber.iter().enumerate() {
            let problems = subscriber.problems().into_iter();
            found.extend(problems.map(|problem| format!("subscriber[{number}].{problem}")));
            let is_known = |other: &SubscriberConfig| !other.name.is_empty() && other.name == subscriber.name;
            if let Some(other) = self.subscriber[..number].iter().position(is_known) {
                let name = &subscriber.name;
                found.push(format!("subscriber[{number}].name: {name:?} is subscriber[{other}]'s too"));
            }
        }
        for (number, outbox) in self.outbox.iter().enumerate() {
            found.extend(outbox.problems().into_iter().map(|problem| format!("outbox[{number}].{problem}")));
            for (other, earlier) in self.outbox[..number].iter().enumerate() {
                if !outbox.name.is_empty() && earlier.name == outbox.name {
                    found.push(format!("outbox[{number}].name: {:?} is outbox[{other}]'s too", outbox.name));
                }
                if !outbox.database.is_empty() && earlier.database == outbox.database {
                    found.push(format!(
                        "outbox[{number}].database: is outbox[{other}]'s too; one database has one outbox"
                    ));
                }
            }
        }
        self.replication_problems(&mut found);
        found
    }

    fn replication_problems(&self, found: &mut Vec<String>) {
        for (number, replication) in self.replication.iter().enumerate() {
            let at = format!("replication[{number}]");
            found.extend(replication.problems().into_iter().map(|problem| format!("{at}.{problem}")));
            let name = &replication.name;
            let outboxes = self.outbox.iter().map(|outbox| &outbox.name).enumerate();
            let earlier = self.replication[..number].iter().map(|earlier| &earlier.name).enumerate();
            let taken =
                outboxes.map(|other| ("outbox", other)).chain(earlier.map(|other| ("replication", other)));
            for (kind, (other, _)) in taken.filter(|(_, (_, taken))| !name.is_empty() && *taken == name) {
                // `pause NAME` could mean either.
                found.push(format!("{at}.name: {name:?} is {kind}[{other}]'s too"));
            }
            for (other, earlier) in self.replication[..number].iter().enumerate() {
                if let Some(table) = replication.shared_table(earlier) {
                    found.push(format!("{at}.table: {table:?} is written by replication[{other}] too"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right_and_shows_the_defaults() {
        let environment = Environment::of([
            ("OUTBOX_ADMIN_TOKEN", "t"),
            ("PRODUCT_DATABASE", "sqlite:///tmp/product.db"),
            ("BROKER_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"),
            ("REPLICATION_SOURCE", "mysql://repl:secret@127.0.0.1:3306"),
            ("ORDER_DATABASE", "mysql://repl:secret@127.0.0.1:3307/order_db"),
        ]);
        let config = from_text(EXAMPLE, &environment).unwrap();
        assert_eq!(config.outbox.len(), 1);
        assert!(config.replication.is_empty(), "it is shown, not set up");
        #[cfg(feature = "binlog")]
        {
            let without = |marks: &[&str]| -> String {
                let lines =
                    EXAMPLE.lines().map(|l| marks.iter().find_map(|mark| l.strip_prefix(mark)).unwrap_or(l));
                lines.collect::<Vec<_>>().join("\n")
            };
            let config = from_text(&without(&["#+ "]), &environment).unwrap();
            assert_eq!(config.replication[0].table[0].target_name(), "product_copy");
            let spelled_out = from_text(&without(&["#+ ", "#+= "]), &environment).unwrap();
            assert_eq!(format!("{config:?}"), format!("{spelled_out:?}"));
        }
        let uncommented: String =
            EXAMPLE.lines().map(|l| l.strip_prefix("#= ").unwrap_or(l)).collect::<Vec<_>>().join("\n");
        let spelled_out = from_text(&uncommented, &environment).unwrap();
        assert_eq!(format!("{config:?}"), format!("{spelled_out:?}"));
    }

    #[test]
    fn all_problems_come_at_once() {
        let outbox = OutboxConfig {
            name: "Prod uct".into(),
            database: Secret::new("oracle://x"),
            lease: Duration::from_millis(10).into(),
            poll_min: Duration::from_secs(2).into(),
            poll_max: Duration::from_secs(1).into(),
            ..OutboxConfig::default()
        };
        let config = Config { outbox: vec![outbox], ..Config::default() };
        let problems = config.validate().join("\n");
        for part in [
            "broker.url: is needed",
            "outbox[0].name:",
            "outbox[0].lease:",
            "outbox[0].poll_max: cannot be shorter",
            "mysql://, postgres:// and sqlite://",
        ] {
            assert!(problems.contains(part), "{part} not in\n{problems}");
        }
    }

    #[test]
    fn subscribers_are_checked_as_outboxes_are() {
        let wrong = SubscriberConfig { tls: true, ..SubscriberConfig::new("a b", "sqlite:///tmp/a.db") };
        let twice = SubscriberConfig::new("order", "sqlite:///tmp/order.db");
        let config = Config { subscriber: vec![wrong, twice.clone(), twice], ..Config::default() };
        let problems = config.validate().join("\n");
        for part in [
            "subscriber[0].name: is needed",
            "subscriber[0].tls: sqlite:// is a file",
            "subscriber[2].name: \"order\" is subscriber[1]'s too",
        ] {
            assert!(problems.contains(part), "{part} not in\n{problems}");
        }
        assert!(!problems.contains("outbox:"), "a subscriber alone is enough: {problems}");
    }

    #[test]
    fn tail_is_refused_where_nothing_tells_of_commits() {
        let mysql = if cfg!(feature = "binlog") { None } else { Some("feature \"binlog\"") };
        for (url, tls, told) in [
            ("mysql://u@h/db", false, mysql),
            ("mysql://u@h/db", true, Some(mysql.unwrap_or("speaks no TLS"))),
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

    #[test]
    fn secrets_do_not_show() {
        let config = Config {
            admin: AdminConfig { token: Some(Secret::new("hunter2")), ..AdminConfig::default() },
            broker: BrokerConfig { url: Secret::new("amqp://u:hunter2@host/v"), ..BrokerConfig::default() },
            outbox: vec![OutboxConfig::new("a", "mysql://relay:hunter2@host/db?x=hunter2")],
            subscriber: vec![SubscriberConfig::new("b", "postgres://b:hunter2@host/db?x=hunter2")],
            ..Config::default()
        };
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("mysql://relay:***@host/db"), "{shown}");
    }
}
