//! A message that ends the process that handles it, each time: it alone is set aside.

use std::time::{Duration, Instant};

use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::broker::{Broker as _, Publisher as _, Queue};
use tokio_util::sync::CancellationToken;

use super::consumer::at;
use super::database::{connect, fresh, ledger_entries};
use super::stage::{Handles as _, held_rows, quick, step};
use crate::harness::{server_url, unique};
use crate::process::Process;

/// What the process is told, in its environment.
const DATABASE: &str = "OUTBOX_TEST_CRASHED_DATABASE";
const NAME: &str = "OUTBOX_TEST_CRASHED_NAME";

const ACCOUNTS: usize = 8;
const STEPS: i64 = 6;
/// A process that ends gives a message back once or twice, of fifty times.
const STARTS_MAX: usize = 60;
/// A process has done its part within this.
const LIMIT: Duration = Duration::from_secs(60);

fn broker(name: &str) -> RabbitMq {
    RabbitMq::new(&server_url(outbox_tests::lab_client::AMQP_URL)).unwrap().exchange(name)
}

/// Not a test: what [`a_message_that_ends_its_process_is_set_aside_and_no_other_is_lost`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that another test starts"]
async fn the_process() {
    let told = |name| std::env::var(name).unwrap();
    let name = told(NAME);
    let subscriber =
        at(&name, broker(&name), &told(DATABASE)).retry(quick()).batch(20).steps(|entries, step, _| {
            if step.account == "killer" && step.sequence == 1 {
                std::process::abort();
            }
            entries.enter(step);
            Ok(())
        });
    subscriber.run(CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ends_its_process_is_set_aside_and_no_other_is_lost() {
    let (database, name) = (fresh(), unique("crashing"));
    let broker = broker(&name);
    at(&name, broker.clone(), &database.url).enter_steps().declare().await.unwrap();
    let mut publisher = broker.publisher().await.unwrap();
    let mut frames = Vec::new();
    for sequence in 1..=STEPS {
        frames.extend((0..ACCOUNTS).map(|account| step(&format!("a{account}"), sequence)));
        frames.push(step("killer", sequence));
    }
    publisher.publish(&frames).await.unwrap();

    let mut connection = connect(&database);
    let expected = ACCOUNTS * usize::try_from(STEPS).unwrap();
    let start = || Process::start(module_path!(), &[(NAME, &name), (DATABASE, &database.url)]);
    let mut starts = 0;
    'starts: loop {
        starts += 1;
        assert!(starts < STARTS_MAX, "still ending: {:?}", held_rows(&mut connection));
        let (mut process, started) = (start(), Instant::now());
        while process.0.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < LIMIT, "not set aside: {:?}", held_rows(&mut connection));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let is_aside = held_rows(&mut connection).iter().any(|row| row.state == "dead");
            if is_aside && ledger_entries(&mut connection).len() == expected {
                break 'starts;
            }
        }
    }

    let entries = ledger_entries(&mut connection);
    for account in 0..ACCOUNTS {
        let account = format!("a{account}");
        let own: Vec<_> = entries.iter().filter(|entry| entry.0 == account).map(|entry| entry.1).collect();
        assert_eq!(own, (1..=STEPS).collect::<Vec<_>>(), "{account}");
    }
    let held = held_rows(&mut connection);
    assert!(held.iter().all(|row| row.aggregate_id == "killer"), "{held:?}");
    let states: Vec<_> = held.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["dead", "waiting", "waiting", "waiting", "waiting", "waiting"], "{held:?}");
    assert!(held[0].error.contains("the process ended 3 times"), "{held:?}");
    let dead = Queue { name: format!("{name}.dead"), bindings: Vec::new(), prefetch: 1 };
    assert_eq!(broker.depth(&dead).await.unwrap(), Some(0), "dead letters");
    broker.remove(&[format!("{name}.0")]).await.unwrap();
}
