//! Messages as CloudEvents, in RabbitMQ: what `cloudevents = true` adds, and that it takes nothing away.

use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Consumer as _, Queue};
use outbox_core::{Headers, Message};
use outbox_tests::lab_client::AMQP_URL;

use crate::any;
use crate::harness::{Server, server_url, unique};
use crate::programs::Relay;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_adds_the_attributes_of_cloudevents_when_it_is_asked_to() {
    let (database, amqp, exchange) = (Server::Sqlite.empty(), server_url(AMQP_URL), unique("ex"));
    let config = |keys: &str| {
        let url = &database.url;
        Relay::with(&format!(
            "[broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n\n\
             [[outbox]]\nname = \"items\"\ndatabase = {url:?}\n{keys}\n"
        ))
    };
    let (plain, events) = (config(""), config("cloudevents = true"));
    assert_eq!(plain.run(&["migrate"]).code, 0);
    let broker = RabbitMq::new(&amqp).unwrap().exchange(&exchange);
    let queue = Queue { name: unique("events"), bindings: vec!["thing.made.#".into()], prefetch: 10 };
    let mut consumer = broker.consumer(&queue).await.unwrap();
    let mut frames = Vec::new();
    for relay in [&plain, &events] {
        let message = Message::new("thing", "k 1", "made", br#"{"n":7}"#.to_vec()).unwrap();
        any::record(Server::Sqlite, &database, &[message]);
        let ended = relay.run(&["run", "--until-idle"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        let delivery = consumer.next(1).await.unwrap().remove(0);
        consumer.ack_through(delivery.tag).await.unwrap();
        frames.push(delivery.frame);
    }
    drop(consumer);
    broker.remove(&[queue.name]).await.unwrap();

    let attributes = |headers: &Headers| -> Vec<(String, String)> {
        let all = headers.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("cloudEvents_")?.to_owned(), value.to_owned()))
        });
        all.collect()
    };
    let [plain, event] = &frames[..] else { panic!("{frames:?}") };
    assert!(attributes(&plain.headers).is_empty(), "{plain:?}");
    let told = attributes(&event.headers);
    for (name, value) in
        [("specversion", "1.0"), ("id", &event.message_id), ("type", "thing.made"), ("subject", "k 1")]
    {
        assert!(told.contains(&(name.to_owned(), value.to_owned())), "{name}: {told:?}");
    }
    assert!(
        told.iter().any(|(name, _)| name == "source") && told.iter().any(|(name, _)| name == "time"),
        "{told:?}"
    );
    assert_eq!(
        (&event.body, &event.content_type, &event.kind),
        (&plain.body, &plain.content_type, &plain.kind)
    );
    let is_ours = |name: &str| name.starts_with("outbox-");
    let ours = |headers: &Headers| headers.iter().filter(|(name, _)| is_ours(name)).count();
    assert!(ours(&event.headers) > 5 && ours(&event.headers) == ours(&plain.headers), "{event:?}");
}
