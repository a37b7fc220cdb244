//! An async handler that does not return is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_core::RetryPolicy;

use super::consumer::write;
use super::database::ledger_entries;
use super::stage::{Entries, Held, Running, ask, quick, step};
use crate::items::Stepped;

/// What it wrote is rolled back, its key waits, and the next transaction has another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_does_not_return_is_cancelled_and_counts_as_failed() {
    let hangs = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&hangs);
    let mut running = Running::start(move |s| {
        // Nothing else takes that long, on whatever machine.
        let s = s.handler_limit(Duration::from_secs(3)).retry(RetryPolicy { max_attempts: 1, ..quick() });
        s.on_async("account.stepped", async move |tx, step: Stepped| {
            let mut entries = Entries::default();
            entries.enter(&step);
            write(tx, entries).await?;
            if step.sequence == 2 && seen.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    })
    .await;
    running.feed(&[step("x", 1)]).await;
    running.feed(&[step("x", 2), step("x", 3), step("y", 1)]).await;
    let held = running.rows();
    assert_eq!(held.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["dead", "waiting"]);
    assert!(
        held[0].error.contains("account.stepped of key x: the handler was cancelled after 3s"),
        "{held:?}"
    );
    assert_eq!(ledger_entries(&mut running.connection), [("x".into(), 1), ("y".into(), 1)]);
    assert!(running.stats.hung() > 0);
    assert!(running.stats.hanging().is_empty());

    hangs.store(false, Ordering::Relaxed);
    ask(&mut running.connection, "replay", "dead");
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    let entries = ledger_entries(&mut running.connection);
    assert_eq!(entries[2..], [("x".into(), 2), ("x".into(), 3)]);
    running.stop().await;
}
