//! Several outboxes in one process: what befalls one is not felt by the others.

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_relay::{CancellationToken, OutboxConfig, Relay, State, Status, Unrouted};

use super::database::{connect, fresh};
use crate::harness::until;
use crate::running::{config, record};

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
