//! The broker restarts, blocks, loses its exchange, closes connections, refuses. Each on a RabbitMQ of the
//! test's own, except where only a queue is at fault.

use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use outbox_core::{OutboxConnection as _, bucket_of};
use outbox_tests::lab_client::{AMQP_URL, PrivateServer};
use rustix::process::Signal;

use super::database::{connect, fresh, message, outbox};
use super::stage::{Stage, server};
use crate::harness::{server_url, unique, until, until_within};
use crate::relay::RelayConfig;
use crate::report::{Row, size};

/// A connection of the test's own: it has to live as long as the channel.
async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_and_restarted_loses_nothing() {
    let broker = PrivateServer::spawn("rabbitmq").unwrap();
    let mut stage = Stage::on("broker: SIGKILL, restart", fresh(), broker.url()).await;
    let relay = stage.relay().start();
    until("it is connected", || async { relay.is("running") }).await;
    // A quorum queue that is younger than a second may not survive a kill of RabbitMQ 3.10.
    tokio::time::sleep(Duration::from_secs(2)).await;
    broker.kill().unwrap();
    until("the relay says so, though it has nothing to publish", || async { relay.is("paused") }).await;
    broker.start().unwrap();
    until("it goes on", || async { relay.is("running") }).await;
    stage.write();
    let kills = size(1, 10);
    for _ in 0..kills {
        stage.flows(300).await;
        broker.kill().unwrap();
        until("the relay says so", || async { relay.is("paused") }).await;
        broker.start().unwrap();
        until("it goes on", || async { relay.is("running") }).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(kills + 1).await;
}

/// Relay and subscriber are connected to the first of three nodes; the queue's leader goes round all of them, then
/// one that leads is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_leader_moves_or_dies_loses_and_reorders_nothing() {
    let first = PrivateServer::spawn("rabbitmq").unwrap();
    let others = [(); 2].map(|()| first.spawn_beside().unwrap());
    let mut stage = Stage::on("broker: queue leader moves, or dies", fresh(), first.url()).await;
    let queue = format!("sub-{}.0", stage.exchange);
    let lead = |node: &PrivateServer| {
        // Without blanks: the lab's commands are words. The last answer is RabbitMQ 4's.
        first.rabbitmqctl(&format!(
            "eval {{ok,Q}}=rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>,queue,<<\"{queue}\">>)),\
             case(rabbit_quorum_queue:transfer_leadership(Q,'{}@localhost'))of({{migrated,_}})->(ok);({{ok,_}})->(ok)end.",
            node.name()
        ))
    };
    stage.write();
    let relay = stage.relay().start();
    let rounds = size(1, 10);
    for _ in 0..rounds {
        for node in [&others[0], &first, &others[1]] {
            stage.flows(300).await;
            lead(node).unwrap();
        }
    }
    stage.flows(300).await;
    others[1].kill().unwrap();
    stage.flows(300).await;
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(3 * rounds + 1).await;
}

/// One server for three faults: it takes longer to start than they do.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_blocks_or_closes_connections_is_waited_for() {
    let broker = PrivateServer::spawn("rabbitmq").unwrap();
    a_broker_without_memory_pauses_the_relay_until_it_has_some(&broker).await;
    a_relay_blocked_by_an_alarm_ends_when_it_is_asked_to(&broker).await;
    connections_closed_by_the_broker_are_made_again(&broker).await;
}

async fn a_broker_without_memory_pauses_the_relay_until_it_has_some(broker: &PrivateServer) {
    let mut stage = Stage::on("broker: memory alarm", fresh(), broker.url()).await;
    stage.write();
    let relay = stage.relay().start();
    let alarms = size(1, 5);
    for _ in 0..alarms {
        stage.flows(300).await;
        broker.rabbitmqctl("set_vm_memory_high_watermark 0.0001").unwrap();
        until("the relay says so", || async { relay.is("paused") }).await;
        broker.rabbitmqctl("set_vm_memory_high_watermark 0.6").unwrap();
        until("it goes on", || async { relay.is("running") }).await;
    }
    let status = relay.status().unwrap();
    assert_eq!((status.refused, status.parked_keys), (0, 0), "an alarm is no refusal");
    stage.finish(alarms).await;
}

async fn a_relay_blocked_by_an_alarm_ends_when_it_is_asked_to(broker: &PrivateServer) {
    let mut stage = Stage::on("broker: memory alarm, SIGTERM meanwhile", fresh(), broker.url()).await;
    stage.write();
    let relay = stage.relay().start();
    stage.flows(300).await;
    broker.rabbitmqctl("set_vm_memory_high_watermark 0.0001").unwrap();
    until("the relay says so", || async { relay.is("paused") }).await;
    let status = relay.terminate(Duration::from_secs(30)).await;
    assert!(status.success(), "{status}");
    broker.rabbitmqctl("set_vm_memory_high_watermark 0.6").unwrap();
    let _next = stage.relay().start();
    stage.flows(300).await;
    stage.finish(1).await;
}

async fn connections_closed_by_the_broker_are_made_again(broker: &PrivateServer) {
    let mut stage = Stage::on("broker: closes all connections", fresh(), broker.url()).await;
    stage.write();
    let relay = stage.relay().start();
    let closes = size(2, 20);
    for _ in 0..closes {
        stage.flows(300).await;
        broker.rabbitmqctl("close_all_connections maintenance").unwrap();
        stage.flows(300).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(closes).await;
}

/// The relay may not declare here: the exchange comes back with the subscriber and its bindings, while the relay
/// is stopped, or messages in between would rightly go to the unrouted ones.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_deleted_pauses_the_relay_until_it_is_back() {
    let mut stage = Stage::new("broker: exchange deleted, channel closed").await;
    stage.write();
    let mut config = stage.relay();
    config.broker_keys = "declare = false".into();
    let relay = config.start();
    let (_connection, channel) = channel(&stage.amqp).await;
    let deletions = size(2, 20);
    for _ in 0..deletions {
        stage.flows(300).await;
        channel
            .exchange_delete(stage.exchange.as_str().into(), ExchangeDeleteOptions::default())
            .await
            .unwrap();
        until("the relay says so", || async { relay.is("paused") }).await;
        relay.signal(Signal::STOP);
        stage.restart_subscriber().await;
        relay.signal(Signal::CONT);
        until("it goes on", || async { relay.is("running") }).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(deletions).await;
}

/// A queue that is full and refuses is bound for one key; the others have a queue with room.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_parks_its_key_and_no_other() {
    let (source, exchange, amqp) = (fresh(), unique("ex"), server_url(AMQP_URL));
    let config = RelayConfig {
        database: source.url.clone(),
        amqp: amqp.clone(),
        exchange: exchange.clone(),
        lease: "1s",
        broker_keys: String::new(),
        keys: "attempts = 2\nretry_initial = \"50ms\"\nretry_max = \"50ms\"".into(),
        environment: Vec::new(),
    };
    let relay = config.start();
    until_within(Duration::from_secs(30), "the exchange is there", || async { relay.is("running") }).await;

    let (_connection, channel) = channel(&amqp).await;
    let full = format!("full-{exchange}");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    channel.queue_declare(full.as_str().into(), QueueDeclareOptions::default(), arguments).await.unwrap();
    let bucket = bucket_of("thing", "victim");
    let routing_key = format!("thing.made.{bucket:02}");
    channel
        .queue_bind(
            full.as_str().into(),
            exchange.as_str().into(),
            routing_key.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();

    let mut connection = connect(&source);
    let others: Vec<String> = (0..)
        .map(|n| format!("other-{n}"))
        .filter(|key| bucket_of("thing", key) != bucket)
        .take(20)
        .collect();
    connection
        .outbox_transaction(|tx| {
            for _ in 0..3 {
                tx.record_message(message("victim", "made"));
                others.iter().for_each(|key| tx.record_message(message(key, "made")));
            }
            Ok(())
        })
        .unwrap();
    until("the key is parked and the others are through", || {
        let left = outbox(&mut connection);
        let parked = relay.status().is_some_and(|status| status.parked_keys == 1);
        async move { parked && left.len() <= 2 }
    })
    .await;
    let left = outbox(&mut connection);
    assert!(left.iter().all(|row| row.key == "victim") && !left.is_empty(), "{left:?}");
    channel.queue_delete(full.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    Row {
        fault: "broker: queue full (nack), its key parks",
        injected: 1,
        server: server(),
        written: 63,
        counts: None,
    }
    .write();
}
