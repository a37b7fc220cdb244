//! `outbox-relay.toml`: what can be set, its defaults with their reasons, and what is wrong with a file, all
//! at once. `load` reads it; nothing here connects to anything.
//!
//! Every key can be overridden by an environment variable: `OUTBOX_`, then the path in capitals with two
//! underscores between its words, for example `OUTBOX_BROKER__URL` or, for the first `[[outbox]]`,
//! `OUTBOX_OUTBOX__0__DATABASE`. A text may hold `${NAME}`, which becomes that environment variable; a URL
//! or token may be `file:PATH`, which becomes the content of that file without its last line break.

use serde::Deserialize;

use crate::outbox::store::Database;

mod broker;
mod keys;
mod load;
mod outbox;
mod replication;
mod subscriber;
mod tls;
mod value;

pub use self::broker::{Auth, BrokerConfig, Unrouted};
pub use self::load::{Environment, from_file, from_text};
pub use self::outbox::{Mode, OutboxConfig};
pub use self::replication::{ReplicationConfig, ReplicationTableConfig};
pub use self::subscriber::SubscriberConfig;
pub(crate) use self::tls::TlsFiles;
pub use self::value::{ByteSize, Interval, Secret};

/// A commented configuration, as `outbox-relay init` writes it.
///
/// ```
/// use outbox_relay::config::{EXAMPLE, Environment, from_text};
///
/// // It takes its URLs from the environment.
/// let environment = Environment::of([
///     ("BROKER_URL", "amqp://localhost"),
///     ("PRODUCT_DATABASE", "sqlite:///var/lib/product.db"),
/// ]);
/// let config = from_text(EXAMPLE, &environment)?;
/// assert_eq!(config.outbox[0].name, "product");
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// What was wrong with a configuration: every problem at once, each with its key.
///
/// ```
/// use outbox_relay::config::{Environment, Problems, from_text};
///
/// let text = "[[outbox]]\nname = \"product\"\nlease = 10";
/// let Err(problems) = from_text(text, &Environment::default()) else { panic!("it was taken") };
/// // One line for each.
/// assert_eq!(problems.to_string().lines().count(), 3);
/// let Problems(list) = problems;
/// assert!(list[0].starts_with("outbox[0].lease: 10 has no unit"));
/// assert!(list[1].starts_with("broker.url: is needed"));
/// assert!(list[2].starts_with("outbox[0].database: is needed"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A whole configuration.
///
/// ```
/// use outbox_relay::config::{BrokerConfig, Config, OutboxConfig, Secret};
///
/// let mut config = Config {
///     broker: BrokerConfig { url: Secret::new("amqp://localhost"), ..BrokerConfig::default() },
///     outbox: vec![OutboxConfig::new("product", "sqlite:///var/lib/product.db")],
///     ..Config::default()
/// };
/// assert!(config.validate().is_empty());
///
/// config.outbox.push(OutboxConfig::new("product", "sqlite:///var/lib/order.db"));
/// assert_eq!(config.validate(), ["outbox[1].name: \"product\" is outbox[0]'s too"]);
/// ```
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
///
/// ```
/// use outbox_relay::config::{AdminConfig, Environment, Secret, from_text};
///
/// let text = r#"
///     [admin]
///     token = "${ADMIN_TOKEN}"
///     [broker]
///     url = "amqp://localhost"
///     [[outbox]]
///     name = "product"
///     database = "sqlite:///var/lib/product.db"
/// "#;
/// let config = from_text(text, &Environment::of([("ADMIN_TOKEN", "s3cret")]))?;
/// assert_eq!(config.admin.token, Some(Secret::new("s3cret")));
/// assert_eq!(config.admin.listen, AdminConfig::default().listen);
/// assert_eq!(config.admin.listen, "127.0.0.1:9090");
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
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
    use std::time::Duration;

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
