//! The cursor trap: a transaction that commits late shows a lower id than ones already published. (Not on
//! SQLite, where one transaction writes at a time.)

use std::sync::mpsc;

use diesel::Connection as _;
use outbox_core::OutboxConnection as _;
use outbox_core::broker::memory::MemoryBroker;

use super::database::{connect, fresh, message, outbox, outbox_is_empty};
use super::end_to_end::{RelayTask, config};
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_lost() {
    let source = fresh();
    let broker = MemoryBroker::new();
    let relay = RelayTask::start(config(&source), broker.clone());

    let (inserted, wait_inserted) = mpsc::channel();
    let (commit, wait_commit) = mpsc::channel::<()>();
    let mut slow = connect(&source);
    let slow = tokio::task::spawn_blocking(move || {
        slow.transaction(|connection| {
            connection.record_in_open_transaction(|tx| {
                tx.record_message(message("slow", "made"));
                Ok(())
            })?;
            inserted.send(()).unwrap();
            wait_commit.recv().unwrap();
            Ok::<_, outbox_core::Error>(())
        })
        .unwrap();
    });
    wait_inserted.recv().unwrap();

    let mut quick = connect(&source);
    for _ in 0..3 {
        quick
            .outbox_transaction(|tx| {
                tx.record_message(message("quick", "made"));
                Ok(())
            })
            .unwrap();
    }
    until("the quick ones are gone", || {
        let gone = relay.now().published == 3 && outbox(&mut quick).is_empty();
        async move { gone }
    })
    .await;
    commit.send(()).unwrap();
    slow.await.unwrap();
    until("the slow one is published", || {
        let gone = relay.now().published == 4 && outbox_is_empty(&mut quick);
        async move { gone }
    })
    .await;
    let ids: Vec<i64> = broker
        .unrouted()
        .iter()
        .map(|frame| outbox_core::Recorded::from_frame(frame).unwrap().version.id)
        .collect();
    assert!(ids[3] < ids[0], "the late one has the lowest id: {ids:?}");
    relay.stop().await;
}
