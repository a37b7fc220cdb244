//! `outbox-relay check`: looks at everything the relay needs before anything runs, and says of each finding
//! what repairs it. It changes nothing.

use std::fmt;

use serde::Serialize;

use crate::config::{Config, OutboxConfig};
#[cfg(any(feature = "postgres", all(feature = "mysql", feature = "binlog")))]
use crate::outbox::store::Kind;
use crate::outbox::store::{Database, Question, Store};
use crate::retry::{self, Side};

#[cfg(feature = "postgres")]
mod bell;
#[cfg(feature = "rabbitmq")]
mod broker;
#[cfg(all(feature = "mysql", feature = "binlog"))]
mod log;
#[cfg(feature = "binlog")]
mod reading;
#[cfg(feature = "binlog")]
mod replication;
mod rights;
mod settings;
mod subscriber;
mod tables;
mod upkeep;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be looked at, or matters to few: does no harm.
    Note,
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
            Level::Note => "note",
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

    fn bad(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Bad, text, Some(fix.into()));
    }

    fn warn(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Warning, text, Some(fix.into()));
    }

    /// Warns of a connection that leaves this machine unencrypted.
    fn warn_exposed(&mut self, host: Option<String>, fix: impl Into<String>) {
        if let Some(host) = host {
            let text = format!(
                "connection to {host} is not encrypted: whoever stands in between reads it, and can get the password"
            );
            self.warn(text, fix);
        }
    }

    fn add(&mut self, level: Level, text: impl Into<String>, fix: Option<String>) {
        self.findings.push(Finding { level, about: self.about.clone(), text: text.into(), fix });
    }
}

/// What encrypts the connection to a database whose keys in the configuration begin like this.
fn fix_exposed(prefix: &str) -> String {
    format!("set `{prefix}tls = true`, and give `{prefix}ca` if the server's CA is a private one")
}

/// Looks at everything in a configuration.
pub async fn all(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for outbox in &config.outbox {
        findings.extend(check_outbox(outbox).await);
    }
    for subscriber in &config.subscriber {
        findings.extend(subscriber::check(subscriber).await);
    }
    #[cfg(feature = "rabbitmq")]
    if !config.outbox.is_empty() {
        findings.extend(broker::check(config).await);
    }
    #[cfg(feature = "binlog")]
    for replication in &config.replication {
        findings.extend(replication::check(replication).await);
    }
    findings
}

async fn check_outbox(outbox: &OutboxConfig) -> Vec<Finding> {
    let mut about = About::new(format!("outbox {}", outbox.name));
    let mut store = match Database::of(outbox) {
        Ok(database) => Store::new(database.looking(), ""),
        Err(error) => {
            about.bad(error.to_string(), "correct the outbox's database in the configuration");
            return about.findings;
        }
    };
    if let Err(error) = store.connect().await {
        about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy());
        return about.findings;
    }
    about.warn_exposed(store.database().exposed_host(), fix_exposed(""));
    let is_writable = match store.settings().await {
        Ok(found) => settings::check(store.database().kind(), &found, &mut about),
        Err(error) => {
            about.bad(error.to_string(), "none known");
            true
        }
    };
    settings::check_clock(&mut store, &mut about).await;
    // Rights are looked at by statements that write, if only nothing.
    if is_writable && rights::check(&mut store, outbox, &mut about).await {
        tables::check(&mut store, &outbox.name, &mut about).await;
        #[cfg(feature = "postgres")]
        if store.database().kind() == Kind::Postgres {
            bell::check(&mut store, outbox, &mut about).await;
        }
        #[cfg(all(feature = "mysql", feature = "binlog"))]
        if store.database().kind() == Kind::Mysql && outbox.mode == crate::config::Mode::Tail {
            log::check(&mut store, outbox, &mut about).await;
        }
        upkeep::check(&mut store, &mut about).await;
    }
    about.findings
}

/// The answer to a question as names and values; a note when there is none.
async fn ask(store: &mut Store, question: Question, about: &mut About) -> Vec<(String, String)> {
    match store.ask(question).await {
        Ok(rows) => rows.into_iter().map(|row| (row.name, row.value)).collect(),
        Err(error) => {
            about.add(Level::Note, format!("not looked at: {error}"), None);
            Vec::new()
        }
    }
}
