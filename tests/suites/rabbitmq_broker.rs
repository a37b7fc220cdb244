//! `outbox_core::broker::rabbitmq` against a running RabbitMQ. Each test has an exchange and queues of its
//! own and removes them at the end.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use outbox_core::broker::rabbitmq::{LeftoverCounts, RabbitMq, RabbitMqPublisher, Unrouted};
use outbox_core::broker::{Broker, Confirm, Consumer, Delivery, Publisher, Queue};
use outbox_core::{ErrorKind, Frame, Headers, MessageId};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const NOTHING_COMES: Duration = Duration::from_millis(400);

fn url() -> String {
    std::env::var("OUTBOX_TEST_AMQP_URL").expect("OUTBOX_TEST_AMQP_URL is not set; run `cargo lab test`")
}

/// One test's exchange and queues.
struct Place {
    exchange: String,
    broker: RabbitMq,
}

impl Place {
    fn new(test: &str) -> Self {
        let exchange = format!("test-{test}-{}", MessageId::now());
        let broker = RabbitMq::new(&url()).unwrap().exchange(&exchange).timeout(SOON);
        Self { exchange, broker }
    }

    fn refusing(test: &str) -> Self {
        let place = Self::new(test);
        Self { broker: place.broker.unrouted(Unrouted::Refuse), ..place }
    }

    fn queue(&self, binding: &str) -> Queue {
        Queue { name: format!("{}.0", self.exchange), bindings: vec![binding.to_owned()], prefetch: 300 }
    }

    /// A channel of another client's.
    async fn channel(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    async fn waiting(&self, queue: &str) -> u32 {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    async fn remove(self) {
        let (connection, channel) = self.channel().await;
        for suffix in ["", ".unrouted", ".dead"] {
            let name = format!("{}{suffix}", self.exchange);
            channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
        for suffix in [".0", ".unrouted", ".dead"] {
            let name = format!("{}{suffix}", self.exchange);
            channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        }
        connection.close(200, "OK".into()).await.unwrap();
    }
}

fn frame(routing_key: &str, body: impl Into<Vec<u8>>) -> Frame {
    Frame {
        routing_key: routing_key.to_owned(),
        message_id: MessageId::now().to_string(),
        kind: "product.updated".to_owned(),
        content_type: "application/vnd.test+json".into(),
        headers: [("outbox-time", "1700000000123456"), ("outbox-key", "käse"), ("tenant", "")]
            .into_iter()
            .collect(),
        body: body.into(),
    }
}

fn frames(count: usize) -> Vec<Frame> {
    (0..count).map(|n| frame("product.updated.07", n.to_string())).collect()
}

async fn take(consumer: &mut impl Consumer, count: usize) -> Vec<Delivery> {
    let mut all: Vec<Delivery> = Vec::new();
    while all.len() < count {
        all.extend(timeout(SOON, consumer.next(count - all.len())).await.expect("a delivery").unwrap());
    }
    all
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8(d.frame.body.clone()).unwrap()).collect()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn frames_arrive_as_they_were_and_in_order() {
    let place = Place::new("order");
    // The subscriber first: it has to make all that it needs.
    let mut consumer = place.broker.consumer(&place.queue("product.*.07")).await.unwrap();
    let mut publisher = place.broker.publisher().await.unwrap();
    let sent = frames(3000);
    let confirms = publisher.publish(&sent).await.unwrap();
    assert_eq!(confirms, vec![Confirm::Confirmed; 3000]);
    assert_eq!(publisher.publish(&[]).await.unwrap(), vec![]);
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let some = timeout(SOON, consumer.next(100)).await.unwrap().unwrap();
        assert!((1..=100).contains(&some.len()));
        consumer.ack_through(some.last().unwrap().tag).await.unwrap();
        got.extend(some);
    }
    assert!(got.iter().all(|delivery| !delivery.redelivered));
    assert!(got.windows(2).all(|pair| pair[0].tag < pair[1].tag));
    assert!(got.iter().map(|delivery| &delivery.frame).eq(&sent));
    drop(consumer);
    assert_eq!(place.waiting(&place.queue("").name).await, 0);
    assert_eq!(place.broker.check().await.unwrap(), Vec::<String>::new());
    let version = place.broker.version().await.unwrap();
    assert!(version.starts_with("RabbitMQ 3.1") || version.starts_with("RabbitMQ 4."), "{version}");
    place.remove().await;
}

#[tokio::test]
async fn the_unroutable_one_among_many_is_returned() {
    let place = Place::refusing("returned");
    let mut consumer = place.broker.consumer(&place.queue("product.#")).await.unwrap();
    let mut publisher = place.broker.publisher().await.unwrap();
    let mut sent = frames(500);
    sent[250].routing_key = "nobody.wants.00".into();
    // Twice: nothing of the first call may be taken for the second's.
    for _ in 0..2 {
        let confirms = publisher.publish(&sent).await.unwrap();
        for (n, confirm) in confirms.iter().enumerate() {
            match confirm {
                Confirm::Confirmed => assert_ne!(n, 250),
                Confirm::Returned(text) => {
                    assert_eq!(n, 250);
                    assert!(text.contains("NO_ROUTE") && text.contains("nobody.wants.00"), "{text}");
                }
                Confirm::Refused(text) => panic!("{n}: {text}"),
            }
        }
    }
    let got = take(&mut consumer, 300).await;
    consumer.ack_through(got[299].tag).await.unwrap();
    assert_eq!(take(&mut consumer, 199).await.len(), 199);
    drop((consumer, publisher));
    place.remove().await;
}

#[tokio::test]
async fn what_no_queue_wants_is_kept() {
    let place = Place::new("unrouted");
    let mut publisher = place.broker.publisher().await.unwrap();
    let confirms = publisher.publish(&frames(3)).await.unwrap();
    assert_eq!(confirms, vec![Confirm::Confirmed; 3]);
    let unrouted = format!("{}.unrouted", place.exchange);
    assert_eq!(place.waiting(&unrouted).await, 3);
    let leftovers = place.broker.leftovers().await.unwrap();
    let expected = LeftoverCounts { unrouted: Some(3), dead: Some(0) };
    assert_eq!(leftovers.look().await.unwrap(), expected);
    assert_eq!(leftovers.look().await.unwrap(), expected, "again on the same connection");
    leftovers.close().await;
    let refusing = place.broker.clone().unrouted(Unrouted::Refuse).leftovers().await.unwrap();
    assert_eq!(refusing.look().await.unwrap().unrouted, None, "not asked after");
    refusing.close().await;
    let nowhere = Place::new("nowhere").broker.leftovers().await.unwrap();
    assert_eq!(nowhere.look().await.unwrap(), LeftoverCounts::default(), "nothing is there yet");
    nowhere.close().await;
    let findings = place.broker.check().await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains(&format!("{unrouted} holds 3 messages")), "{findings:?}");
    drop(publisher);
    place.remove().await;
}

#[tokio::test]
async fn what_may_be_discarded_is_lost_only_where_no_queue_wants_it() {
    let place = Place::new("discard");
    let broker = place.broker.clone().discard(["product", "audit"]);
    let mut publisher = broker.publisher().await.unwrap();
    let mut sent = frames(300);
    sent[149].routing_key = "audit.created.00".into();
    sent[150].routing_key = "order.created.00".into();
    assert_eq!(publisher.publish(&sent).await.unwrap(), vec![Confirm::Confirmed; 300]);
    let unrouted = format!("{}.unrouted", place.exchange);
    assert_eq!(place.waiting(&unrouted).await, 1, "the other aggregate's is kept");

    let mut consumer = place.broker.consumer(&place.queue("product.#")).await.unwrap();
    assert_eq!(publisher.publish(&frames(300)).await.unwrap(), vec![Confirm::Confirmed; 300]);
    let got = take(&mut consumer, 300).await;
    assert_eq!(bodies(&got), numbers(0..300), "whoever wants them gets them all, in order");
    consumer.ack_through(got[299].tag).await.unwrap();

    // The queue that discards goes with its connection, soon after.
    drop((publisher, consumer));
    let mut keeping = place.broker.publisher().await.unwrap();
    let mut sent = frames(1);
    sent[0].routing_key = "audit.created.00".into();
    let since = Instant::now();
    while place.waiting(&unrouted).await == 1 {
        assert!(since.elapsed() < SOON, "still discarded");
        assert_eq!(keeping.publish(&sent).await.unwrap(), [Confirm::Confirmed]);
    }
    drop(keeping);

    let wrong = place.broker.clone().discard(["product.created"]).publisher().await.unwrap_err();
    assert!(wrong.to_string().contains("\"product.created\" is no aggregate"), "{wrong}");
    place.remove().await;
}

#[tokio::test]
async fn a_frame_that_cannot_be_sent_is_refused_alone() {
    let place = Place::new("refused");
    let mut consumer = place.broker.consumer(&place.queue("#")).await.unwrap();
    let mut publisher = place.broker.publisher().await.unwrap();
    let mut sent = frames(10);
    sent[1].body = vec![b' '; 16 * 1024 * 1024 + 1];
    // Larger than a window, but not too large.
    sent[2].body = vec![b' '; 9 * 1024 * 1024];
    sent[3].routing_key = "k".repeat(256);
    sent[4].message_id = String::new();
    sent[5].headers = Headers::from_json(br#"{"CC":"elsewhere"}"#).unwrap();
    sent[6].headers = [("big", "h".repeat(200_000))].into_iter().collect();
    sent[7].headers =
        [("big", "h".repeat(64 * 1024)), ("x-death", "not ours".to_owned())].into_iter().collect();
    let confirms = publisher.publish(&sent).await.unwrap();
    for (n, confirm) in confirms.iter().enumerate() {
        let refused = matches!(n, 1 | 3 | 4 | 5 | 6);
        assert_eq!(matches!(confirm, Confirm::Refused(_)), refused, "{n}: {confirm:?}");
    }
    let got = take(&mut consumer, 5).await;
    let whole: Vec<&str> = got.iter().map(|d| d.frame.message_id.as_str()).collect();
    assert_eq!(whole, [0, 2, 7, 8, 9].map(|n: usize| sent[n].message_id.as_str()));
    assert_eq!(got[1].frame.body.len(), 9 * 1024 * 1024);
    assert_eq!(got[2].frame.headers.get("x-death"), None);
    drop((consumer, publisher));
    place.remove().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_in_order() {
    let place = Place::new("again");
    let queue = place.queue("#");
    let mut consumer = place.broker.consumer(&queue).await.unwrap();
    let mut publisher = place.broker.publisher().await.unwrap();
    publisher.publish(&frames(20)).await.unwrap();
    let got = take(&mut consumer, 10).await;
    consumer.ack_through(got[3].tag).await.unwrap();
    drop(consumer);
    let mut consumer = place.broker.consumer(&queue).await.unwrap();
    let got = take(&mut consumer, 16).await;
    assert_eq!(bodies(&got), numbers(4..20));
    assert!(got[..6].iter().all(|delivery| delivery.redelivered));
    drop((consumer, publisher));
    place.remove().await;
}

#[tokio::test]
async fn a_window_grows_and_nothing_comes_twice() {
    let place = Place::new("wider");
    let queue = Queue { prefetch: 4, ..place.queue("#") };
    let mut consumer = place.broker.consumer(&queue).await.unwrap();
    place.broker.publisher().await.unwrap().publish(&frames(40)).await.unwrap();
    let first = take(&mut consumer, 4).await;
    assert!(timeout(NOTHING_COMES, consumer.next(1)).await.is_err(), "the window is full");
    consumer.widen(first[3].tag, 10).await.unwrap();
    assert_eq!(consumer.window(), Some(10));
    let more = take(&mut consumer, 10).await;
    assert_eq!(bodies(&more), numbers(4..14));
    assert!(more.iter().all(|delivery| !delivery.redelivered));
    assert!(timeout(NOTHING_COMES, consumer.next(1)).await.is_err(), "the wider one is full, too");
    // What is not acknowledged comes back as from any consumer.
    consumer.ack_through(more[2].tag).await.unwrap();
    drop(consumer);
    let mut consumer = place.broker.consumer(&place.queue("#")).await.unwrap();
    assert_eq!(bodies(&take(&mut consumer, 33).await), numbers(7..40));
    drop(consumer);
    place.remove().await;
}

/// The other process gets what comes next when all before it is dealt with.
#[tokio::test]
async fn whoever_waits_takes_over_when_a_window_grows() {
    let place = Place::new("wider-turn");
    let queue = Queue { prefetch: 4, ..place.queue("#") };
    let mut first = place.broker.consumer(&queue).await.unwrap();
    let mut second = place.broker.consumer(&queue).await.unwrap();
    place.broker.publisher().await.unwrap().publish(&frames(12)).await.unwrap();
    let got = take(&mut first, 4).await;
    first.widen(got[3].tag, 8).await.unwrap();
    let got = take(&mut second, 4).await;
    assert_eq!(bodies(&got), numbers(4..8));
    assert!(got.iter().all(|delivery| !delivery.redelivered));
    assert!(timeout(NOTHING_COMES, first.next(1)).await.is_err(), "it waits for its turn");
    second.ack_through(got[3].tag).await.unwrap();
    drop(second);
    assert_eq!(bodies(&take(&mut first, 4).await), numbers(8..12));
    drop(first);
    place.remove().await;
}

/// RabbitMQ puts what came back a second time behind what came back once: a consumer that dies with a part of what
/// another one left would have its successor get later messages first.
#[tokio::test]
async fn more_than_the_widest_window_comes_back_in_order() {
    const COUNT: usize = 9000;
    let place = Place::new("many");
    let queue = Queue { prefetch: 10_000, ..place.queue("#") };
    let mut consumer = place.broker.consumer(&queue).await.unwrap();
    place.broker.publisher().await.unwrap().publish(&frames(COUNT)).await.unwrap();
    assert_eq!(take(&mut consumer, COUNT).await.len(), COUNT);
    // In its hands all.
    drop(consumer);
    let narrow = Queue { prefetch: 4, ..queue.clone() };
    let mut consumer = place.broker.consumer(&narrow).await.unwrap();
    let got = take(&mut consumer, COUNT).await;
    assert_eq!(bodies(&got), numbers(0..COUNT));
    consumer.ack_through(got[COUNT - 1].tag).await.unwrap();
    drop(consumer);
    assert_eq!(place.waiting(&queue.name).await, 0);
    place.remove().await;
}

#[tokio::test]
async fn what_came_back_several_times_comes_in_order() {
    let place = Place::new("several");
    let queue = place.queue("#");
    let narrow = Queue { prefetch: 4, ..queue.clone() };
    let consumer = place.broker.consumer(&queue).await.unwrap();
    place.broker.publisher().await.unwrap().publish(&frames(20)).await.unwrap();
    // So many go with a connection, which others have left.
    let die_with = async |count: u16| {
        let (connection, channel) = place.channel().await;
        channel.basic_qos(count, BasicQosOptions::default()).await.unwrap();
        let name = queue.name.as_str();
        let mut stream = channel
            .basic_consume(name.into(), "dying".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let mut got = Vec::new();
        for _ in 0..count {
            let delivery = timeout(SOON, stream.next()).await.unwrap().unwrap().unwrap();
            got.push(String::from_utf8(delivery.data).unwrap());
        }
        connection.close(200, "OK".into()).await.unwrap();
        got
    };
    drop(consumer);
    for count in [20, 4, 3, 11] {
        die_with(count).await;
    }
    assert_ne!(die_with(20).await, numbers(0..20), "RabbitMQ keeps the order itself: what is this for?");
    // What was never delivered comes behind.
    let mut more = frames(23);
    place.broker.publisher().await.unwrap().publish(&more.split_off(20)).await.unwrap();
    let mut consumer = place.broker.consumer(&narrow).await.unwrap();
    let got = take(&mut consumer, 20).await;
    assert_eq!(bodies(&got), numbers(0..20));
    assert!(got.is_sorted_by_key(|delivery| delivery.tag));

    // Acknowledged as a whole or not at all, as their order at RabbitMQ is another one.
    consumer.ack_through(got[9].tag).await.unwrap();
    drop(consumer);
    let mut consumer = place.broker.consumer(&narrow).await.unwrap();
    let got = take(&mut consumer, 23).await;
    assert_eq!(bodies(&got), numbers(0..23));
    consumer.ack_through(got[22].tag).await.unwrap();
    drop(consumer);
    assert_eq!(place.waiting(&queue.name).await, 0);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_consumer_is_active_and_the_next_takes_over_in_order() {
    let place = Place::new("single");
    let queue = place.queue("#");
    let mut first = place.broker.consumer(&queue).await.unwrap();
    let mut second = place.broker.consumer(&queue).await.unwrap();
    let mut publisher = place.broker.publisher().await.unwrap();
    publisher.publish(&frames(30)).await.unwrap();
    let got = take(&mut first, 10).await;
    assert_eq!(bodies(&got), numbers(0..10));
    assert!(timeout(NOTHING_COMES, second.next(10)).await.is_err());
    first.ack_through(got[4].tag).await.unwrap();
    drop(first);
    assert_eq!(bodies(&take(&mut second, 25).await), numbers(5..30));
    drop((second, publisher));
    place.remove().await;
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let place = Place::new("cancel");
    let mut consumer = place.broker.consumer(&place.queue("#")).await.unwrap();
    let mut publisher = place.broker.publisher().await.unwrap();
    let publishing = tokio::spawn(async move {
        for frame in frames(200) {
            publisher.publish(&[frame]).await.unwrap();
        }
    });
    let mut got = Vec::new();
    while got.len() < 200 {
        if let Ok(some) = timeout(Duration::from_micros(300), consumer.next(3)).await {
            got.extend(some.unwrap());
        }
    }
    assert_eq!(bodies(&got), numbers(0..200));
    publishing.await.unwrap();
    drop(consumer);
    place.remove().await;
}

#[tokio::test]
async fn messages_of_others_are_delivered_as_they_are() {
    let place = Place::new("foreign");
    let mut consumer = place.broker.consumer(&place.queue("#")).await.unwrap();
    let (_connection, channel) = place.channel().await;
    let mut headers = FieldTable::default();
    headers.insert("number".into(), AMQPValue::LongInt(-5));
    headers.insert("nothing".into(), AMQPValue::Void);
    headers.insert("list".into(), AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into()));
    let properties = BasicProperties::default().with_headers(headers);
    for properties in [BasicProperties::default(), properties] {
        let options = BasicPublishOptions::default();
        let exchange = place.exchange.as_str().into();
        let _confirm =
            channel.basic_publish(exchange, "a".into(), options, &[0xff], properties).await.unwrap();
    }
    let got = take(&mut consumer, 2).await;
    assert_eq!(got[0].frame.message_id, "");
    assert_eq!(got[0].frame.headers, Headers::default());
    assert_eq!(got[1].frame.headers.get("number"), Some("-5"));
    assert!(got[1].frame.headers.get("list").is_some_and(|list| list.contains("true")));
    assert_eq!(got[1].frame.body, [0xff]);
    drop(consumer);
    place.remove().await;
}

#[tokio::test]
async fn other_arguments_are_told_with_the_remedy() {
    let place = Place::new("arguments");
    let refusing = place.broker.clone().unrouted(Unrouted::Refuse);
    let publisher = place.broker.publisher().await.unwrap();
    let error = refusing.publisher().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    for part in [
        "declaring exchange",
        &place.exchange,
        "alternate-exchange is ",
        " and should not be set",
        "rabbitmqadmin --vhost='/' delete exchange",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let findings = refusing.check().await.unwrap();
    assert!(findings.len() == 1 && findings[0].contains("alternate-exchange is "), "{findings:?}");

    let queue = place.queue("#");
    let (_connection, channel) = place.channel().await;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.name.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let error = place.broker.consumer(&queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    assert!(error.to_string().contains(&format!("declaring queue {}", queue.name)), "{error}");
    drop(publisher);
    place.remove().await;
}

/// The same words whether the relay declares or only looks; RabbitMQ names one setting at a time, in 255 bytes, so that
/// names are short here.
#[tokio::test]
async fn the_setting_that_differs_is_named() {
    let place = Place::new("d");
    let queue = place.queue("#");
    let (_connection, channel) = place.channel().await;
    drop(place.broker.consumer(&queue).await.unwrap());
    let exchange_is = async |kind: ExchangeKind, durable: bool| {
        let name = place.exchange.as_str();
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
        let options = ExchangeDeclareOptions { durable, ..Default::default() };
        channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.unwrap();
    };
    let text = |value: &str| AMQPValue::LongString(value.into());
    // RabbitMQ names the first setting that differs, in an order of its own: all others are right.
    let queue_is = async |argument: &str, value: AMQPValue| {
        let name = queue.name.as_str();
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        let mut table = FieldTable::default();
        for (name, value) in [
            ("x-queue-type", text("quorum")),
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ("x-delivery-limit", AMQPValue::LongInt(50)),
            ("x-dead-letter-exchange", text(&format!("{}.dead", place.exchange))),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
            (argument, value),
        ] {
            table.insert(name.into(), value);
        }
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.into(), options, table).await.unwrap();
    };
    let told = async |wanted: &str, remedy: &str| {
        for broker in [place.broker.clone(), place.broker.clone().declare(false)] {
            let error = broker.consumer(&queue).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Broker);
            for part in [wanted, remedy] {
                assert!(error.to_string().contains(part), "{part} not in {error}");
            }
        }
    };
    exchange_is(ExchangeKind::Direct, true).await;
    told("type is direct and should be topic", "delete exchange name=").await;
    let found = place.broker.clone().declare(false).check().await.unwrap();
    assert!(found.len() == 1 && found[0].contains("type is direct and should be topic"), "{found:?}");
    exchange_is(ExchangeKind::Topic, false).await;
    told("durable is false and should be true", "delete exchange name=").await;

    // An alternate exchange may come from a policy: only who declares it misses the argument.
    exchange_is(ExchangeKind::Topic, true).await;
    place.broker.clone().declare(false).publisher().await.unwrap();
    let error = place.broker.publisher().await.unwrap_err().to_string();
    assert!(error.contains("alternate-exchange is not set and should be"), "{error}");
    channel.exchange_delete(place.exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    drop(place.broker.publisher().await.unwrap());

    queue_is("x-delivery-limit", AMQPValue::LongInt(3)).await;
    told("x-delivery-limit is 3 and should be 50", "rabbitmqctl delete_queue").await;
    queue_is("x-single-active-consumer", AMQPValue::Boolean(false)).await;
    told("x-single-active-consumer is false and should be true", "rabbitmqctl delete_queue").await;
    place.remove().await;
}

#[tokio::test]
async fn without_declaring_what_is_missing_is_told() {
    let place = Place::new("missing");
    let looking = place.broker.clone().declare(false);
    for error in
        [looking.publisher().await.unwrap_err(), looking.consumer(&place.queue("#")).await.unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::Broker);
        assert!(error.to_string().contains("create it"), "{error}");
    }
    assert_eq!(place.broker.check().await.unwrap(), Vec::<String>::new());
    let findings = looking.check().await.unwrap();
    assert_eq!(findings.len(), 5, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.contains("NOT_FOUND")), "{findings:?}");

    drop(place.broker.publisher().await.unwrap());
    drop(place.broker.consumer(&place.queue("#")).await.unwrap());
    assert_eq!(looking.check().await.unwrap(), Vec::<String>::new());
    let mut publisher = looking.publisher().await.unwrap();
    let mut consumer = looking.consumer(&place.queue("#")).await.unwrap();
    assert_eq!(publisher.publish(&frames(2)).await.unwrap(), vec![Confirm::Confirmed; 2]);
    assert_eq!(take(&mut consumer, 2).await.len(), 2);
    drop((consumer, publisher));
    place.remove().await;
}

#[tokio::test]
async fn a_deleted_exchange_ends_the_publisher() {
    let place = Place::new("deleted");
    let mut publisher = place.broker.publisher().await.unwrap();
    publisher.publish(&frames(2)).await.unwrap();
    let (_connection, channel) = place.channel().await;
    channel.exchange_delete(place.exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let error = publisher.publish(&frames(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    assert!(error.to_string().contains(&place.exchange) && error.to_string().contains("deleted"), "{error}");
    assert!(publisher.publish(&frames(1)).await.unwrap_err().is_outage());
    // The next one declares it again.
    let mut publisher = place.broker.publisher().await.unwrap();
    assert_eq!(publisher.publish(&frames(1)).await.unwrap(), vec![Confirm::Confirmed]);
    drop(publisher);
    place.remove().await;
}

#[tokio::test]
async fn a_deleted_queue_ends_the_consumer() {
    let place = Place::new("cancelled");
    let queue = place.queue("#");
    let mut consumer = place.broker.consumer(&queue).await.unwrap();
    let (_connection, channel) = place.channel().await;
    channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    for _ in 0..2 {
        let error = timeout(SOON, consumer.next(10)).await.unwrap().unwrap_err();
        assert!(error.is_outage() && error.to_string().contains(&queue.name), "{error}");
    }
    assert!(consumer.ack_through(1).await.unwrap_err().is_outage());
    place.remove().await;
}

#[tokio::test]
async fn refused_connections_say_why() {
    let (_, rest) = url().split_once("://").map(|(s, r)| (s.to_owned(), r.to_owned())).unwrap();
    let host = rest.rsplit('@').next().unwrap().split('/').next().unwrap().to_owned();

    let wrong = RabbitMq::new(&format!("amqp://guest:hunter2@{host}/%2f")).unwrap();
    let error = wrong.publisher().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    assert!(
        error.to_string().contains(&format!("user or password refused by RabbitMQ at {host}")),
        "{error}"
    );
    assert!(!format!("{error} {error:?} {wrong:?}").contains("hunter2"));

    let nowhere = url().rsplit_once('/').unwrap().0.to_owned() + "/no-such-vhost";
    let error = RabbitMq::new(&nowhere).unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    assert!(error.to_string().contains("create virtual host no-such-vhost"), "{error}");

    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = RabbitMq::new(&format!("amqp://{free}")).unwrap().publisher().await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    assert!(error.to_string().contains(&format!("RabbitMQ at {free} cannot be reached")), "{error}");

    let error = RabbitMq::new(&format!("http://guest:hunter2@{host}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("http") && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let broker = RabbitMq::new(&format!("amqp://{address}")).unwrap().timeout(Duration::from_millis(300));
    let (error, accepted) = tokio::join!(broker.publisher(), silent.accept());
    let error = error.unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("no answer"), "{error}");
    // And its connection is not left behind.
    let mut sent = Vec::new();
    timeout(SOON, accepted.unwrap().0.read_to_end(&mut sent)).await.expect("closed").unwrap();
}

/// Passes bytes on until told not to, then keeps both connections open and silent.
async fn freezing_proxy() -> (String, tokio::sync::watch::Sender<bool>) {
    let (sender, frozen) = tokio::sync::watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (user, rest) = url().split_once('@').map(|(u, r)| (u.to_owned(), r.to_owned())).unwrap();
    let (host, vhost) = rest.split_once('/').unwrap();
    let proxied = format!("{user}@{}/{vhost}", listener.local_addr().unwrap());
    let host = host.to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&host).await.unwrap();
            let mut frozen = frozen.clone();
            tokio::spawn(async move {
                let freeze = async {
                    let _ = frozen.wait_for(|frozen| *frozen).await.is_ok();
                };
                let until_frozen = tokio::io::copy_bidirectional(&mut client, &mut server);
                tokio::select! {
                    _ = until_frozen => return,
                    () = freeze => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    (proxied, sender)
}

async fn publisher_behind(proxy: &str, place: &Place, limit: Duration) -> RabbitMqPublisher {
    let broker = RabbitMq::new(proxy).unwrap().exchange(&place.exchange).timeout(limit);
    let mut publisher = broker.publisher().await.unwrap();
    publisher.publish(&frames(1)).await.unwrap();
    publisher
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_falls_silent_is_an_outage() {
    let place = Place::new("silent");
    let (proxy, freeze) = freezing_proxy().await;
    let mut publisher = publisher_behind(&proxy, &place, Duration::from_secs(2)).await;
    freeze.send_replace(true);
    let error = timeout(SOON, publisher.publish(&frames(100))).await.unwrap().unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("no answer"), "{error}");
    let error = publisher.publish(&frames(1)).await.unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("has ended"), "{error}");
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_publish_ends_the_publisher() {
    let place = Place::new("half");
    let (proxy, freeze) = freezing_proxy().await;
    let mut publisher = publisher_behind(&proxy, &place, SOON).await;
    freeze.send_replace(true);
    assert!(timeout(NOTHING_COMES, publisher.publish(&frames(100))).await.is_err());
    let error = publisher.publish(&frames(1)).await.unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("half way"), "{error}");
    place.remove().await;
}
