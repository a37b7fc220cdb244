//! What else a service runs beside its subscriber, on diesel-async: freshness, and the sending of entities again.

use std::time::Duration;

use diesel::prelude::*;
use outbox_core::{Freshness, MessageId, Resync, Seen};
use outbox_relay::{OutboxConfig, resync};
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::consumer::pool_at;
use super::database::{Pending, connect, fresh, outbox};
use super::stage::{Handles as _, Running, step};
use crate::harness::until;
use crate::items::{Item, item};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_waits_for_its_own_write() {
    let running = Running::start(|s| s.enter_steps()).await;
    let pool = pool_at(&running.database.url);
    let freshness = Freshness::new_async("test", async move || pool.get().await);
    let frame = step("x", 1);
    let id = MessageId::parse(&frame.message_id).unwrap();
    assert_eq!(freshness.wait_for(id, Duration::from_millis(20)).await.unwrap(), Seen::NotYet);
    running.publish(std::slice::from_ref(&frame)).await;
    assert_eq!(freshness.wait_for(id, Duration::from_secs(60)).await.unwrap(), Seen::Applied);
    until("it is noted how far it is", || async {
        let asking = freshness.clone();
        let reached = tokio::task::spawn_blocking(move || asking.reached()).await.unwrap().unwrap();
        reached.first().is_some_and(|reached| reached.version.id == 1001)
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entities_are_sent_again() {
    const ITEMS: usize = 5;
    let database = fresh();
    let mut connection = connect(&database);
    for number in 0..ITEMS {
        diesel::insert_into(item::table)
            .values((item::name.eq(format!("item {number}")), item::amount.eq(1)))
            .execute(&mut connection)
            .unwrap();
    }
    let pool = pool_at(&database.url);
    let serving = Resync::<Item>::new_async(async move || pool.get().await);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serving.page(2).poll(Duration::from_millis(20)).run(shutdown.clone()));
    let config = OutboxConfig::new("items", &database.url);
    until("it is offered", || async { resync::ask(&config, Some("item"), &[], 0).await.is_ok() }).await;
    let ask = resync::ask(&config, Some("item"), &[], 0).await.unwrap();
    let id = resync::request(&config, &ask, "a test").await.unwrap()[0];
    let mut sent = Vec::new();
    let look = std::cell::RefCell::new((&mut connection, &mut sent));
    until("it is over", || async {
        relay(&mut look.borrow_mut());
        resync::reports(&config, &[id]).await.unwrap()[0].is_over()
    })
    .await;
    let report = resync::reports(&config, &[id]).await.unwrap().remove(0);
    assert!(report.is_done(), "{report:?}");
    let rows: Vec<_> = sent.iter().filter(|row| !row.payload["after"].is_null()).collect();
    assert_eq!(rows.len(), ITEMS);
    assert!(rows.iter().all(|row| row.kind == "item.current"));
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

/// Takes what is in the outbox, as a relay does.
fn relay((connection, sent): &mut (&mut Connection, &mut Vec<Pending>)) {
    let pending = outbox(connection);
    for row in &pending {
        diesel::sql_query(format!("delete from outbox where id = {}", row.id)).execute(*connection).unwrap();
    }
    sent.extend(pending);
}
