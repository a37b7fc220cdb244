//! A key's changes from its queue and from `inbox_held` at the same time: whichever commits first, the last state stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use outbox_core::Frame;

use super::database::copies;
use super::stage::{Handles as _, Held, Running, allow, ask, change, refuse, step};
use super::{Connection, SERVER};
use crate::harness::{Server, until};
use crate::items::ItemCopy;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn number(connection: &mut Connection, select: &str) -> i64 {
    let row: Number =
        diesel::sql_query(format!("select ({select}) as number")).get_result(connection).unwrap();
    row.number
}

/// A subscriber that is stopped, with these changes applied and this one set aside; the copy would take it now.
async fn with_one_set_aside(applied: &[Frame], held: Frame) -> Running {
    let mut running = Running::start(|s| s.copy::<ItemCopy>().enter_steps()).await;
    running.feed(applied).await;
    refuse(&mut running.connection);
    running.feed(&[held]).await;
    running.until_held("it is given up", |held| held.len() == 1 && held[0].state == "dead").await;
    running.stop_keeping().await;
    allow(&mut running.connection);
    running
}

/// Has the one that is set aside tried again, and waits until that has begun and had time to come as far as it can.
async fn try_again(running: &mut Running) {
    assert_eq!(ask(&mut running.connection, "replay", "dead"), 1);
    let connection = std::cell::RefCell::new(&mut running.connection);
    let begun = "select count(*) from inbox_held where begun > 0";
    until("the try begins", || async { number(&mut connection.borrow_mut(), begun) == 1 }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn is_deleted(mut running: Running) {
    running.until_held("nothing is held", <[Held]>::is_empty).await;
    until("all is consumed", || async { running.broker.is_idle() }).await;
    assert_eq!(copies(&mut running.connection), []);
    let marks = ["id = 12", "id <> 12"].map(|which| {
        number(&mut running.connection, &format!("select count(*) from copy_deleted where {which}"))
    });
    assert_eq!(marks, [1, 0]);
    running.stop().await;
}

/// The delete is done and not committed when the older update begins.
async fn while_the_delete_is_committed(applied: &[Frame]) {
    let mut running = with_one_set_aside(applied, change(1, "updated", "refused", 11)).await;
    // A handler in the same batch keeps the transaction open.
    running.publish(&[change(1, "deleted", "a", 12), step("x", 1)]).await;
    let (entered, released) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (enters, waits) = (Arc::clone(&entered), Arc::clone(&released));
    running.start_again(|s| {
        s.copy::<ItemCopy>().steps(move |_, _, _| {
            enters.store(true, Ordering::Relaxed);
            while !waits.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    });
    until("the handler is called", || async { entered.load(Ordering::Relaxed) }).await;
    try_again(&mut running).await;
    released.store(true, Ordering::Relaxed);
    is_deleted(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_stays_deleted_whose_older_update_was_waiting_for_the_delete() {
    while_the_delete_is_committed(&[change(1, "created", "a", 10)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_stays_deleted_that_was_never_there_and_whose_older_update_came_with_the_delete() {
    while_the_delete_is_committed(&[]).await;
}

/// The older update is written and not committed when the delete begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_deleted_whose_older_insert_was_not_committed() {
    let mut running = with_one_set_aside(&[], change(1, "created", "refused", 11)).await;
    let slow = match SERVER {
        Server::Postgres => {
            "create function wait() returns trigger language plpgsql as \
             $$ begin perform pg_sleep(2); return null; end $$; \
             create trigger slow after insert on item_copy for each row execute function wait()"
        }
        _ => "create trigger slow after insert on item_copy for each row set @slept = sleep(2)",
    };
    running.connection.batch_execute(slow).unwrap();
    running.start_again(|s| s.copy::<ItemCopy>().enter_steps());
    try_again(&mut running).await;
    running.publish(&[change(1, "deleted", "a", 12)]).await;
    is_deleted(running).await;
}
