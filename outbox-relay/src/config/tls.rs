//! The keys for TLS, of the broker, of an outbox's database and of both sides of a replication: what is wrong with them, and whom they trust.

use std::path::PathBuf;

use super::{Auth, BrokerConfig, OutboxConfig, ReplicationConfig, SubscriberConfig};

/// CA, client certificate, its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsFiles<'c>([&'c Option<PathBuf>; 3]);

impl BrokerConfig {
    fn files(&self) -> TlsFiles<'_> {
        TlsFiles([&self.ca, &self.client_certificate, &self.client_key])
    }

    fn has_tls(&self) -> bool {
        self.url.expose().trim().to_ascii_lowercase().starts_with("amqps://")
    }

    /// What is wrong with its keys for TLS.
    pub(super) fn tls_problems(&self) -> Vec<String> {
        let mut found = problems(self.has_tls(), "an amqps:// URL", self.files());
        if self.auth == Auth::External && (!self.has_tls() || self.client_certificate.is_none()) {
            let text = "auth: \"external\" needs an amqps:// URL, client_certificate and client_key: the certificate is \
                        what says who the relay is";
            found.push(text.into());
        }
        found
    }

    /// Whom it trusts, and as whom it shows itself.
    #[cfg(all(feature = "rabbitmq", feature = "tls"))]
    pub(super) fn trust(&self) -> outbox_core::tls::Tls {
        self.files().trust()
    }

    /// The host, if the connection to it leaves this machine and is not encrypted.
    #[cfg(feature = "rabbitmq")]
    pub(crate) fn exposed_host(&self) -> Option<String> {
        (!self.has_tls()).then(|| crate::outbox::store::remote_host(self.url.expose()))?
    }
}

impl OutboxConfig {
    pub(crate) fn files(&self) -> TlsFiles<'_> {
        TlsFiles([&self.ca, &self.client_certificate, &self.client_key])
    }

    /// What is wrong with its keys for TLS.
    pub(super) fn tls_problems(&self) -> Vec<String> {
        problems(self.tls, "tls = true", self.files())
    }

    /// Whom it trusts, and as whom it shows itself; nobody without `tls`.
    #[cfg(all(feature = "binlog", feature = "tls"))]
    pub(crate) fn trust(&self) -> Option<outbox_core::tls::Tls> {
        self.tls.then(|| self.files().trust())
    }
}

impl SubscriberConfig {
    pub(crate) fn files(&self) -> TlsFiles<'_> {
        TlsFiles([&self.ca, &self.client_certificate, &self.client_key])
    }

    /// What is wrong with its keys for TLS.
    pub(super) fn tls_problems(&self) -> Vec<String> {
        problems(self.tls, "tls = true", self.files())
    }
}

impl ReplicationConfig {
    fn source_files(&self) -> TlsFiles<'_> {
        TlsFiles([&self.source_ca, &self.source_client_certificate, &self.source_client_key])
    }

    fn target_files(&self) -> TlsFiles<'_> {
        TlsFiles([&self.target_ca, &self.target_client_certificate, &self.target_client_key])
    }

    /// What is wrong with its keys for TLS.
    pub(super) fn tls_problems(&self) -> Vec<String> {
        let source = problems(self.source_tls, "source_tls = true", self.source_files());
        let target = problems(self.target_tls, "target_tls = true", self.target_files());
        let named = |side: &'static str| move |problem: String| format!("{side}_{problem}");
        source.into_iter().map(named("source")).chain(target.into_iter().map(named("target"))).collect()
    }

    /// Whom it trusts as the source, and as whom it shows itself there; nobody without `source_tls`.
    #[cfg(all(feature = "binlog", feature = "tls"))]
    pub(crate) fn source_trust(&self) -> Option<outbox_core::tls::Tls> {
        self.source_tls.then(|| self.source_files().trust())
    }

    /// The same of the target.
    #[cfg(all(feature = "binlog", feature = "tls"))]
    pub(crate) fn target_trust(&self) -> Option<outbox_core::tls::Tls> {
        self.target_tls.then(|| self.target_files().trust())
    }
}

fn problems(has_tls: bool, switch: &str, files: TlsFiles<'_>) -> Vec<String> {
    let [ca, certificate, key] = files.0.map(Option::is_some);
    let mut found = Vec::new();
    for (name, is_there) in [("ca", ca), ("client_certificate", certificate), ("client_key", key)] {
        if is_there && !has_tls {
            found.push(format!("{name}: has no effect without {switch}"));
        }
    }
    match (certificate, key) {
        (true, false) => found.push("client_key: is needed, the key of client_certificate".into()),
        (false, true) => found.push("client_certificate: is needed, the certificate of client_key".into()),
        _ => {}
    }
    #[cfg(feature = "tls")]
    if found.is_empty() && has_tls {
        found.extend(files.trust().client_config().err().map(|error| error.to_string()));
    }
    found
}

#[cfg(feature = "tls")]
impl TlsFiles<'_> {
    /// Whom it trusts, and as whom it shows itself.
    pub(crate) fn trust(self) -> outbox_core::tls::Tls {
        let [ca, certificate, key] = self.0;
        let mut tls = outbox_core::tls::Tls::new();
        if let Some(ca) = ca {
            tls = tls.ca(ca);
        }
        if let (Some(certificate), Some(key)) = (certificate, key) {
            tls = tls.client_certificate(certificate, key);
        }
        tls
    }
}

#[cfg(test)]
mod tests {
    use crate::OutboxConfig;
    use crate::config::{Environment, from_text};
    use crate::outbox::store::Database;

    fn problems(broker: &str, outbox: &str) -> String {
        let text = format!(
            "[broker]\n{broker}\n[[outbox]]\nname = \"a\"\ndatabase = \"mysql://u:p@db.example/a\"\n{outbox}"
        );
        from_text(&text, &Environment::default())
            .map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn keys_without_effect_or_half_of_a_pair_are_told() {
        let found = problems(
            "url = \"amqp://h\"\nauth = \"external\"\nca = \"a.pem\"",
            "client_certificate = \"c.pem\"\ntls = true",
        );
        for part in [
            "broker.ca: has no effect without an amqps:// URL",
            "broker.auth: \"external\" needs an amqps:// URL",
            "outbox[0].client_key: is needed",
        ] {
            assert!(found.contains(part), "{part} not in\n{found}");
        }
        assert_eq!(problems("url = \"amqp://h\"", ""), "");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_file_that_is_not_there_is_told_before_anything_runs() {
        let found = problems("url = \"amqps://h\"\nca = \"nowhere.pem\"", "tls = true\nca = \"nowhere.pem\"");
        for part in ["broker.ca: nowhere.pem: ", "outbox[0].ca: nowhere.pem: "] {
            assert!(found.contains(part), "{part} not in\n{found}");
        }
    }

    #[test]
    fn parameters_of_other_drivers_are_refused_with_the_keys() {
        for url in ["postgres://u@h/a?sslmode=verify-full", "mysql://u@h/a?require_ssl=true&verify_ca=false"]
        {
            let error = Database::of(&OutboxConfig::new("a", url)).unwrap_err().to_string();
            assert!(error.contains("`tls = true`"), "{error}");
        }
        assert!(Database::of(&OutboxConfig::new("a", "postgres://u@h/a?sslmode=disable")).is_ok());
        let file = OutboxConfig { tls: true, ..OutboxConfig::new("a", "sqlite:///tmp/a.db") };
        assert!(file.problems().join("").starts_with("tls: sqlite:// is a file"));
    }

    #[cfg(feature = "rabbitmq")]
    #[test]
    fn only_what_leaves_the_machine_unencrypted_is_exposed() {
        let broker = |url: &str| {
            let text = format!("url = {url:?}");
            let config: crate::Config = toml::from_str(&format!("[broker]\n{text}")).unwrap();
            config.broker.exposed_host()
        };
        assert_eq!(broker("amqp://u:p@rabbit.example/v").as_deref(), Some("rabbit.example"));
        let database = |url: &str| Database::of(&OutboxConfig::new("a", url)).unwrap().exposed_host();
        assert_eq!(database("mysql://u@10.0.0.7/a").as_deref(), Some("10.0.0.7"));
        for url in ["amqps://rabbit.example", "amqp://localhost", "amqp://127.0.0.1", "amqp://[::1]:99"] {
            assert_eq!(broker(url), None, "{url}");
        }
        for url in ["postgres://u@localhost/a", "postgres://%2Frun%2Fpostgresql/a", "sqlite:///tmp/a.db"] {
            assert_eq!(database(url), None, "{url}");
        }
    }
}
