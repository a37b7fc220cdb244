//! The outbox's database fails over to its replica, behind the same address.
//!
//! MySQL and MariaDB do so as planned: nothing more is committed, so that the replica can have all of it, for a replica
//! that lacks what was committed is no relay's fault. PostgreSQL is killed while it is written to: its standby is a
//! synchronous one, and nobody sees a commit that it does not have.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_tests::lab_client::{AMQP_URL, PrivateServer};

use super::database::{connect, connect_url, with_tables};
use super::stage::{Stage, number};
use super::{Connection, SERVER};
use crate::harness::{Server, server_url, until, until_within};
use crate::proxy::Proxy;

/// A replica has caught up within this.
const CAUGHT_UP: Duration = Duration::from_secs(120);

/// A primary, and the replica that follows it from now on.
fn servers() -> (PrivateServer, PrivateServer) {
    let spawn = |kind| PrivateServer::spawn(kind).unwrap();
    match SERVER {
        Server::Mariadb => {
            let (primary, replica) = (spawn("mariadb"), spawn("mariadb"));
            follow(
                &primary,
                &replica,
                "change master to",
                "master",
                "master_use_gtid = slave_pos; start slave",
            );
            (primary, replica)
        }
        Server::Mysql => {
            let (primary, replica) = (spawn("mysql"), spawn("mysql"));
            let by_gtid = "source_auto_position = 1, get_source_public_key = 1; start replica";
            follow(&primary, &replica, "change replication source to", "source", by_gtid);
            (primary, replica)
        }
        Server::Postgres => {
            let primary = spawn("postgres");
            let standby = primary.spawn_standby().unwrap();
            let mut on_primary = connect_url(primary.url());
            on_primary.batch_execute("alter system set synchronous_standby_names = '*'").unwrap();
            on_primary.batch_execute("select pg_reload_conf()").unwrap();
            (primary, standby)
        }
        Server::Sqlite => unreachable!("it has no server"),
    }
}

fn follow(primary: &PrivateServer, replica: &PrivateServer, change: &str, of: &str, rest: &str) {
    let url = url::Url::parse(primary.url()).unwrap();
    let statement = format!(
        "{change} {of}_host = '127.0.0.1', {of}_port = {}, {of}_user = '{}', {of}_password = '{}', {rest}",
        url.port().unwrap(),
        url.username(),
        url.password().unwrap()
    );
    connect_url(&admin(replica)).batch_execute(&statement).unwrap();
}

/// Where statements about the server itself go.
fn admin(server: &PrivateServer) -> String {
    match SERVER {
        Server::Postgres => server.url().to_owned(),
        _ => format!("{}/mysql", server.url()),
    }
}

#[derive(QueryableByName)]
struct Position {
    #[diesel(sql_type = diesel::sql_types::Text)]
    position: String,
}

fn position(connection: &mut Connection, variable: &str) -> String {
    let sql = format!("select cast(@@global.{variable} as char) as position");
    diesel::sql_query(sql).get_result::<Position>(connection).unwrap().position
}

/// Waits until the replica has, and goes on to have, whatever is committed.
async fn catch_up(on_primary: &mut Connection, on_replica: &mut Connection) {
    let mut has_it: Box<dyn FnMut() -> bool + '_> = match SERVER {
        Server::Mariadb => {
            on_primary.batch_execute("flush tables with read lock").unwrap();
            let last = position(on_primary, "gtid_binlog_pos");
            Box::new(move || position(on_replica, "gtid_slave_pos") == last)
        }
        Server::Mysql => {
            on_primary.batch_execute("flush tables with read lock").unwrap();
            let last = position(on_primary, "gtid_executed");
            let has_it = format!("select gtid_subset('{last}', @@global.gtid_executed) as n");
            Box::new(move || number(on_replica, &has_it) == 1)
        }
        _ => Box::new(|| {
            number(on_primary, "select count(*) as n from pg_stat_replication where sync_state = 'sync'") == 1
        }),
    };
    until_within(CAUGHT_UP, "the replica has everything", || {
        let is_there = has_it();
        async move { is_there }
    })
    .await;
}

fn promote(on_replica: &mut Connection) {
    let promote = match SERVER {
        Server::Mariadb => "stop slave; reset slave all",
        Server::Mysql => "stop replica; reset replica all",
        _ => "select pg_promote()",
    };
    on_replica.batch_execute(promote).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_over_to_its_replica_loses_and_reorders_nothing() {
    let (primary, replica) = servers();
    let mut on_replica = connect_url(&admin(&replica));
    let mut source = with_tables(SERVER.empty_at(primary.url().to_owned()));
    let mut on_primary = connect(&source);
    let (proxy, through) = Proxy::before(&source.url).await;
    source.url = through;
    let mut stage = Stage::on("database: fails over to its replica", source, &server_url(AMQP_URL)).await;
    stage.write_slowly(Duration::from_millis(40));
    let relay = stage.relay().start();
    stage.flows(200).await;

    catch_up(&mut on_primary, &mut on_replica).await;
    primary.kill().unwrap();
    until("the relay says so", || async { relay.is("paused") }).await;
    promote(&mut on_replica);
    proxy.redirect(replica.url());
    stage.flows(200).await;
    until("it is not paused any more", || async { relay.is("running") }).await;
    assert_eq!(relay.status().unwrap().refused, 0, "an outage is no refusal");
    stage.finish(1).await;
}
