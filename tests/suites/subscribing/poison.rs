//! What no message may do: crash the process, stop others, or vanish.

use std::time::Duration;

use outbox_core::{Frame, Message};

use super::SERVER;
use super::database::{copies, fresh};
use super::stage::{Running, change, copy, recorded, subscriber};
use crate::harness::{Server, until_within};
use crate::items::ItemCopy;
use crate::report::size;
use outbox_core::broker::memory::MemoryBroker;

/// A change that is broken in the way of this number; each is set aside.
fn malformed(number: usize) -> Frame {
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
    // MariaDB takes 16 MiB in one packet by default; what is set aside has its headers and its error besides.
    let most =
        if SERVER == Server::Mariadb { 12 * 1024 * 1024 } else { outbox_core::PAYLOAD_BYTES_MAX - 100 };
    let bytes = size(4 * 1024 * 1024, most);
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
