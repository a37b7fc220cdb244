//! A sync handler that does not return is told of.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::database::ledger_entries;
use super::stage::{Handles as _, Running, step};
use crate::harness::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_does_not_return_is_named_while_it_hangs() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held_up = Arc::clone(&gate);
    let mut running = Running::start(move |s| {
        s.handler_limit(Duration::from_millis(20)).steps(move |entries, step, _| {
            entries.enter(step);
            if step.account == "stuck" {
                let (open, opened) = &*held_up;
                drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
            }
            Ok(())
        })
    })
    .await;
    let frame = step("stuck", 1);
    running.publish(std::slice::from_ref(&frame)).await;
    let stats = running.stats.clone();
    until("it is told", || async { stats.hung() > 0 }).await;
    let hanging = stats.hanging();
    assert_eq!(hanging.len(), 1, "{hanging:?}");
    assert_eq!((hanging[0].kind.as_str(), hanging[0].key.as_str()), ("account.stepped", "stuck"));
    assert_eq!((hanging[0].id.to_string(), hanging[0].attempt), (frame.message_id.clone(), 1));
    assert!(hanging[0].since > Duration::from_millis(20));

    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert!(stats.hanging().is_empty());
    assert_eq!(ledger_entries(&mut running.connection), [("stuck".into(), 1)], "it was late, and no failure");
    running.stop().await;
}
