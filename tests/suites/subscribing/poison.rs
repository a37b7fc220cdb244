//! What no message may do: crash the process, stop others, or vanish.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use outbox_core::{Error, Frame, Message};

use super::SERVER;
use super::database::{copies, fresh, ledger_entries};
use super::stage::{Handles as _, Running, ask, change, copy, recorded, step, subscriber};
use crate::harness::{Server, until_within};
use crate::items::ItemCopy;
use crate::report::size;
use outbox_core::broker::memory::MemoryBroker;

/// A change that is broken in the way of this number; each is set aside.
pub(super) fn malformed(number: usize) -> Frame {
    let id = 500_000 + i64::try_from(number).unwrap();
    let mut frame = change(id, "created", "good", id);
    let after =
        |value: &str| format!("{{\"after\": {{\"id\": {id}, \"name\": \"n\", \"amount\": {value}}}}}");
    frame.body = match number % 10 {
        0 => frame.body[..frame.body.len() / 2].to_vec(),
        1 => [&frame.body[..], &[0xff, 0xfe]].concat(),
        2 => after("\"seven\"").into_bytes(),
        3 => after(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).into_bytes(),
        4 => after(&"9".repeat(400)).into_bytes(),
        5 => after("1e400").into_bytes(),
        6 => after("null").into_bytes(),
        7 => vec![b'['; 10_000],
        8 => Vec::new(),
        _ => b"\"\\ud800\"".to_vec(),
    };
    match number % 7 {
        0 => frame.headers = frame.headers.iter().filter(|(name, _)| *name != "outbox-id").collect(),
        1 => frame.message_id = format!("no uuid {number}"),
        2 => frame.kind = format!("item.{}", "x".repeat(number % 100)),
        _ => {}
    }
    frame
}

#[tokio::test]
async fn all_that_is_malformed_is_set_aside_and_all_that_is_good_is_applied() {
    let count = size(600, 100_000);
    let (database, broker) = (fresh(), MemoryBroker::new());
    let subscriber = subscriber(&broker, &database).copy::<ItemCopy>();
    let mut frames = Vec::new();
    let mut bad = 0;
    for id in 1..=count {
        frames.push(change(id, "created", "good", id));
        if id % 10 == 0 {
            frames.push(malformed(bad));
            bad += 1;
        }
    }
    // A large one.
    let mut large = change(1_000_000, "created", "x", 1_000_000);
    let beginning = b"{\"after\": {\"id\": \"".as_slice();
    let bytes = size(4 * 1024 * 1024, outbox_core::PAYLOAD_BYTES_MAX - 100);
    large.body = [beginning, &vec![b'x'; bytes], b"\"}}"].concat();
    frames.push(large);
    let mut running = Running::over(broker, database, subscriber, &frames).await;
    let limit = size(Duration::from_secs(60), Duration::from_secs(1500));
    until_within(limit, "all is consumed", || async { running.broker.is_idle() }).await;
    let expected: Vec<_> = (1..=count).map(|id| copy(id, "good", id)).collect();
    assert_eq!(copies(&mut running.connection), expected);
    let held = running.rows();
    assert_eq!(held.len(), bad + 1);
    assert!(held.iter().all(|row| row.state == "dead" && !row.error.is_empty()), "{held:?}");
    running.stop().await;
}

#[tokio::test]
async fn the_largest_message_passes() {
    const BYTES: usize = outbox_core::PAYLOAD_BYTES_MAX;
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&seen);
    let running = Running::start(move |s| {
        s.on_raw("blob.*", move |_, incoming| {
            counted.fetch_add(incoming.message().payload().len(), std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })
    })
    .await;
    let payload = [b"\"".as_slice(), &vec![b'x'; BYTES - 2], b"\""].concat();
    running.feed(&[recorded(Message::new("blob", "1", "made", payload).unwrap(), 1)]).await;
    assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), BYTES);
    running.stop().await;
}

fn with_header(mut frame: Frame, name: &str, value: &str) -> Frame {
    frame.headers = frame.headers.iter().chain([(name, value)]).collect();
    frame
}

#[tokio::test]
async fn what_does_not_fit_into_the_inbox_is_set_aside_and_other_keys_go_on() {
    let handled = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&handled);
    let mut running = Running::start(move |s| {
        s.copy::<ItemCopy>().steps(move |entries, step, _| {
            if step.account.contains('\0') {
                seen.lock().unwrap().push(step.sequence);
            } else {
                entries.enter(step);
            }
            if step.sequence == 13 { Err(Error::application("not this one")) } else { Ok(()) }
        })
    })
    .await;
    let mut nameless = step("a", 3);
    nameless.message_id = "\0".repeat(200);
    let mut unkind = step("a", 4);
    unkind.kind = "\0".repeat(200);
    let refused = [
        with_header(step("a", 1), "outbox-source", &"s".repeat(101)),
        with_header(step("a", 2), "outbox-source", "größe"),
        with_header(change(7, "created", "n", 7), "outbox-source", &"s".repeat(60_000)),
        nameless,
        unkind,
        with_header(step("a", 5), "outbox-time", "9000000000000000000"),
    ];
    let key = "n\0l";
    running.feed(&[&refused[..], &[step("b", 1), step(key, 13), step("b", 2)]].concat()).await;
    running.feed(&[step(key, 14), change(1, "created", "good", 1), step("b", 3)]).await;
    running.until_held("the key fails for good", |rows| rows.iter().any(|row| row.attempts == 5)).await;
    assert_eq!(ledger_entries(&mut running.connection), [1, 2, 3].map(|sequence| ("b".to_owned(), sequence)));
    assert_eq!(copies(&mut running.connection), [copy(1, "good", 1)]);
    let rows = running.rows();
    assert_eq!(rows.len(), refused.len() + 2, "{rows:?}");
    let dead: Vec<_> = rows.iter().filter(|row| row.state == "dead").map(|row| row.error.as_str()).collect();
    for (text, error) in
        ["outbox-source", "outbox-source", "outbox-source", "UUID", "property type", "outbox-time"]
            .iter()
            .zip(&dead)
    {
        assert!(error.contains(text), "{error} of {rows:?}");
    }
    assert_eq!(rows.iter().filter(|row| row.state == "waiting").count(), 1, "{rows:?}");
    let attempts = std::mem::take(&mut *handled.lock().unwrap());
    assert!(attempts.iter().all(|sequence| *sequence == 13), "the later one waits: {attempts:?}");

    // What somebody decides is done, and the key goes on.
    ask(&mut running.connection, "discard", "dead");
    running.until_held("all is gone", <[_]>::is_empty).await;
    assert_eq!(*handled.lock().unwrap(), [14]);
    running.stop().await;
}

#[derive(QueryableByName)]
struct Stored {
    #[diesel(sql_type = diesel::sql_types::Text)]
    aggregate_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    error: String,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    payload: Vec<u8>,
}

/// MariaDB takes 16 MiB in one packet by default, with all that stands around a payload; the others take more.
#[tokio::test]
async fn a_message_larger_than_a_packet_is_set_aside_and_other_keys_go_on() {
    const BYTES: usize = outbox_core::PAYLOAD_BYTES_MAX;
    let mut running = Running::start(|s| {
        s.enter_steps().on_raw("blob.*", |tx, incoming| {
            let payload = incoming.message().payload();
            let select = diesel::sql_query(match SERVER {
                Server::Postgres => "select length($1)",
                _ => "select length(?)",
            });
            select.bind::<diesel::sql_types::Binary, _>(payload).execute(tx.conn())?;
            match incoming.message().event() {
                "refused" => Err(outbox_core::Error::new(outbox_core::ErrorKind::Invalid, "not this one")),
                _ => Ok(()),
            }
        })
    })
    .await;
    let large = |key: &str, event: &str, id| {
        let payload = [b"\"".as_slice(), &vec![b'x'; BYTES - 2], b"\""].concat();
        recorded(Message::new("blob", key, event, payload).unwrap(), id)
    };
    let mut undecodable = large("1", "made", 1);
    undecodable.message_id = "no id".into();
    let frames = [undecodable, large("2", "refused", 2), large("3", "made", 3), step("b", 1)];
    running.feed(&frames).await;
    assert_eq!(ledger_entries(&mut running.connection), [("b".to_owned(), 1)]);
    let is_cut = SERVER == Server::Mariadb;
    let count = if is_cut { 3 } else { 2 };
    running
        .until_held("all are dead", |rows| rows.len() == count && rows.iter().all(|row| row.state == "dead"))
        .await;

    let select = "select aggregate_id, error, payload from inbox_held order by sequence";
    let rows: Vec<Stored> = diesel::sql_query(select).load(&mut running.connection).unwrap();
    for Stored { error, payload, .. } in &rows {
        let says_so = error.contains(&format!("of {BYTES} bytes are kept"));
        assert_eq!((payload.len() < BYTES, says_so), (is_cut, is_cut), "{error}");
        assert!(payload.starts_with(b"\"xxx"));
    }
    assert_eq!(rows[1].aggregate_id, "2");

    // What was cut is never applied as if it were whole; later messages of its key wait for a decision.
    running
        .feed(&[recorded(Message::new("blob", "2", "made", b"1".to_vec()).unwrap(), 4), step("b", 2)])
        .await;
    ask(&mut running.connection, "replay", "dead");
    running
        .until_held("they have failed again", |rows| {
            rows.iter().filter(|row| row.state == "dead").count() == count
        })
        .await;
    let rows = running.rows();
    assert_eq!(rows.iter().filter(|row| row.state == "waiting").count(), 1, "{rows:?}");
    ask(&mut running.connection, "discard", "dead");
    running.until_held("all is gone", <[_]>::is_empty).await;
    assert_eq!(ledger_entries(&mut running.connection).len(), 2);
    running.stop().await;
}

/// Rules of the database's own: a payload that is too long, a key, then anything at all.
#[tokio::test]
async fn what_the_database_refuses_is_cut_until_it_fits_and_waits_where_nothing_does() {
    if SERVER == Server::Sqlite {
        // It takes no rule for a table that is there.
        return;
    }
    let mut running = Running::start(|s| {
        s.enter_steps().on_raw("blob.*", |_, incoming| match incoming.message().key() {
            "fine" => Ok(()),
            _ => Err(Error::application("größer")),
        })
    })
    .await;
    let rule = |running: &mut Running, name: &str, check: &str| {
        let sql = format!("alter table inbox_held add constraint {name} check ({check})");
        diesel::sql_query(sql).execute(&mut running.connection).unwrap();
    };
    rule(&mut running, "short_payload", "length(payload) < 70000");
    rule(&mut running, "plain_error", "char_length(error) = octet_length(error) and kind <> 'blob.held'");
    let blob = |key: &str, event: &str, bytes: usize, id| {
        let payload = [b"\"".as_slice(), &vec![b'x'; bytes], b"\""].concat();
        recorded(Message::new("blob", key, event, payload).unwrap(), id)
    };
    let frames = [blob("long", "made", 80_000, 1), blob("short", "made", 10, 2), step("b", 1), step("b", 2)];
    running.feed(&frames).await;
    let rows = running.rows();
    let states: Vec<_> = rows.iter().map(|row| (row.aggregate_id.as_str(), row.state.as_str())).collect();
    assert_eq!(states, [("long", "dead"), ("short", "dead")], "{rows:?}");
    assert!(rows[0].error.contains("only 65536 of 80002 bytes are kept"), "{rows:?}");
    assert!(rows[1].error.contains("gr??er"), "{rows:?}");
    assert_eq!(ledger_entries(&mut running.connection).len(), 2);

    // Where nothing can be stored, the database is at fault: nothing is acknowledged before it can.
    running.publish(&[blob("held", "held", 10, 3), step("b", 3)]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!running.broker.is_idle());
    let mend = match SERVER {
        Server::Mysql => "alter table inbox_held drop check plain_error",
        _ => "alter table inbox_held drop constraint plain_error",
    };
    diesel::sql_query(mend).execute(&mut running.connection).unwrap();
    running.feed(&[step("b", 4)]).await;
    assert_eq!(running.rows().last().map(|row| row.aggregate_id.clone()).as_deref(), Some("held"));
    assert_eq!(ledger_entries(&mut running.connection).len(), 4);
    running.stop().await;
}
