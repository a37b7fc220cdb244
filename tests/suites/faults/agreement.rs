//! Writers and relays have to agree on the buckets.

use diesel::connection::SimpleConnection as _;
use outbox_core::OutboxConnection as _;

use super::database::{connect, fresh, message};
use super::stage::server;
use crate::harness::{server_url, unique, until};
use crate::relay::RelayConfig;
use crate::report::Row;

fn relay_on(database: &str) -> RelayConfig {
    RelayConfig {
        database: database.to_owned(),
        amqp: server_url(outbox_tests::lab_client::AMQP_URL),
        exchange: unique("ex"),
        lease: "1s",
        broker_keys: String::new(),
        keys: String::new(),
        environment: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_number_of_buckets_is_refused() {
    let source = fresh();
    let mut connection = connect(&source);
    connection.batch_execute("update outbox_meta set buckets = 32").unwrap();
    let relay = relay_on(&source.url).start();
    let log = until_ended(relay).await;
    assert!(log.contains("outbox_meta says 32 buckets") && log.contains("64"), "{log}");

    // A writer that counts further than the table was made for is refused by the table.
    let written = connection.outbox_transaction(|tx| {
        tx.record_message(message("k", "made"));
        Ok(())
    });
    written.unwrap();
    let beyond = connection.batch_execute("update outbox set bucket = 64").unwrap_err().to_string();
    assert!(beyond.to_lowercase().contains("constraint") && beyond.contains("bucket"), "{beyond}");
    Row {
        fault: "buckets: another number in outbox_meta",
        injected: 1,
        server: server(),
        written: 0,
        counts: None,
    }
    .write();
}

async fn until_ended(relay: crate::relay::RelayProcess) -> String {
    let mut relay = relay;
    until("the relay refuses and ends", || {
        let status = relay.ended();
        async move { status == Some(1) }
    })
    .await;
    relay.log()
}
