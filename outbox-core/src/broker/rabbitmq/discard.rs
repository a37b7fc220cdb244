//! Messages that may be lost where no queue wants them: the publisher's connection has a queue of its own that takes
//! them and keeps none, so RabbitMQ counts them as routed. It goes with the connection, and leaves nothing behind.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use uuid::Uuid;

use super::link::Link;
use super::topology::{Names, Part};
use crate::error::{Error, Result};

/// What an aggregate's routing keys begin with; `None` where it cannot be an aggregate's name.
fn pattern(aggregate: &str) -> Option<ShortString> {
    let is_name = !aggregate.is_empty() && !aggregate.contains(['.', '*', '#']);
    ShortString::try_new(format!("{aggregate}.#")).ok().filter(|_| is_name)
}

/// Has everything of these aggregates count as wanted from now on, until the link ends.
pub(super) async fn begin(link: &Link, names: &Names, aggregates: &[String]) -> Result<()> {
    if aggregates.is_empty() {
        return Ok(());
    }
    let name = ShortString::from(format!("{}.discard.{}", names.exchange, Uuid::now_v7().simple()));
    let channel = link.channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declared = channel.queue_declare(name.clone(), options, arguments).await;
    declared.map_err(|e| link.failure(&e, &format!("declaring queue {name}, which discards")))?;
    for aggregate in aggregates {
        let Some(pattern) = pattern(aggregate) else {
            return Err(Error::invalid(format!(
                "discard: {aggregate:?} is no aggregate: give its name, 1 to 200 bytes without a dot, * and #"
            )));
        };
        let (queue, exchange) = (name.clone(), names.exchange.clone());
        Part::Binding { queue, exchange, pattern }.declare(link, &channel).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_aggregate_is_discarded() {
        assert_eq!(pattern("audit").unwrap().as_str(), "audit.#");
        for wrong in ["", "#", "*", "audit.created", &"a".repeat(254)] {
            assert!(pattern(wrong).is_none(), "{wrong}");
        }
    }
}
