//! The write side on diesel-async: the same writes, the same messages.

use diesel::prelude::*;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, bb8, deadpool};
use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
use outbox_core::{
    AsyncOutboxConnection as _, BacklogLimit, Error, ErrorKind, OutboxEvent, RetryPolicy, WhenFull, Writer,
};
use serde_json::json;

use super::AsyncConnection;
use super::database::{Pending, connect, fresh, items, outbox, outbox_is_empty};
use crate::harness::{Server, TestDatabase};
use crate::items::{Item, NewItem, Stepped, item};

pub(super) async fn open(database: &TestDatabase) -> AsyncConnection {
    let mut connection = AsyncConnection::establish(&database.url).await.unwrap();
    if super::SERVER == Server::Sqlite {
        connection.batch_execute("pragma busy_timeout = 20000").await.unwrap();
    }
    connection
}

fn new(name: &str) -> NewItem<'_> {
    NewItem { name, amount: 5 }
}

fn kinds(pending: &[Pending]) -> Vec<&str> {
    pending.iter().map(|row| row.kind.as_str()).collect()
}

#[tokio::test]
async fn the_ids_of_what_is_recorded_are_known_before_the_end() {
    let database = fresh();
    let ids = open(&database)
        .await
        .outbox_transaction(async |tx| {
            tx.insert(&new("lamp")).await?;
            tx.savepoint(async |inner| inner.insert(&new("shade")).await).await?;
            tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
            Ok(tx.recorded_ids())
        })
        .await
        .unwrap();
    let pending = outbox(&mut connect(&database));
    assert_eq!(ids.len(), 3);
    assert_eq!(pending.iter().map(|row| row.message_id).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn each_write_records_what_the_row_then_is() {
    let database = fresh();
    let mut connection = open(&database).await;
    let (lamp, all) = connection
        .outbox_transaction(async |tx| {
            let lamp = tx.insert(&new("lamp")).await?;
            let all = tx.insert_all(&[new("a"), new("b"), new("c")]).await?;
            let dearer = tx.update_with(&lamp, item::amount.eq(item::amount + 1)).await?;
            assert_eq!(dearer.amount, 6);
            let noted = tx.update(&Item { note: Some("n".into()), ..dearer.clone() }).await?;
            tx.update_from(&noted, &Item { note: None, ..noted.clone() }).await?;
            tx.record(&Stepped { account: "a".into(), sequence: 1 })?;
            Ok((lamp, all))
        })
        .await
        .unwrap();
    assert_eq!(all.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(lamp.secret, "hush", "the default of the database is read back");

    let doubled: Vec<Item> = connection
        .outbox_transaction(async |tx| {
            tx.update_where(item::name.ne("lamp"), item::amount.eq(item::amount * 2)).await
        })
        .await
        .unwrap();
    assert_eq!(doubled.len(), 3);
    let last: Item = connection.outbox_transaction(async |tx| tx.delete_by_id(&lamp.id).await).await.unwrap();
    assert_eq!(last.amount, 6);
    let again = connection.outbox_transaction(async |tx| tx.upsert(&last).await).await.unwrap();
    assert_eq!(again, last);
    let found: Item = connection.outbox_transaction(async |tx| tx.lock(&lamp.id).await).await.unwrap();
    assert_eq!(connection.outbox_transaction(async |tx| tx.delete(&found).await).await.unwrap(), found);
    let rest: Vec<Item> =
        connection.outbox_transaction(async |tx| tx.delete_where(item::amount.gt(0)).await).await.unwrap();
    assert_eq!(rest.len(), 3);

    let mut sync = connect(&database);
    assert!(items(&mut sync).is_empty());
    let pending = outbox(&mut sync);
    assert_eq!(
        kinds(&pending)[..8],
        [
            "item.created",
            "item.created",
            "item.created",
            "item.created",
            "item.updated",
            "item.updated",
            "item.updated",
            "account.stepped",
        ]
    );
    assert_eq!(pending[4].payload["changed"], json!(["amount"]));
    assert_eq!(pending[6].payload["changed"], json!(["note"]));
    assert_eq!(
        kinds(&pending)[11..],
        ["item.deleted", "item.created", "item.deleted", "item.deleted", "item.deleted", "item.deleted",]
    );
}

#[tokio::test]
async fn a_rollback_leaves_neither() {
    let database = fresh();
    let mut connection = open(&database).await;
    let error = connection
        .outbox_transaction(async |tx| {
            tx.insert(&new("gone")).await?;
            Err::<(), _>(Error::application("changed my mind"))
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Application);
    let ghost = Item { id: 404, name: "g".into(), amount: 1, note: None, secret: "s".into() };
    let error = connection.outbox_transaction(async |tx| tx.update(&ghost).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut sync = connect(&database);
    assert!(items(&mut sync).is_empty());
    assert!(outbox_is_empty(&mut sync));
}

/// As in a handler that gives a part of its work a limit.
#[tokio::test]
async fn a_savepoint_whose_future_was_dropped_commits_nothing() {
    let database = fresh();
    let mut connection = open(&database).await;
    for fails in [false, true] {
        let written = tokio::sync::Notify::new();
        let result = connection
            .outbox_transaction(async |tx| {
                tx.insert(&new("outside")).await?;
                let inside = tx.savepoint(async |tx| {
                    tx.insert(&new("inside")).await?;
                    written.notify_one();
                    std::future::pending::<outbox_core::Result<()>>().await
                });
                tokio::select! {
                    _ = inside => unreachable!("it waits for nothing"),
                    () = written.notified() => {}
                }
                if fails { Err(Error::application("changed my mind")) } else { Ok(()) }
            })
            .await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains(if fails { "changed my mind" } else { "was left open" }), "{error}");
        let mut other = connect(&database);
        assert!(items(&mut other).is_empty(), "fails: {fails}");
        assert!(outbox_is_empty(&mut other));
    }
    let whole = connection.outbox_transaction(async |tx| tx.insert(&new("whole")).await).await.unwrap();
    assert_eq!(items(&mut connect(&database)), [whole], "the connection is of use");
}

#[tokio::test]
async fn a_savepoint_that_rolls_back_takes_its_messages_along() {
    let database = fresh();
    let mut connection = open(&database).await;
    connection
        .outbox_transaction(async |tx| {
            tx.insert(&new("outer")).await?;
            let inner = tx
                .savepoint(async |tx| {
                    tx.insert(&new("inner")).await?;
                    Err::<(), _>(Error::application("no"))
                })
                .await;
            assert!(inner.is_err());
            tx.savepoint(async |tx| tx.insert(&new("kept")).await).await?;
            Ok(())
        })
        .await
        .unwrap();
    let mut sync = connect(&database);
    assert_eq!(items(&mut sync).into_iter().map(|item| item.name).collect::<Vec<_>>(), ["outer", "kept"]);
    assert_eq!(kinds(&outbox(&mut sync)), ["item.created", "item.created"]);
}

#[tokio::test]
async fn recording_needs_an_open_transaction_or_opens_one() {
    let database = fresh();
    let mut connection = open(&database).await;
    let error =
        connection.record_in_open_transaction(async |tx| tx.insert(&new("x")).await).await.unwrap_err();
    assert!(error.to_string().contains("no transaction is open"), "{error}");
    connection
        .transaction(async |connection| {
            connection.record_in_open_transaction(async |tx| tx.insert(&new("y")).await).await
        })
        .await
        .unwrap();
    let mut sync = connect(&database);
    assert_eq!(kinds(&outbox(&mut sync)), ["item.created"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_pools_write_from_spawned_tasks() {
    let database = fresh();
    let manager = || AsyncDieselConnectionManager::<AsyncConnection>::new(&database.url);
    let deadpool = deadpool::Pool::builder(manager()).max_size(2).build().unwrap();
    let bb8 = bb8::Pool::builder().max_size(2).build(manager()).await.unwrap();
    // A spawned task's future must be `Send`, which the closures' borrows must not spoil.
    let first = tokio::spawn(async move {
        let mut connection = deadpool.get().await.unwrap();
        let name = String::from("from deadpool");
        connection.outbox_transaction(async |tx| tx.insert(&new(&name)).await).await.unwrap()
    });
    first.await.unwrap();
    let second = tokio::spawn(async move {
        let mut connection = bb8.get().await.unwrap();
        connection.outbox_transaction(async |tx| tx.insert(&new("from bb8")).await).await.unwrap()
    });
    second.await.unwrap();
    let mut sync = connect(&database);
    assert_eq!(items(&mut sync).len(), 2);
    assert_eq!(kinds(&outbox(&mut sync)), ["item.created", "item.created"]);
}

#[tokio::test]
async fn a_large_batch_keeps_its_order() {
    let database = fresh();
    let mut connection = open(&database).await;
    let names: Vec<_> = (0..1203).map(|number| format!("n{number}")).collect();
    let new: Vec<_> = names.iter().map(|name| new(name)).collect();
    let written = connection.outbox_transaction(async |tx| tx.insert_all(&new).await).await.unwrap();
    assert_eq!(written.iter().map(|item| &item.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    let mut sync = connect(&database);
    let recorded: Vec<_> = outbox(&mut sync).into_iter().map(|row| row.key).collect();
    assert_eq!(recorded, written.iter().map(|item| item.id.to_string()).collect::<Vec<_>>());
}

/// Order by a lock on the key alone.
#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "account", event = "moved", key = account, version = 2, strict)]
struct Moved {
    account: i64,
}

#[tokio::test]
async fn a_writer_runs_again_what_contention_ended() {
    let database = fresh();
    let mut connection = open(&database).await;
    let writer = Writer::new()
        .retry(RetryPolicy { initial: std::time::Duration::from_millis(1), ..RetryPolicy::default() });
    let attempts = std::sync::atomic::AtomicU32::new(0);
    let deadlock = || {
        let kind = diesel::result::DatabaseErrorKind::SerializationFailure;
        Error::from(diesel::result::Error::DatabaseError(kind, Box::new("made up".to_owned())))
    };
    writer
        .transaction_async(&mut connection, async |tx| {
            tx.insert(&new("once")).await?;
            tx.record(&Moved { account: 7 })?;
            match attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 | 1 => Err(deadlock()),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
    let refused = writer
        .transaction_async(&mut connection, async |_| Err::<(), _>(Error::application("no")))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Application);
    let mut sync = connect(&database);
    assert_eq!(items(&mut sync).len(), 1);
    let pending = outbox(&mut sync);
    assert_eq!(kinds(&pending), ["item.created", "account.moved"]);
    assert_eq!(pending[1].headers["outbox-schema-version"], "2");
}

#[tokio::test]
async fn a_writer_is_held_back_while_the_outbox_is_full() {
    let database = fresh();
    let mut connection = open(&database).await;
    let limit = BacklogLimit { rows: Some(2), probe: std::time::Duration::ZERO, ..BacklogLimit::default() };
    let writer = Writer::new().backlog(limit, WhenFull::Refuse);
    let mut written = 0;
    let error = loop {
        match writer.transaction_async(&mut connection, async |tx| tx.insert(&new("x")).await).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Backlog, "{error}");
    // More than the limit by what goes in between two looks.
    assert!(written >= 3, "{error}");
}

#[tokio::test]
async fn strict_keys_are_locked_before_the_messages_go_in() {
    let database = fresh();
    let mut first = open(&database).await;
    let (held, is_held) = tokio::sync::oneshot::channel();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let record = async |connection: &mut AsyncConnection| {
        connection.outbox_transaction(async |tx| tx.record(&Moved { account: 7 })).await
    };
    // The inner one flushes at its end, and the outer one keeps its locks.
    let holder = async move {
        first
            .transaction::<_, Error, _>(async |connection| {
                connection.record_in_open_transaction(async |tx| tx.record(&Moved { account: 7 })).await?;
                held.send(()).unwrap();
                released.await.unwrap();
                Ok(())
            })
            .await
            .unwrap();
    };
    let waiter = async {
        is_held.await.unwrap();
        let mut second = open(&database).await;
        let mut recording = std::pin::pin!(record(&mut second));
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut recording).await;
        assert!(early.is_err(), "the second waits for the first: {early:?}");
        release.send(()).unwrap();
        recording.await.unwrap();
    };
    tokio::join!(holder, waiter);
    assert_eq!(outbox(&mut connect(&database)).len(), 2);
}

#[tokio::test]
async fn a_transaction_nested_through_the_connection_must_not_overtake_messages_of_its_key() {
    fn step(account: &str, sequence: i64) -> Stepped {
        Stepped { account: account.into(), sequence }
    }
    let database = fresh();
    let mut connection = open(&database).await;
    connection
        .outbox_transaction(async |tx| {
            tx.record(&step("a", 1))?;
            tx.conn().outbox_transaction(async |tx| tx.record(&step("b", 1))).await?;
            let nested = tx.conn().outbox_transaction(async |tx| tx.record(&step("a", 2))).await;
            assert_eq!(nested.unwrap_err().kind(), ErrorKind::Invalid);
            tx.record(&step("a", 3))
        })
        .await
        .unwrap();
    let pending = outbox(&mut connect(&database));
    let written: Vec<_> = pending.iter().map(|row| (row.key.as_str(), &row.payload["sequence"])).collect();
    assert_eq!(written, [("b", &json!(1)), ("a", &json!(1)), ("a", &json!(3))]);
}
