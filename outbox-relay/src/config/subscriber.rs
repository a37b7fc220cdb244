//! `[[subscriber]]`: a subscriber's database, for people.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Secret, database_problem};
use crate::outbox::store::Database;

/// One subscriber's database: for `dead`, `status`, `check`, `migrate` and metrics. The relay itself needs none.
///
/// ```
/// use outbox_relay::config::SubscriberConfig;
///
/// let subscriber = SubscriberConfig {
///     client_certificate: Some("order.pem".into()),
///     tls: true,
///     ..SubscriberConfig::new("order", "postgres://order@db.example/order")
/// };
/// assert_eq!(subscriber.problems(), ["client_key: is needed, the key of client_certificate"]);
/// ```
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
