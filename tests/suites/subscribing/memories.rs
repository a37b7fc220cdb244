//! What is forgotten when, what comes after that, and how the service sees how far its subscriber is.

use std::time::Duration;

use chrono::Utc;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Frame, Freshness, MessageId, Recorded, Seen};

use super::consumer::Subscriber;
use super::database::{connect, copies, fresh, ledger_entries, pool};
use super::stage::{Handles as _, Held, Running, ask, change, copy, publish, step, subscriber};
use super::{Connection, SERVER};
use crate::harness::Server;
use crate::items::{ItemCopy, inbox};

/// The same message, recorded so many days ago.
fn days_old(frame: &Frame, days: i64) -> Frame {
    let mut recorded = Recorded::from_frame(frame).unwrap();
    recorded.recorded_at = Utc::now() - chrono::TimeDelta::days(days);
    recorded.to_frame()
}

/// A time so many days ago, as SQL.
fn ago(days: i64) -> String {
    match SERVER {
        Server::Sqlite => {
            format!("(cast((julianday('now') - 2440587.5) * 86400000000 as integer) - {days} * 86400000000)")
        }
        Server::Postgres => format!("(now() - interval '{days} days')"),
        Server::Mariadb | Server::Mysql => format!("(utc_timestamp(6) - interval {days} day)"),
    }
}

/// Gives all ids of the inbox a time so many days ago, as if they had been made and applied then.
fn age(connection: &mut Connection, days: i64) {
    let ids: Vec<Vec<u8>> = inbox::table.select(inbox::message_id).load(connection).unwrap();
    for (place, id) in ids.into_iter().enumerate() {
        let old = id_of_days_ago(days, place as u64);
        diesel::update(inbox::table.filter(inbox::message_id.eq(id)))
            .set(inbox::message_id.eq(old.as_bytes().as_slice()))
            .execute(connection)
            .unwrap();
    }
    connection.batch_execute(&format!("update inbox set applied_at = {}", ago(days))).unwrap();
}

fn id_of_days_ago(days: i64, number: u64) -> MessageId {
    let millis = (Utc::now() - chrono::TimeDelta::days(days)).timestamp_millis().unsigned_abs();
    let mut id = [0; 16];
    id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    id[6] = 0x70;
    id[8..].copy_from_slice(&(number | 1 << 63).to_be_bytes());
    MessageId::from_slice(&id).unwrap()
}

#[tokio::test]
async fn what_is_behind_the_horizon_and_unknown_is_set_aside_until_it_is_forced() {
    let build = |s: Subscriber| s.copy::<ItemCopy>().enter_steps();
    let mut running = Running::start(build).await;
    let frames = [step("x", 1), change(1, "created", "a", 1), change(1, "deleted", "a", 2)];
    running.feed(&frames).await;
    age(&mut running.connection, 20);
    running.connection.batch_execute(&format!("update copy_deleted set deleted_at = {}", ago(20))).unwrap();
    // Young enough to stay.
    running.feed(&[step("x", 2), change(2, "created", "b", 3), change(2, "deleted", "b", 4)]).await;

    let pruning = build(subscriber(&running.broker, &running.database));
    let pruned = pruning.prune().await.unwrap();
    assert!(pruned.ran);
    assert_eq!((pruned.applied, pruned.deleted), (3, 1));
    assert_eq!(inbox::table.count().get_result::<i64>(&mut running.connection).unwrap(), 3);
    let pruned = pruning.prune().await.unwrap();
    assert_eq!((pruned.ran, pruned.applied, pruned.deleted), (true, 0, 0));

    // It was applied, and nobody knows; the next of its key waits behind it.
    let late = days_old(&frames[0], 20);
    running.feed(&[late, step("x", 3)]).await;
    assert_eq!(ledger_entries(&mut running.connection), [("x".into(), 1), ("x".into(), 2)]);
    let held = running.rows();
    assert_eq!(held.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["dead", "waiting"]);
    assert!(held[0].error.contains("behind-horizon"), "{held:?}");
    // A plain replay does not help.
    ask(&mut running.connection, "replay", "dead");
    running.until_held("it is refused again", |held| held[0].state == "dead" && held[0].attempts == 2).await;
    ask(&mut running.connection, "force", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    let entries = ledger_entries(&mut running.connection);
    assert_eq!(entries[2..], [("x".into(), 1), ("x".into(), 3)]);

    // Old, but not that old: a relay that was down for some days.
    running.feed(&[days_old(&step("x", 4), 5)]).await;
    assert_eq!(ledger_entries(&mut running.connection).len(), 5);
    assert!(running.rows().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_forgotten_while_messages_wait_or_somebody_else_forgets() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    let pruning = subscriber(&broker, &database).copy::<ItemCopy>();
    pruning.declare().await.unwrap();
    let claim = format!("insert into inbox_consumer (consumer, upkeep_until) values ('test', {})", ago(-1));
    connection.batch_execute(&claim).unwrap();
    assert!(!pruning.prune().await.unwrap().ran, "somebody else's turn");
    connection.batch_execute(&format!("update inbox_consumer set upkeep_until = {}", ago(1))).unwrap();
    assert!(pruning.prune().await.unwrap().ran, "whose turn is over");
    publish(&broker, &[change(1, "created", "a", 1)]).await;
    assert!(!pruning.prune().await.unwrap().ran, "a message waits");

    let short = subscriber(&broker, &database).copy::<ItemCopy>().retention(Duration::from_secs(3600));
    let error = short.prune().await.unwrap_err();
    assert!(error.to_string().contains("a retention is at least a day"), "{error}");
}

/// Under load a queue is never empty; how far the subscriber is with it tells that nothing old waits there.
#[tokio::test]
async fn a_queue_that_is_never_empty_is_no_reason_to_remember_for_ever() {
    let build = |s: Subscriber| s.enter_steps();
    let mut running = Running::start(build).await;
    running.feed(&[step("x", 1)]).await;
    age(&mut running.connection, 20);
    running.feed(&[step("x", 2)]).await;
    let freshness = Freshness::new("test", pool(&running.database));
    crate::harness::until("it is noted how far it is", || async {
        freshness.reached().unwrap().first().is_some_and(|reached| reached.version.id == 1002)
    })
    .await;
    running.stop_keeping().await;
    // It waits, as something always does.
    running.publish(&[step("x", 3)]).await;
    let pruning = build(subscriber(&running.broker, &running.database));
    running.connection.batch_execute(&format!("update inbox_progress set recorded_at = {}", ago(1))).unwrap();
    assert!(!pruning.prune().await.unwrap().ran, "it is a day behind");
    running.connection.batch_execute(&format!("update inbox_progress set recorded_at = {}", ago(0))).unwrap();
    let pruned = pruning.prune().await.unwrap();
    assert_eq!((pruned.ran, pruned.applied), (true, 1));
    running.start_again(build);
    running.feed(&[]).await;
    let entries = ledger_entries(&mut running.connection);
    assert_eq!(entries, [("x".into(), 1), ("x".into(), 2), ("x".into(), 3)]);
    assert!(running.rows().is_empty());
    running.stop().await;
}

/// Many rows, in pieces, while others write; of which those that are young stay.
#[tokio::test]
async fn a_large_inbox_is_forgotten_in_pieces_while_messages_are_applied() {
    let rows: u64 = match SERVER {
        Server::Mariadb | Server::Postgres => 20_000,
        Server::Sqlite | Server::Mysql => 2_500,
    };
    let build = |s: Subscriber| s.copy::<ItemCopy>();
    let mut running = Running::start(build).await;
    let ids: Vec<_> = (0..rows).map(|number| id_of_days_ago(30, number)).collect();
    for ids in ids.chunks(1000) {
        let rows: Vec<_> = ids
            .iter()
            .map(|id| (inbox::consumer.eq("test"), inbox::message_id.eq(id.as_bytes().as_slice())))
            .collect();
        diesel::insert_into(inbox::table).values(rows).execute(&mut running.connection).unwrap();
    }
    running.connection.batch_execute(&format!("update inbox set applied_at = {}", ago(30))).unwrap();
    let pruning = build(subscriber(&running.broker, &running.database));
    let pruned = tokio::spawn(async move {
        loop {
            // It does nothing in a moment in which a message waits.
            let pruned = pruning.prune().await.unwrap();
            if pruned.ran {
                return pruned;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for version in 1..=20 {
        let event = if version == 1 { "created" } else { "updated" };
        running.feed(&[change(1, event, "a", version)]).await;
    }
    assert_eq!(pruned.await.unwrap().applied, rows);
    assert_eq!(copies(&mut running.connection), [copy(1, "a", 20)]);
    assert_eq!(inbox::table.count().get_result::<i64>(&mut running.connection).unwrap(), 20);
    running.stop().await;
}

#[tokio::test]
async fn the_service_waits_for_its_own_write_and_sees_how_far_its_copy_is() {
    let mut running = Running::start(|s| {
        s.copy::<ItemCopy>()
            .steps(|_, _, _| Err(outbox_core::Error::new(outbox_core::ErrorKind::Invalid, "no steps")))
    })
    .await;
    let freshness = Freshness::new("test", pool(&running.database));
    assert!(freshness.reached().unwrap().is_empty());
    let id = |frame: &Frame| MessageId::parse(&frame.message_id).unwrap();
    let (first, second) = (change(1, "created", "a", 7), change(1, "updated", "b", 9));
    assert_eq!(freshness.wait_for(id(&first), Duration::from_millis(20)).await.unwrap(), Seen::NotYet);
    let (waiting, awaited) = (freshness.clone(), id(&second));
    let seen = tokio::spawn(async move { waiting.wait_for(awaited, Duration::from_secs(60)).await });
    running.publish(&[first, second]).await;
    assert_eq!(seen.await.unwrap().unwrap(), Seen::Applied);
    assert_eq!(copies(&mut running.connection), [copy(1, "b", 9)]);

    let failing = step("x", 1);
    running.feed(std::slice::from_ref(&failing)).await;
    assert_eq!(freshness.seen(id(&failing)).unwrap(), Seen::Held);

    crate::harness::until("it is noted how far it is", || async {
        freshness.reached().unwrap().first().is_some_and(|reached| reached.version.id == 9)
    })
    .await;
    let reached = freshness.reached().unwrap();
    assert_eq!((reached.len(), reached[0].source.as_str(), reached[0].queue), (1, "items", 0));
    assert!(reached[0].age < Duration::from_secs(600), "{reached:?}");
    running.stop().await;
}
