//! One contract for both brokers: what the relay and the subscribers rely on.

use outbox_core::broker::memory::MemoryBroker;
use outbox_core::broker::rabbitmq::{RabbitMq, Unrouted};
use outbox_core::broker::{Broker, Confirm, Consumer as _, Delivery, Publisher as _, Queue};
use outbox_core::{Frame, Headers};
use outbox_tests::lab_client::AMQP_URL;

use crate::harness::{server_url, unique};

/// A broker that nobody else uses, with or without a place for what no queue wants.
fn memory(refuse: bool) -> MemoryBroker {
    if refuse { MemoryBroker::refusing_unrouted() } else { MemoryBroker::new() }
}

fn rabbit(refuse: bool) -> RabbitMq {
    let unrouted = if refuse { Unrouted::Refuse } else { Unrouted::Queue };
    RabbitMq::new(&server_url(AMQP_URL)).unwrap().exchange(unique("ex")).unrouted(unrouted)
}

fn frame(routing_key: &str, number: usize) -> Frame {
    Frame {
        routing_key: routing_key.into(),
        message_id: format!("0192e4a0-0000-7000-8000-{number:012}"),
        kind: "thing.made".into(),
        content_type: "application/json".into(),
        headers: [("outbox-key", "ключ"), ("tenant", "7")].into_iter().collect::<Headers>(),
        body: format!("{{\"number\":{number}}}").into_bytes(),
    }
}

fn queue(name: &str, patterns: &[&str]) -> Queue {
    Queue {
        name: name.into(),
        bindings: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        prefetch: 50,
    }
}

async fn take(consumer: &mut impl outbox_core::broker::Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), consumer.next(count)).await;
        taken.extend(next.expect("deliveries within 20 s").unwrap());
    }
    taken
}

async fn frames_arrive_whole_and_in_order<B: Broker>(broker: B) {
    let name = unique("q");
    let mut consumer = broker.consumer(&queue(&name, &["thing.*.00", "thing.*.02"])).await.unwrap();
    let frames: Vec<_> =
        (0..40).map(|n| frame(["thing.made.00", "thing.made.01", "thing.made.02"][n % 3], n)).collect();
    let confirms = broker.publisher().await.unwrap().publish(&frames).await.unwrap();
    assert!(confirms.iter().all(|confirm| *confirm == Confirm::Confirmed), "{confirms:?}");
    let wanted: Vec<_> = frames.into_iter().filter(|f| f.routing_key != "thing.made.01").collect();
    let taken = take(&mut consumer, wanted.len()).await;
    assert_eq!(taken.iter().map(|delivery| delivery.frame.clone()).collect::<Vec<_>>(), wanted);
    assert!(taken.iter().all(|delivery| !delivery.redelivered));
    assert!(taken.is_sorted_by_key(|delivery| delivery.tag));
    consumer.ack_through(taken[taken.len() - 1].tag).await.unwrap();
}

async fn what_is_not_acknowledged_comes_again<B: Broker>(broker: B) {
    let wanted = queue(&unique("q"), &["#"]);
    let mut first = broker.consumer(&wanted).await.unwrap();
    let frames: Vec<_> = (0..6).map(|n| frame("thing.made.00", n)).collect();
    broker.publisher().await.unwrap().publish(&frames).await.unwrap();
    let taken = take(&mut first, 6).await;
    first.ack_through(taken[1].tag).await.unwrap();
    drop(first);
    let mut second = broker.consumer(&wanted).await.unwrap();
    let again = take(&mut second, 4).await;
    // The broker may add headers of its own to what it delivers again.
    let ids = |frames: &[Frame]| -> Vec<_> { frames.iter().map(|frame| frame.message_id.clone()).collect() };
    let again_frames: Vec<_> = again.iter().map(|delivery| delivery.frame.clone()).collect();
    assert_eq!(ids(&again_frames), ids(&frames[2..]));
    assert!(again.iter().all(|delivery| delivery.redelivered));
    second.ack_through(again[3].tag).await.unwrap();
}

async fn what_nobody_wants_is_returned_and_only_that<B: Broker>(broker: B) {
    let _consumer = broker.consumer(&queue(&unique("q"), &["thing.*.00"])).await.unwrap();
    let frames: Vec<_> =
        (0..300).map(|n| frame(if n % 50 == 7 { "nobody.wants.00" } else { "thing.made.00" }, n)).collect();
    let confirms = broker.publisher().await.unwrap().publish(&frames).await.unwrap();
    for (number, confirm) in confirms.iter().enumerate() {
        let returned = matches!(confirm, Confirm::Returned(_));
        assert_eq!(returned, number % 50 == 7, "{number}: {confirm:?}");
    }
}

async fn with_a_place_for_it_nothing_is_returned<B: Broker>(broker: B) {
    let confirms = broker.publisher().await.unwrap().publish(&[frame("nobody.wants.00", 1)]).await.unwrap();
    assert_eq!(confirms, [Confirm::Confirmed]);
}

macro_rules! contract {
    ($name:ident, $broker:expr) => {
        mod $name {
            #[tokio::test]
            async fn frames_arrive_whole_and_in_order() {
                super::frames_arrive_whole_and_in_order($broker(false)).await;
            }
            #[tokio::test]
            async fn what_is_not_acknowledged_comes_again() {
                super::what_is_not_acknowledged_comes_again($broker(false)).await;
            }
            #[tokio::test]
            async fn what_nobody_wants_is_returned_and_only_that() {
                super::what_nobody_wants_is_returned_and_only_that($broker(true)).await;
            }
            #[tokio::test]
            async fn with_a_place_for_it_nothing_is_returned() {
                super::with_a_place_for_it_nothing_is_returned($broker(false)).await;
            }
        }
    };
}

contract!(in_process, super::memory);
contract!(on_rabbitmq, super::rabbit);
