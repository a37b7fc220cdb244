//! The outbox's database fails over to its replica, behind the same address.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_tests::lab_client::{AMQP_URL, PrivateServer};

use super::database::{connect, connect_url, with_tables};
use super::stage::Stage;
use super::{Connection, SERVER};
use crate::harness::{server_url, until, until_within};
use crate::proxy::Proxy;

#[derive(QueryableByName)]
struct Gtid {
    #[diesel(sql_type = diesel::sql_types::Text)]
    position: String,
}

fn gtid(connection: &mut Connection, variable: &str) -> String {
    let sql = format!("select cast(@@global.{variable} as char) as position");
    diesel::sql_query(sql).get_result::<Gtid>(connection).unwrap().position
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_over_to_its_replica_loses_and_reorders_nothing() {
    let (primary, replica) =
        (PrivateServer::spawn("mariadb").unwrap(), PrivateServer::spawn("mariadb").unwrap());
    let url = url::Url::parse(primary.url()).unwrap();
    let mut on_replica = connect_url(&format!("{}/mysql", replica.url()));
    on_replica
        .batch_execute(&format!(
            "change master to master_host = '127.0.0.1', master_port = {}, master_user = '{}', \
             master_password = '{}', master_use_gtid = slave_pos; start slave",
            url.port().unwrap(),
            url.username(),
            url.password().unwrap()
        ))
        .unwrap();
    let mut source = with_tables(SERVER.empty_at(primary.url().to_owned()));
    let mut on_primary = connect(&source);
    let (proxy, through) = Proxy::before(&source.url).await;
    source.url = through;
    let mut stage = Stage::on("database: fails over to its replica", source, &server_url(AMQP_URL)).await;
    stage.write_slowly(Duration::from_millis(40));
    let relay = stage.relay().start();
    stage.flows(200).await;

    // Nothing more is committed, so that the replica can have all of it: a replica that lacks what was committed is
    // no relay's fault.
    on_primary.batch_execute("flush tables with read lock").unwrap();
    let last = gtid(&mut on_primary, "gtid_binlog_pos");
    until_within(Duration::from_secs(120), "the replica has everything", || {
        let applied = gtid(&mut on_replica, "gtid_slave_pos");
        let is_there = applied == last;
        async move { is_there }
    })
    .await;
    primary.kill().unwrap();
    until("the relay says so", || async { relay.is("paused") }).await;
    on_replica.batch_execute("stop slave; reset slave all").unwrap();
    proxy.redirect(replica.url());
    stage.flows(200).await;
    until("it is not paused any more", || async { relay.is("running") }).await;
    stage.finish(1).await;
}
