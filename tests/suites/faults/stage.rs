//! What every fault is injected into: an outbox that writers go on writing to, a subscriber with a ledger in a
//! database of its own, and the invariants at the end.
//!
//! A writer counts an account up under its row's lock and records every step; so the account's row, written in
//! the same transaction, tells afterwards which messages were committed, whatever became of a COMMIT whose
//! answer was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use diesel::prelude::*;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::{Error, ErrorKind, OutboxConnection as _, Subscriber, SubscriberStats};
use outbox_tests::lab_client::AMQP_URL;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::{self, connect, fresh, items, ledger_entries, pool, try_connect};
use super::{Connection, SERVER};
use crate::checker::{Counts, Tally};
use crate::harness::{TestDatabase, server_url, unique, until_within};
use crate::items::{Stepped, item};
use crate::relay::RelayConfig;
use crate::report::{Row, size};

const WRITERS: u64 = 2;
const ACCOUNTS: i64 = 200;
/// Accounts and messages of each in one transaction.
const ACCOUNTS_AT_ONCE: usize = 8;
const STEPS: i64 = 2;
/// Between two transactions of a writer: about a thousand messages a second in all.
const PAUSE: Duration = Duration::from_millis(12);
/// Writers wait while the subscriber is so many messages behind: what a fault has held up has to drain on a slow
/// machine, too. In a short run and in a full one.
const LEAD: [u64; 2] = [4000, 20_000];
/// After the last fault everything has to arrive within this.
const DRAIN: Duration = Duration::from_secs(240);

/// An outbox, writers, a subscriber.
pub(super) struct Stage {
    fault: &'static str,
    pub(super) source: TestDatabase,
    target: TestDatabase,
    pub(super) amqp: String,
    pub(super) exchange: String,
    subscription: Subscription,
    /// What aborted subscribers had applied and absorbed.
    before: (u64, u64),
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    writing: Option<JoinHandle<()>>,
}

/// About how far both ends are.
#[derive(Debug, Default)]
struct Progress {
    written: AtomicU64,
    handled: AtomicU64,
}

struct Subscription {
    shutdown: CancellationToken,
    task: JoinHandle<outbox_core::Result<()>>,
    stats: SubscriberStats,
}

impl Subscription {
    async fn start(amqp: &str, exchange: &str, target: &TestDatabase, progress: &Arc<Progress>) -> Self {
        let progress = Arc::clone(progress);
        let broker = RabbitMq::new(amqp).unwrap().exchange(exchange);
        let subscriber = Subscriber::<_, Connection>::new(format!("sub-{exchange}"), broker, pool(target))
            .on("account.stepped", move |tx, step: Stepped| {
                progress.handled.fetch_add(1, Ordering::Relaxed);
                Ok(database::enter(tx.conn(), &step.account, step.sequence)?)
            });
        subscriber.declare().await.unwrap();
        let (shutdown, stats) = (CancellationToken::new(), subscriber.stats());
        Self { shutdown: shutdown.clone(), task: tokio::spawn(subscriber.run(shutdown)), stats }
    }
}

impl Stage {
    /// On the servers that all tests share.
    pub(super) async fn new(fault: &'static str) -> Self {
        Self::on(fault, fresh(), &server_url(AMQP_URL)).await
    }

    /// On a database or a broker of the test's own.
    pub(super) async fn on(fault: &'static str, source: TestDatabase, amqp: &str) -> Self {
        let (target, exchange) = (fresh(), unique("ex"));
        let progress = Arc::default();
        let subscription = Subscription::start(amqp, &exchange, &target, &progress).await;
        Self {
            fault,
            source,
            target,
            amqp: amqp.to_owned(),
            exchange,
            subscription,
            before: (0, 0),
            progress,
            stop: Arc::default(),
            writing: None,
        }
    }

    /// Ends the subscriber at whatever await point it is, and starts another one in its place.
    pub(super) async fn restart_subscriber(&mut self) {
        self.subscription.task.abort();
        let stats = &self.subscription.stats;
        self.before = (self.before.0 + stats.applied(), self.before.1 + stats.duplicates());
        self.subscription =
            Subscription::start(&self.amqp, &self.exchange, &self.target, &self.progress).await;
    }

    /// How to start a relay on it, without a proxy.
    pub(super) fn relay(&self) -> RelayConfig {
        RelayConfig {
            database: self.source.url.clone(),
            amqp: self.amqp.clone(),
            exchange: self.exchange.clone(),
            lease: "2s",
            broker_keys: String::new(),
            keys: String::new(),
            environment: Vec::new(),
        }
    }

    /// Begins to write about a thousand messages a second, until the end.
    pub(super) fn write(&mut self) {
        self.write_slowly(PAUSE);
    }

    /// Begins to write, with this pause between two transactions of a writer.
    pub(super) fn write_slowly(&mut self, pause: Duration) {
        let mut connection = connect(&self.source);
        let rows: Vec<_> = (1..=ACCOUNTS)
            .map(|id| (item::id.eq(id), item::name.eq("account"), item::amount.eq(0), item::secret.eq("")))
            .collect();
        diesel::insert_into(item::table).values(rows).execute(&mut connection).unwrap();
        let (url, stop) = (self.source.url.clone(), Arc::clone(&self.stop));
        let progress = Arc::clone(&self.progress);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            std::thread::scope(|scope| {
                let (url, stop, progress) = (&url, &stop, &progress);
                for seed in 0..WRITERS {
                    scope.spawn(move || write(url, seed, pause, stop, progress));
                }
            });
        }));
    }

    /// Ends the writers.
    pub(super) async fn stop_writing(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(writing) = self.writing.take() {
            writing.await.unwrap();
        }
    }

    /// How many different messages the subscriber has applied.
    pub(super) fn applied(&self) -> u64 {
        self.before.0 + self.subscription.stats.applied()
    }

    /// Waits until messages flow: so many more are applied.
    pub(super) async fn flows(&self, more: u64) {
        let goal = self.applied() + more;
        until_within(DRAIN, "messages flow", || async { self.applied() >= goal }).await;
    }

    /// Ends the writers, waits until all is delivered, and checks the invariants. The relays have to live.
    pub(super) async fn finish(mut self, injected: usize) {
        self.stop_writing().await;
        let mut source = connect(&self.source);
        let committed: BTreeMap<String, i64> =
            items(&mut source).into_iter().map(|account| (account.id.to_string(), account.amount)).collect();
        let written = committed.values().sum::<i64>() as u64;
        assert!(written > 0, "nothing was written");
        until_within(DRAIN, "the outbox is empty", || {
            let left = count(&mut source, "outbox");
            async move { left == 0 }
        })
        .await;
        let mut target = connect(&self.target);
        until_within(DRAIN, "all is applied", || {
            let entries = count(&mut target, "ledger");
            async move { entries as u64 >= written }
        })
        .await;
        let Subscription { shutdown, task, stats } = self.subscription;
        shutdown.cancel();
        task.await.unwrap().unwrap();

        let mut tally = Tally::default();
        for (account, sequence) in ledger_entries(&mut target) {
            tally.arrive(&account, sequence);
        }
        let counts = tally.check(&committed).unwrap_or_else(|violations| panic!("{violations}"));
        assert_eq!(counts.repeats, 0, "effects happened twice");
        assert_eq!(stats.set_aside(), 0, "messages were set aside");
        assert_eq!(count(&mut source, "outbox_key"), 0, "attempts were counted for an outage");
        let counts = Counts { repeats: self.before.1 + stats.duplicates(), ..counts };
        Row { fault: self.fault, injected, server: server(), written, counts: Some(counts) }.write();
    }
}

/// The database's name, for the table.
pub(super) fn server() -> &'static str {
    match SERVER {
        crate::harness::Server::Sqlite => "SQLite",
        crate::harness::Server::Mariadb => "MariaDB",
        crate::harness::Server::Mysql => "MySQL",
        crate::harness::Server::Postgres => "PostgreSQL",
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    n: i64,
}

/// A number that a statement selects as `n`.
pub(super) fn number(connection: &mut Connection, statement: &str) -> i64 {
    diesel::sql_query(statement).get_result::<Number>(connection).unwrap().n
}

/// The rows of a table.
pub(super) fn count(connection: &mut Connection, table: &str) -> i64 {
    number(connection, &format!("select count(*) as n from {table}"))
}

/// Writes until it is told to stop. After any error it connects again, as a service would.
fn write(url: &str, seed: u64, pause: Duration, stop: &AtomicBool, progress: &Progress) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let handled = progress.handled.load(Ordering::Relaxed);
        if progress.written.load(Ordering::Relaxed) > handled + size(LEAD[0], LEAD[1]) {
            std::thread::sleep(pause);
            continue;
        }
        let accounts: Vec<i64> = (0..ACCOUNTS_AT_ONCE).map(|_| random.random_range(1..=ACCOUNTS)).collect();
        let written = match connection.take() {
            Some(mut open) => step(&mut open, &accounts).map(|steps| {
                progress.written.fetch_add(steps, Ordering::Relaxed);
                open
            }),
            // Whatever keeps it from connecting is the fault that is injected just now.
            None => try_connect(url).map_err(|error| Error::new(ErrorKind::Outage, error.to_string())),
        };
        match written {
            Ok(open) => connection = Some(open),
            Err(error) => {
                assert!(error.is_outage(), "{error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        std::thread::sleep(pause);
    }
}

/// Returns how many steps there were.
fn step(connection: &mut Connection, accounts: &[i64]) -> outbox_core::Result<u64> {
    connection.outbox_transaction(|tx| {
        let of_these = || item::table.filter(item::id.eq_any(accounts));
        diesel::update(of_these()).set(item::amount.eq(item::amount + STEPS)).execute(tx.conn())?;
        let lasts: Vec<(i64, i64)> = of_these().select((item::id, item::amount)).load(tx.conn())?;
        let steps = lasts.len() as u64 * STEPS as u64;
        for (account, last) in lasts {
            for sequence in last - STEPS + 1..=last {
                tx.record(&Stepped { account: account.to_string(), sequence })?;
            }
        }
        Ok(steps)
    })
}
