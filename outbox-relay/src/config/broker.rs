//! `[broker]`: where messages go.

use std::path::PathBuf;

use serde::Deserialize;

use super::Secret;

/// Where messages go.
///
/// ```
/// use outbox_relay::config::{BrokerConfig, Config, Secret, SubscriberConfig, Unrouted};
///
/// let broker = BrokerConfig {
///     url: Secret::new("amqp://relay:secret@rabbit.example/shop"),
///     exchange: "shop".into(),
///     unrouted: Unrouted::Refuse,
///     discard: vec!["audit.*".into()],
///     ..BrokerConfig::default()
/// };
/// let subscriber = vec![SubscriberConfig::new("order", "sqlite:///var/lib/order.db")];
/// let problems = Config { broker, subscriber, ..Config::default() }.validate();
/// assert_eq!(problems.len(), 1);
/// assert!(problems[0].starts_with("broker.discard: \"audit.*\" is no aggregate"));
/// ```
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
    /// Aggregates whose messages are dropped where no queue wants them, whatever `unrouted` says; the broker must let
    /// the relay declare a queue `{exchange}.discard.*`. Default none.
    pub discard: Vec<String>,
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
            discard: Vec::new(),
        }
    }
}

/// How the broker is told who the relay is.
///
/// ```
/// use outbox_relay::config::{Auth, Environment, from_text};
///
/// let text = r#"
///     [broker]
///     url = "amqp://localhost"
///     auth = "external"
///     [[outbox]]
///     name = "product"
///     database = "sqlite:///var/lib/product.db"
/// "#;
/// let Err(problems) = from_text(text, &Environment::default()) else { panic!("nothing says who it is") };
/// assert!(problems.to_string().starts_with("broker.auth: \"external\" needs an amqps:// URL"));
/// let config = from_text(&text.replace("external", "plain"), &Environment::default())?;
/// assert_eq!(config.broker.auth, Auth::Plain);
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
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
///
/// ```
/// use outbox_relay::config::{Environment, Unrouted, from_text};
///
/// let text = r#"
///     [broker]
///     url = "amqp://localhost"
///     [[outbox]]
///     name = "product"
///     database = "sqlite:///var/lib/product.db"
/// "#;
/// assert_eq!(from_text(text, &Environment::default())?.broker.unrouted, Unrouted::Queue);
/// let refusing = Environment::of([("OUTBOX_BROKER__UNROUTED", "refuse")]);
/// assert_eq!(from_text(text, &refusing)?.broker.unrouted, Unrouted::Refuse);
/// # Ok::<(), outbox_relay::config::Problems>(())
/// ```
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

impl BrokerConfig {
    pub(super) fn problems(&self) -> Vec<String> {
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
        let is_no_name = |name: &&String| name.is_empty() || name.contains(['.', '*', '#']);
        found.extend(self.discard.iter().find(is_no_name).map(|name| {
            format!("broker.discard: {name:?} is no aggregate; list their names, without events and patterns")
        }));
        found
    }
}

#[cfg(feature = "rabbitmq")]
impl BrokerConfig {
    /// The broker that it describes, not connected yet.
    ///
    /// ```
    /// use outbox_relay::config::{BrokerConfig, OutboxConfig, Secret};
    /// use outbox_relay::Relay;
    ///
    /// let config = BrokerConfig { url: Secret::new("amqp://relay:secret@localhost"), ..BrokerConfig::default() };
    /// let outbox = OutboxConfig::new("product", "sqlite:///var/lib/product.db");
    /// let relay = Relay::new([outbox], config.rabbitmq()?, config.unrouted)?;
    /// assert_eq!(relay.statuses().len(), 1);
    ///
    /// let wrong = BrokerConfig { url: Secret::new("http://localhost"), ..config };
    /// assert_eq!(wrong.rabbitmq().unwrap_err().kind(), outbox_core::ErrorKind::Invalid);
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
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
            .discard(&self.discard)
            .declare(self.declare)
            .connection_name("outbox-relay"))
    }
}
