//! `check` of a replication, on servers that are set wrong: each finding names what mends it, and that does.

use mysql_async::prelude::Queryable as _;
use outbox_relay::binlog::{Source, Step};
use outbox_relay::check::{self, Finding, Level};
use outbox_relay::config::{Config, Secret};
use outbox_tests::lab_client::PrivateServer;

use super::lineage::purge;
use super::{IS_MARIADB, KIND, VARIABLE};
use crate::pair::Pair;

async fn findings(pair: &Pair) -> Vec<Finding> {
    check::all(&Config { replication: vec![pair.config.clone()], ..Config::default() }).await
}

/// The statement of a fix, without what it says to people.
fn statement(finding: &Finding) -> &str {
    let fix = finding.fix.as_deref().unwrap_or_else(|| panic!("no fix: {finding}"));
    fix.split("--").next().unwrap().trim()
}

fn bad(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.level == Level::Bad).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_source_are_found_and_mended() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v int)"]).await;
    pair.copy(&["t"]);
    let found = findings(&pair).await;
    assert_eq!(bad(&found), Vec::<&Finding>::new());
    let mut wrong = vec![
        ("binlog_format is STATEMENT", "binlog_format = 'STATEMENT'"),
        ("binlog_row_image is MINIMAL", "binlog_row_image = 'MINIMAL'"),
        ("the log is kept for 1 h", "binlog_expire_logs_seconds = 3600"),
        ("binlog_checksum is NONE", "binlog_checksum = 'NONE'"),
    ];
    if IS_MARIADB {
        wrong.push(("binlog_row_metadata is NO_LOG", "binlog_row_metadata = 'NO_LOG'"));
    } else {
        wrong.push(("binlog_row_metadata is MINIMAL", "binlog_row_metadata = 'MINIMAL'"));
        wrong.push(("JSON is logged in parts", "binlog_row_value_options = 'PARTIAL_JSON'"));
        wrong.push(("it has no GTIDs", "gtid_mode = ON_PERMISSIVE"));
    }
    for (_, setting) in &wrong {
        pair.source.run(&[&format!("set global {setting}")]).await;
    }
    let found = findings(&pair).await;
    for (text, _) in &wrong {
        let told = found.iter().find(|finding| finding.text.contains(text));
        let told = told.unwrap_or_else(|| panic!("{text}: {found:?}"));
        pair.source.run(&[statement(told)]).await;
    }
    let found = findings(&pair).await;
    for (text, _) in &wrong {
        assert!(!found.iter().any(|finding| finding.text.contains(text)), "{text}: {found:?}");
    }
    assert_eq!(bad(&found), Vec::<&Finding>::new());
    pair.target.drop().await;
}

/// Users that may do nothing yet: what is told, granted, leads to a replication that runs.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_found_and_granted() {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v int)", "insert into t values (1, 1)"]).await;
    pair.copy(&["t"]);
    assert_eq!(pair.until_idle().await, None);
    let user = format!("u_{}", pair.source.database);
    let (database, there) = (pair.source.database.clone(), pair.target.database.clone());
    pair.source
        .run(&[
            &format!("create user {user}@'%' identified by 'secret'"),
            &format!("grant select on {there}.* to {user}@'%'"),
        ])
        .await;
    for url in [&mut pair.config.source, &mut pair.config.target] {
        let mut as_user = url::Url::parse(url.expose()).unwrap();
        as_user.set_username(&user).unwrap();
        as_user.set_password(Some("secret")).unwrap();
        *url = Secret::new(as_user.as_str());
    }
    let mut granted = Vec::new();
    for round in 0.. {
        let found = findings(&pair).await;
        let bad = bad(&found);
        if bad.is_empty() {
            break;
        }
        assert!(round < 5, "{bad:?}");
        for finding in bad {
            let statement = statement(finding).to_owned();
            let is_of_source =
                finding.about.contains("source") || statement.contains(&format!("`{database}`"));
            let side = if is_of_source { &mut pair.source } else { &mut pair.target };
            side.run(&[&statement]).await;
            granted.push(statement);
        }
    }
    let monitor = if IS_MARIADB { "binlog monitor" } else { "replication client" };
    for right in
        [monitor, "replication slave", &format!("select on `{database}`.`t`"), "insert on `outbox_copy`"]
    {
        assert!(granted.iter().any(|statement| statement.contains(right)), "{right}: {granted:?}");
    }
    pair.source.run(&["insert into t values (2, 2)"]).await;
    assert_eq!(pair.until_idle().await, None);
    pair.assert_equal("t", "id, v").await;
    pair.source.run(&[&format!("drop user {user}@'%'")]).await;
    pair.drop().await;
}

/// A server id that another reader has, and a log that was purged.
#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_log_from_being_read_is_found() {
    let server = PrivateServer::spawn(KIND).unwrap();
    let mut pair = Pair::from_server(&server, VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v int)", "insert into t values (1, 1)"]).await;
    pair.copy(&["t"]);
    pair.config.server_id = Some(4711);
    assert_eq!(pair.until_idle().await, None);
    let is_told =
        |found: &[Finding], text: &str| bad(found).iter().any(|finding| finding.text.contains(text));

    let running = pair.run();
    running.until_live().await;
    let found = findings(&pair).await;
    assert_eq!(bad(&found), Vec::<&Finding>::new(), "it is its own reader that has the id");
    assert!(found.iter().any(|finding| finding.text.contains("its log can be read from where")), "{found:?}");
    pair.source.run(&["insert into t values (2, 2)"]).await;
    running.until("the check has not ended it", |s| s.progress.upserted == 1).await;
    running.end().await;

    let tables = pair.source.tables(&["t"]);
    let source = Source { server_id: Some(4711), ..pair.source.source() };
    let mut other = outbox_relay::binlog::follow(source, tables, pair.source.mark().await);
    assert!(matches!(other.next().await.unwrap(), Step::Quiet));
    let found = findings(&pair).await;
    assert!(is_told(&found, "server_id 4711 is taken"), "{found:?}");
    drop(other);
    let own: Option<u32> = pair.source.connection.query_first("select @@global.server_id").await.unwrap();
    pair.config.server_id = own;
    let found = findings(&pair).await;
    assert!(is_told(&found, "is the source's own"), "{found:?}");
    pair.config.server_id = None;

    // Only the transaction by which the source is known again is gone.
    purge(&mut pair).await;
    let found = findings(&pair).await;
    let told = found.iter().find(|finding| finding.text.contains("not known to be the source"));
    let fix = told.unwrap_or_else(|| panic!("{found:?}")).fix.as_deref();
    assert_eq!(fix, Some("outbox-relay verify copies"));

    pair.source
        .run(&["insert into t values (3, 3)", "flush binary logs", "insert into t values (4, 4)"])
        .await;
    purge(&mut pair).await;
    let found = findings(&pair).await;
    let told = bad(&found);
    let [told] = told.as_slice() else { panic!("{found:?}") };
    assert!(told.text.contains("no longer has the binary log that comes next"), "{told}");
    assert_eq!(told.fix.as_deref(), Some("outbox-relay snapshot copies"));
    pair.target.drop().await;
}
