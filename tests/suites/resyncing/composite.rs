//! An entity whose key has several parts, one of them a text with whatever characters keys are put together by.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Outbox, OutboxConnection as _, Replica, Resync, Subscriber};
use outbox_relay::resync;

use super::Connection;
use super::database::{connect, fresh, outbox_is_empty, pool};
use super::stage::{Task, outbox_config};
use crate::harness::until;

/// The same text for every server; texts are compared by their bytes on all of them.
const SHELF: &str = "create table shelf (shop bigint not null, sku varchar(40) not null, price bigint not null, \
    primary key (shop, sku))";
const SHELF_COPY: &str = "create table shelf_copy (shop bigint not null, sku varchar(40) not null, price bigint not null, \
    outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null, \
    primary key (shop, sku))";

diesel::table! {
    shelf (shop, sku) {
        shop -> BigInt,
        sku -> Text,
        price -> BigInt,
    }
}

diesel::table! {
    shelf_copy (shop, sku) {
        shop -> BigInt,
        sku -> Text,
        price -> BigInt,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox,
)]
#[diesel(table_name = shelf, primary_key(shop, sku))]
#[outbox(aggregate = "shelf")]
struct Shelf {
    shop: i64,
    sku: String,
    price: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = shelf_copy, primary_key(shop, sku))]
#[replica(of = "shelf")]
struct ShelfCopy {
    shop: i64,
    sku: String,
    price: i64,
}

/// What stands at the source and in the copy, in one order.
fn both(source: &mut Connection, target: &mut Connection) -> [Vec<(i64, String, i64)>; 2] {
    let mut rows = [
        shelf::table.load::<(i64, String, i64)>(source).unwrap(),
        shelf_copy::table
            .select((shelf_copy::shop, shelf_copy::sku, shelf_copy::price))
            .load::<(i64, String, i64)>(target)
            .unwrap(),
    ];
    rows.iter_mut().for_each(|rows| rows.sort_unstable());
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_of_several_keys_are_sent_again_all_or_by_key() {
    let (source, target, broker) = (fresh(), fresh(), MemoryBroker::new());
    let (mut at_source, mut at_target) = (connect(&source), connect(&target));
    at_source.batch_execute(SHELF).unwrap();
    at_target.batch_execute(SHELF_COPY).unwrap();
    let skus = ["a:b", "a", r"a\", r"\:", "a b", "7", "äö", "x'y", "z%", "ñ"];
    let rows: Vec<_> = (1..=6)
        .flat_map(|shop| skus.map(|sku| Shelf { shop, sku: sku.to_owned(), price: shop * 100 }))
        .collect();
    diesel::insert_into(shelf::table).values(&rows).execute(&mut at_source).unwrap();
    // A row that the source no longer has.
    at_target.batch_execute("insert into shelf_copy values (3, 'gone', 1, 1, 0, 0)").unwrap();

    let subscriber =
        Subscriber::<_, Connection>::new("shelves", broker.clone(), pool(&target)).copy::<ShelfCopy>();
    subscriber.declare().await.unwrap();
    let config = outbox_config(&source);
    let relay =
        outbox_relay::Relay::new([config.clone()], broker.clone(), outbox_relay::Unrouted::Queue).unwrap();
    let serving = Resync::<Shelf>::new(pool(&source)).page(7).poll(Duration::from_millis(50));
    let tasks = [
        Task::spawn(|end| subscriber.run(end)),
        Task::spawn(|end| relay.run(end)),
        Task::spawn(|end| serving.run(end)),
    ];
    until("the service offers to send shelves again", || async {
        resync::ask(&config, Some("shelf"), &[], 0).await.is_ok()
    })
    .await;

    let ask = resync::ask(&config, Some("shelf"), &[], 0).await.unwrap();
    let id = resync::request(&config, &ask, "a test").await.unwrap()[0];
    until("all are sent", || async { resync::reports(&config, &[id]).await.unwrap()[0].is_done() }).await;
    until("the copy is equal, without the stale row", || {
        let [source, copy] = both(&mut at_source, &mut at_target);
        async move { source == copy && copy.len() == 60 }
    })
    .await;

    // Past the service, so that only the keys that are asked for are mended.
    at_target
        .batch_execute("update shelf_copy set price = -1; delete from shelf_copy where shop = 2")
        .unwrap();
    diesel::delete(shelf::table.find((1, "a"))).execute(&mut at_source).unwrap();
    let keys = [r"1:a\:b", "1:a", r"2:\\\:", "2:ñ"].map(str::to_owned);
    let ask = resync::ask(&config, Some("shelf"), &keys, 0).await.unwrap();
    let id = resync::request(&config, &ask, "a test").await.unwrap()[0];
    until("the keys are sent", || async { resync::reports(&config, &[id]).await.unwrap()[0].is_done() })
        .await;
    let found = |copy: &[(i64, String, i64)], shop: i64, sku: &str| {
        copy.iter().find(|row| (row.0, row.1.as_str()) == (shop, sku)).map(|row| row.2)
    };
    until("they are as at the source, and no others", || {
        let [_, copy] = both(&mut at_source, &mut at_target);
        let mended = [found(&copy, 1, "a:b"), found(&copy, 2, r"\:"), found(&copy, 2, "ñ")];
        let rest = copy.iter().filter(|row| row.2 == -1).count();
        let is_so = mended == [Some(100), Some(200), Some(200)] && found(&copy, 1, "a").is_none();
        async move { is_so && rest == 48 }
    })
    .await;

    // And a live change.
    at_source.outbox_transaction(|tx| tx.delete(&rows[2])).unwrap();
    until("it is gone", || {
        let [_, copy] = both(&mut at_source, &mut at_target);
        async move { found(&copy, 1, r"a\").is_none() }
    })
    .await;
    until("the outbox is empty", || {
        let is_empty = outbox_is_empty(&mut at_source);
        async move { is_empty }
    })
    .await;
    for task in tasks {
        task.stop().await;
    }
}
