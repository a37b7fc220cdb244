//! The outbox's database is killed, becomes read-only: on a server of the test's own.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use outbox_tests::lab_client::PrivateServer;

use super::SERVER;
use super::database::{connect_url, with_tables};
use super::stage::Stage;
use crate::harness::{Server, until, until_within};
use crate::report::size;

/// A server is up again within this.
const BACK: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_database_killed_and_restarted_loses_nothing() {
    let server = PrivateServer::spawn(SERVER.lab_kind()).unwrap();
    let source = with_tables(SERVER.empty_at(server.url().to_owned()));
    let mut stage = Stage::on("database: SIGKILL, restart", source, &amqp()).await;
    stage.write();
    let relay = stage.relay().start();
    let kills = size(2, 10);
    for _ in 0..kills {
        stage.flows(500).await;
        server.kill().unwrap();
        until("the relay says so", || async { relay.is("paused") }).await;
        server.start().unwrap();
        until_within(BACK, "it goes on", || async { relay.is("running") }).await;
    }
    stage.flows(200).await;
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(kills).await;
}

fn amqp() -> String {
    crate::harness::server_url(outbox_tests::lab_client::AMQP_URL)
}

/// An account without the right to write while the server is read-only, which superusers keep.
fn plain_user(source: &str) -> String {
    let mut url = url::Url::parse(source).unwrap();
    let name = url.path().trim_start_matches('/').to_owned();
    if SERVER != Server::Postgres {
        let mut admin = url.clone();
        admin.set_path("/mysql");
        connect_url(admin.as_str())
            .batch_execute(&format!(
                "create user plain@'%' identified by 'outbox'; \
                 grant select, insert, update, delete on {name}.* to plain@'%'"
            ))
            .unwrap();
        url.set_username("plain").unwrap();
    }
    url.to_string()
}

fn set_read_only(admin: &str, is_on: bool) {
    let mut url = url::Url::parse(admin).unwrap();
    if SERVER != Server::Postgres {
        url.set_path("/mysql");
    }
    let (on, number) = if is_on { ("on", 1) } else { ("off", 0) };
    let mut connection = connect_url(url.as_str());
    if SERVER == Server::Postgres {
        connection.batch_execute("set default_transaction_read_only = off").unwrap();
        connection.batch_execute(&format!("alter system set default_transaction_read_only = {on}")).unwrap();
        connection.batch_execute("select pg_reload_conf()").unwrap();
    } else {
        connection.batch_execute(&format!("set global read_only = {number}")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_pauses_the_relay_until_it_is_writable() {
    let server = PrivateServer::spawn(SERVER.lab_kind()).unwrap();
    let mut source = with_tables(SERVER.empty_at(server.url().to_owned()));
    source.url = plain_user(&source.url);
    let mut stage = Stage::on("database: read-only", source, &amqp()).await;
    stage.write();
    let relay = stage.relay().start();
    let times = size(2, 10);
    for _ in 0..times {
        stage.flows(300).await;
        set_read_only(server.url(), true);
        until("the relay says so", || async { relay.is("paused") }).await;
        set_read_only(server.url(), false);
        until("it goes on", || async { relay.is("running") }).await;
    }
    stage.flows(200).await;
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(times).await;
}

/// Writers cannot write, and the relay cannot settle once the logs of the database have no room either. Whatever
/// the server does about it, down to ending itself, all goes on once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let server = PrivateServer::spawn_small(SERVER.lab_kind()).unwrap();
    let source = with_tables(SERVER.empty_at(server.url().to_owned()));
    let mut stage = Stage::on("database: disk full", source, &amqp()).await;
    stage.write();
    let relay = stage.relay().start();
    let times = size(1, 3);
    for _ in 0..times {
        stage.flows(300).await;
        server.fill().unwrap();
        // Some go on for as long as what they have reserved lasts.
        tokio::time::sleep(Duration::from_secs(8)).await;
        server.free().unwrap();
        server.start().unwrap();
        until_within(BACK, "it goes on", || async { relay.is("running") }).await;
        stage.flows(300).await;
    }
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(times).await;
}
