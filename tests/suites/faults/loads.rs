//! Much at once: large payloads, long backlogs, one key with most of it.

use std::sync::mpsc;
use std::time::Duration;

use diesel::Connection as _;
use diesel::prelude::*;
use outbox_core::{Message, OutboxConnection as _, bucket_of};
use outbox_tests::lab_client::{AMQP_URL, PrivateServer};

use super::Connection;
use super::database::{connect, fresh};
use super::stage::{count, server};
use super::wire::{Wire, committed, record, record_in_turns};
use crate::checker::Counts;
use crate::harness::{TestDatabase, server_url, unique, until, until_within};
use crate::items::Stepped;
use crate::proxy::Proxy;
use crate::relay::RelayConfig;
use crate::report::{Row, size};

const DRAIN: Duration = Duration::from_secs(600);

fn relay_on(source: &TestDatabase, amqp: &str, exchange: &str) -> RelayConfig {
    RelayConfig {
        database: source.url.clone(),
        amqp: amqp.to_owned(),
        exchange: exchange.to_owned(),
        lease: "10s",
        broker_keys: String::new(),
        keys: "attempts = 2\nretry_initial = \"50ms\"\nretry_max = \"50ms\"".into(),
        environment: Vec::new(),
    }
}

/// A message of this size, small keys around it.
fn record_large(connection: &mut Connection, sequence: i64, bytes: usize) {
    let head = format!("{{\"sequence\":{sequence},\"filler\":\"");
    let payload = format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2)).into_bytes();
    connection
        .outbox_transaction(|tx| {
            for small in ["small-1", "small-2"] {
                tx.record(&Stepped { account: small.into(), sequence })?;
            }
            tx.record_message(Message::new("thing", "large", "made", payload)?);
            Ok(())
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_payload_passes_or_parks_its_key_alone() {
    let broker = PrivateServer::spawn("rabbitmq").unwrap();
    let (source, exchange) = (fresh(), unique("ex"));
    let wire = Wire::start(broker.url(), &exchange).await;
    let mut connection = connect(&source);
    // MariaDB's default for a packet is 16 MiB, with what belongs to the statement.
    let bytes = 16 * 1024 * 1024 - 64 * 1024;
    let times = size(2, 10);
    let relay = relay_on(&source, broker.url(), &exchange).start();
    for sequence in 1..=times {
        record_large(&mut connection, sequence, bytes);
    }
    until("all is through", || {
        let left = count(&mut connection, "outbox");
        async move { left == 0 }
    })
    .await;
    assert!(relay.peak_mib() < 400, "{} MiB", relay.peak_mib());
    let all = committed([("small-1", times), ("small-2", times), ("large", times)]);
    until("all has arrived", || async { wire.tally().check(&all).is_ok() }).await;
    let before = wire.tally().check(&all).unwrap();

    // Where RabbitMQ 3 looks for it, and where RabbitMQ 4 does.
    let everywhere =
        "application:set_env(rabbit,max_message_size,1048576),persistent_term:put(max_message_size,1048576).";
    broker.rabbitmqctl(&format!("eval {everywhere}")).unwrap();
    broker.rabbitmqctl("close_all_connections maintenance").unwrap();
    drop(wire);
    let wire_after = Wire::start(broker.url(), &exchange).await;
    for sequence in 1..=times {
        record_large(&mut connection, sequence, bytes);
    }
    until("the large key is parked, the small ones are through", || {
        let left = count(&mut connection, "outbox");
        let parked = relay.status().is_some_and(|status| status.parked_keys == 1);
        async move { parked && left == times }
    })
    .await;
    let all = committed([("small-1", times), ("small-2", times)]);
    until("they have arrived", || async { wire_after.tally().check(&all).is_ok() }).await;
    let counts = wire_after.tally().check(&all).unwrap();
    let written = 6 * times as u64;
    let counts =
        Counts { arrived: before.arrived + counts.arrived, repeats: before.repeats + counts.repeats };
    Row {
        fault: "load: 16 MiB payloads; broker's limit below",
        injected: 2 * times as usize,
        server: server(),
        written,
        counts: Some(counts),
    }
    .write();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_drains_with_flat_memory() {
    const KEYS: i64 = 500;
    let (source, exchange, amqp) = (fresh(), unique("ex"), server_url(AMQP_URL));
    let wire = Wire::start(&amqp, &exchange).await;
    let mut connection = connect(&source);
    let rows = size(50_000, 1_000_000);
    let names: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    record_in_turns(&mut connection, &names, rows / KEYS);
    let all = committed(names.iter().map(|name| (name.as_str(), rows / KEYS)));
    let relay = relay_on(&source, &amqp, &exchange).start();
    until_within(DRAIN, "a fifth is through", || async { wire.tally().arrived() >= rows as u64 / 5 }).await;
    let early = relay.peak_mib();
    until_within(DRAIN, "the outbox is empty", || {
        let left = count(&mut connection, "outbox");
        async move { left == 0 }
    })
    .await;
    until_within(DRAIN, "all has arrived", || async { wire.tally().arrived() >= rows as u64 }).await;
    let late = relay.peak_mib();
    assert!(late < early + 32 && late < 256, "{early} MiB after a fifth, {late} MiB at the end");
    let counts = wire.tally().check(&all).unwrap();
    Row {
        fault: "load: a long backlog, memory flat",
        injected: 1,
        server: server(),
        written: rows as u64,
        counts: Some(counts),
    }
    .write();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_flow_past_a_key_that_has_most_of_the_backlog() {
    let (source, exchange, amqp) = (fresh(), unique("ex"), server_url(AMQP_URL));
    let wire = Wire::start(&amqp, &exchange).await;
    let mut connection = connect(&source);
    let rows = size(3000, 50_000);
    record(&mut connection, "hot", rows);
    let names: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    record_in_turns(&mut connection, &names, 10);
    let others = committed(names.iter().map(|name| (name.as_str(), 10)));
    let _relay = relay_on(&source, &amqp, &exchange).start();
    until_within(DRAIN, "the others have arrived", || async {
        others.keys().all(|key| wire.tally().last(key) == 10)
    })
    .await;
    let hot = wire.tally().last("hot");
    assert!(hot < rows, "the others came only after all {hot} of the hot key");
    until_within(DRAIN, "all has arrived", || async { wire.tally().last("hot") == rows }).await;
    let mut all = others;
    all.insert("hot".to_owned(), rows);
    let counts = wire.tally().check(&all).unwrap();
    let written = rows as u64 + 200;
    Row {
        fault: "load: one key has the backlog",
        injected: 1,
        server: server(),
        written,
        counts: Some(counts),
    }
    .write();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_longer_than_a_batch_does_not_stall_its_bucket() {
    let (source, exchange, amqp) = (fresh(), unique("ex"), server_url(AMQP_URL));
    let wire = Wire::start(&amqp, &exchange).await;
    let mut connection = connect(&source);
    let rows = size(1500, 20_000);
    record(&mut connection, "bad", 1);
    diesel::sql_query("update outbox set headers = payload").execute(&mut connection).unwrap();
    for _ in 0..rows / 500 {
        record(&mut connection, "bad", 500);
    }
    let bucket = bucket_of("account", "bad");
    let neighbour =
        (0..).map(|n| format!("good-{n}")).find(|key| bucket_of("account", key) == bucket).unwrap();
    record(&mut connection, &neighbour, 50);
    let mut config = relay_on(&source, &amqp, &exchange);
    config.keys.push_str("\nbatch_rows = 100");
    let relay = config.start();
    let all = committed([(neighbour.as_str(), 50)]);
    until("the neighbour is through", || async { wire.tally().check(&all).is_ok() }).await;
    until("the key is parked", || async { relay.status().is_some_and(|status| status.parked_keys == 1) })
        .await;
    assert_eq!(count(&mut connection, "outbox"), rows + 1, "what waits behind the parked message stays");
    let counts = wire.tally().check(&all).unwrap();
    Row {
        fault: "load: a parked key longer than a batch",
        injected: 1,
        server: server(),
        written: 50,
        counts: Some(counts),
    }
    .write();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_committed_behind_the_read_ahead_is_found() {
    let (source, exchange, amqp) = (fresh(), unique("ex"), server_url(AMQP_URL));
    let wire = Wire::start(&amqp, &exchange).await;
    let mut connection = connect(&source);
    let mut all = committed([]);
    let rounds = size(3, 30);
    let mut config = relay_on(&source, &amqp, &exchange);
    config.keys.push_str("\nbatch_rows = 50");
    // Each batch of a round takes so long that there are some left when the late row is committed.
    let (line, through) = Proxy::before(&source.url).await;
    line.set_latency(Duration::from_millis(10));
    config.database = through;
    let _relay = config.start();
    for round in 0..rounds {
        let (inserted, wait_inserted) = mpsc::channel();
        let (commit, wait_commit) = mpsc::channel::<()>();
        let late = format!("late-{round}");
        let (mut slow, key) = (connect(&source), late.clone());
        let slow = tokio::task::spawn_blocking(move || {
            slow.transaction(|connection| {
                connection
                    .record_in_open_transaction(|tx| tx.record(&Stepped { account: key, sequence: 1 }))?;
                inserted.send(()).unwrap();
                wait_commit.recv().unwrap();
                Ok::<_, outbox_core::Error>(())
            })
            .unwrap();
        });
        wait_inserted.recv().unwrap();
        let before = wire.tally().arrived();
        let names: Vec<String> = (0..400).map(|key| format!("quick-{round}-{key}")).collect();
        record_in_turns(&mut connection, &names, 2);
        until("the relay is in the middle of it", || async { wire.tally().arrived() > before + 200 }).await;
        commit.send(()).unwrap();
        slow.await.unwrap();
        until("the late one has arrived", || async { wire.tally().last(&late) == 1 }).await;
        until("so have the others", || async { names.iter().all(|name| wire.tally().last(name) == 2) }).await;
        let (place, last) = {
            let tally = wire.tally();
            (tally.place(&late), names.iter().map(|name| tally.place(name)).max().unwrap())
        };
        assert!(place < last, "it came as number {place}, the last of the others as {last}");
        all.extend(names.into_iter().map(|name| (name, 2)));
        all.insert(late, 1);
    }
    until("all has arrived", || async { wire.tally().check(&all).is_ok() }).await;
    let counts = wire.tally().check(&all).unwrap();
    Row {
        fault: "load: committed late, below the read-ahead",
        injected: rounds,
        server: server(),
        written: counts.arrived,
        counts: Some(counts),
    }
    .write();
}
