//! Relays that fight over leases, fall asleep, come and go.

use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::prelude::*;
use rand::RngExt as _;
use rustix::process::Signal;

use super::Connection;
use super::database::connect;
use super::stage::{Stage, count, number};
use crate::harness::{until, until_within};
use crate::proxy::{Proxy, Way};
use crate::relay::RelayProcess;
use crate::report::{random, size};

/// Buckets that this process holds, by the database.
fn held_by(connection: &mut Connection, process: u32) -> i64 {
    number(connection, &format!("select count(*) as n from outbox_lease where owner like '%/{process}/%'"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_stopped_longer_than_its_lease_neither_loses_nor_reorders() {
    let mut random = random();
    let mut stage = Stage::new("relay: SIGSTOP past its lease, SIGCONT").await;
    stage.write();
    let mut config = stage.relay();
    config.lease = "1s";
    let relays = [config.start(), config.start(), config.start()];
    let mut connection = connect(&stage.source);
    let sleeps = size(3, 30);
    for _ in 0..sleeps {
        let sleeper = &relays[random.random_range(0..relays.len())];
        until("it holds buckets", || {
            let held = held_by(&mut connection, sleeper.id());
            async move { held > 0 }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        sleeper.signal(Signal::STOP);
        // Even when it was stopped within a transaction that holds leases.
        until("others have taken its buckets", || {
            let held = held_by(&mut connection, sleeper.id());
            async move { held == 0 }
        })
        .await;
        stage.flows(100).await;
        sleeper.signal(Signal::CONT);
        stage.flows(100).await;
    }
    stage.finish(sleeps).await;
}

/// The confirms of one relay are held back until another one owns all buckets, which in turn cannot reach the
/// broker: whatever is deleted now, a relay without a lease has deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_lost_its_lease_settles_nothing() {
    let mut stage = Stage::new("relay: confirms arrive after its lease").await;
    let (of_sleeper, to_broker) = Proxy::before(&stage.amqp).await;
    let (of_heir, to_heirs_broker) = Proxy::before(&stage.amqp).await;
    let mut config = stage.relay();
    config.amqp = to_broker;
    let sleeper = config.start();
    until("it is ready", || async { sleeper.is("running") }).await;
    stage.write();
    stage.flows(200).await;
    of_sleeper.hole(&[Way::ToRelay], true);
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.stop_writing().await;
    sleeper.signal(Signal::STOP);

    config.amqp = to_heirs_broker;
    of_heir.hole(&[Way::ToServer, Way::ToRelay], true);
    let heir = config.start();
    let mut connection = connect(&stage.source);
    until("the heir owns all buckets", || {
        let held = held_by(&mut connection, heir.id());
        async move { held == 64 }
    })
    .await;
    let before = count(&mut connection, "outbox");
    assert!(before > 0);
    of_sleeper.hole(&[Way::ToRelay], false);
    sleeper.signal(Signal::CONT);
    // Until it has a lease again, which it gets from the heir; what it was told meanwhile it has looked at.
    until("the sleeper is awake and has its share", || {
        let after = count(&mut connection, "outbox");
        let held = held_by(&mut connection, sleeper.id());
        assert!(held > 0 || after == before, "{} rows were deleted without a lease", before - after);
        async move { held > 0 }
    })
    .await;
    drop(sleeper);
    of_heir.hole(&[Way::ToServer, Way::ToRelay], false);
    stage.finish(1).await;
}

/// Each is kept from renewing in time again and again, so that the other takes what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn relays_that_fight_over_short_leases_lose_and_reorder_nothing() {
    let mut stage = Stage::new("relay: two fight over leases of 200 ms").await;
    stage.write_slowly(Duration::from_millis(60));
    let mut config = stage.relay();
    config.lease = "200ms";
    let mut fighters = Vec::new();
    for _ in 0..2 {
        let (proxy, through) = Proxy::before(&stage.source.url).await;
        config.database = through;
        fighters.push((proxy, config.start()));
    }
    let mut connection = connect(&stage.source);
    let taken = |connection: &mut Connection| {
        number(connection, &format!("select cast(sum(epoch) as {INTEGER}) as n from outbox_lease"))
    };
    let fights = size(2, 40);
    for fight in 0..fights {
        let before = taken(&mut connection);
        let (proxy, _) = &fighters[fight % 2];
        // Nothing that it asks for is answered while this lasts.
        proxy.hole(&[Way::ToRelay], true);
        // Those of a settling that was cut off are free once the server has given it up, after 20 s.
        until_within(Duration::from_secs(180), "buckets were taken", || {
            let after = taken(&mut connection);
            async move { after > before }
        })
        .await;
        proxy.hole(&[Way::ToRelay], false);
    }
    let is_alive = |relay: &mut RelayProcess| relay.ended().is_none();
    assert!(fighters.iter_mut().all(|(_, relay)| is_alive(relay)), "a relay has ended");
    // A machine that is busy may need longer than such a lease for any statement.
    drop(fighters);
    config = stage.relay();
    config.lease = "10s";
    let _relay = config.start();
    stage.finish(fights).await;
}

#[derive(QueryableByName)]
struct Lease {
    #[diesel(sql_type = diesel::sql_types::SmallInt)]
    bucket: i16,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    is_held: i64,
}

/// Watches how long buckets are nobody's; the longest time so far.
struct Ownerless {
    since: Vec<Option<Instant>>,
    longest: Duration,
}

impl Ownerless {
    fn look(&mut self, connection: &mut Connection) {
        let held = "case when owner is null then 0 else 1 end";
        let leases: Vec<Lease> = diesel::sql_query(format!(
            "select bucket, cast({held} as {INTEGER}) as is_held from outbox_lease"
        ))
        .load(connection)
        .unwrap();
        for lease in leases {
            let since = &mut self.since[lease.bucket as usize];
            if lease.is_held == 1 {
                *since = None;
            } else {
                let began = since.get_or_insert_with(Instant::now);
                self.longest = self.longest.max(began.elapsed());
            }
        }
    }
}

const INTEGER: &str = match super::SERVER {
    crate::harness::Server::Mariadb | crate::harness::Server::Mysql => "signed",
    _ => "bigint",
};

#[tokio::test(flavor = "multi_thread")]
async fn buckets_change_hands_without_a_pause_when_relays_come_and_go() {
    // As long as the default: a hand-over that waited for an expiry would show.
    const LEASE: Duration = Duration::from_secs(10);
    let mut stage = Stage::new("relay: joins and leaves").await;
    let mut config = stage.relay();
    config.lease = "10s";
    let mut relays = vec![config.start()];
    let mut connection = connect(&stage.source);
    let mut watch = Ownerless { since: vec![None; 64], longest: Duration::ZERO };
    let share = async |connection: &mut Connection, watch: &mut Ownerless, ids: Vec<u32>| {
        until("each relay has its share", || {
            watch.look(connection);
            let even = ids.iter().all(|id| held_by(connection, *id) >= 64 / ids.len() as i64);
            async move { even }
        })
        .await;
    };
    share(&mut connection, &mut watch, vec![relays[0].id()]).await;
    watch.longest = Duration::ZERO;
    stage.write();
    let changes = size(2, 20);
    for _ in 0..changes {
        relays.push(config.start());
        share(&mut connection, &mut watch, relays.iter().map(|relay| relay.id()).collect()).await;
        stage.flows(200).await;
        let leaver = relays.remove(0);
        let status = leaver.terminate(Duration::from_secs(30)).await;
        assert!(status.success(), "{status}");
        share(&mut connection, &mut watch, vec![relays[0].id()]).await;
        stage.flows(200).await;
    }
    assert!(watch.longest < LEASE, "a bucket was nobody's for {:?}", watch.longest);
    stage.finish(2 * changes).await;
}
