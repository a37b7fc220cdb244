//! What an operator decides of many messages at once, as `outbox-relay dead` does.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer};
use outbox_core::{Error, FailurePolicy};
use outbox_relay::config::SubscriberConfig;
use outbox_relay::held;
use outbox_relay::outbox::store::{DeadFilter, HeldAction};

use super::SERVER;
use super::stage::{Handles as _, Running, step};
use crate::harness::Server;

#[derive(Debug, PartialEq, QueryableByName)]
struct Count {
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = BigInt)]
    number: i64,
}

/// More than a page of them, each of which fails again before the next page is read: as with a quick subscriber.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_replayed_once_though_it_fails_again_at_once() {
    let mut running = Running::start(|s| {
        let failing = s.steps(|_, _, _| Err(Error::new(outbox_core::ErrorKind::Invalid, "never")));
        failing.on_failure("account.stepped", FailurePolicy::LatestWins)
    })
    .await;
    let frames: Vec<_> = (1..=450).map(|number| step(&format!("a{number}"), number)).collect();
    running.feed(&frames).await;
    running
        .until_held("all are given up", |held| held.iter().filter(|row| row.state == "dead").count() == 450)
        .await;
    running.stop_keeping().await;
    let failing = match SERVER {
        Server::Postgres => {
            "create function fail() returns trigger language plpgsql as \
             $$ begin new.state := 'dead'; new.attempts := new.attempts + 1; return new; end $$; \
             create trigger fails before update on inbox_held for each row execute function fail()"
        }
        Server::Sqlite => {
            "create trigger fails after update of state on inbox_held when new.state = 'replay' begin \
             update inbox_held set state = 'dead', attempts = attempts + 1 where sequence = new.sequence; end"
        }
        _ => {
            "create trigger fails before update on inbox_held for each row \
             set new.state = 'dead', new.attempts = new.attempts + 1"
        }
    };
    running.connection.batch_execute(failing).unwrap();
    let subscriber = SubscriberConfig::new("test", &running.database.url);
    let filter = DeadFilter::default();
    let letter = held::list(&subscriber, &filter, 1).await.unwrap().remove(0);
    assert!(letter.routing_key.starts_with("account.stepped."), "{letter:?}");
    assert!(letter.first_failed_seconds.is_some() && letter.last_failed_seconds.is_some(), "{letter:?}");
    let told = held::act(&subscriber, &filter, HeldAction::Replay, "a test", false).await.unwrap();
    assert_eq!(told.count, 450);
    let counts: Vec<Count> =
        diesel::sql_query("select attempts, count(*) as number from inbox_held group by attempts")
            .load(&mut running.connection)
            .unwrap();
    assert_eq!(counts, [Count { attempts: 2, number: 450 }]);
}
