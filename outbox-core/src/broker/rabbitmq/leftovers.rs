//! How many messages wait in RabbitMQ where nobody reads. Looks only.

use std::fmt;
use std::time::Duration;

use super::failure;
use super::link::Link;
use super::topology::{Names, Part};
use crate::error::{Error, ErrorKind, Result};

/// The reply code of RabbitMQ for a queue that does not exist.
const NOT_FOUND: u16 = 404;

/// A connection that looks how many messages wait where nobody reads; see
/// [`RabbitMq::leftovers`](super::RabbitMq::leftovers). After an error make a new one.
///
/// ```no_run
/// # use std::time::Duration;
/// # use outbox_core::broker::rabbitmq::RabbitMq;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// let leftovers = RabbitMq::new("amqp://localhost")?.leftovers().await?;
/// for _ in 0..60 {
///     let counts = leftovers.look().await?;
///     if counts.dead.is_some_and(|dead| dead > 0) {
///         println!("{counts:?}: a subscriber does not acknowledge what it gets");
///     }
///     tokio::time::sleep(Duration::from_secs(60)).await;
/// }
/// leftovers.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Leftovers {
    link: Link,
    names: Names,
    parts: Vec<Part>,
    timeout: Duration,
}

/// So many messages wait where nobody reads. `None` where there is no such queue.
///
/// ```
/// use outbox_core::broker::rabbitmq::LeftoverCounts;
///
/// /// Whether somebody has to look at RabbitMQ.
/// fn is_alarming(counts: LeftoverCounts) -> bool {
///     [counts.unrouted, counts.dead].into_iter().flatten().any(|count| count > 0)
/// }
///
/// assert!(!is_alarming(LeftoverCounts::default()), "no such queues");
/// assert!(is_alarming(LeftoverCounts { unrouted: Some(0), dead: Some(3) }));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftoverCounts {
    /// No queue was bound for them.
    pub unrouted: Option<u64>,
    /// A subscriber got them again and again and never acknowledged them.
    pub dead: Option<u64>,
}

impl Leftovers {
    pub(super) fn on(link: Link, names: Names, parts: Vec<Part>, timeout: Duration) -> Self {
        Self { link, names, parts, timeout }
    }

    /// How many there are now.
    ///
    /// # Errors
    /// `Outage` when RabbitMQ cannot be reached any more, `Broker` when it refuses the question.
    pub async fn look(&self) -> Result<LeftoverCounts> {
        tokio::time::timeout(self.timeout, self.counts()).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Outage,
                format!("looking at queues: no answer within {:?}", self.timeout),
            ))
        })
    }

    async fn counts(&self) -> Result<LeftoverCounts> {
        let mut counts = LeftoverCounts::default();
        for part in &self.parts {
            let Part::Queue { name, .. } = part else { continue };
            // An answer that there is none also closes the channel.
            let channel = self.link.channel().await?;
            let waiting = match part.look(&channel).await {
                Ok(waiting) => Some(u64::from(waiting)),
                Err(error) if failure::code(&error) == Some(NOT_FOUND) => None,
                Err(error) => return Err(part.missing(&self.link, &error)),
            };
            if waiting.is_some() {
                let closed = channel.close(200, "OK".into()).await;
                closed.map_err(|error| self.link.failure(&error, "closing a channel"))?;
            }
            if *name == self.names.unrouted {
                counts.unrouted = waiting;
            } else {
                counts.dead = waiting;
            }
        }
        Ok(counts)
    }

    /// Ends the connection as the protocol wants it.
    pub async fn close(self) {
        self.link.close().await;
    }
}

impl fmt::Debug for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leftovers").field("exchange", &self.names.exchange.as_str()).finish_non_exhaustive()
    }
}
