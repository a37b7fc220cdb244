//! F05: the source dies, and its replica takes over at the same address. Its files have other names and lengths; only
//! GTIDs say where to go on.

use std::process::{Command, Stdio};

use mysql_async::prelude::Queryable as _;
use outbox_relay::config::Secret;
use outbox_relay::replication::status::State;
use outbox_tests::lab_client::PrivateServer;

use super::{IS_MARIADB, KIND, VARIABLE};
use crate::pair::{Pair, TIMEOUT};
use crate::proxy::Proxy;
use crate::source::TestSource;

/// Brings the replica to where the primary is, in its own binary log too.
async fn replicate(primary: &mut TestSource, replica: &mut TestSource) {
    if IS_MARIADB {
        // The lab's replicas do not log what they apply; by the client they do, under the GTIDs that are in the log.
        replay(&primary.url, &replica.url);
        return;
    }
    let port = url::Url::parse(&primary.url).unwrap().port().unwrap();
    let setup = format!(
        "change replication source to source_host = '127.0.0.1', source_port = {port}, source_user = 'root', \
         source_password = 'outbox', source_auto_position = 1, get_source_public_key = 1"
    );
    replica.run(&[&setup, "start replica"]).await;
    let gtids: Option<String> =
        primary.connection.query_first("select @@global.gtid_executed").await.unwrap();
    let wait = format!("select wait_for_executed_gtid_set('{}', {})", gtids.unwrap(), TIMEOUT.as_secs());
    assert_eq!(replica.connection.query_first::<i64, _>(wait).await.unwrap(), Some(0));
    replica.run(&["stop replica", "reset replica all"]).await;
}

fn replay(from: &str, to: &str) {
    let arguments = |url: &str| {
        let url = url::Url::parse(url).unwrap();
        [
            "--no-defaults".to_owned(),
            "--host=127.0.0.1".to_owned(),
            format!("--port={}", url.port().unwrap()),
            "--user=root".to_owned(),
            "--password=outbox".to_owned(),
        ]
    };
    let mut log = Command::new("mysqlbinlog")
        .args(arguments(from))
        .args(["--read-from-remote-server", "--to-last-log", "bin.000001"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mysqlbinlog is installed");
    let replayed =
        Command::new("mysql").args(arguments(to)).arg("--force").stdin(log.stdout.take().unwrap()).status();
    assert!(replayed.unwrap().success() && log.wait().unwrap().success());
}

/// A source that is read from through a proxy, and a server that may take its place.
struct Servers {
    primary: PrivateServer,
    standby: PrivateServer,
    proxy: Proxy,
    pair: Pair,
}

impl Servers {
    async fn start() -> Self {
        let (primary, standby) = (PrivateServer::spawn(KIND).unwrap(), PrivateServer::spawn(KIND).unwrap());
        let proxy = Proxy::start(primary.url()).await;
        let source = TestSource::fresh_at(primary.url().to_owned()).await;
        let mut pair = Pair::of(source, TestSource::fresh(VARIABLE).await).await;
        pair.config.source = Secret::new(&proxy.url);
        Self { primary, standby, proxy, pair }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over() {
    let Servers { primary, standby, proxy, mut pair } = Servers::start().await;
    pair.source
        .run(&["create table t (id int primary key, v int)", "insert into t values (1, 1), (2, 2)"])
        .await;
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    for id in 10..30 {
        pair.source
            .run(&["begin", &format!("insert into t values ({id}, 0)"), "update t set v = v + 1", "commit"])
            .await;
    }
    running.until("all came", |s| s.progress.transactions >= 20).await;

    // One that has not all that was read is not gone on from.
    let mut replica = pair.source.at(standby.url()).await;
    proxy.turn_to(standby.url());
    let is_stopped = |state: &State| matches!(state, State::Paused { .. } | State::Held { .. });
    running.until("it does not follow one that lacks transactions", |s| is_stopped(&s.state)).await;
    proxy.turn_to(primary.url());
    running.until_live().await;
    pair.source.run(&["insert into t values (100, 100)"]).await;

    replicate(&mut pair.source, &mut replica).await;
    replica.run(&["flush binary logs", "flush binary logs", "flush binary logs"]).await;
    primary.kill().unwrap();
    proxy.turn_to(standby.url());
    replica.run(&[&format!("use {}", replica.database)]).await;
    replica
        .run(&["insert into t values (200, 200)", "update t set v = v + 1000", "delete from t where id = 2"])
        .await;
    pair.source = replica;
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    assert_eq!(pair.asked::<u64>("select count(*) from t").await, 23);
    pair.target.drop().await;
}

/// Tables that were being copied from the one are copied from the other: what was asked of a place in the log of the
/// server that has died is never reached by the other's.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_over_while_tables_are_copied() {
    let Servers { primary, standby, proxy, mut pair } = Servers::start().await;
    for table in ["a", "b"] {
        pair.source.make_filled(table, 0..8000).await;
    }
    pair.copy(&["a", "b"]);
    let mut replica = pair.source.at(standby.url()).await;
    replicate(&mut pair.source, &mut replica).await;
    // The other's files have lower numbers than those that are read from.
    pair.source.run(&["flush binary logs"; 6]).await;
    let mut locker = pair.source.connect().await;
    let running = pair.run();
    running.until("both have begun", |s| s.progress.copies.iter().all(|copy| copy.rows_copied > 0)).await;
    // Both are asked for, and neither is read.
    locker.query_drop("lock tables a write, b write").await.unwrap();
    assert!(
        running.status.snapshot().progress.copies.iter().all(|copy| copy.rows_copied < 8000),
        "it was too fast for this test"
    );
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    primary.kill().unwrap();
    proxy.turn_to(standby.url());
    replica.run(&[&format!("use {}", replica.database), "insert into a values (9000, 'new')"]).await;
    pair.source = replica;
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    for table in ["a", "b"] {
        pair.assert_equal(table, "id, v").await;
    }
    pair.target.drop().await;
}
