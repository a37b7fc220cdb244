//! A PostgreSQL that follows another one.

use outbox_relay::check::Level;
use outbox_tests::lab_client::PrivateServer;

use super::SERVER;
use super::grants::Relay;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_told_and_where_to_go() {
    let primary = PrivateServer::spawn("postgres").unwrap();
    let mut relay = Relay::on(SERVER.empty_at(primary.url().to_owned()));
    let standby = primary.spawn_standby().unwrap();
    relay.move_to(standby.url());
    // The user may reach it a moment later.
    until("the standby answers", || async {
        relay.findings().await.iter().any(|f| f.level == Level::Ok && f.text.contains("answers"))
    })
    .await;
    let findings = relay.findings().await;
    let bad: Vec<_> = findings.iter().filter(|f| f.level == Level::Bad).collect();
    let told: Vec<_> = bad.iter().map(|f| (f.text.as_str(), f.fix.as_deref())).collect();
    assert_eq!(told, [("the server is a standby and read only", Some("connect to the primary"))]);
    relay.move_to(primary.url());
    assert!(relay.findings().await.iter().all(|f| f.level != Level::Bad));
}
