//! A row that the log tells of before anybody can see it.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_relay::config::Mode;
use outbox_relay::{BellState, OutboxConfig};
use outbox_tests::lab_client::PrivateServer;

use super::database::{connect_url, with_tables};
use super::{KIND, SERVER};
use crate::harness::{until, until_within};
use crate::running::{Running, config, record};

/// The server waits for a replica that there is not, after it has written the log and before the transaction is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_told_before_it_is_visible_is_read_once_it_is() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let source = with_tables(SERVER.empty_at(server.url().to_owned()));
    let mut writer = connect_url(&source.url);
    let config =
        OutboxConfig { mode: Mode::Tail, poll_max: Duration::from_secs(60).into(), ..config(&source.url) };
    let relay = Running::start(config, &MemoryBroker::new());
    until("the bell is heard", || {
        let now = relay.now();
        async move { now.bell == BellState::Heard && !now.held.is_empty() }
    })
    .await;
    // The rings with which a bell begins are over.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for sequence in 1..=3 {
        writer
            .batch_execute(
                "set global rpl_semi_sync_master_timeout = 400; \
                 set global rpl_semi_sync_master_wait_point = 'AFTER_SYNC'; \
                 set global rpl_semi_sync_master_enabled = off; set global rpl_semi_sync_master_enabled = on",
            )
            .unwrap();
        let began = std::time::Instant::now();
        tokio::task::block_in_place(|| record(&mut writer, &["a".into()], sequence));
        assert!(began.elapsed() >= Duration::from_millis(400), "the server did not wait");
        until_within(Duration::from_secs(50), "it was read again", || {
            let published = relay.now().published;
            async move { published >= sequence as u64 }
        })
        .await;
        assert_eq!(relay.now().rings, sequence as u64);
    }
    relay.stop().await;
}
