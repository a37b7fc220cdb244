//! `outbox-relay check`: looks at everything the relay needs before anything runs, and says of each finding
//! what repairs it. It changes nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::config::{Config, OutboxConfig};
use crate::outbox;
use crate::outbox::store::{Database, Kind, Setting, Store};
use crate::retry::{self, Side};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should know.
    Warning,
    /// The relay would not work, or not keep its promises.
    Bad,
}

/// What was looked at, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, for example `outbox product`.
    pub about: String,
    /// What was seen.
    pub text: String,
    /// The statement or command that repairs it.
    pub fix: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warning => "warn",
            Level::Bad => "BAD ",
        };
        write!(f, "{level} {}: {}", self.about, self.text)?;
        match &self.fix {
            Some(fix) => write!(f, "\n     fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// Findings about one thing.
struct About {
    about: String,
    findings: Vec<Finding>,
}

impl About {
    fn new(about: impl Into<String>) -> Self {
        Self { about: about.into(), findings: Vec::new() }
    }

    fn ok(&mut self, text: impl Into<String>) {
        self.add(Level::Ok, text, None);
    }

    fn warn(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Warning, text, Some(fix.into()));
    }

    fn bad(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Bad, text, Some(fix.into()));
    }

    fn add(&mut self, level: Level, text: impl Into<String>, fix: Option<String>) {
        self.findings.push(Finding { level, about: self.about.clone(), text: text.into(), fix });
    }
}

/// Looks at everything in a configuration.
pub async fn all(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for outbox in &config.outbox {
        findings.extend(check_outbox(outbox).await);
    }
    #[cfg(feature = "rabbitmq")]
    findings.extend(check_broker(config).await);
    findings
}

#[cfg(feature = "rabbitmq")]
async fn check_broker(config: &Config) -> Vec<Finding> {
    let mut about = About::new("broker");
    if let Some(host) = config.broker.exposed_host() {
        let fix = "write amqps:// and RabbitMQ's TLS port, by default 5671, and give `ca` if its CA is a private one";
        about.warn(format!("connection to {host} is not encrypted"), fix);
    }
    let checked = match config.broker.rabbitmq() {
        Ok(broker) => broker.check().await,
        Err(error) => Err(error),
    };
    match checked {
        Err(error) => {
            let remedy = if error.to_string().contains("TLS to RabbitMQ") {
                "correct broker.ca, broker.client_certificate or broker.client_key, or the server's certificate"
            } else if error.is_outage() {
                "start RabbitMQ, or correct host and port in broker.url"
            } else {
                "correct broker.url, or the user's permissions with rabbitmqctl set_permissions"
            };
            about.bad(error.to_string(), remedy);
        }
        Ok(wrong) if wrong.is_empty() => {
            let declared = if config.broker.declare { "fits, or will be declared" } else { "is there" };
            about.ok(format!(
                "{:?} answers; exchange {:?} {declared}",
                config.broker.url, config.broker.exchange
            ));
        }
        Ok(wrong) => {
            for text in wrong {
                // Messages that wait where nobody reads are news; anything else keeps the relay from working.
                let level = if text.contains(" holds ") { Level::Warning } else { Level::Bad };
                about.add(level, text, None);
            }
        }
    }
    about.findings
}

async fn check_outbox(outbox: &OutboxConfig) -> Vec<Finding> {
    let mut about = About::new(format!("outbox {}", outbox.name));
    let mut store = match Database::of(outbox) {
        Ok(database) => Store::new(database, ""),
        Err(error) => {
            about.bad(error.to_string(), "correct the outbox's database in the configuration");
            return about.findings;
        }
    };
    if let Err(error) = store.connect().await {
        about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy());
        return about.findings;
    }
    if let Some(host) = store.database().exposed_host() {
        let fix = "set `tls = true`, and give `ca` if the server's CA is a private one";
        about.warn(format!("connection to {host} is not encrypted"), fix);
    }
    match store.settings().await {
        Ok(settings) => check_settings(store.database().kind(), &settings, &mut about),
        Err(error) => about.bad(error.to_string(), "none known"),
    }
    if check_rights(&mut store, outbox, &mut about).await {
        match outbox::verify(&mut store).await {
            Ok(generation) => {
                about.ok(format!("tables are there and fit, generation {generation}"));
                check_slots(&mut store, &mut about).await;
            }
            Err(error) => about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy()),
        }
    }
    about.findings
}

/// Tables of an older version do for the relay; its writers may need more.
async fn check_slots(store: &mut Store, about: &mut About) {
    if store.lacks_slots().await {
        about.add(
            Level::Warning,
            "migration 0000outbox0002 is pending: without table outbox_slot, transactions that record events \
             of strict order fail; nothing else needs it",
            Some("outbox-relay migrate".into()),
        );
    }
}

/// Tries every statement that needs a right; whether the tables can be looked at further.
async fn check_rights(store: &mut Store, outbox: &OutboxConfig, about: &mut About) -> bool {
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for probe in store.probes() {
        let Err(error) = store.probe(probe).await else { continue };
        if !error.to_string().contains("denied") {
            about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy());
            // A table that is missing is missing for every statement.
            return false;
        }
        missing.entry(probe.table).or_default().push(probe.right);
    }
    if missing.is_empty() {
        about.ok("has every right that the relay needs");
    }
    for (table, rights) in &missing {
        let rights = rights.join(", ");
        let fix = grant(store, outbox, table, &rights).unwrap_or_default();
        about.bad(format!("no right to {rights} on {table}"), fix);
    }
    missing.is_empty()
}

/// The statement that gives rights.
fn grant(store: &Store, outbox: &OutboxConfig, table: &str, rights: &str) -> Option<String> {
    let url = url::Url::parse(outbox.database.expose()).ok()?;
    let (user, schema) = (url.username(), url.path().trim_start_matches('/'));
    match store.database().kind() {
        Kind::Mysql => Some(format!("grant {rights} on {schema}.{table} to '{user}'@'%';")),
        Kind::Postgres => Some(format!("grant {rights} on {table} to {user};")),
        Kind::Sqlite => None,
    }
}

fn check_settings(kind: Kind, settings: &[Setting], about: &mut About) {
    let value = |name: &str| settings.iter().find(|s| s.name == name).map(|s| s.value.as_str());
    let version = value("version").unwrap_or("?");
    match kind {
        Kind::Mysql => {
            check_version(
                version,
                if version.contains("MariaDB") { ("MariaDB", 10, 6) } else { ("MySQL", 8, 0) },
                about,
            );
        }
        Kind::Postgres => check_version(version, ("PostgreSQL", 12, 0), about),
        Kind::Sqlite => check_version(version, ("SQLite", 3, 42), about),
    }
    let isolation = value("transaction_isolation").or(value("tx_isolation"));
    if let Some(isolation) = isolation.filter(|i| !i.replace('-', " ").eq_ignore_ascii_case("read committed"))
    {
        about.bad(
            format!("the session runs {isolation} though it asked for READ COMMITTED"),
            "let the relay connect without the proxy that changes its session",
        );
    }
    let bad: &[(&str, &str, &str, &str)] = &[
        (
            "wsrep_on",
            "ON",
            "Galera: several servers write, so ids do not rise in commit order per key",
            "keep the outbox on a server outside the Galera cluster, or replicate it asynchronously",
        ),
        (
            "group_replication_single_primary_mode",
            "OFF",
            "group replication with several primaries: ids do not rise in commit order per key",
            "select group_replication_switch_to_single_primary_mode();",
        ),
        ("read_only", "ON", "the server is read only", "connect to the primary"),
        ("in_recovery", "true", "the server is a standby and read only", "connect to the primary"),
    ];
    for (name, wrong, text, fix) in bad {
        if value(name) == Some(wrong) {
            about.bad(*text, *fix);
        }
    }
    if value("log_bin") == Some("ON") && value("binlog_format") == Some("STATEMENT") {
        about.bad(
            "binlog_format is STATEMENT, which the server refuses under READ COMMITTED",
            "set global binlog_format = 'ROW'; -- in my.cnf too",
        );
    }
    if let Some(step) = value("auto_increment_increment").filter(|step| *step != "1") {
        about.bad(
            format!(
                "auto_increment_increment is {step}: several servers write, ids do not rise in commit order"
            ),
            "set global auto_increment_increment = 1; -- in my.cnf too",
        );
    }
    if let Some(mode) = value("journal_mode").filter(|mode| *mode != "wal") {
        about.add(
            Level::Warning,
            format!("journal_mode is {mode}: readers and writers wait for each other"),
            Some("pragma journal_mode = wal;".into()),
        );
    }
}

/// Whether a version is at least the one we know to work.
fn check_version(version: &str, (name, major, minor): (&str, u32, u32), about: &mut About) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if found >= (major, minor) {
        about.ok(format!("{name} {version} answers"));
    } else {
        about.bad(
            format!("{name} {version} is too old"),
            format!("upgrade to {name} {major}.{minor} or later"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(kind: Kind, settings: &[(&str, &str)]) -> Vec<String> {
        let settings: Vec<_> =
            settings.iter().map(|(n, v)| Setting { name: (*n).into(), value: (*v).into() }).collect();
        let mut about = About::new("outbox x");
        check_settings(kind, &settings, &mut about);
        about.findings.into_iter().filter(|f| f.level == Level::Bad).map(|f| f.text).collect()
    }

    #[test]
    fn servers_with_several_writers_are_refused() {
        let good = [
            ("version", "10.11.19-MariaDB"),
            ("tx_isolation", "READ-COMMITTED"),
            ("auto_increment_increment", "1"),
        ];
        assert!(bad(Kind::Mysql, &good).is_empty());
        assert_eq!(bad(Kind::Mysql, &[("version", "8.0.36"), ("auto_increment_increment", "2")]).len(), 1);
        assert_eq!(bad(Kind::Mysql, &[("version", "8.0.36"), ("wsrep_on", "ON")]).len(), 1);
        assert_eq!(bad(Kind::Mysql, &[("version", "8.0.36"), ("tx_isolation", "REPEATABLE-READ")]).len(), 1);
        assert_eq!(bad(Kind::Mysql, &[("version", "5.7.44")]).len(), 1);
        assert!(bad(Kind::Postgres, &[("version", "15.20 (Debian 15.20-0+deb12u1)")]).is_empty());
    }
}
