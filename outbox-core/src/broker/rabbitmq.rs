//! RabbitMQ, 3.10 or later, over AMQP 0-9-1.
//!
//! With an exchange named `outbox`, which is the default, there are: the topic exchange `outbox`;
//! `outbox.dead`, exchange and queue, for what was delivered 50 times and never acknowledged; and
//! `outbox.unrouted`, exchange and queue, for what no subscriber has bound a queue for. All queues are
//! quorum queues. Whoever comes first, relay or subscriber, declares all of it, a subscriber also its own
//! queue, so both need the same settings here.
//!
//! Publishers and consumers have a connection each, because RabbitMQ stops reading from connections that
//! publish when its memory or disk runs low. None of them recovers on its own.
//!
//! The log target `lapin::returned_messages` writes each message that RabbitMQ returns, *with its payload*,
//! at level `WARN`. Set it to `off` in every binary.

mod address;
mod conflict;
mod consumer;
mod discard;
mod failure;
mod leftovers;
mod link;
mod publisher;
mod tls;
mod topology;
mod version;

use std::time::Duration;

use address::Address;
pub use consumer::RabbitMqConsumer;
pub use leftovers::{LeftoverCounts, Leftovers};
use link::{Alarm, Link};
pub use publisher::RabbitMqPublisher;
use tls::Trust;
use topology::{Names, Part};

use crate::broker::{Broker, Queue};
use crate::error::{Error, ErrorKind, Result};

/// How to reach RabbitMQ and what to find there.
///
/// ```
/// use outbox_core::broker::rabbitmq::{RabbitMq, Unrouted};
///
/// let broker = RabbitMq::new("amqp://guest:guest@localhost:5672/%2f")?
///     .exchange("shop")
///     .unrouted(Unrouted::Refuse);
/// assert!(!format!("{broker:?}").contains("guest:guest"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// For a user that may create nothing, with a certificate in place of a password:
///
/// ```
/// use std::time::Duration;
/// use outbox_core::broker::rabbitmq::{Auth, RabbitMq};
/// use outbox_core::tls::Tls;
///
/// let broker = RabbitMq::new("amqps://rabbit.shop.example/shop")?
///     .tls(Tls::new().client_certificate("/etc/order/order.pem", "/etc/order/order.key"))
///     .auth(Auth::External)
///     .declare(false)
///     .discard(["audit"])
///     .connection_name("order")
///     .timeout(Duration::from_secs(5));
/// let shown = format!("{broker:?}");
/// assert!(shown.contains("declare: false") && shown.contains("timeout: 5s") && shown.contains("order.pem"));
/// assert!(shown.contains(r#"discard: ["audit"]"#) && shown.contains(r#"connection_name: "order""#));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RabbitMq {
    address: Address,
    trust: Trust,
    exchange: String,
    unrouted: Unrouted,
    discard: Vec<String>,
    declare: bool,
    connection_name: String,
    timeout: Duration,
    alarm: Alarm,
}

/// What becomes of a message that no queue is bound for.
///
/// ```no_run
/// use outbox_core::broker::rabbitmq::{RabbitMq, Unrouted};
/// use outbox_core::broker::{Broker, Confirm, Publisher};
/// # use outbox_core::{Message, Recorded, Version};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// # let message = Message::new("product", "7", "sold", b"2".to_vec())?;
/// # let version = Version { generation: 1, id: 1 };
/// # let recorded_at = chrono::Utc::now();
/// # let frame = Recorded { message, source: "product".into(), version, recorded_at }.to_frame();
/// let broker = RabbitMq::new("amqp://localhost")?.exchange("unrouted-test");
/// let confirms = broker.publisher().await?.publish(std::slice::from_ref(&frame)).await?;
/// assert_eq!(confirms, [Confirm::Confirmed], "it is in the queue `unrouted-test.unrouted`");
///
/// let broker = RabbitMq::new("amqp://localhost")?.exchange("refuse-test").unrouted(Unrouted::Refuse);
/// let confirms = broker.publisher().await?.publish(&[frame]).await?;
/// assert!(matches!(confirms[0], Confirm::Returned(_)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unrouted {
    /// It goes to the queue `{exchange}.unrouted` and counts as confirmed. `Returned` then means that this
    /// queue is missing.
    #[default]
    Queue,
    /// It is `Returned`.
    Refuse,
}

/// How RabbitMQ is told who we are.
///
/// ```no_run
/// use outbox_core::broker::rabbitmq::{Auth, RabbitMq};
/// use outbox_core::tls::Tls;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// let tls = Tls::new().client_certificate("/etc/order/order.pem", "/etc/order/order.key");
/// let broker = RabbitMq::new("amqps://rabbit.shop.example/shop")?.tls(tls).auth(Auth::External);
/// // RabbitMQ knows us by the name in `order.pem`; by default it would be `guest` with its password.
/// assert!(broker.check().await?.is_empty());
/// assert_eq!(Auth::default(), Auth::Plain);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Auth {
    /// By the user and the password in the URL.
    #[default]
    Plain,
    /// By the client certificate, without a password (SASL EXTERNAL). RabbitMQ needs its plugin
    /// `rabbitmq_auth_mechanism_ssl` for it, and takes the user's name from the certificate.
    External,
}

impl RabbitMq {
    /// RabbitMQ at `amqp://user:password@host:port/vhost`, with `guest`, `guest`, `localhost`, 5672 and `/`
    /// for what is left out; `?heartbeat=` in seconds, 10 if left out. `amqps://` is TLS, by default on port
    /// 5671, and verifies the server's certificate and name against the system's roots; `RabbitMq::tls`
    /// changes that. Connects to nothing yet.
    ///
    /// ```
    /// use outbox_core::{ErrorKind, broker::rabbitmq::RabbitMq};
    ///
    /// let broker = RabbitMq::new("amqps://ann:secret@rabbit")?;
    /// assert!(format!("{broker:?}").contains("amqps://ann:***@rabbit:5671//"));
    /// let error = RabbitMq::new("http://ann:secret@rabbit").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// assert!(!error.to_string().contains("secret"));
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` when it is no such URL, or `amqps://` in a build without feature `tls`. The text never holds
    /// the password.
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self {
            address: Address::parse(url)?,
            trust: Trust::default(),
            exchange: "outbox".to_owned(),
            unrouted: Unrouted::default(),
            discard: Vec::new(),
            declare: true,
            connection_name: "outbox".to_owned(),
            timeout: Duration::from_secs(30),
            alarm: Alarm::default(),
        })
    }

    /// Whom an `amqps://` connection trusts, and the client certificate that it shows; default is the system's
    /// roots and none.
    ///
    /// ```
    /// use outbox_core::{ErrorKind, broker::rabbitmq::RabbitMq, tls::Tls};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let broker = RabbitMq::new("amqps://rabbit.shop.example")?.tls(Tls::new().ca("/nowhere/ca.pem"));
    /// // The file is read when it connects, before anything else.
    /// let error = broker.check().await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// assert!(error.to_string().contains("/nowhere/ca.pem"));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: crate::tls::Tls) -> Self {
        self.trust = Trust::from(tls);
        self
    }

    /// How RabbitMQ is told who we are; default [`Auth::Plain`].
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.address.set_external(auth == Auth::External);
        self
    }

    /// The exchange that is published to, from whose name all others follow; default `outbox`. A name that
    /// RabbitMQ cannot have is found when connecting.
    ///
    /// ```
    /// use outbox_core::{ErrorKind, broker::rabbitmq::RabbitMq};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let broker = RabbitMq::new("amqp://localhost")?.exchange("amq.topic");
    /// assert_eq!(broker.check().await.unwrap_err().kind(), ErrorKind::Invalid, "RabbitMQ's own");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn exchange(mut self, name: impl Into<String>) -> Self {
        self.exchange = name.into();
        self
    }

    /// What becomes of a message that no queue is bound for; default [`Unrouted::Queue`].
    #[must_use]
    pub fn unrouted(mut self, unrouted: Unrouted) -> Self {
        self.unrouted = unrouted;
        self
    }

    /// Aggregates whose messages are lost where no queue is bound for them, and count as confirmed, whatever
    /// [`RabbitMq::unrouted`] says; default none. Publishers alone look at it: each has a queue of its own for it,
    /// `{exchange}.discard.*`, exclusive and always empty, so the user needs the permissions `configure` and
    /// `write` for that name and `read` for the exchange.
    #[must_use]
    pub fn discard(mut self, aggregates: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.discard = aggregates.into_iter().map(Into::into).collect();
        self
    }

    /// Whether exchanges, queues and bindings are created if missing (the default), or only looked for;
    /// bindings cannot be looked for. What is there must have the arguments with which it would be created, as
    /// far as the user may ask (permission `configure`) and a policy cannot have set them.
    #[must_use]
    pub fn declare(mut self, declare: bool) -> Self {
        self.declare = declare;
        self
    }

    /// What RabbitMQ's tools show for the connections; default `outbox`. The role is put behind it.
    #[must_use]
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.connection_name = name.into();
        self
    }

    /// The longest that connecting, one call of `publish` or one acknowledgement may take; default 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Looks whether a relay will find in RabbitMQ what it needs, and returns what is wrong, each with what
    /// helps; empty if nothing is. Creates and changes nothing.
    ///
    /// With [`RabbitMq::declare`] on, what is missing is not reported: the relay will create it.
    ///
    /// ```no_run
    /// # use outbox_core::broker::rabbitmq::RabbitMq;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let broker = RabbitMq::new("amqp://localhost")?.declare(false);
    /// let findings = broker.check().await?;
    /// assert!(findings.is_empty(), "RabbitMQ is not ready for us:\n{}", findings.join("\n"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Outage` when RabbitMQ cannot be reached, `Broker` when it refuses the user or one side the other's
    /// certificate, `Invalid` when the exchange's name cannot be or a file for TLS is of no use.
    pub async fn check(&self) -> Result<Vec<String>> {
        let names = Names::of(&self.exchange)?;
        self.within_timeout("checking", async {
            let link = self.link("check").await?;
            let version = version::of(&self.address, &self.trust, self.timeout).await?;
            let mut findings = Vec::from_iter(version::objection(&version, &self.address));
            for part in names.parts(self.unrouted) {
                // An answer that something is wrong also closes the channel.
                let channel = link.channel().await?;
                let result = match part.look(&channel).await {
                    Err(error) if self.declare && failure::code(&error) == Some(404) => Ok(()),
                    Err(error) => Err(part.missing(&link, &error)),
                    Ok(waiting) => {
                        findings.extend(left_over(&part, &names, waiting));
                        // It is there, so declaring it only compares its arguments.
                        match part {
                            Part::Binding { .. } => Ok(()),
                            _ if self.declare => part.declare(&link, &channel).await,
                            _ => part.compare(&link, &channel).await.map(drop),
                        }
                    }
                };
                match result {
                    Ok(()) => {}
                    Err(error) if error.is_outage() => return Err(error),
                    Err(error) => findings.push(error.to_string()),
                }
            }
            link.close().await;
            Ok(findings)
        })
        .await
    }

    /// The product and its version, as the server tells them before a log-in: `RabbitMQ 3.10.8`.
    ///
    /// ```no_run
    /// # use outbox_core::broker::rabbitmq::RabbitMq;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// // No user needs to be there for it.
    /// let version = RabbitMq::new("amqp://nobody:nothing@localhost")?.version().await?;
    /// assert!(version.starts_with("RabbitMQ "));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`RabbitMq::check`]; never for the user.
    pub async fn version(&self) -> Result<String> {
        version::of(&self.address, &self.trust, self.timeout).await
    }

    /// A connection that looks how many messages wait where nobody reads, in `{exchange}.unrouted` and
    /// `{exchange}.dead`; it needs no permissions there.
    ///
    /// # Errors
    /// As [`RabbitMq::check`].
    pub async fn leftovers(&self) -> Result<Leftovers> {
        let names = Names::of(&self.exchange)?;
        let parts = names.parts(self.unrouted);
        Ok(Leftovers::on(self.link("watch").await?, names, parts, self.timeout))
    }

    /// Deletes these subscribers' queues, the exchange and what hangs on it, *with every message in them*:
    /// for tests and trial runs, whose names nobody else uses.
    ///
    /// ```no_run
    /// # use outbox_core::broker::rabbitmq::RabbitMq;
    /// # use outbox_core::{Subscriber, testing::memory_pool};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
    /// let broker = RabbitMq::new("amqp://localhost")?.exchange("trial");
    /// let orders = Subscriber::new("trial-order", broker.clone(), memory_pool())
    ///     .on("product.sold", |_, _: u32| Ok(()))
    ///     .queues(2);
    /// orders.declare().await?;
    /// broker.remove(&["trial-order.0".into(), "trial-order.1".into()]).await?;
    /// assert!(!broker.clone().declare(false).check().await?.is_empty(), "all of it is missing");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`RabbitMq::check`].
    pub async fn remove(&self, queues: &[String]) -> Result<()> {
        let names = Names::of(&self.exchange)?;
        let mut parts = names.parts(self.unrouted);
        for name in queues {
            let queue = Queue { name: name.clone(), bindings: Vec::new(), prefetch: 1 };
            parts.extend(names.queue(&queue)?);
        }
        self.within_timeout("removing", async {
            let link = self.link("remove").await?;
            let channel = link.channel().await?;
            for part in parts.iter().rev() {
                part.delete(&link, &channel).await?;
            }
            link.close().await;
            Ok(())
        })
        .await
    }

    async fn link(&self, role: &str) -> Result<Link> {
        let name = format!("{} {role}", self.connection_name);
        Link::connect(&self.address, &self.trust, &name, self.timeout, &self.alarm).await
    }

    async fn consumer_link(&self, queue: &str) -> Result<Link> {
        self.link(&format!("consumer of {queue}")).await
    }

    /// Declares the parts, or looks for them and compares what is there.
    async fn establish(&self, link: &Link, parts: &[Part]) -> Result<()> {
        let channel = link.channel().await?;
        let mut may_compare = true;
        for part in parts {
            if self.declare {
                part.declare(link, &channel).await?;
            } else {
                part.require(link, &channel).await?;
                // On a channel of its own, which a refusal closes; once refused, each further try is a line in
                // RabbitMQ's log.
                may_compare = may_compare && part.compare(link, &link.channel().await?).await?;
            }
        }
        Ok(())
    }

    async fn within_timeout<T>(&self, doing: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            let text =
                format!("{doing}: no answer from RabbitMQ at {} within {:?}", self.address, self.timeout);
            Err(Error::new(ErrorKind::Outage, text))
        })
    }
}

/// The finding that a queue for leftovers is not empty.
fn left_over(part: &Part, names: &Names, waiting: u32) -> Option<String> {
    let Part::Queue { name, .. } = part else { return None };
    match waiting {
        0 => None,
        _ if *name == names.unrouted => Some(format!(
            "queue {name} holds {waiting} messages that no queue was bound for: start the subscriber that wants them, \
             move them to its queue, or purge them"
        )),
        _ => Some(format!(
            "queue {name} holds {waiting} messages that a subscriber got again and again and never acknowledged: see \
             header x-death for the queue, correct the subscriber, then move them back, or purge them"
        )),
    }
}

/// So many of the largest messages fit into what a queue's deliveries may take. RabbitMQ bounds deliveries by their
/// number only.
const FIRST_FILL: u16 = 4;

impl Broker for RabbitMq {
    type Publisher = RabbitMqPublisher;
    type Consumer = RabbitMqConsumer;

    /// # Errors
    /// `Outage` when RabbitMQ cannot be reached or is not ready; `Broker`, with what helps, when it refuses the
    /// user, one side refuses the other's certificate, or something is missing or has other arguments; `Invalid`
    /// when the exchange's name cannot be or a file for TLS is of no use.
    async fn publisher(&self) -> Result<RabbitMqPublisher> {
        let names = Names::of(&self.exchange)?;
        self.within_timeout("opening a publisher", async {
            let link = self.link("publisher").await?;
            self.establish(&link, &names.parts(self.unrouted)).await?;
            discard::begin(&link, &names, &self.discard).await?;
            RabbitMqPublisher::open(link, names.exchange, self.timeout).await
        })
        .await
    }

    fn first_fill(&self) -> u16 {
        FIRST_FILL
    }

    /// # Errors
    /// As [`Broker::publisher`]; `Invalid` also for a queue's name or binding that cannot be.
    async fn consumer(&self, queue: &Queue) -> Result<RabbitMqConsumer> {
        let names = Names::of(&self.exchange)?;
        // All of it: a subscriber may start before the relay, and its queue needs where dead letters go.
        let mut parts = names.parts(self.unrouted);
        parts.extend(names.queue(queue)?);
        self.within_timeout("opening a consumer", async {
            let link = self.consumer_link(&queue.name).await?;
            self.establish(&link, &parts).await?;
            RabbitMqConsumer::open(self.clone(), link, queue).await
        })
        .await
    }

    async fn depth(&self, queue: &Queue) -> Result<Option<u64>> {
        let parts = Names::of(&self.exchange)?.queue(queue)?;
        self.within_timeout("looking at a queue", async {
            let link = self.link("check").await?;
            let channel = link.channel().await?;
            let mut depth = 0;
            for part in parts.iter().filter(|part| matches!(part, Part::Queue { .. })) {
                depth += part.look(&channel).await.map_err(|e| part.missing(&link, &e))?;
            }
            link.close().await;
            Ok(Some(u64::from(depth)))
        })
        .await
    }
}
