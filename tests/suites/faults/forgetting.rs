//! A subscriber forgets a large inbox while others write to it: no lock that a writer would notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::Subscriber;
use outbox_core::broker::memory::MemoryBroker;

use super::database::{connect, enter, fresh, pool};
use super::stage::{number, server};
use super::{Connection, SERVER};
use crate::harness::Server;
use crate::items::Stepped;
use crate::report::{Row, size};

/// Rows of one filling statement.
const PIECE: u64 = 1_000_000;
/// Statements of the writer while nothing is pruned.
const CALM: u64 = 2_000;

/// Rows that were applied thirty days ago, by ids of that time, and which number they have.
fn fill(connection: &mut Connection, rows: u64) {
    for first in (1..=rows).step_by(PIECE as usize) {
        let last = (first + PIECE - 1).min(rows);
        let statement = match SERVER {
            Server::Postgres => format!(
                "insert into inbox (consumer, message_id, applied_at)
                 select 'test', decode(lpad(to_hex((extract(epoch from now() - interval '30 days') * 1000)::bigint), 12, '0')
                     || '70008' || lpad(to_hex(n), 15, '0'), 'hex'), now() - interval '30 days'
                 from generate_series({first}::bigint, {last}::bigint) n"
            ),
            _ => format!(
                "insert into inbox (consumer, message_id, applied_at)
                 select 'test', unhex(concat(lpad(hex(cast(unix_timestamp(utc_timestamp() - interval 30 day) as unsigned) * 1000), 12, '0'),
                     '70008', lpad(hex(seq), 15, '0'))), utc_timestamp(6) - interval 30 day
                 from seq_{first}_to_{last}"
            ),
        };
        connection.batch_execute(&statement).unwrap();
    }
}

/// How much longer than before one insert in a hundred may take beside the clean-up. Half as long again is the aim; this is
/// for a machine that other tests keep busy, and yet less than a lock that is held for a piece of the clean-up.
const SLOWER: u32 = 10;
const SLOWER_BY: Duration = Duration::from_millis(250);

/// The median, the 99th percentile and the longest.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [0.5, 0.99, 1.0].map(|share| times[((times.len() - 1) as f64 * share) as usize])
}

fn milliseconds(percentiles: [Duration; 3]) -> String {
    percentiles.map(|time| format!("{:.1}", time.as_secs_f64() * 1000.0)).join("/")
}

/// Enters new messages as a subscriber does, one a transaction, until it has entered `most` or is told to stop; how long
/// each took.
fn write(connection: &mut Connection, most: u64, stop: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while (times.len() as u64) < most && !stop.load(Ordering::Relaxed) {
        let id = outbox_core::MessageId::now();
        let values = (
            crate::items::inbox::consumer.eq("test"),
            crate::items::inbox::message_id.eq(id.as_bytes().as_slice()),
        );
        let began = Instant::now();
        diesel::insert_into(crate::items::inbox::table).values(values).execute(connection).unwrap();
        times.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_inbox_is_forgotten_beside_a_writer() {
    let rows: u64 = size(100_000, 10_000_000);
    let (database, broker) = (fresh(), MemoryBroker::new());
    let mut connection = connect(&database);
    tokio::task::block_in_place(|| fill(&mut connection, rows));

    let mut writer = connect(&database);
    // Statements that would wait longer than this fail, and the test with them.
    writer
        .batch_execute(match SERVER {
            Server::Postgres => "set lock_timeout = '20s'",
            _ => "set session innodb_lock_wait_timeout = 20",
        })
        .unwrap();
    let calm = tokio::task::block_in_place(|| write(&mut writer, CALM, &AtomicBool::new(false)));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writing = tokio::task::spawn_blocking(move || write(&mut writer, u64::MAX, &stopped));

    let pruning = Subscriber::<_, Connection>::new("test", broker, pool(&database))
        .on("account.stepped", |tx, step: Stepped| Ok(enter(tx.conn(), &step.account, step.sequence)?));
    pruning.declare().await.unwrap();
    // A turn has an end; a large inbox takes some.
    let (mut pruned, mut turns) = (0, 0);
    let began = Instant::now();
    while pruned < rows {
        let limit = size(Duration::from_secs(240), Duration::from_secs(1500));
        assert!(began.elapsed() < limit, "{pruned} of {rows} rows are forgotten after {limit:?}");
        turns += 1;
        pruned += pruning.prune().await.unwrap().applied;
    }
    assert_eq!(pruned, rows, "only what is old");
    stop.store(true, Ordering::Relaxed);
    let busy = writing.await.unwrap();
    let written = (calm.len() + busy.len()) as u64;
    assert_eq!(
        number(&mut connection, "select count(*) as n from inbox"),
        written as i64,
        "only the old ones"
    );
    let (busy, calm) = (percentiles(busy), percentiles(calm));
    assert!(busy[1] < calm[1] * SLOWER + SLOWER_BY, "{busy:?} beside the clean-up, {calm:?} before");
    let fault = format!(
        "clean-up: {rows} inbox rows; insert p50/p99/max ms {} beside it, {} before",
        milliseconds(busy),
        milliseconds(calm)
    );
    Row { fault: &fault, injected: turns, server: server(), written, counts: None }.write();
}
