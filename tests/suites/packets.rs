//! Messages near the largest size on MariaDB, whose `max_allowed_packet` is as large by default.

use outbox_core::{
    AsyncOutboxConnection as _, ErrorKind, Message, OutboxConnection as _, PAYLOAD_BYTES_MAX, Result,
};

use super::asynchronous::open;
use super::database::{connect, fresh, outbox};

fn large(bytes: usize) -> Message {
    let mut payload = vec![b'x'; bytes];
    (payload[0], payload[bytes - 1]) = (b'"', b'"');
    Message::new("picture", "1", "taken", payload).unwrap()
}

/// Says which setting is to be raised, and is neither an outage nor a missing table.
fn check(refused: Result<()>) {
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = error.to_string();
    assert!(text.contains("max_allowed_packet") && text.contains(&PAYLOAD_BYTES_MAX.to_string()), "{text}");
    assert!(!text.contains("missing?"), "{text}");
}

#[test]
fn a_message_above_the_packets_of_the_server_is_refused_with_the_setting_to_raise() {
    let database = fresh();
    let mut connection = connect(&database);
    let mut record = |bytes| {
        connection.outbox_transaction(|tx| {
            tx.record_message(large(bytes));
            Ok(())
        })
    };
    record(PAYLOAD_BYTES_MAX - 64 * 1024).unwrap();
    check(record(PAYLOAD_BYTES_MAX));
    assert_eq!(outbox(&mut connect(&database)).len(), 1);
}

#[tokio::test]
async fn a_message_above_the_packets_of_the_server_is_refused_on_diesel_async_too() {
    let database = fresh();
    let mut connection = open(&database).await;
    let mut record = async |bytes| {
        connection
            .outbox_transaction(async |tx| {
                tx.record_message(large(bytes));
                Ok(())
            })
            .await
    };
    record(PAYLOAD_BYTES_MAX - 64 * 1024).await.unwrap();
    check(record(PAYLOAD_BYTES_MAX).await);
    assert_eq!(outbox(&mut connect(&database)).len(), 1);
}
