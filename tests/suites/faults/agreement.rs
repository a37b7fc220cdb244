//! Writers and relays have to agree on the buckets.

use diesel::connection::SimpleConnection as _;
use outbox_core::OutboxConnection as _;

use super::SERVER;
use super::database::{connect, fresh, message};
use super::stage::server;
use crate::checker::Counts;
use crate::harness::{Server, server_url, unique, until};
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

    // The table itself refuses a writer that counts further.
    let narrower = match SERVER {
        Server::Postgres | Server::Mariadb => {
            "alter table outbox drop constraint outbox_bucket_range, \
             add constraint outbox_bucket_range check (bucket between -1 and -1)"
        }
        Server::Mysql => {
            "alter table outbox drop check outbox_bucket_range, \
             add constraint outbox_bucket_range check (bucket between -1 and -1)"
        }
        // SQLite changes no constraint of a table that is there.
        Server::Sqlite => {
            "create trigger narrower before insert on outbox when new.bucket not between -1 and -1 \
             begin select raise(abort, 'outbox_bucket_range'); end"
        }
    };
    connection.batch_execute(narrower).unwrap();
    let refused = connection.outbox_transaction(|tx| {
        tx.record_message(message("k", "made"));
        Ok(())
    });
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("outbox_bucket_range"), "{error}");
    let counts = Counts { arrived: 0, repeats: 0 };
    Row {
        fault: "buckets: another number in outbox_meta",
        injected: 1,
        server: server(),
        written: 0,
        counts,
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
