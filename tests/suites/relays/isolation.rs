//! Several outboxes in one process: what befalls one is not felt by the others.

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_relay::{CancellationToken, OutboxConfig, Relay, State, Status, Unrouted};

use super::SERVER;
use super::database::{connect, fresh};
use crate::harness::until;
use crate::running::{Running, config, record};

async fn is(status: &Status, state: &str) {
    until(&format!("{} is {state}", status.name()), || {
        let now = status.snapshot().state;
        async move { now.name() == state }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_in_trouble_holds_up_no_other() {
    let (good, bad) = (fresh(), fresh());
    let named = |name: &str, url: &str| OutboxConfig { name: name.into(), ..config(url) };
    let outboxes =
        [named("good", &good.url), named("bad", &bad.url), named("away", "mysql://relay@127.0.0.1:1/away")];
    let relay = Relay::new(outboxes, MemoryBroker::new(), Unrouted::Queue).unwrap();
    let [of_good, of_bad, of_away]: [Status; 3] = relay.statuses().try_into().unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    is(&of_away, "paused").await;
    is(&of_bad, "running").await;
    is(&of_good, "running").await;

    let (mut in_good, mut in_bad) = (connect(&good), connect(&bad));
    let keys: Vec<String> = (0..10).map(|key| format!("key-{key}")).collect();
    let published = async |status: &Status, count: u64| {
        until(&format!("{} publishes", status.name()), || {
            let published = status.snapshot().published;
            async move { published >= count }
        })
        .await;
    };
    in_bad.batch_execute("rename table outbox to gone").unwrap();
    is(&of_bad, "paused").await;
    for sequence in 1..=5 {
        record(&mut in_good, &keys, sequence);
        published(&of_good, 10 * sequence as u64).await;
    }
    assert_eq!(of_good.snapshot().state, State::Running);
    assert!(of_good.snapshot().last_error.is_none(), "{:?}", of_good.snapshot().last_error);

    in_bad.batch_execute("rename table gone to outbox").unwrap();
    record(&mut in_bad, &keys, 1);
    published(&of_bad, 10).await;
    assert!(!running.is_finished());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

/// Missing tables, another number of buckets, a database that is not there, a relay of another name: each at the start.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_does_not_fit_stops_no_other() {
    let (good, empty, buckets, foreign) = (fresh(), SERVER.empty(), fresh(), fresh());
    connect(&buckets).batch_execute("update outbox_meta set buckets = 32").unwrap();
    let other_name = Running::start(config(&foreign.url), &MemoryBroker::new());
    until("the relay of the other name works", || {
        let held = other_name.now().held.len();
        async move { held > 0 }
    })
    .await;
    let missing = good.url.replace("/t", "/missing_t");
    let misfits = [
        ("empty", empty.url.as_str(), "outbox-relay migrate"),
        ("buckets", &buckets.url, "32 buckets"),
        ("missing", &missing, "create the database"),
        ("foreign", &foreign.url, "under the name \"items\""),
    ];
    let named = |name: &str, url: &str| OutboxConfig { name: name.into(), ..config(url) };
    let outboxes = misfits.iter().map(|(name, url, _)| named(name, url)).chain([named("good", &good.url)]);
    let relay = Relay::new(outboxes, MemoryBroker::new(), Unrouted::Queue).unwrap();
    let (statuses, resettings) = (relay.statuses(), relay.resettings());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));

    let of_good = &statuses[4];
    for (status, (name, _, why)) in statuses.iter().zip(&misfits) {
        is(status, "stopped").await;
        let told = status.snapshot().last_error.unwrap();
        assert!(told.contains(why) && told.contains(name), "{told}");
    }
    record(&mut connect(&good), &["key".into()], 1);
    until("the good one publishes", || {
        let published = of_good.snapshot().published;
        async move { published == 1 }
    })
    .await;
    assert!(statuses[..4].iter().all(|status| status.snapshot().state == State::Stopped));

    // New settings are tried at once, and do not get by the look at the name.
    resettings.reset(OutboxConfig { attempts: 3, ..named("foreign", &foreign.url) });
    connect(&buckets).batch_execute("update outbox_meta set buckets = 64").unwrap();
    // By itself, half a minute later at the most.
    is(&statuses[1], "running").await;
    assert_eq!(statuses[3].snapshot().state, State::Stopped);
    assert!(!running.is_finished());
    shutdown.cancel();
    running.await.unwrap().unwrap();
    other_name.stop().await;
}

/// Once it has run it pauses, as if it had fitted from the start.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_has_been_mended_is_no_misfit_any_more() {
    let (good, bad) = (fresh(), fresh());
    let set = |buckets| {
        connect(&bad).batch_execute(&format!("update outbox_meta set buckets = {buckets}")).unwrap();
    };
    set(32);
    let named = |name: &str, url: &str, attempts| OutboxConfig { name: name.into(), attempts, ..config(url) };
    let outboxes = [named("bad", &bad.url, 1), named("good", &good.url, 1)];
    let relay = Relay::new(outboxes, MemoryBroker::new(), Unrouted::Queue).unwrap();
    let (statuses, resettings) = (relay.statuses(), relay.resettings());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(relay.run(shutdown.clone()));
    is(&statuses[0], "stopped").await;
    set(64);
    resettings.reset(named("bad", &bad.url, 2));
    is(&statuses[0], "running").await;
    set(32);
    resettings.reset(named("bad", &bad.url, 3));
    is(&statuses[0], "paused").await;
    assert!(!running.is_finished());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_no_outbox_fits_ends_and_names_each() {
    let (empty, buckets) = (SERVER.empty(), fresh());
    connect(&buckets).batch_execute("update outbox_meta set buckets = 32").unwrap();
    let named = |name: &str, url: &str| OutboxConfig { name: name.into(), ..config(url) };
    let outboxes = || [named("empty", &empty.url), named("buckets", &buckets.url)];
    let relay = || Relay::new(outboxes(), MemoryBroker::new(), Unrouted::Queue).unwrap();
    let error = relay().run(CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("outbox \"empty\"") && error.contains("outbox \"buckets\""), "{error}");

    // Beside replications it goes on.
    let relay = relay().stay();
    let (statuses, shutdown) = (relay.statuses(), CancellationToken::new());
    let running = tokio::spawn(relay.run(shutdown.clone()));
    for status in &statuses {
        until("it has looked", || {
            let now = status.snapshot();
            async move { now.state == State::Stopped && now.last_error.is_some() }
        })
        .await;
    }
    assert!(!running.is_finished());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
