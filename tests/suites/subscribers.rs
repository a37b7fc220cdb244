//! P4 on the consumer's side: one effect per message, whatever comes twice, late, broken or out of turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Error, ErrorKind, Event as _, FailurePolicy, Frame, Message, Recorded};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::consumer::on;
use super::database::{copies, fresh, ledger_entries};
use super::stage::{Handles as _, Running, change, copy, recorded, sent_again, step, subscriber};
use crate::harness::until;
use crate::items::{
    Emptied, FlaggedCopy, ItemCopy, PurseEvent, TimedCopy, copy_source, flagged_copy, inbox, item_copy,
    timed_copy,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_follows_and_leaves_foreign_columns_alone() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "a", 1), change(2, "created", "b", 2)]).await;
    diesel::update(item_copy::table.find(1))
        .set(item_copy::own.eq("ours"))
        .execute(&mut running.connection)
        .unwrap();
    running.feed(&[change(1, "updated", "a2", 3), change(2, "deleted", "b", 4)]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "a2", 3)]);
    let own: String = item_copy::table.find(1).select(item_copy::own).first(&mut running.connection).unwrap();
    assert_eq!(own, "ours");
    assert_eq!((running.stats.applied(), running.stats.duplicates()), (4, 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_has_no_second_effect() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>().enter_steps()).await;
    let frames = [change(1, "created", "a", 1), step("x", 1), change(1, "updated", "b", 2), step("x", 2)];
    for _ in 0..3 {
        running.feed(&frames).await;
    }
    running.feed(&[frames[2].clone(), frames[0].clone(), frames[1].clone()]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "b", 2)]);
    assert_eq!(ledger_entries(&mut running.connection), [("x".into(), 1), ("x".into(), 2)]);
    assert_eq!((running.stats.applied(), running.stats.duplicates()), (4, 11));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_unknown_change_is_set_aside_and_not_applied() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "new", 10), change(2, "created", "b", 11)]).await;
    running.feed(&[change(2, "deleted", "b", 12)]).await;
    // As after a restore of the outbox from a backup: ids start lower again.
    running.feed(&[change(1, "updated", "old", 5), change(2, "updated", "back", 6)]).await;
    running.feed(&[change(1, "deleted", "old", 7), change(2, "deleted", "b", 8)]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "new", 10)]);
    let held = running.held();
    assert_eq!(held.len(), 4);
    assert!(held.iter().all(|(_, _, error)| error.contains("stale-unknown")), "{held:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_row_may_be_created_again() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "a", 1), change(1, "deleted", "a", 2)]).await;
    running.feed(&[change(1, "created", "again", 3)]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "again", 3)]);
    assert!(running.held().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_message_is_set_aside_and_the_others_flow() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let mut running = Running::start(move |s| {
        let s = s.on_failure("account.stepped", FailurePolicy::LatestWins);
        s.steps(move |entries, step, _| {
            entries.enter(step);
            match step.sequence {
                2 => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Err(Error::application("I do not like two"))
                }
                4 => panic!("four is my end"),
                _ => Ok(()),
            }
        })
    })
    .await;
    let frames: Vec<_> = (1..=5).map(|sequence| step("x", sequence)).collect();
    running.feed(&frames).await;
    running.until_held("the two are given up", |held| held.iter().all(|row| row.state == "dead")).await;
    let sequences: Vec<_> = ledger_entries(&mut running.connection).into_iter().map(|e| e.1).collect();
    assert_eq!(sequences, [1, 3, 5], "the failed ones left nothing behind");
    let held = running.held();
    assert_eq!(held.iter().map(|(_, attempts, _)| *attempts).collect::<Vec<_>>(), [5, 5]);
    assert!(held.iter().any(|(_, _, error)| error.contains("I do not like two")), "{held:?}");
    assert!(held.iter().any(|(_, _, error)| error.contains("panicked: four is my end")), "{held:?}");
    assert_eq!(running.stats.set_aside(), 2);
    // Alone in the batch or not: at least the five counted attempts, and the one with all others.
    assert!(attempts.load(Ordering::Relaxed) >= 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_a_handler_is_waited_out_and_not_counted() {
    let outages = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&outages);
    let mut running = Running::start(move |s| {
        s.steps(move |entries, step, _| {
            entries.enter(step);
            if step.sequence == 2 && counted.fetch_add(1, Ordering::Relaxed) < 20 {
                return Err(Error::new(ErrorKind::Outage, "the database is restarting"));
            }
            Ok(())
        })
    })
    .await;
    running.feed(&[step("x", 1), step("x", 2), step("x", 3)]).await;
    let sequences: Vec<_> = ledger_entries(&mut running.connection).into_iter().map(|e| e.1).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!((running.stats.set_aside(), running.stats.retries()), (0, 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_parked_with_its_reason_and_loses_nothing() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    let good = change(1, "created", "a", 1);
    let mut frames = vec![good.clone()];
    let mut broken = |id: &str, edit: &dyn Fn(&mut Frame)| {
        let mut frame = change(9, "created", "x", 9);
        frame.message_id = id.into();
        edit(&mut frame);
        frames.push(frame);
    };
    broken("0192e4a0-0000-7000-8000-000000000001", &|frame| frame.body = vec![0xff, 0xfe]);
    broken("0192e4a0-0000-7000-8000-000000000002", &|frame| frame.body = b"{\"after\"".to_vec());
    broken("0192e4a0-0000-7000-8000-000000000003", &|frame| frame.headers = Default::default());
    broken("no uuid \0 at all", &|_| {});
    broken("", &|_| {});
    broken("0192e4a0-0000-7000-8000-000000000004", &|frame| {
        frame.body = b"{\"after\": {\"id\": \"seven\"}}".to_vec();
    });
    broken("0192e4a0-0000-7000-8000-000000000005", &|frame| frame.body = b"{}".to_vec());
    broken("0192e4a0-0000-7000-8000-000000000006", &|frame| frame.kind = "item.exploded".into());
    broken("0192e4a0-0000-7000-8000-000000000007", &|frame| {
        let headers = frame.headers.iter();
        let newer = headers.map(|(name, value)| (name, if name == "outbox-format" { "2" } else { value }));
        frame.headers = newer.collect();
    });
    frames.push(change(2, "created", "b", 2));
    running.feed(&frames).await;
    running.feed(&frames).await;

    assert_eq!(copies(&mut running.connection), [copy(1, "a", 1), copy(2, "b", 2)]);
    let held = running.held();
    assert_eq!(held.len(), 9, "{held:?}");
    for text in [
        "UTF-8",
        "JSON",
        "outbox-format is missing",
        "UUID",
        "field id",
        "neither",
        "no consumer",
        "upgrade the subscriber",
    ] {
        assert!(held.iter().any(|(_, _, error)| error.contains(text)), "{text}: {held:?}");
    }
    assert!(running.database.url.len() > 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_is_per_consumer() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    running.feed(&[change(1, "created", "a", 1)]).await;
    let consumers: Vec<String> = inbox::table.select(inbox::consumer).load(&mut running.connection).unwrap();
    assert_eq!(consumers, ["test"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_refuses_a_second_source() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    let mut foreign = Recorded::from_frame(&change(2, "created", "b", 2)).unwrap();
    foreign.source = "elsewhere".into();
    running.feed(&[change(1, "created", "a", 1), foreign.to_frame()]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "a", 1)]);
    assert!(running.held()[0].2.contains("follows outbox items"));
    running.stop().await;
}

/// The first transaction that says which source a copy follows may be rolled back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_its_source_though_the_first_batch_failed() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let failing = subscriber(&broker, &database).copy::<ItemCopy>();
    let failing = failing.raw("account.stepped", |_| Err(Error::application("never")));
    let frames = [change(1, "created", "a", 1), step("x", 1)];
    let mut running = Running::over(broker, database, failing, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "a", 1)]);
    let sources: Vec<String> =
        copy_source::table.select(copy_source::source).load(&mut running.connection).unwrap();
    assert_eq!(sources, ["items"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_queues_keep_order_per_key() {
    let mut running = Running::start(|s| s.queues(4).batch(7).enter_steps()).await;
    let frames: Vec<_> = (1..=20)
        .flat_map(|sequence| (0..10).map(move |account| step(&format!("a{account}"), sequence)))
        .collect();
    running.feed(&frames).await;
    let entries = ledger_entries(&mut running.connection);
    assert_eq!(entries.len(), 200);
    for account in 0..10 {
        let name = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == name).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=20).collect::<Vec<_>>());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_of_one_kind_are_refused_at_start() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let subscriber = on("test", broker, &database).copy::<ItemCopy>().raw("item.created", |_| Ok(()));
    let error = subscriber.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("item.created has two consumers"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_inbox_tables_are_named_at_start() {
    let (database, broker) = (super::SERVER.empty(), MemoryBroker::new());
    let subscriber = on("test", broker, &database).copy::<ItemCopy>();
    let shutdown = CancellationToken::new();
    let error = subscriber.run(shutdown.clone()).await.unwrap_err();
    assert!(error.to_string().contains("outbox_core::migrate::run"), "{error}");
    assert!(!shutdown.is_cancelled(), "it stops more than the subscriber");
}

/// A change of a good, by event names of its own.
fn good(id: i64, event: &str, amount: &str, version: i64) -> Frame {
    let side = if event == "delisted" { "before" } else { "after" };
    let image = serde_json::json!({ side: {"id": id, "amount": amount, "own": "theirs", "gone": true} });
    let payload = image.to_string().into_bytes();
    recorded(Message::new("good", id.to_string(), event, payload).unwrap(), version)
}

fn flagged(id: i64, cents: i64, gone: bool) -> FlaggedCopy {
    FlaggedCopy { id, cents, own: "mine".into(), gone }
}

fn flagged_copies(connection: &mut Connection) -> Vec<FlaggedCopy> {
    flagged_copy::table.order(flagged_copy::id).select(FlaggedCopy::as_select()).load(connection).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_converts_keeps_its_own_and_marks_what_is_deleted() {
    let mut running = Running::start(|s| s.copy::<FlaggedCopy>()).await;
    running.feed(&[good(1, "listed", "9.50", 1), good(2, "listed", "1.00", 2)]).await;
    diesel::update(flagged_copy::table.find(2))
        .set(flagged_copy::own.eq("ours"))
        .execute(&mut running.connection)
        .unwrap();
    running.feed(&[good(1, "changed", "9.95", 3), good(2, "delisted", "1.00", 4)]).await;
    let two = FlaggedCopy { own: "ours".into(), ..flagged(2, 100, true) };
    assert_eq!(flagged_copies(&mut running.connection), [flagged(1, 995, false), two.clone()]);
    assert!(running.held().is_empty());

    // Comes back by a change, by a new listing, and by its state sent again.
    running.feed(&[good(2, "changed", "2.00", 5), good(1, "delisted", "9.95", 6)]).await;
    running.feed(&[good(1, "listed", "3.00", 7), sent_again(good(3, "listed", "4.00", 8))]).await;
    let two = FlaggedCopy { cents: 200, gone: false, ..two };
    let expected = [flagged(1, 300, false), two, flagged(3, 400, false)];
    assert_eq!(flagged_copies(&mut running.connection), expected);
    running.feed(&[good(3, "delisted", "4.00", 9), sent_again(good(3, "listed", "4.00", 10))]).await;
    assert_eq!(flagged_copies(&mut running.connection), expected);
    assert!(running.held().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversion_that_panics_sets_its_message_aside() {
    let mut running = Running::start(|s| s.copy::<FlaggedCopy>()).await;
    running.feed(&[good(1, "listed", "-9.50", 1), good(2, "listed", "1.00", 2)]).await;
    assert_eq!(flagged_copies(&mut running.connection), [flagged(2, 100, false)]);
    let held = running.held();
    assert_eq!(held.len(), 1);
    assert!(held[0].2.contains("reading a row of copy flagged_copy panicked: a negative amount"), "{held:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_row_takes_no_older_change() {
    let mut running = Running::start(|s| s.copy::<FlaggedCopy>()).await;
    let created = good(1, "listed", "9.50", 10);
    let deleted = good(1, "delisted", "9.50", 12);
    running.feed(&[created.clone(), deleted.clone()]).await;
    // Delivered again: known, no effect. Unknown and older, or of the same version: set aside.
    running.feed(&[created, deleted]).await;
    assert_eq!(running.stats.duplicates(), 2);
    running.feed(&[good(1, "changed", "1.00", 11), good(1, "listed", "1.00", 12)]).await;
    running.feed(&[good(1, "delisted", "1.00", 12), good(1, "delisted", "1.00", 5)]).await;
    assert_eq!(flagged_copies(&mut running.connection), [flagged(1, 950, true)]);
    // A row never seen: its delete is remembered, and an older change does not bring it.
    running.feed(&[good(2, "delisted", "1.00", 20)]).await;
    running.feed(&[good(2, "changed", "1.00", 19), good(2, "delisted", "1.00", 20)]).await;
    assert_eq!(flagged_copies(&mut running.connection), [flagged(1, 950, true)]);
    let held = running.held();
    assert_eq!(held.len(), 6, "{held:?}");
    assert!(held.iter().all(|(_, _, error)| error.contains("stale-unknown")), "{held:?}");

    running.feed(&[good(2, "changed", "1.00", 21), good(1, "changed", "2.00", 22)]).await;
    assert_eq!(flagged_copies(&mut running.connection), [flagged(1, 200, false), flagged(2, 100, false)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_row_that_the_service_removes_does_not_come_back_by_an_older_change() {
    let mut running = Running::start(|s| s.copy::<FlaggedCopy>()).await;
    running.feed(&[good(1, "listed", "9.50", 10), good(1, "delisted", "9.50", 12)]).await;
    diesel::delete(flagged_copy::table).execute(&mut running.connection).unwrap();
    running.feed(&[good(1, "changed", "9.50", 11)]).await;
    assert!(flagged_copies(&mut running.connection).is_empty());
    assert!(running.held()[0].2.contains("stale-unknown"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_may_leave_its_time() {
    let mut running = Running::start(|s| s.copy::<TimedCopy>()).await;
    let rows = |connection: &mut Connection| -> Vec<(i64, String, bool)> {
        timed_copy::table
            .order(timed_copy::id)
            .select((timed_copy::id, timed_copy::name, timed_copy::deleted_at.is_not_null()))
            .load(connection)
            .unwrap()
    };
    running.feed(&[change(1, "created", "a", 1), change(2, "created", "b", 2)]).await;
    running.feed(&[change(1, "deleted", "a", 3)]).await;
    assert_eq!(rows(&mut running.connection), [(1, "a".into(), true), (2, "b".into(), false)]);
    let passed: i64 = timed_copy::table
        .filter(timed_copy::deleted_at.le(diesel::dsl::now))
        .count()
        .get_result(&mut running.connection)
        .unwrap();
    assert_eq!(passed, 1);
    running.feed(&[change(1, "updated", "old", 2)]).await;
    assert_eq!(running.held().len(), 1);
    running.feed(&[change(1, "updated", "a2", 4)]).await;
    assert_eq!(rows(&mut running.connection), [(1, "a2".into(), false), (2, "b".into(), false)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_convert_is_set_aside_without_its_value() {
    let mut running = Running::start(|s| s.copy::<FlaggedCopy>()).await;
    let wrong_type = serde_json::json!({ "after": {"id": "hush", "amount": "1.00"} });
    let wrong_type = Message::new("good", "3", "listed", wrong_type.to_string().into_bytes()).unwrap();
    running.feed(&[good(1, "listed", "hush", 1), recorded(wrong_type, 2)]).await;
    let held = running.held();
    let errors: Vec<_> = held.iter().map(|(_, _, error)| error.as_str()).collect();
    assert!(errors.iter().any(|error| error.ends_with("field amount: no decimal point")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("field id: a string does not read as")), "{errors:?}");
    assert!(!errors.iter().any(|error| error.contains("hush")), "{errors:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_handler_takes_every_event_of_an_enum() {
    let mut running = Running::start(|s| {
        s.events(|entries, event: PurseEvent| {
            let (purse, sequence) = match event {
                PurseEvent::Filled { purse, by } => (purse, by),
                PurseEvent::NameChanged { old, new } => (format!("{old}>{new}"), 0),
                PurseEvent::Emptied(Emptied { purse }) => (purse, -1),
            };
            entries.note(&purse, sequence);
            Ok(())
        })
    })
    .await;
    let events = [
        PurseEvent::Filled { purse: "a".into(), by: 7 },
        PurseEvent::NameChanged { old: "a".into(), new: "b".into() },
        PurseEvent::Emptied(Emptied { purse: "b".into() }),
    ];
    let frames: Vec<_> =
        events.iter().zip(1..).map(|(event, id)| recorded(event.message().unwrap(), id)).collect();
    let kinds: Vec<_> = frames.iter().map(|frame| frame.kind.as_str()).collect();
    assert_eq!(kinds, ["purse.filled", "purse.renamed", "purse.emptied"]);
    running.feed(&frames).await;
    assert_eq!(
        ledger_entries(&mut running.connection),
        [("a".into(), 7), ("a>b".into(), 0), ("b".into(), -1)]
    );

    // The payload of one event under the name of another.
    let payload = events[0].message().unwrap().payload().to_vec();
    running.feed(&[recorded(Message::new("purse", "a", "emptied", payload).unwrap(), 4)]).await;
    assert_eq!(ledger_entries(&mut running.connection).len(), 3);
    let held = running.held();
    assert!(held[0].2.contains("reads as event filled"), "{held:?}");
    running.stop().await;
}
