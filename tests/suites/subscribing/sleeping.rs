//! A subscriber that is a process of its own, stopped (SIGSTOP) for longer than RabbitMQ keeps its connection: another
//! one takes its queue over; then it goes on (SIGCONT) with what it has in its memory and in its transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::prelude::*;
use outbox_core::Frame;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Publisher as _, Queue};
use rand::RngExt as _;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio_util::sync::CancellationToken;

use super::consumer::{Subscriber, at};
use super::database::{connect, copies, fresh, ledger_entries};
use super::stage::{Handles as _, change, copy, held_rows, quick, step};
use super::{Connection, SERVER};
use crate::checker::Tally;
use crate::harness::{Server, TestDatabase, server_url, unique, until_within};
use crate::items::ItemCopy;
use crate::process::Process;
use crate::report::{Row, random, size};

/// What the process is told, in its environment.
const DATABASE: &str = "OUTBOX_TEST_SLEEPING_DATABASE";
const NAME: &str = "OUTBOX_TEST_SLEEPING_NAME";
/// Whether it stops by itself, within the transaction of a message.
const FALLS_ASLEEP: &str = "OUTBOX_TEST_SLEEPING_FALLS_ASLEEP";

const ACCOUNTS: usize = 8;
/// The account whose message puts a process to sleep.
const SLEEP: &str = "sleep";
/// Another one has taken over, and all is applied, within this. RabbitMQ gives a connection up after three heartbeats.
const LIMIT: Duration = Duration::from_secs(120);

fn broker(name: &str) -> RabbitMq {
    let url = server_url(outbox_tests::lab_client::AMQP_URL) + "?heartbeat=2";
    RabbitMq::new(&url).unwrap().exchange(name)
}

/// Two queues; a step takes a little while, so that a process has always more than it has applied.
fn subscriber(name: &str, url: &str, falls_asleep: bool) -> Subscriber<RabbitMq> {
    let subscriber = at(name, broker(name), url).retry(quick()).queues(2).batch(20);
    subscriber.copy::<ItemCopy>().steps(move |entries, step, _| {
        entries.enter(step);
        std::thread::sleep(Duration::from_millis(1));
        if falls_asleep && step.account == SLEEP {
            kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
        }
        Ok(())
    })
}

/// Not a test: what the tests here stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that other tests stop"]
async fn the_process() {
    let told = |name| std::env::var(name).unwrap();
    let subscriber = subscriber(&told(NAME), &told(DATABASE), told(FALLS_ASLEEP) == "true");
    subscriber.run(CancellationToken::new()).await.unwrap();
}

/// Steps and changes that are published all the time, and what has become of them.
struct Stage {
    database: TestDatabase,
    connection: Connection,
    name: String,
    sequence: i64,
    /// Steps that put a process to sleep.
    sleeps: i64,
}

impl Stage {
    async fn new() -> Self {
        let (database, name) = (fresh(), unique("sleeping"));
        subscriber(&name, &database.url, false).declare().await.unwrap();
        let connection = connect(&database);
        Self { database, connection, name, sequence: 0, sleeps: 0 }
    }

    fn process(&self, falls_asleep: bool) -> Process {
        let falls_asleep = falls_asleep.to_string();
        let told = [(NAME, &self.name), (DATABASE, &self.database.url), (FALLS_ASLEEP, &falls_asleep)];
        Process::start(module_path!(), &told.map(|(name, value)| (name, value.as_str())))
    }

    /// The next steps of each account, and a change of as many items for each.
    fn story(&mut self, steps: i64) -> Vec<Frame> {
        let mut frames = Vec::new();
        for sequence in self.sequence + 1..=self.sequence + steps {
            for account in 0..ACCOUNTS {
                frames.push(step(&format!("a{account}"), sequence));
                let id = i64::try_from(account).unwrap() + 1;
                let event = if sequence == 1 { "created" } else { "updated" };
                frames.push(change(id, event, &format!("n{sequence}"), sequence * 10 + id));
            }
        }
        self.sequence += steps;
        frames
    }

    async fn publish(&self, frames: &[Frame]) {
        broker(&self.name).publisher().await.unwrap().publish(frames).await.unwrap();
    }

    fn applied(&mut self) -> usize {
        ledger_entries(&mut self.connection).len()
    }

    /// Whether a transaction in this database waits for another one.
    fn waits_for_a_lock(&mut self) -> bool {
        let waiting = match SERVER {
            Server::Postgres => {
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            }
            _ => {
                "select count(*) from information_schema.innodb_trx join information_schema.processlist \
                 on id = trx_mysql_thread_id where trx_state = 'LOCK WAIT' and db = database()"
            }
        };
        diesel::dsl::sql::<diesel::sql_types::BigInt>(waiting)
            .get_result::<i64>(&mut self.connection)
            .unwrap()
            > 0
    }

    /// Waits until so many more entries are there: somebody works.
    async fn until_more(&mut self, what: &str, more: usize) {
        let before = self.applied();
        let look = std::cell::RefCell::new(self);
        until_within(LIMIT, what, || async { look.borrow_mut().applied() >= before + more }).await;
    }

    /// Everything once, in order, with nothing left over.
    async fn check(&mut self, fault: &str, injected: usize) {
        let total =
            ACCOUNTS * usize::try_from(self.sequence).unwrap() + usize::try_from(self.sleeps).unwrap();
        let last: Vec<_> = (1..=i64::try_from(ACCOUNTS).unwrap())
            .map(|id| copy(id, &format!("n{}", self.sequence), self.sequence * 10 + id))
            .collect();
        let queues = [0, 1].map(|number| Queue {
            name: format!("{}.{number}", self.name),
            bindings: Vec::new(),
            prefetch: 1,
        });
        let broker = broker(&self.name);
        let look = std::cell::RefCell::new(&mut self.connection);
        until_within(LIMIT, "all is applied", || async {
            let mut connection = look.borrow_mut();
            ledger_entries(&mut connection).len() >= total && copies(&mut connection) == last
        })
        .await;
        // A repetition would come now.
        for queue in &queues {
            until_within(LIMIT, "nothing waits", || async { broker.depth(queue).await.unwrap() == Some(0) })
                .await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut tally = Tally::default();
        for (account, sequence) in ledger_entries(&mut self.connection) {
            tally.arrive(&account, sequence);
        }
        let mut committed: BTreeMap<_, _> =
            (0..ACCOUNTS).map(|account| (format!("a{account}"), self.sequence)).collect();
        if self.sleeps > 0 {
            committed.insert(SLEEP.to_owned(), self.sleeps);
        }
        let counts = tally.check(&committed).unwrap();
        assert_eq!(counts.repeats, 0, "each effect once");
        assert_eq!(copies(&mut self.connection), last);
        assert!(held_rows(&mut self.connection).is_empty(), "{:?}", held_rows(&mut self.connection));
        let server = module_path!().split("::").nth(1).unwrap();
        let written = 2 * total as u64 - self.sleeps.unsigned_abs();
        let counts = crate::checker::Counts { arrived: written, repeats: 0 };
        Row { fault, injected, server, written, counts: Some(counts) }.write();
        broker.remove(&queues.map(|queue| queue.name)).await.unwrap();
    }
}

fn signal(process: &Process, signal: Signal) {
    kill_process(Pid::from_child(&process.0), signal).unwrap();
}

/// The sleeper is in the middle of a transaction, whose inbox rows the other one waits for; what else it has fetched the
/// other one has too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_sleeps_within_its_transaction_undoes_and_repeats_nothing() {
    let mut stage = Stage::new().await;
    let sleeper = stage.process(true);
    let before = stage.story(10);
    stage.publish(&before).await;
    stage.until_more("it works", 20).await;
    stage.sleeps = 1;
    let mut frames = stage.story(30);
    frames.insert(frames.len() / 4, step(SLEEP, 1));
    stage.publish(&frames).await;
    let pid = Pid::from_child(&sleeper.0);
    let look = WaitOptions::UNTRACED | WaitOptions::NOHANG;
    until_within(LIMIT, "it sleeps", || async {
        waitpid(Some(pid), look).unwrap().is_some_and(|(_, status)| status.stopped())
    })
    .await;

    let _other = stage.process(false);
    let look = std::cell::RefCell::new(&mut stage);
    until_within(LIMIT, "another has its messages and waits for it", || async {
        // MariaDB looks anew only if nobody has asked for a tenth of a second.
        tokio::time::sleep(Duration::from_millis(200)).await;
        look.borrow_mut().waits_for_a_lock()
    })
    .await;
    signal(&sleeper, Signal::CONT);
    let after = stage.story(10);
    stage.publish(&after).await;
    stage.check("subscriber: SIGSTOP in its transaction, SIGCONT", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_sleep_in_turns_undo_and_repeat_nothing() {
    let rounds = size(2, 40);
    let (mut stage, mut random) = (Stage::new().await, random());
    let processes = [stage.process(false), stage.process(false)];
    for round in 0..rounds {
        let frames = stage.story(120);
        stage.publish(&frames).await;
        stage.until_more("one works", 50).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        // Either may be the one that works, of one queue or of both.
        let sleeper = &processes[round % 2];
        signal(sleeper, Signal::STOP);
        tokio::time::sleep(Duration::from_secs(8)).await;
        signal(sleeper, Signal::CONT);
    }
    stage.check("subscriber: SIGSTOP, SIGCONT, two processes", rounds).await;
}
