//! A subscriber that is a process of its own, killed between each pair of its steps: receive, inbox, effect, COMMIT,
//! acknowledgement. The places are exact, as a proxy stops what is on its way to the server there.

use std::time::Duration;

use outbox_core::Frame;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Publisher as _};
use tokio_util::sync::CancellationToken;

use super::SERVER;
use super::consumer::{Subscriber, at};
use super::database::{connect, copies, fresh, ledger_entries};
use super::stage::{Handles as _, change, copy, held_rows, quick, step};
use crate::checker::Counts;
use crate::harness::{Server, server_url, unique, until, until_within};
use crate::items::ItemCopy;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::report::{Row, size};

/// What the process is told, in its environment.
const DATABASE: &str = "OUTBOX_TEST_KILLED_DATABASE";
const BROKER: &str = "OUTBOX_TEST_KILLED_BROKER";
const NAME: &str = "OUTBOX_TEST_KILLED_NAME";

const ACCOUNTS: usize = 5;
/// A process is there and has come to its place within this.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the process ends.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Before this goes to the database.
    Before(&'static str),
    /// Once this has reached the database, which may have done it.
    Unanswered(&'static str),
    /// Before the acknowledgement goes to the broker.
    BeforeAck,
    /// Once the broker has it.
    Acknowledged,
}

/// The class and the method of `basic.ack`.
const ACK: &str = "\0\x3c\0\x50";

fn places() -> [Place; 7] {
    let (inbox, ledger) =
        if SERVER == Server::Postgres { ("\"inbox\"", "\"ledger\"") } else { ("`inbox`", "`ledger`") };
    // See outbox-core's `Autocommit`, which its sync connections to MySQL and MariaDB use.
    let commit = if SERVER != Server::Postgres && !is_async() { "SET autocommit = 1" } else { "COMMIT" };
    [
        Place::Before(inbox),
        Place::Unanswered(inbox),
        Place::Before(ledger),
        Place::Before(commit),
        Place::Unanswered(commit),
        Place::BeforeAck,
        Place::Acknowledged,
    ]
}

fn is_async() -> bool {
    module_path!().split("::").any(|module| module.ends_with("_async"))
}

fn broker(url: &str, exchange: &str) -> RabbitMq {
    RabbitMq::new(url).unwrap().exchange(exchange)
}

fn subscriber(name: &str, broker: RabbitMq, url: &str) -> Subscriber<RabbitMq> {
    at(name, broker, url).retry(quick()).batch(20).copy::<ItemCopy>().enter_steps()
}

/// Not a test: what [`a_process_killed_between_any_two_steps_loses_and_repeats_nothing`] kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that another test kills"]
async fn the_process() {
    let told = |name| std::env::var(name).unwrap();
    let name = told(NAME);
    let subscriber = subscriber(&name, broker(&told(BROKER), &name), &told(DATABASE));
    subscriber.run(CancellationToken::new()).await.unwrap();
}

fn start(name: &str, database: &str, broker: &str) -> Process {
    Process::start(module_path!(), &[(NAME, name), (DATABASE, database), (BROKER, broker)])
}

/// The next steps of each account, and changes of as many items.
fn story(round: i64) -> Vec<Frame> {
    let mut frames = Vec::new();
    for sequence in round * 3 + 1..=round * 3 + 3 {
        for account in 0..ACCOUNTS {
            frames.push(step(&format!("a{account}"), sequence));
            let id = i64::try_from(account).unwrap() + 1;
            let event = if sequence == 1 { "created" } else { "updated" };
            frames.push(change(id, event, &format!("n{sequence}"), sequence * 10 + id));
        }
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_between_any_two_steps_loses_and_repeats_nothing() {
    let rounds = size(7, 100);
    let (database, name) = (fresh(), unique("killed"));
    let amqp = server_url(outbox_tests::lab_client::AMQP_URL);
    let direct = broker(&amqp, &name);
    subscriber(&name, direct.clone(), &database.url).declare().await.unwrap();
    let mut publisher = direct.publisher().await.unwrap();
    let (to_database, mut database_url) = Proxy::before(&database.url).await;
    if SERVER != Server::Postgres && is_async() {
        // Else the driver asks the server for its socket, and goes there.
        database_url += "?prefer_socket=false";
    }
    let (to_broker, broker_url) = Proxy::before(&amqp).await;
    for (round, place) in (0..rounds).zip(places().into_iter().cycle()) {
        let is_in_database = match place {
            Place::Before(text) => {
                to_database.freeze_before(text);
                true
            }
            Place::Unanswered(text) => {
                to_database.freeze_unanswered(text);
                true
            }
            Place::BeforeAck => {
                to_broker.freeze_before(ACK);
                false
            }
            Place::Acknowledged => {
                to_broker.freeze_unanswered(ACK);
                false
            }
        };
        publisher.publish(&story(round)).await.unwrap();
        let process = start(&name, &database_url, &broker_url);
        let proxy = if is_in_database { &to_database } else { &to_broker };
        until_within(LIMIT, &format!("it comes to {place:?}"), || async { proxy.has_frozen() }).await;
        drop(process);
        // As the end of a process does: its sockets are closed.
        to_database.cut();
        to_broker.cut();
    }

    let _process = start(&name, &database_url, &broker_url);
    let mut connection = connect(&database);
    let steps = rounds * 3;
    let entries = ACCOUNTS * usize::try_from(steps).unwrap();
    let last: Vec<_> = (1..=5).map(|id| copy(id, &format!("n{steps}"), steps * 10 + id)).collect();
    let look = std::cell::RefCell::new(&mut connection);
    until_within(LIMIT, "all is applied", || async {
        let mut connection = look.borrow_mut();
        ledger_entries(&mut connection).len() >= entries && copies(&mut connection) == last
    })
    .await;
    // What is published last comes last: then nothing is on its way any more.
    publisher.publish(&[step("end", 1)]).await.unwrap();
    let look = std::cell::RefCell::new(&mut connection);
    until("the end is applied", || async {
        ledger_entries(&mut look.borrow_mut()).iter().any(|entry| entry.0 == "end")
    })
    .await;
    // What came back with each of the first processes is taken out of the queue and handled alone.
    let look = std::cell::RefCell::new(&mut connection);
    until("nothing is held", || async { held_rows(&mut look.borrow_mut()).is_empty() }).await;
    let all = ledger_entries(&mut connection);
    assert_eq!(all.len(), entries + 1, "each effect once");
    for account in 0..ACCOUNTS {
        let account = format!("a{account}");
        let own: Vec<_> = all.iter().filter(|entry| entry.0 == account).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=steps).collect::<Vec<_>>(), "{account}");
    }
    assert_eq!(copies(&mut connection), last);
    let written = 2 * entries as u64 + 1;
    let counts = Counts { arrived: written, repeats: 0 };
    let server = module_path!().split("::").nth(1).unwrap();
    let row = Row {
        fault: "subscriber: SIGKILL between steps",
        injected: usize::try_from(rounds).unwrap(),
        server,
        written,
        counts: Some(counts),
    };
    row.write();
    direct.remove(&[format!("{name}.0")]).await.unwrap();
}
