//! The bare optimum of publishing: lapin alone, all publishes of a window polled from one task; and of consuming: lapin
//! alone, acknowledged in the batches of a subscriber.
//!
//! Straight to a queue it is what a broker can take at all; through a topic exchange and with the headers of a
//! message it is what a service without an outbox would reach with the same messages.

use std::time::Instant;

use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};

use crate::{Failure, Size};

/// The knee of the curve; larger windows bring nothing.
const WINDOW: usize = 1024;

/// How the messages go to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// By the default exchange, without headers.
    Straight,
    /// By a topic exchange, with the headers that the relay's messages have.
    Topic,
}

/// The headers of a message of the relay's.
const HEADERS: [(&str, &str); 7] = [
    ("outbox-source", "bench"),
    ("outbox-id", "123456"),
    ("outbox-generation", "1"),
    ("outbox-key", "12345"),
    ("outbox-bucket", "12"),
    ("outbox-format", "1"),
    ("outbox-time", "1795400234393000"),
];

/// Messages a second of persistent, mandatory, confirmed messages to a quorum queue.
pub(crate) async fn publish_rate(url: &str, size: Size, route: Route) -> Result<f64, Failure> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    declare(&channel, route).await?;
    let started = Instant::now();
    publish(&channel, size, route).await?;
    let rate = size.rows as f64 / started.elapsed().as_secs_f64();
    delete(&channel, route).await?;
    connection.close(200, "done".into()).await?;
    Ok(rate)
}

/// Messages a second that come from a quorum queue and are acknowledged, `batch` at once, and nothing else.
pub(crate) async fn consume_rate(url: &str, size: Size, batch: usize) -> Result<f64, Failure> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    declare(&channel, Route::Topic).await?;
    publish(&channel, size, Route::Topic).await?;
    let window = u16::try_from(4 * batch)?;
    channel.basic_qos(window, BasicQosOptions::default()).await?;
    let started = Instant::now();
    let consume = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("bench.raw".into(), "".into(), consume, FieldTable::default()).await?;
    for number in 1..=size.rows {
        let delivery = consumer.next().await.ok_or("the baseline's consumer was cancelled")??;
        if number % batch == 0 || number == size.rows {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    let rate = size.rows as f64 / started.elapsed().as_secs_f64();
    delete(&channel, Route::Topic).await?;
    connection.close(200, "done".into()).await?;
    Ok(rate)
}

async fn declare(channel: &Channel, route: Route) -> Result<(), Failure> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("bench.raw".into(), durable, arguments).await?;
    if route == Route::Topic {
        let none = FieldTable::default;
        let declare = ExchangeDeclareOptions::default();
        channel.exchange_declare("bench.topic".into(), ExchangeKind::Topic, declare, none()).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind("bench.raw".into(), "bench.topic".into(), "bench.#".into(), bind, none()).await?;
    }
    Ok(())
}

async fn publish(channel: &Channel, size: Size, route: Route) -> Result<(), Failure> {
    let mut headers = FieldTable::default();
    let (exchange, key) = match route {
        Route::Straight => ("", "bench.raw"),
        Route::Topic => {
            for (name, value) in HEADERS {
                headers.insert(name.into(), AMQPValue::LongString(value.into()));
            }
            ("bench.topic", "bench.updated.07")
        }
    };
    let body = vec![b'x'; size.payload_bytes];
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(headers)
        .with_message_id("0192e4a0-0000-7000-8000-000000000001".into());
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let mut left = size.rows;
    while left > 0 {
        let count = left.min(WINDOW);
        let sends = (0..count)
            .map(|_| channel.basic_publish(exchange.into(), key.into(), options, &body, properties.clone()));
        let confirms = futures::future::try_join_all(sends).await?;
        for confirmation in futures::future::try_join_all(confirms).await? {
            if !matches!(confirmation, Confirmation::Ack(None)) {
                return Err("the broker did not confirm a message of the baseline".into());
            }
        }
        left -= count;
    }
    Ok(())
}

async fn delete(channel: &Channel, route: Route) -> Result<(), Failure> {
    channel.queue_delete("bench.raw".into(), QueueDeleteOptions::default()).await?;
    if route == Route::Topic {
        channel.exchange_delete("bench.topic".into(), ExchangeDeleteOptions::default()).await?;
    }
    Ok(())
}
