//! What goes wrong around a replication: servers that go away, logs that are gone, processes that are killed or two.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
use outbox_relay::CancellationToken;
use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig, Secret};
use outbox_relay::replication::status::State;
use outbox_relay::replication::{Replication, report};
use outbox_tests::lab_client::PrivateServer;

use super::{IS_MARIADB, KIND, VARIABLE};
use crate::certificates::Authority;
use crate::pair::{Pair, TIMEOUT, until};
use crate::program::Program;
use crate::proxy::{Harm, Proxy};

const ONE: [&str; 2] = ["create table t (id int primary key, v int)", "insert into t values (1, 1), (2, 2)"];

async fn made() -> Pair {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    pair
}

/// F15: the older one cannot commit and stands by; the newer goes on.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_the_newer_goes_on() {
    let mut pair = made().await;
    let older = pair.run();
    older.until_live().await;
    let newer = pair.run();
    newer.until_live().await;
    pair.source.run(&["insert into t values (3, 3)"]).await;
    newer.until("the newer applies it", |s| s.progress.upserted == 1).await;
    older.until("the older stands by", |s| s.state == State::Standby).await;
    assert_eq!(older.status.snapshot().progress.upserted, 0);
    older.end().await;
    newer.end().await;
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// F18: the account has another password for a while: it is told, and goes on once it is right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_is_told_and_waited_out() {
    let mut pair = Pair::fresh(VARIABLE).await;
    let user = format!("u_{}", pair.source.database);
    pair.source.run(&ONE).await;
    pair.source
        .run(&[
            &format!("create user {user}@'%' identified by 'first'"),
            &format!("grant select, replication slave, replication client on *.* to {user}@'%'"),
        ])
        .await;
    let mut url = url::Url::parse(&pair.source.url).unwrap();
    url.set_username(&user).unwrap();
    url.set_password(Some("first")).unwrap();
    pair.config.source = Secret::new(url.as_str());
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    for (password, statement) in [("second", "insert into t values (3, 3)"), ("first", "update t set v = 9")]
    {
        pair.source.run(&[&format!("alter user {user}@'%' identified by '{password}'"), statement]).await;
        let sql = format!("select id from information_schema.processlist where user = '{user}'");
        let connections: Vec<u64> = pair.source.connection.query(sql).await.unwrap();
        for id in connections {
            // It may have ended by itself.
            let _ = pair.source.connection.query_drop(format!("kill {id}")).await;
        }
        if password == "second" {
            let told = |state: &State| match state {
                State::Paused { why } | State::Held { why } => {
                    why.contains("denied") && !why.contains("first")
                }
                _ => false,
            };
            running.until("it says that it is denied", |s| told(&s.state)).await;
        }
    }
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.source.run(&[&format!("drop user {user}@'%'")]).await;
    pair.drop().await;
}

/// F09: the target and the source fall silent in the middle of an answer, on a connection that stays open.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_an_outage_after_a_while() {
    // 20 s until it is asked after, 5 s more for its answer, and the way to a new session.
    const BOUND: Duration = Duration::from_secs(45);
    let mut pair = Pair::fresh(VARIABLE).await;
    // What is asked of the copy and of its table has the name of this column in it.
    pair.source
        .run(&["create table t (id int primary key, needle int)", "insert into t values (0, 0)"])
        .await;
    pair.copy(&["t"]);
    let source = Proxy::start(pair.config.source.expose()).await;
    let target = Proxy::start(pair.config.target.expose()).await;
    pair.config.source = Secret::new(&source.url);
    pair.config.target = Secret::new(&target.url);
    let running = pair.run();
    running.until_live().await;
    for (id, proxy, statement) in [(1, &target, "do 0"), (2, &source, "alter table t comment 'another'")] {
        proxy.harm.send_replace(Harm::Silence);
        pair.source.run(&[statement]).await;
        until(|| *proxy.harm.borrow() == Harm::None).await;
        let began = Instant::now();
        pair.source.run(&[&format!("insert into t values ({id}, {id})")]).await;
        let sql = format!("select count(*) from t where id = {id}");
        while pair.asked::<u64>(&sql).await == 0 {
            assert!(began.elapsed() < BOUND, "row {id} did not come: {:?}", running.status.snapshot());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(began.elapsed() > Duration::from_secs(10), "nothing was silent");
    }
    running.end().await;
    pair.assert_equal("t", "id, needle").await;
    pair.drop().await;
}

/// F20: without its position it refuses; never from now.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_gone_is_not_now() {
    let mut pair = made().await;
    pair.target.run(&["delete from outbox_replication"]).await;
    pair.source.run(&["insert into t values (3, 3)"]).await;
    let refused = pair.replication().run_until_idle(CancellationToken::new()).await.unwrap_err().to_string();
    assert!(refused.contains("no position") && refused.contains("outbox-relay snapshot copies"), "{refused}");
    report::remake(&pair.config, None).await.unwrap();
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// F07, N14: what was purged is told, and the way on leads on.
#[tokio::test(flavor = "multi_thread")]
async fn a_purged_log_stops_it_loudly() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    pair.source
        .run(&["insert into t values (3, 3)", "flush binary logs", "insert into t values (4, 4)"])
        .await;
    pair.source.run(&["flush binary logs"]).await;
    let last: Vec<mysql_async::Row> = pair.source.connection.query("show binary logs").await.unwrap();
    let last: String = last.last().unwrap().get(0).unwrap();
    pair.source.run(&[&format!("purge binary logs to '{last}'")]).await;
    let running = pair.run();
    let why = running.until_held().await;
    assert!(
        why.contains("no longer has the binary log") && why.contains("outbox-relay snapshot copies"),
        "{why}"
    );
    let count: u64 = pair.asked("select count(*) from t").await;
    assert_eq!(count, 2);
    // It notices by itself.
    report::remake(&pair.config, None).await.unwrap();
    running.until_live().await;
    running.end().await;
    pair.assert_equal("t", "id, v").await;
    pair.target.drop().await;
}

/// F06, A21: another history under the same positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_reset_stops_it_loudly() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    pair.until_idle().await;
    pair.source.run(&["insert into t values (3, 3)"]).await;
    pair.until_idle().await;
    // MySQL 8.4 has another word for it.
    if pair.source.connection.query_drop("reset binary logs and gtids").await.is_err() {
        pair.source.run(&["reset master"]).await;
    }
    for id in 10..40 {
        pair.source.run(&[&format!("insert into t values ({id}, 0)")]).await;
    }
    let running = pair.run();
    let why = running.until_held().await;
    assert!(why.contains("outbox-relay snapshot copies"), "{why}");
    let count: u64 = pair.asked("select count(*) from t").await;
    assert_eq!(count, 3, "nothing is applied: {why}");
    running.end().await;
    pair.target.drop().await;
}

/// F03: the target is killed and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_killed_is_waited_for() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::onto_server(&server, VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    server.kill().unwrap();
    pair.source
        .run(&[
            "insert into t values (3, 3)",
            "update t set v = 9 where id = 1",
            "delete from t where id = 2",
        ])
        .await;
    running.until("it says so", |s| matches!(s.state, State::Paused { .. })).await;
    server.start().unwrap();
    running.until_live().await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.target.connection = pair.target.connect().await;
    pair.assert_equal("t", "id, v").await;
    pair.source.drop().await;
}

/// F03: a target that is killed has lost its last second; the position has gone back with the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_has_lost_its_last_commits_gets_them_again() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::onto_server(&server, VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    let (mut id, mut lost, mut rounds) = (10, 0, 0);
    while lost == 0 {
        rounds += 1;
        assert!(rounds <= 10, "nothing was ever lost");
        // Its log is written about once a second; what is committed in between is lost. It is its own setting again
        // after each start.
        pair.target.run(&["set global innodb_flush_log_at_trx_commit = 0"]).await;
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            id += 1;
            let change = format!("update t set v = v + {id} where id = 1");
            pair.source.run(&["begin", &format!("insert into t values ({id}, 0)"), &change, "commit"]).await;
        }
        let seq = "select seq from outbox_replication";
        let before: i64 = pair.asked(seq).await;
        server.kill().unwrap();
        server.start().unwrap();
        pair.target.connection = pair.target.connect().await;
        // Nobody has written since: it may be on again by now, which makes the number only larger.
        lost = (before - pair.asked::<i64>(seq).await).max(0);
        pair.source.run(&[&format!("delete from t where id = {id}")]).await;
        let sql = format!("select count(*) from t where id = {id}");
        let began = Instant::now();
        while pair.asked::<u64>(&sql).await > 0 || running.status.snapshot().state != State::Live {
            assert!(running.status.snapshot().state != State::Standby, "nobody has taken it over");
            assert!(began.elapsed() < TIMEOUT, "{:?}", running.status.snapshot());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.source.drop().await;
}

/// The source is killed while it is written, and starts again in place.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_killed_is_gone_on_from() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    for round in 1..=3 {
        let mut writer = pair.source.connect().await;
        let writing = tokio::spawn(async move {
            // Until it is gone.
            for id in round * 100_000.. {
                let change = format!(
                    "begin; insert into t values ({id}, 0); update t set v = v + 1 where id < 3; commit"
                );
                if writer.query_drop(change).await.is_err() {
                    return id - round * 100_000;
                }
            }
            0
        });
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.kill().unwrap();
        assert!(writing.await.unwrap() > 0, "nothing was written");
        running.until("it says so", |s| matches!(s.state, State::Paused { .. })).await;
        server.start().unwrap();
        pair.source.connection = pair.source.connect().await;
        running.until_live().await;
    }
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.target.drop().await;
}

/// P7, F12: connections to the source are killed while rows come.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_source_are_made_again() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&ONE).await;
    let (user, url) = pair.source.reader().await;
    pair.config.source = outbox_relay::config::Secret::new(url);
    pair.copy(&["t"]);
    let running = pair.run();
    running.until_live().await;
    let mut killer = pair.source.connect().await;
    for id in 10..60 {
        pair.source
            .run(&["begin", &format!("insert into t values ({id}, 0)"), "update t set v = v + 1", "commit"])
            .await;
        if id % 10 == 0 {
            let sql = if IS_MARIADB {
                "select id from information_schema.processlist where user = ?"
            } else {
                "select processlist_id from performance_schema.threads where processlist_user = ?"
            };
            let ids: Vec<u64> = killer.exec(sql, (&user,)).await.unwrap();
            for id in ids {
                let _ = killer.query_drop(format!("kill {id}")).await;
            }
        }
    }
    running.until("all came", |s| s.progress.position.is_some() && s.state == State::Live).await;
    running.end().await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// The log, the tables and the target over TLS, with the server's certificate verified.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_be_encrypted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = PrivateServer::spawn_with_tls(KIND, authority.folder(), false).unwrap();
    let mut url = url::Url::parse(server.url()).unwrap();
    url.set_host(Some("localhost")).unwrap();
    let ssl =
        SslOpts::default().with_disable_built_in_roots(true).with_root_certs(vec![authority.ca().into()]);
    let opts = OptsBuilder::from_opts(Opts::from_url(url.as_str()).unwrap()).ssl_opts(ssl);
    let mut connection = Conn::new(opts).await.unwrap();
    for sql in [
        "create database a",
        "create database b",
        "create table a.t (id int primary key)",
        "insert into a.t values (1)",
    ] {
        connection.query_drop(sql).await.unwrap();
    }
    let mut config = ReplicationConfig::new("copies", url.as_str(), url.join("/b").unwrap().as_str());
    config.table.push(ReplicationTableConfig { create: true, ..ReplicationTableConfig::new("a.t") });
    (config.source_tls, config.source_ca) = (true, Some(authority.ca()));
    (config.target_tls, config.target_ca) = (true, Some(authority.ca()));
    report::migrate(&config).await.unwrap();
    let run = |config: &ReplicationConfig| {
        let running = Replication::from_config(config).unwrap().run_until_idle(CancellationToken::new());
        tokio::time::timeout(TIMEOUT, running)
    };
    assert_eq!(run(&config).await.unwrap().unwrap(), None);
    connection.query_drop("insert into a.t values (2)").await.unwrap();
    assert_eq!(run(&config).await.unwrap().unwrap(), None);
    let count: Option<u64> = connection.query_first("select count(*) from b.t").await.unwrap();
    assert_eq!(count, Some(2));
    config.source_ca = Some(other.ca());
    let refused = run(&config).await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("TLS"), "{refused}");
}

/// A pause is a row of the target; with one, nothing becomes idle.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_it_wherever_it_runs() {
    let mut pair = made().await;
    let running = pair.run();
    running.until_live().await;
    let relay = Program::with(&pair, None);
    assert_eq!(relay.run(&["pause", "copies", "--reason", "works"]), 0);
    running.until("it pauses", |s| matches!(&s.state, State::Paused { why } if why.contains("works"))).await;
    pair.source.run(&["insert into t values (3, 3)"]).await;
    assert_eq!(relay.run(&["run", "--until-idle"]), 1);
    assert_eq!(relay.run(&["status"]), 1);
    assert_eq!(relay.run(&["resume", "copies"]), 0);
    running.until("it goes on", |s| s.progress.upserted == 1).await;
    running.end().await;
    pair.assert_equal("t", "id, v").await;
    pair.drop().await;
}

/// The verbs from nothing to a copy, and their exit codes.
#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_lead_from_nothing_to_a_copy() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&ONE).await;
    pair.copy(&["t"]);
    pair.target
        .run(&["drop view outbox_freshness", "drop table outbox_replication, outbox_copy, outbox_aside"])
        .await;
    pair.target.run(&["drop table __diesel_schema_migrations"]).await;
    let relay = Program::with(&pair, None);
    assert_eq!(relay.run(&["status"]), 1, "no tables yet");
    assert_eq!(relay.run(&["check"]), 1, "no tables yet");
    assert_eq!(relay.run(&["migrate"]), 0);
    assert_eq!(relay.run(&["check"]), 0);
    assert_eq!(relay.run(&["run", "--until-idle"]), 0);
    pair.assert_equal("t", "id, v").await;
    assert_eq!(relay.run(&["status", "--json"]), 0);
    assert_eq!(relay.run(&["verify"]), 0);
    pair.target.run(&["update t set v = 77"]).await;
    assert_eq!(relay.run(&["verify", "--json"]), 1);
    assert_eq!(relay.run(&["verify", "copies", "--repair"]), 1, "only told");
    assert_eq!(relay.run(&["verify", "copies", "--repair", "--yes"]), 0);
    pair.assert_equal("t", "id, v").await;
    assert_eq!(relay.run(&["verify", "nothing"]), 2);
    pair.target.run(&["update t set v = 77"]).await;
    assert_eq!(relay.run(&["snapshot", "copies", "t"]), 0);
    pair.assert_equal("t", "id, v").await;
    pair.target.run(&["delete from t"]).await;
    assert_eq!(relay.run(&["snapshot", "copies"]), 0);
    pair.assert_equal("t", "id, v").await;
    assert_eq!(relay.run(&["snapshot", "copies", "nothing"]), 2);
    assert_eq!(relay.run(&["snapshot", "nothing"]), 2);
    pair.source.run(&["truncate table t"]).await;
    assert_eq!(relay.run(&["run", "--until-idle"]), 1, "held");
    assert_eq!(relay.run(&["status"]), 1);
    pair.drop().await;
}
