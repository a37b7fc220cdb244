//! The test kit: what a service's tests see of the outbox, and subscribers without a broker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::Connection as _;
use diesel::prelude::*;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::testing::{self, publish, recorded, run_until_idle, stale_images};
use outbox_core::{
    Error, ErrorKind, FailurePolicy, Message, OutboxConnection as _, Subscriber, assert_not_recorded,
    assert_nothing_recorded, assert_recorded,
};
use serde_json::json;

use super::Connection;
use super::database::{connect, copies, enter, fresh, items, ledger_entries, pool};
use crate::harness::TestDatabase;
use crate::items::{Emptied, Item, ItemCopy, NewItem, PurseEvent, Stepped, inbox_held, item};

fn start() -> (TestDatabase, Connection) {
    let database = fresh();
    let connection = connect(&database);
    (database, connection)
}

fn insert(connection: &mut Connection, name: &str, amount: i64) -> Item {
    connection.outbox_transaction(|tx| tx.insert(&NewItem { name, amount })).unwrap()
}

fn change(connection: &mut Connection, before: &Item, after: Item) -> Item {
    connection.outbox_transaction(|tx| tx.update_from(before, &after)).unwrap()
}

/// An item that was inserted, changed and deleted, and two events.
fn history(connection: &mut Connection) -> Item {
    let lamp = insert(connection, "lamp", 5);
    let dearer = change(connection, &lamp, Item { amount: 6, note: Some("new".into()), ..lamp.clone() });
    connection
        .outbox_transaction(|tx| {
            tx.delete(&dearer)?;
            tx.record(&PurseEvent::Filled { purse: "p".into(), by: 3 })?;
            tx.record(&Emptied { purse: "p".into() })?;
            tx.record_message(
                Message::new("purse", "p", "renamed", b"{}".to_vec())?.with_header("tenant", "7")?,
            );
            Ok(())
        })
        .unwrap();
    dearer
}

/// The text with which it panics.
fn failure(check: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("it had to panic");
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap()
}

#[test]
fn what_an_open_test_transaction_has_recorded_is_seen_and_goes_with_it() {
    let (database, mut connection) = start();
    connection.begin_test_transaction().unwrap();
    let lamp = history(&mut connection);
    let seen = recorded(&mut connection);
    let kinds: Vec<_> = seen.iter().map(|message| (message.kind(), message.key.clone())).collect();
    let id = lamp.id.to_string();
    let expected = [
        ("item.created", id.as_str()),
        ("item.updated", &id),
        ("item.deleted", &id),
        ("purse.filled", "p"),
        ("purse.emptied", "p"),
        ("purse.renamed", "p"),
    ];
    assert_eq!(kinds, expected.map(|(kind, key)| (kind.to_owned(), key.to_owned())));
    assert_eq!(seen[0].after().unwrap()["amount"], 5);
    assert!(seen[0].before().is_none() && seen[0].changed().is_none());
    assert_eq!(seen[1].changed().unwrap(), ["amount", "note"]);
    assert_eq!(seen[2].before().unwrap()["note"], "new");
    assert_eq!(seen[3].payload, json!({"type": "Filled", "purse": "p", "by": 3}));
    assert_eq!(seen[5].headers.get("tenant"), Some("7"));
    assert!(seen.windows(2).all(|pair| pair[0].id < pair[1].id));
    drop(connection);
    assert_nothing_recorded!(connect(&database));
}

#[test]
fn assertions_that_hold_are_silent_in_any_form() {
    let (database, mut connection) = start();
    let lamp = history(&mut connection);
    assert_recorded!(connection, Item, created);
    assert_recorded!(&mut connection, Item, created, after = {"name": "lamp", "amount": 5}, key = lamp.id,);
    assert_recorded!(connection, Item, updated, changed = ["note", "amount"], after = {"note": "new"}, times = 1);
    assert_recorded!(connection, Item, deleted, before = {"amount": lamp.amount}, payload = {"before": {"name": "lamp"}});
    assert_recorded!(connection, event Emptied, key = "p");
    assert_recorded!(connection, event PurseEvent, kind = "filled", payload = {"by": 3});
    assert_recorded!(connection, event PurseEvent, headers = {"tenant": 7}, kind = "purse.renamed");
    assert_recorded!(connection, event PurseEvent, times = 3);
    assert_not_recorded!(connection, Item, current);
    assert_not_recorded!(connection, Item, created, key = lamp.id + 1);
    assert_not_recorded!(connection, Item, updated, changed = ["amount"]);
    assert_not_recorded!(connection, event Stepped);
    assert_not_recorded!(connection, event Emptied, key = "q");
    assert_recorded!(pool(&database).get().unwrap(), Item, created);
}

#[test]
fn a_missing_message_is_told_with_the_nearest_one_field_by_field() {
    let (_database, mut connection) = start();
    let lamp = history(&mut connection);
    let text = failure(|| {
        assert_recorded!(connection, Item, updated, key = lamp.id, changed = ["amount"],
            after = {"amount": 7, "name": "lamp"}, headers = {"tenant": "7"});
    });
    for part in [
        "expected one message like this in the outbox, found 0:",
        &format!("item.updated, key {}, changed [\"amount\"], after ", lamp.id),
        "header tenant: \"7\"",
        "recorded are 6:",
        &format!("~ item.updated key {} ", lamp.id),
        "  purse.filled key p {",
        "the nearest (~) differs in:",
        "changed: expected [\"amount\"], found [\"amount\", \"note\"]",
        "after.amount: expected 7, found 6",
        "header tenant: expected \"7\", found none",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("after.name: "), "{text}");

    let text = failure(|| assert_recorded!(connection, event Stepped, key = "x"));
    assert!(text.contains("kind: expected account.stepped, found "), "{text}");
    let text = failure(|| assert_recorded!(connection, event Emptied, key = "q"));
    assert!(text.contains("~ purse.emptied key p") && text.contains("key: expected q, found p"), "{text}");
}

#[test]
fn too_many_messages_are_told_with_a_mark_on_each() {
    let (_database, mut connection) = start();
    let text = failure(|| assert_recorded!(connection, Item, created));
    assert!(text.ends_with("found 0:\n    item.created\nnothing is recorded\n"), "{text}");
    insert(&mut connection, "a", 1);
    insert(&mut connection, "b", 1);
    let text = failure(|| assert_recorded!(connection, Item, created));
    assert!(text.contains("found 2:") && text.matches("= item.created").count() == 2, "{text}");
    let text = failure(|| assert_recorded!(connection, Item, created, times = 3));
    assert!(text.contains("expected 3 messages like this in the outbox, found 2:"), "{text}");
    let text = failure(|| assert_not_recorded!(connection, Item, created, after = {"name": "b"}));
    assert!(text.contains("expected no message like this in the outbox, found 1:"), "{text}");
    assert!(text.matches("= item.created").count() == 1 && !text.contains("nearest"), "{text}");
    let text = failure(|| assert_nothing_recorded!(connection));
    assert!(text.contains("recorded are 2:"), "{text}");
}

#[test]
fn a_name_that_does_not_exist_fails_also_where_nothing_is_expected() {
    let (_database, mut connection) = start();
    let text = failure(|| assert_not_recorded!(connection, Item, created, after = {"amuont": 1}));
    assert!(text.contains("records no field \"amuont\"; it records id, name, amount, note"), "{text}");
    let text = failure(|| assert_not_recorded!(connection, Item, updated, changed = ["secret"]));
    assert!(text.contains("no field \"secret\""), "{text}");
    let text = failure(|| assert_not_recorded!(connection, event PurseEvent, kind = "full"));
    assert!(text.contains("has no kind \"full\"; it has filled, renamed, emptied"), "{text}");
    let text = failure(|| assert_not_recorded!(connection, event Emptied, after = {"purse": "p"}));
    assert!(text.contains("use `payload`"), "{text}");
    let text = failure(|| assert_not_recorded!(connection, event Emptied, times = 2));
    assert!(text.contains("`times` is of assert_recorded!"), "{text}");
}

#[test]
fn a_write_past_the_outbox_shows_as_a_stale_image() {
    let (_database, mut connection) = start();
    let (lamp, chair) = (insert(&mut connection, "lamp", 5), insert(&mut connection, "chair", 6));
    let chair = change(&mut connection, &chair, Item { amount: 7, ..chair.clone() });
    let rows = items(&mut connection);
    assert!(stale_images(&mut connection, &rows).unwrap().is_empty());

    diesel::update(item::table.find(lamp.id))
        .set((item::amount.eq(50), item::note.eq("sale"), item::secret.eq("not recorded")))
        .execute(&mut connection)
        .unwrap();
    connection.outbox_transaction(|tx| tx.delete(&chair)).unwrap();
    let mut rows = items(&mut connection);
    rows.push(chair.clone());
    rows.push(Item { id: 99, ..chair.clone() });
    let expected = [format!("{}: amount, note", lamp.id), format!("{}: deleted", chair.id)];
    assert_eq!(stale_images(&mut connection, &rows).unwrap(), expected);
}

#[test]
fn publishing_empties_the_outbox_within_the_open_transaction() {
    let (database, mut connection) = start();
    let broker = MemoryBroker::new();
    let lamp = insert(&mut connection, "lamp", 5);
    change(&mut connection, &lamp, Item { amount: 6, ..lamp.clone() });
    connection.test_transaction::<_, Error, _>(|connection| {
        assert_eq!(publish(connection, &broker)?, 2);
        assert_nothing_recorded!(connection);
        Ok(())
    });
    assert_recorded!(connection, Item, created);
    let frames = broker.unrouted();
    assert_eq!(
        frames.iter().map(|frame| frame.kind.as_str()).collect::<Vec<_>>(),
        ["item.created", "item.updated"]
    );
    assert_eq!(frames[0].headers.get("outbox-source"), Some("test"));
    let time: i64 = frames[0].headers.get("outbox-time").unwrap().parse().unwrap();
    assert!((chrono::Utc::now().timestamp_micros() - time).abs() < 600_000_000, "{time}");

    let refusing = MemoryBroker::refusing_unrouted();
    let error = publish(&mut connection, &refusing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker);
    assert!(
        error.to_string().contains(&format!("item.created of key {} is not published", lamp.id)),
        "{error}"
    );
    assert_eq!(recorded(&mut connect(&database)).len(), 2, "what no queue wants stays");
}

#[test]
fn a_copy_and_a_handler_with_a_cascade_run_until_nothing_is_left() {
    let (database, mut connection) = start();
    let broker = MemoryBroker::new();
    let copying = Subscriber::new("copying", broker.clone(), pool(&database)).queues(3).copy::<ItemCopy>();
    let steps = Subscriber::new("steps", broker.clone(), pool(&database))
        .on("item.created", |tx, change: outbox_core::EntityChange| {
            let name = change.image().and_then(|image| image["name"].as_str()).unwrap_or_default();
            tx.record(&Stepped { account: name.into(), sequence: 1 })
        })
        .on_event(|tx, step: Stepped| {
            enter(tx.conn(), &step.account, step.sequence)?;
            let next = Stepped { sequence: step.sequence + 1, ..step };
            if next.sequence <= 3 { tx.record(&next) } else { Ok(()) }
        });
    let lamp = insert(&mut connection, "lamp", 5);
    let dearer = change(&mut connection, &lamp, Item { amount: 6, ..lamp.clone() });

    assert_eq!(run_until_idle(&mut connection, &broker, &[&copying, &steps]).unwrap(), 5);
    assert_eq!(copies(&mut connection), [ItemCopy::from(&dearer)]);
    assert_eq!(ledger_entries(&mut connection), [1, 2, 3].map(|sequence| ("lamp".to_owned(), sequence)));
    assert_nothing_recorded!(connection);
    assert!(broker.is_idle());

    // The same subscribers again.
    connection.outbox_transaction(|tx| tx.delete(&dearer)).unwrap();
    assert_eq!(run_until_idle(&mut connection, &broker, &[&copying, &steps]).unwrap(), 1);
    assert!(copies(&mut connection).is_empty());
    assert_eq!((copying.stats().applied(), steps.stats().applied()), (3, 4));
    assert_eq!(run_until_idle(&mut connection, &broker, &[&copying, &steps]).unwrap(), 0);
}

#[test]
fn a_subscriber_on_another_database_applies_what_an_open_transaction_recorded() {
    let (_own, mut connection) = start();
    let theirs = fresh();
    let broker = MemoryBroker::new();
    let subscriber = Subscriber::new("order", broker.clone(), pool(&theirs)).copy::<ItemCopy>();
    connection.begin_test_transaction().unwrap();
    let lamp = insert(&mut connection, "lamp", 5);
    assert_eq!(run_until_idle(&mut connection, &broker, &[&subscriber]).unwrap(), 1);
    assert_eq!(copies(&mut connect(&theirs)), [ItemCopy::from(&lamp)]);
}

#[test]
fn what_a_subscriber_sets_aside_fails_the_run_with_its_name() {
    let (database, mut connection) = start();
    let broker = MemoryBroker::new();
    let picky = Subscriber::new("picky", broker.clone(), pool(&database)).on(
        "account.stepped",
        |tx, step: Stepped| {
            enter(tx.conn(), &step.account, step.sequence)?;
            match step.sequence {
                1 => Ok(()),
                2 => Err(Error::application("two is too many")),
                _ => panic!("no step {}", step.sequence),
            }
        },
    );
    let record = |connection: &mut Connection, sequence| {
        let step = Stepped { account: "x".into(), sequence };
        connection.outbox_transaction(|tx| tx.record(&step)).unwrap();
    };
    let picky = picky.on_failure("account.stepped", FailurePolicy::LatestWins);
    (1..=3).for_each(|sequence| record(&mut connection, sequence));
    let error = run_until_idle(&mut connection, &broker, &[&picky]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Application);
    let text = error.to_string();
    for part in [
        "subscriber picky has set messages aside in inbox_held:",
        "account.stepped of key x, 5 attempts: two is too many",
        "account.stepped of key x, 5 attempts: the handler panicked: no step 3",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(ledger_entries(&mut connection), [("x".to_owned(), 1)]);
    // It is told once, in the run in which it happened.
    assert_eq!(run_until_idle(&mut connection, &broker, &[&picky]).unwrap(), 0);
    assert_eq!(inbox_held::table.count().get_result::<i64>(&mut connection).unwrap(), 2);
}

#[test]
fn a_circle_of_messages_is_cut_and_named() {
    let (database, mut connection) = start();
    let broker = MemoryBroker::new();
    let circle = Subscriber::new("circle", broker.clone(), pool(&database))
        .on_event(|tx, step: Stepped| tx.record(&Stepped { sequence: step.sequence + 1, ..step }));
    connection.outbox_transaction(|tx| tx.record(&Stepped { account: "x".into(), sequence: 1 })).unwrap();
    let error = run_until_idle(&mut connection, &broker, &[&circle]).unwrap_err();
    assert!(
        error.to_string().contains("after 100 rounds: account.stepped; does a handler record"),
        "{error}"
    );
}

#[test]
fn messages_that_nobody_given_takes_and_foreign_brokers_are_named() {
    let (database, mut connection) = start();
    let broker = MemoryBroker::new();
    let subscriber = Subscriber::new("copying", broker.clone(), pool(&database)).copy::<ItemCopy>();
    assert_eq!(run_until_idle(&mut connection, &broker, &[&subscriber]).unwrap(), 0);
    insert(&mut connection, "lamp", 5);
    let error = run_until_idle(&mut connection, &broker, &[]).unwrap_err();
    assert!(error.to_string().contains("queue copying.0 holds 1"), "{error}");
    assert_eq!(run_until_idle(&mut connection, &broker, &[&subscriber]).unwrap(), 0);
    assert_eq!(copies(&mut connection).len(), 1);

    let error = run_until_idle(&mut connection, &MemoryBroker::new(), &[&subscriber]).unwrap_err();
    assert!(error.to_string().contains("subscriber copying is on another broker"), "{error}");
}

#[test]
fn sqlite_in_memory_is_ready_for_both_roles_and_for_a_pool() {
    let mut alone = testing::memory_outbox();
    assert_nothing_recorded!(alone);
    let pool = testing::memory_pool();
    let broker = MemoryBroker::new();
    let echo = Subscriber::new("echo", broker.clone(), pool.clone())
        .on("account.stepped", |tx, step: Stepped| tx.record(&Emptied { purse: step.account }));
    let mut connection = pool.get().unwrap();
    connection.outbox_transaction(|tx| tx.record(&Stepped { account: "x".into(), sequence: 1 })).unwrap();
    assert_eq!(run_until_idle(&mut *connection, &broker, &[&echo]).unwrap(), 2);
    assert_eq!(broker.unrouted()[0].kind, "purse.emptied");
    assert_nothing_recorded!(alone);
}
