//! Exchanges and queues: what there has to be, how it is declared and how it is looked for.

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::conflict::Conflict;
use super::link::Link;
use super::{Unrouted, failure};
use crate::broker::Queue;
use crate::error::{Error, Result};

/// The longest exchange name in bytes: leaves room for `.unrouted` and `.dead` in an AMQP short string.
const EXCHANGE_BYTES_MAX: usize = 200;
/// After how many returns to its queue a message goes to the dead-letter exchange. Each crash of a
/// consumer counts for all that it held, so this is a safety net, far above the returns after which a
/// subscriber takes a message out of its queue.
const DELIVERY_LIMIT: i32 = 50;
/// AMQP's reply code for a missing permission.
const ACCESS_REFUSED: u16 = 403;

/// Something in RabbitMQ.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// A durable exchange.
    Exchange { name: ShortString, kind: ExchangeKind, arguments: FieldTable },
    /// A durable quorum queue.
    Queue { name: ShortString, arguments: FieldTable },
    /// A queue's binding to an exchange.
    Binding { queue: ShortString, exchange: ShortString, pattern: ShortString },
}

impl Part {
    /// What it is, for error texts.
    fn describe(&self) -> String {
        match self {
            Self::Exchange { name, .. } => format!("exchange {name}"),
            Self::Queue { name, .. } => format!("queue {name}"),
            Self::Binding { queue, exchange, pattern } => {
                format!("the binding of queue {queue} to exchange {exchange} for {pattern}")
            }
        }
    }

    /// Creates it, or finds it there with the same arguments.
    pub(super) async fn declare(&self, link: &Link, channel: &Channel) -> Result<()> {
        let done = self.create(channel).await;
        done.map_err(|e| link.failure(&e, &format!("declaring {}", self.describe())))
    }

    /// Compares what is there with what would be created; whether the user may. To be called after
    /// [`Part::look`] found it: AMQP compares only where it would also create. After a refusal the channel is
    /// closed.
    pub(super) async fn compare(&self, link: &Link, channel: &Channel) -> Result<bool> {
        match self.create(channel).await {
            Ok(()) => Ok(true),
            Err(error) if failure::code(&error) == Some(ACCESS_REFUSED) => Ok(false),
            Err(error)
                if Conflict::of(&failure::text(&error)).is_some_and(|found| found.may_be_by_policy()) =>
            {
                Ok(true)
            }
            Err(error) => Err(link.failure(&error, &format!("comparing {}", self.describe()))),
        }
    }

    async fn create(&self, channel: &Channel) -> lapin::Result<()> {
        match self.clone() {
            Self::Exchange { name, kind, arguments } => {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                channel.exchange_declare(name, kind, options, arguments).await
            }
            Self::Queue { name, arguments } => {
                let options = QueueDeclareOptions { durable: true, ..Default::default() };
                channel.queue_declare(name, options, arguments).await.map(drop)
            }
            Self::Binding { queue, exchange, pattern } => {
                let options = QueueBindOptions::default();
                channel.queue_bind(queue, exchange, pattern, options, FieldTable::default()).await
            }
        }
    }

    /// Looks whether it is there, whatever its arguments, and changes nothing; a binding cannot be looked
    /// for. Says how many messages are ready in a queue. After an error the channel is closed.
    pub(super) async fn look(&self, channel: &Channel) -> lapin::Result<u32> {
        match self.clone() {
            Self::Exchange { name, kind, .. } => {
                let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
                channel.exchange_declare(name, kind, options, FieldTable::default()).await.map(|()| 0)
            }
            Self::Queue { name, .. } => {
                let options = QueueDeclareOptions { passive: true, ..Default::default() };
                channel.queue_declare(name, options, FieldTable::default()).await.map(|q| q.message_count())
            }
            Self::Binding { .. } => Ok(0),
        }
    }

    /// Deletes it with all that it holds; what is not there is as good as deleted.
    pub(super) async fn delete(&self, link: &Link, channel: &Channel) -> Result<()> {
        let done = match self.clone() {
            Self::Exchange { name, .. } => {
                channel.exchange_delete(name, ExchangeDeleteOptions::default()).await
            }
            Self::Queue { name, .. } => {
                channel.queue_delete(name, QueueDeleteOptions::default()).await.map(drop)
            }
            Self::Binding { .. } => Ok(()),
        };
        done.map_err(|e| link.failure(&e, &format!("deleting {}", self.describe())))
    }

    /// [`Part::look`] for those who only want to know that it is there.
    pub(super) async fn require(&self, link: &Link, channel: &Channel) -> Result<()> {
        match self.look(channel).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.missing(link, &error)),
        }
    }

    /// The error of [`Part::look`].
    pub(super) fn missing(&self, link: &Link, error: &lapin::Error) -> Error {
        link.failure(error, &format!("looking for {}", self.describe()))
    }
}

/// The names that follow from the exchange's.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// What is published to.
    pub(super) exchange: ShortString,
    /// Exchange and queue of what no queue wants.
    pub(super) unrouted: ShortString,
    /// Exchange and queue of what was delivered too often.
    pub(super) dead: ShortString,
}

impl Names {
    /// # Errors
    /// `Invalid` when RabbitMQ cannot have an exchange of that name.
    pub(super) fn of(exchange: &str) -> Result<Self> {
        let well_formed = (1..=EXCHANGE_BYTES_MAX).contains(&exchange.len())
            && exchange.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if !well_formed || exchange.starts_with("amq.") {
            return Err(Error::invalid(format!(
                "exchange name {exchange:?}: use 1 to {EXCHANGE_BYTES_MAX} of [A-Za-z0-9_.:-], and not amq.*, which \
                 is RabbitMQ's own"
            )));
        }
        Ok(Self {
            exchange: exchange.into(),
            unrouted: format!("{exchange}.unrouted").into(),
            dead: format!("{exchange}.dead").into(),
        })
    }

    /// What a relay publishes to and what a subscriber's queues need. What takes the leftovers comes
    /// first, so that from the beginning nothing falls through.
    pub(super) fn parts(&self, unrouted: Unrouted) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut arguments = FieldTable::default();
        if unrouted == Unrouted::Queue {
            parts.extend(collector(&self.unrouted));
            arguments.insert("alternate-exchange".into(), text(&self.unrouted));
        }
        parts.extend(collector(&self.dead));
        parts.push(Part::Exchange { name: self.exchange.clone(), kind: ExchangeKind::Topic, arguments });
        parts
    }

    /// A subscriber's queue with its bindings.
    ///
    /// No length limit: with one, a single full queue would have its messages refused for all queues.
    ///
    /// # Errors
    /// `Invalid` when a name or pattern is empty or longer than 255 bytes.
    pub(super) fn queue(&self, queue: &Queue) -> Result<Vec<Part>> {
        let name = short("queue name", &queue.name)?;
        let mut arguments = quorum();
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        arguments.insert("x-dead-letter-exchange".into(), text(&self.dead));
        // The default strategy may lose a message on its way; this one wants `reject-publish`, which
        // without a length limit never rejects.
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        let mut parts = vec![Part::Queue { name: name.clone(), arguments }];
        for pattern in &queue.bindings {
            parts.push(Part::Binding {
                queue: name.clone(),
                exchange: self.exchange.clone(),
                pattern: short("binding", pattern)?,
            });
        }
        Ok(parts)
    }
}

/// An exchange that sends all it gets to a queue of the same name: messages come with the routing keys of
/// the exchange they failed at, so it must not look at them.
fn collector(name: &ShortString) -> [Part; 3] {
    [
        Part::Exchange { name: name.clone(), kind: ExchangeKind::Fanout, arguments: FieldTable::default() },
        Part::Queue { name: name.clone(), arguments: quorum() },
        Part::Binding { queue: name.clone(), exchange: name.clone(), pattern: ShortString::default() },
    ]
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

fn text(value: impl ToString) -> AMQPValue {
    AMQPValue::LongString(value.to_string().into())
}

/// An AMQP short string; lapin panics where one is too long.
fn short(what: &str, value: &str) -> Result<ShortString> {
    match ShortString::try_new(value) {
        Ok(short) if !value.is_empty() => Ok(short),
        _ => Err(Error::invalid(format!("{what} {value:?}: use 1 to 255 bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["", "amq.topic", "a b", &"e".repeat(201)] {
            assert!(Names::of(name).is_err(), "{name}");
        }
        let names = Names::of("shop").unwrap();
        assert_eq!((names.unrouted.as_str(), names.dead.as_str()), ("shop.unrouted", "shop.dead"));
        let queue = |name: &str, binding: &str| Queue {
            name: name.into(),
            bindings: vec![binding.into()],
            prefetch: 1,
        };
        assert!(names.queue(&queue("", "#")).is_err());
        assert!(names.queue(&queue("q", &"b".repeat(256))).is_err());
        assert_eq!(names.queue(&queue("q", "#")).unwrap().len(), 2);
    }

    #[test]
    fn refuse_has_no_alternate_exchange() {
        let names = Names::of("shop").unwrap();
        assert_eq!(names.parts(Unrouted::Queue).len(), 7);
        let parts = names.parts(Unrouted::Refuse);
        assert_eq!(parts.len(), 4);
        let Some(Part::Exchange { arguments, .. }) = parts.last() else { panic!("{parts:?}") };
        assert_eq!(arguments, &FieldTable::default());
    }
}
