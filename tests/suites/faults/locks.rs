//! Other sessions hold locks on what the relay writes.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use rand::RngExt as _;

use super::SERVER;
use super::database::connect;
use super::stage::Stage;
use crate::harness::{Server, until};
use crate::report::{random, size};

#[tokio::test(flavor = "multi_thread")]
async fn locks_on_leases_and_messages_are_waited_out() {
    let mut stage = Stage::new("database: locks held on leases, on messages").await;
    stage.write();
    let relay = stage.relay().start();
    let times = size(1, 10);
    for _ in 0..times {
        for locked in ["select * from outbox_lease for update", "select id from outbox for update"] {
            stage.flows(200).await;
            let mut other = connect(&stage.source);
            let share = match SERVER {
                Server::Postgres => "begin",
                // As little as possible besides the rows: a gap would stop the writers.
                _ => "set transaction isolation level read committed; start transaction",
            };
            other.batch_execute(share).unwrap();
            other.batch_execute(locked).unwrap();
            until("the relay says so", || async { relay.is("paused") }).await;
            other.batch_execute("rollback").unwrap();
            until("it goes on", || async { relay.is("running") }).await;
        }
    }
    assert_eq!(relay.status().unwrap().refused, 0, "a lock is no refusal");
    stage.finish(2 * times).await;
}

/// Another session takes leases in the other order, sometimes with more to lose than the relay, so that the server
/// chooses the one or the other.
#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_are_borne() {
    let mut random = random();
    let mut stage = Stage::new("database: deadlocks on leases").await;
    stage.write();
    let mut config = stage.relay();
    // Where the relay says that it was the victim.
    config.environment.push(("RUST_LOG", "outbox_relay=debug".to_owned()));
    let relay = config.start();
    stage.flows(200).await;
    let mut other = connect(&stage.source);
    if SERVER == Server::Postgres {
        // It looks for deadlocks only after a second; the relay has given its statement up by then.
        other.batch_execute("set deadlock_timeout = '20ms'").unwrap();
    }
    let lock = |bucket: u16| format!("select bucket from outbox_lease where bucket = {bucket} for update");
    let much = vec!["('x', 1)"; 300].join(", ");
    let (attempts, goal) = (size(60, 600), size(2, 20));
    let mut deadlocks = 0;
    for attempt in 0..attempts {
        other.batch_execute(if SERVER == Server::Postgres { "begin" } else { "start transaction" }).unwrap();
        if attempt % 2 == 0 {
            other.batch_execute(&format!("insert into ledger (account, sequence) values {much}")).unwrap();
        }
        let (high, low) = (random.random_range(32..64), random.random_range(0..32));
        let locked = other.batch_execute(&lock(high)).and_then(|()| {
            std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
            other.batch_execute(&lock(low))
        });
        if let Err(error) = locked {
            let error = outbox_core::Error::from(error);
            assert!(error.is_contention(), "{error}");
            deadlocks += usize::from(error.to_string().to_lowercase().contains("deadlock"));
        }
        other.batch_execute("rollback").unwrap();
        let of_relay = relay.log().lines().filter(|line| line.to_lowercase().contains("deadlock")).count();
        if deadlocks + of_relay >= goal {
            break;
        }
        stage.flows(10).await;
    }
    deadlocks += relay.log().lines().filter(|line| line.to_lowercase().contains("deadlock")).count();
    assert!(deadlocks > 0, "no deadlock came about in {attempts} attempts");
    stage.flows(200).await;
    assert_eq!(relay.status().unwrap().refused, 0, "a deadlock is no refusal");
    stage.finish(deadlocks).await;
}
