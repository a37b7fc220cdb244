//! A subscriber that ends in the middle of a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Error, ErrorKind, FailurePolicy};
use tokio_util::sync::CancellationToken;

use super::consumer::Subscriber;
use super::database::{connect, fresh, ledger_entries};
use super::stage::{Handles as _, ask, held_rows, publish, step, subscriber};
use crate::harness::until;

/// Fails at the fortieth message, and calls for the end once that comes alone.
fn failing_at_forty(subscriber: Subscriber, end: &CancellationToken) -> Subscriber {
    let (end, tries) = (end.clone(), Arc::new(AtomicU32::new(0)));
    subscriber.steps(move |entries, step, _| {
        entries.enter(step);
        if step.sequence != 40 {
            return Ok(());
        }
        if tries.fetch_add(1, Ordering::Relaxed) == 1 {
            end.cancel();
        }
        Err(Error::new(ErrorKind::Invalid, "not forty"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_split_batch_has_committed_is_acknowledged() {
    let (database, broker, end) = (fresh(), MemoryBroker::new(), CancellationToken::new());
    let first = failing_at_forty(subscriber(&broker, &database), &end);
    first.declare().await.unwrap();
    // All there before it starts, so that they are one batch.
    let frames: Vec<_> = (1..=100).map(|sequence| step(&format!("a{sequence}"), sequence)).collect();
    publish(&broker, &frames).await;
    first.run(end).await.unwrap();
    let mut connection = connect(&database);
    assert_eq!(ledger_entries(&mut connection).len(), 39);
    assert_eq!(held_rows(&mut connection).len(), 1);
    assert_eq!(broker.depth("test.0"), 60, "what is left comes again, and nothing else");

    let next = subscriber(&broker, &database).enter_steps();
    let (end, stats) = (CancellationToken::new(), next.stats());
    let task = tokio::spawn(next.run(end.clone()));
    until("all is consumed", || async { broker.is_idle() }).await;
    assert_eq!(ledger_entries(&mut connection).len(), 99);
    assert_eq!((stats.applied(), stats.duplicates()), (60, 0));
    end.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_a_halt_is_acknowledged() {
    let (database, broker, end) = (fresh(), MemoryBroker::new(), CancellationToken::new());
    let first = failing_at_forty(subscriber(&broker, &database), &CancellationToken::new())
        .on_failure("account.stepped", FailurePolicy::Halt);
    first.declare().await.unwrap();
    let frames: Vec<_> = (1..=100).map(|sequence| step("a", sequence)).collect();
    publish(&broker, &frames).await;
    let task = tokio::spawn(first.run(end.clone()));
    let mut connection = connect(&database);
    let look = std::cell::RefCell::new(&mut connection);
    until("it is halted", || async { held_rows(&mut look.borrow_mut()).len() == 1 }).await;
    end.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(broker.depth("test.0"), 60, "what is left comes again, and nothing else");

    ask(&mut connection, "discard", "dead");
    let next = subscriber(&broker, &database).enter_steps();
    let (end, stats) = (CancellationToken::new(), next.stats());
    let task = tokio::spawn(next.run(end.clone()));
    until("all is consumed", || async { broker.is_idle() }).await;
    let sequences: Vec<_> = ledger_entries(&mut connection).into_iter().map(|entry| entry.1).collect();
    assert_eq!(sequences, (1..=100).filter(|sequence| *sequence != 40).collect::<Vec<_>>());
    assert_eq!(stats.duplicates(), 0);
    end.cancel();
    task.await.unwrap().unwrap();
}
