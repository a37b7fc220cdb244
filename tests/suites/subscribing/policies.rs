//! What a failing message holds up, how it is tried again, and what an operator can do with it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Error, FailurePolicy, Frame, Recorded};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::consumer::{Subscriber, on};
use super::database::{copies, fresh, ledger_entries};
use super::stage::{
    Handles as _, Held, Running, allow, ask, change, copy, held_rows, recorded, refuse, sent_again, step,
    subscriber,
};
use crate::harness::until;
use crate::items::{ItemCopy, Stepped};

const KIND: &str = "account.stepped";

/// Enters steps; those of this sequence fail while the switch is on.
fn failing_at(sequence: i64, fails: &Arc<AtomicBool>) -> impl Fn(Subscriber) -> Subscriber + use<> {
    let fails = Arc::clone(fails);
    move |s| {
        let fails = Arc::clone(&fails);
        s.steps(move |entries, step, _| {
            entries.enter(step);
            if step.account == "x" && step.sequence == sequence && fails.load(Ordering::Relaxed) {
                return Err(Error::application("not now"));
            }
            Ok(())
        })
    }
}

fn switched_on() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

fn sequences(connection: &mut Connection, account: &str) -> Vec<i64> {
    let entries = ledger_entries(connection).into_iter();
    entries.filter(|entry| entry.0 == account).map(|entry| entry.1).collect()
}

fn states(held: &[Held]) -> Vec<&str> {
    held.iter().map(|row| row.state.as_str()).collect()
}

/// Steps of two accounts in turns.
fn steps(sequences: std::ops::RangeInclusive<i64>) -> Vec<Frame> {
    sequences.flat_map(|sequence| [step("x", sequence), step("y", sequence)]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_waits_in_order_behind_its_failing_message_and_goes_on_after_replay() {
    let fails = switched_on();
    let mut running = Running::start(failing_at(2, &fails)).await;
    let frames = steps(1..=5);
    running.feed(&frames[..6]).await;
    running.until_held("it is given up", |held| states(held) == ["dead", "waiting"]).await;
    running.feed(&frames[6..]).await;
    assert_eq!(sequences(&mut running.connection, "y"), [1, 2, 3, 4, 5]);
    assert_eq!(sequences(&mut running.connection, "x"), [1]);
    let held = running.rows();
    assert_eq!(states(&held), ["dead", "waiting", "waiting", "waiting"]);
    assert!(held.iter().all(|row| row.aggregate_id == "x" && row.holds == "key"), "{held:?}");
    assert_eq!(held.iter().map(|row| row.attempts).collect::<Vec<_>>(), [5, 0, 0, 0]);
    assert!(held[0].error.contains("account.stepped of key x: not now"), "{held:?}");

    // Still broken: it is dead again, and nothing has moved.
    assert_eq!(ask(&mut running.connection, "replay", "dead"), 1);
    running.until_held("it failed again", |held| held[0].attempts == 6 && held[0].state == "dead").await;
    assert_eq!(sequences(&mut running.connection, "x"), [1]);

    fails.store(false, Ordering::Relaxed);
    ask(&mut running.connection, "replay", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 2, 3, 4, 5]);
    // What comes again was applied.
    running.feed(&frames).await;
    assert_eq!(ledger_entries(&mut running.connection).len(), 10);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_message_has_no_effect_and_the_key_goes_on() {
    let mut running = Running::start(failing_at(2, &switched_on())).await;
    running.feed(&steps(1..=4)).await;
    running.until_held("it is given up", |held| states(held) == ["dead", "waiting", "waiting"]).await;
    ask(&mut running.connection, "discard", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 3, 4]);
    running.feed(&[step("x", 5)]).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 3, 4, 5]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_again_while_it_is_held_changes_nothing() {
    let mut running = Running::start(failing_at(2, &switched_on())).await;
    let frames = steps(1..=3);
    running.feed(&frames).await;
    running.until_held("it is given up", |held| states(held) == ["dead", "waiting"]).await;
    let held = running.rows();
    running.feed(&frames).await;
    assert_eq!(running.rows(), held);
    assert_eq!(running.stats.duplicates(), 6);
    ask(&mut running.connection, "discard", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    running.feed(&frames).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 3], "the discarded one stays so");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_tried_again_later_and_its_key_stays_in_order() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let mut running = Running::start(move |s| {
        s.steps(move |entries, step, incoming| {
            entries.enter(step);
            if step.sequence == 2 {
                seen.lock().unwrap().push((incoming.attempt(), incoming.is_redelivered()));
                if incoming.attempt() < 4 {
                    return Err(Error::application("not yet"));
                }
            }
            Ok(())
        })
    })
    .await;
    let frames: Vec<_> = (1..=6).map(|sequence| step("x", sequence)).collect();
    running.feed(&frames).await;
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 2, 3, 4, 5, 6]);
    assert_eq!((running.stats.applied(), running.stats.set_aside()), (6, 0));
    let attempts = attempts.lock().unwrap().clone();
    assert_eq!(attempts.last(), Some(&(4, true)));
    assert!(attempts.contains(&(1, false)) && attempts.contains(&(3, true)), "{attempts:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_latest_wins_nothing_waits() {
    let fails = switched_on();
    let build = failing_at(2, &fails);
    let mut running = Running::start(|s| build(s).on_failure(KIND, FailurePolicy::LatestWins)).await;
    running.feed(&steps(1..=4)).await;
    running.until_held("it is given up", |held| states(held) == ["dead"]).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 3, 4]);
    fails.store(false, Ordering::Relaxed);
    ask(&mut running.connection, "replay", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 3, 4, 2]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_holds_everything_until_somebody_decides() {
    let fails = switched_on();
    let build = failing_at(2, &fails);
    let mut running =
        Running::start(|s| build(s).queues(3).on_failure("account.*", FailurePolicy::Halt)).await;
    running.feed(&steps(1..=1)).await;
    let publishing = steps(2..=4);
    running.publish(&publishing).await;
    running.until_held("it is given up", |held| states(held) == ["dead"]).await;
    // Of the other account, in whichever queue, at most what came in before the halt.
    let before = sequences(&mut running.connection, "y");
    assert_eq!(sequences(&mut running.connection, "x"), [1]);
    running.publish(&[step("z", 1)]).await;
    running.publish(&[step("y", 5)]).await;
    assert!(!running.broker.is_idle());
    assert_eq!(sequences(&mut running.connection, "z"), [0; 0]);
    assert_eq!(sequences(&mut running.connection, "y"), before);

    fails.store(false, Ordering::Relaxed);
    ask(&mut running.connection, "replay", "dead");
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 2, 3, 4]);
    assert_eq!(sequences(&mut running.connection, "y"), [1, 2, 3, 4, 5]);
    assert_eq!(sequences(&mut running.connection, "z"), [1]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_change_of_a_copy_is_overtaken_and_a_replay_of_it_changes_nothing() {
    let mut running = Running::start(|s| s.copy::<ItemCopy>()).await;
    let mut broken = change(1, "updated", "broken", 2);
    broken.body = br#"{"after": {"id": 1, "name": "broken"}}"#.to_vec();
    running.feed(&[change(1, "created", "a", 1), broken, change(1, "updated", "c", 3)]).await;
    running.until_held("it is given up", |held| states(held) == ["dead"]).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "c", 3)]);
    let held = running.rows();
    assert!(held[0].error.contains("field amount is missing"), "{held:?}");
    assert_eq!((held[0].attempts, held[0].holds.as_str()), (1, "nothing"));

    // As if a newer version of the service could read it.
    diesel::sql_query(
        "update inbox_held set payload = '{\"after\": {\"id\": 1, \"name\": \"b\", \"amount\": 2}}'",
    )
    .execute(&mut running.connection)
    .unwrap();
    ask(&mut running.connection, "replay", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    assert_eq!(copies(&mut running.connection), [copy(1, "c", 3)]);
    running.stop().await;
}

/// A retry that finds a newer state is no sign of anything, as that may have come meanwhile. It is one if that was
/// recorded before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_an_older_change_is_set_aside_where_the_ids_have_started_again() {
    let mut running = Running::start(|s| s.retry_after([Duration::from_secs(1)]).copy::<ItemCopy>()).await;
    let mut before = Recorded::from_frame(&change(1, "created", "a", 1000)).unwrap();
    before.recorded_at -= chrono::TimeDelta::seconds(30);
    running.feed(&[before.to_frame()]).await;
    refuse(&mut running.connection);
    running.feed(&[change(1, "updated", "refused", 20)]).await;
    running.until_held("it is tried again", |held| states(held) == ["retry"]).await;
    allow(&mut running.connection);
    running.until_held("it is given up", |held| states(held) == ["dead"]).await;
    let held = running.rows();
    assert!(held[0].attempts > 1 && held[0].error.contains("stale-unknown"), "{held:?}");
    running.stop().await;
}

#[derive(QueryableByName)]
struct Told {
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    causes: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Text)]
    source: String,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    generation: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    id: i64,
    #[diesel(sql_type = diesel::sql_types::Text)]
    aggregate_type: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    routing_key: String,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    times: i32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_tells_where_it_came_from_why_and_since_when() {
    #[derive(Debug)]
    struct Outer(std::io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the letter was not sent")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let mut running = Running::start(|s| {
        s.steps(|_, _, _| Err(Error::application(Outer(std::io::Error::other("no stamps")))))
    })
    .await;
    running.feed(&[step("x", 1)]).await;
    running.until_held("it is given up", |held| states(held) == ["dead"]).await;
    let told: Told = diesel::sql_query(
        "select causes, source, generation, id, aggregate_type, routing_key, \
         (case when first_failed_at >= held_at then 1 else 0 end) + \
         (case when last_failed_at >= first_failed_at then 2 else 0 end) + \
         (case when next_at is null then 4 else 0 end) as times from inbox_held",
    )
    .get_result(&mut running.connection)
    .unwrap();
    assert_eq!(told.causes.as_deref(), Some("no stamps"));
    assert_eq!((told.source.as_str(), told.generation, told.id), ("items", 1, 1001));
    assert_eq!(told.aggregate_type, "account");
    assert!(told.routing_key.starts_with("account.stepped."), "{}", told.routing_key);
    assert!(told.times >= 6, "{}", told.times);
    assert_eq!(running.rows()[0].error, "account.stepped of key x: the letter was not sent");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_take_patterns_and_see_headers_versions_and_an_idempotency_key() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let mut running = Running::start(move |s| {
        s.raw("account.*", move |incoming| {
            noted.lock().unwrap().push((
                incoming.message().kind(),
                incoming.headers().get("tenant").map(str::to_owned),
                incoming.version(),
                incoming.source().to_owned(),
                incoming.idempotency_key("mail") == format!("test:{}:mail", incoming.id()),
                incoming.payload::<Stepped>()?.sequence,
            ));
            Ok(())
        })
    })
    .await;
    let payload = br#"{"account": "x", "sequence": 7}"#.to_vec();
    let message = outbox_core::Message::new("account", "x", "closed", payload).unwrap();
    let other = recorded(message.with_header("tenant", "eu").unwrap(), 5);
    // A state sent again is for copies.
    let current = outbox_core::Message::new("account", "x", "closed", b"{}".to_vec()).unwrap();
    running.feed(&[step("x", 1), other, sent_again(recorded(current, 6))]).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].0.as_str(), seen[0].2.id, seen[0].5), (KIND, 1001, 1));
    assert_eq!((seen[1].0.as_str(), seen[1].1.as_deref(), seen[1].5), ("account.closed", Some("eu"), 7));
    assert!(seen.iter().all(|message| message.3 == "items" && message.4));
    assert!(running.held().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_patterns_and_policies_of_nothing_are_refused_at_start() {
    let (database, broker) = (fresh(), MemoryBroker::new());
    let start = || on("test", broker.clone(), &database).copy::<ItemCopy>();
    let overlapping = start().raw("*.created", |_| Ok(()));
    let error = overlapping.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("*.created want the same messages"), "{error}");
    let aimless = start().on_failure("account.*", FailurePolicy::Halt);
    let error = aimless.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("on_failure names account.*"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_subscriber_takes_nothing_and_goes_on_when_it_is_resumed() {
    let mut running = Running::start(|s| s.enter_steps()).await;
    running.feed(&[step("x", 1)]).await;
    running.stop_keeping().await;
    diesel::sql_query("insert into inbox_pause (consumer, actor, reason) values ('test', 'me', 'lunch')")
        .execute(&mut running.connection)
        .unwrap();
    running.publish(&[step("x", 2)]).await;
    running.start_again(|s| s.enter_steps());
    // Started and looked at what is held: it has found itself paused before it took anything.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1]);
    diesel::sql_query("delete from inbox_pause").execute(&mut running.connection).unwrap();
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert_eq!(sequences(&mut running.connection, "x"), [1, 2]);
    running.stop().await;
}

/// A batch in which a few fail: only those fail, and the others are not run once for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_batch_is_split_until_the_failing_message_stands_alone() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let (database, broker) = (fresh(), MemoryBroker::new());
    let subscriber = subscriber(&broker, &database).steps(move |entries, step, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        entries.enter(step);
        match step.sequence {
            40 => Err(Error::new(outbox_core::ErrorKind::Invalid, "not forty")),
            _ => Ok(()),
        }
    });
    subscriber.declare().await.unwrap();
    // All there before it starts, so that they are one batch.
    let frames: Vec<_> = (1..=100).map(|sequence| step(&format!("a{sequence}"), sequence)).collect();
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert_eq!(ledger_entries(&mut running.connection).len(), 99);
    assert_eq!(held_rows(&mut running.connection).len(), 1);
    // The batch up to the failing one, those before it again, it alone, and those after it.
    assert_eq!(runs.load(Ordering::Relaxed), 40 + 39 + 1 + 60);
    running.stop().await;
}
