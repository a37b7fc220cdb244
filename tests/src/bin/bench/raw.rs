//! The bare optimum of publishing: lapin alone, all publishes of a window polled from one task.

use std::time::Instant;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

use crate::{Failure, Size};

/// The knee of the curve; larger windows bring nothing.
const WINDOW: usize = 1024;

/// Messages a second of persistent, mandatory, confirmed messages to a quorum queue.
pub(crate) async fn publish_rate(url: &str, size: Size) -> Result<f64, Failure> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("bench.raw".into(), durable, arguments).await?;

    let body = vec![b'x'; size.payload_bytes];
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("0192e4a0-0000-7000-8000-000000000001".into());
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let started = Instant::now();
    let mut left = size.rows;
    while left > 0 {
        let count = left.min(WINDOW);
        let sends = (0..count).map(|_| {
            channel.basic_publish("".into(), "bench.raw".into(), options, &body, properties.clone())
        });
        let confirms = futures::future::try_join_all(sends).await?;
        for confirmation in futures::future::try_join_all(confirms).await? {
            if !matches!(confirmation, Confirmation::Ack(None)) {
                return Err("the broker did not confirm a message of the baseline".into());
            }
        }
        left -= count;
    }
    let rate = size.rows as f64 / started.elapsed().as_secs_f64();
    channel.queue_delete("bench.raw".into(), QueueDeleteOptions::default()).await?;
    connection.close(200, "done".into()).await?;
    Ok(rate)
}
