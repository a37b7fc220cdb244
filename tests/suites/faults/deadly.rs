//! A message that ends whichever relay publishes it.

use super::Connection;
use super::database::{connect, fresh};
use super::stage::{count, number, server};
use super::wire::{Wire, committed, record};
use crate::harness::{server_url, unique, until};
use crate::proxy::Proxy;
use crate::relay::RelayConfig;
use crate::report::{Row, size};

fn innocents(connection: &mut Connection, name: &str, count: i64) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|key| format!("{name}-{key}")).collect();
    names.iter().for_each(|name| record(connection, name, 1));
    names
}

/// The test's own proxy before the broker sees the message, and the relay is killed for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_its_relay_is_parked_and_others_pass() {
    let (source, exchange, amqp) = (fresh(), unique("ex"), server_url(outbox_tests::lab_client::AMQP_URL));
    let wire = Wire::start(&amqp, &exchange).await;
    let (proxy, through) = Proxy::before(&amqp).await;
    let mut connection = connect(&source);
    let mut keys = innocents(&mut connection, "before", size(3, 40));
    record(&mut connection, "deadly", 1);
    keys.extend(innocents(&mut connection, "behind", 2));

    let config = RelayConfig {
        database: source.url.clone(),
        amqp: through,
        exchange: exchange.clone(),
        lease: "1s",
        broker_keys: String::new(),
        keys: "attempts = 2\nbatch_rows = 4".into(),
        environment: Vec::new(),
    };
    let mut kills = 0;
    let relay = loop {
        proxy.freeze_before("deadly");
        let relay = config.start();
        let mut is_parked = false;
        until("the message is on its way, or parked", || {
            let parked = "select count(*) as n from outbox_key where parked";
            is_parked = number(&mut connection, parked) == 1;
            let is_over = is_parked || proxy.has_frozen();
            async move { is_over }
        })
        .await;
        if is_parked {
            break relay;
        }
        assert!(!relay.log().contains("parked"), "{}", relay.log());
        // SIGKILL.
        drop(relay);
        kills += 1;
        assert!(kills < 60, "it was never isolated");
    };
    // One to halve four rows twice, one for each attempt, and one more for each time that rows before it pass.
    assert!(kills >= 4, "parked after {kills} kills, as if it had to be this message");
    until("only the message itself is left", || {
        let left = count(&mut connection, "outbox");
        async move { left == 1 }
    })
    .await;
    let noted = "select count(*) as n from outbox_key where parked and attempts = 2 \
                 and last_error like '%relay ended%'";
    assert_eq!(number(&mut connection, noted), 1);
    assert_eq!(count(&mut connection, "outbox_key"), 1, "of nobody else an attempt is left");
    // However often relays were ended, and however few rows are left to show that this one is not.
    until("the relay reads as much as ever at once", || {
        let unclean = number(&mut connection, "select count(*) as n from outbox_lease where unclean > 0");
        async move { unclean == 0 }
    })
    .await;
    assert_eq!(relay.status().unwrap().parked_keys, 1);

    let all = committed(keys.iter().map(|key| (key.as_str(), 1)));
    until("all has arrived", || async { wire.tally().check(&all).is_ok() }).await;
    let counts = wire.tally().check(&all).unwrap();
    drop(relay);
    let written = keys.len() as u64 + 1;
    Row {
        fault: "relay: SIGKILL at a certain message",
        injected: kills,
        server: server(),
        written,
        counts: Some(counts),
    }
    .write();
}
