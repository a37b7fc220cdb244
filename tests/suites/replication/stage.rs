//! A replication from a database of its own into another, running in this process.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_relay::CancellationToken;
use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig};
use outbox_relay::replication::status::Status;
use outbox_relay::replication::{Replication, report};
use tokio::task::JoinHandle;

use crate::source::TestSource;

/// Longer than anything takes on the busiest machine.
const TIMEOUT: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(20);

/// Two databases and what is copied from the one to the other.
pub(crate) struct Stage {
    pub(crate) source: TestSource,
    pub(crate) target: TestSource,
    pub(crate) config: ReplicationConfig,
    marks: u64,
    status: Option<Status>,
}

/// The replication under way.
pub(crate) struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it in good order.
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

impl Stage {
    /// On the servers whose URLs are in these variables.
    pub(crate) async fn new(source: &str, target: &str) -> Self {
        let (mut source, target) = (TestSource::fresh(source).await, TestSource::fresh(target).await);
        // A server looks for a GTID through the whole file, which the other tests make large.
        source.run(&["flush binary logs"]).await;
        source.run(&["create table marker (id bigint primary key)"]).await;
        let target_url = format!("{}/{}", target.url, target.database);
        let config = ReplicationConfig::new("stage", &source.url, target_url);
        report::migrate(&config).await.unwrap();
        let mut stage = Self { source, target, config, marks: 0, status: None };
        let marker = format!("{}.marker", stage.source.database);
        stage.add(ReplicationTableConfig { create: true, ..ReplicationTableConfig::new(marker) });
        stage
    }

    /// Adds a copy; before the start.
    pub(crate) fn add(&mut self, table: ReplicationTableConfig) {
        self.config.table.push(table);
    }

    /// Adds a copy that the relay creates, under the table's own name.
    pub(crate) fn add_table(&mut self, table: &str) -> &mut ReplicationTableConfig {
        let source = format!("{}.{table}", self.source.database);
        self.add(ReplicationTableConfig { create: true, ..ReplicationTableConfig::new(source) });
        self.config.table.last_mut().unwrap()
    }

    /// Starts it in this process.
    pub(crate) async fn start(&mut self) -> Running {
        let replication = Replication::from_config(&self.config).unwrap();
        self.status = Some(replication.status());
        let shutdown = CancellationToken::new();
        Running { task: tokio::spawn(replication.run(shutdown.clone())), shutdown }
    }

    /// Name, state and reason of every copy.
    pub(crate) async fn states(&mut self) -> Vec<(String, String, Option<String>)> {
        let sql = "select copy, state, reason from outbox_copy order by copy";
        self.target.connection.query(sql).await.unwrap()
    }

    /// Waits until every copy is complete.
    pub(crate) async fn until_live(&mut self) {
        let since = Instant::now();
        loop {
            let states = self.states().await;
            let is_there = states.len() == self.config.table.len();
            if is_there && states.iter().all(|(_, state, _)| state == "ready") {
                return;
            }
            assert!(states.iter().all(|(_, state, _)| state != "held"), "{states:?}");
            assert!(since.elapsed() < TIMEOUT, "not live: {states:?}");
            tokio::time::sleep(STEP).await;
        }
    }

    /// Waits until all that is committed now is applied: a row written after it has come.
    pub(crate) async fn catch_up(&mut self) {
        self.marks += 1;
        let mark = self.marks;
        self.source.run(&[&format!("insert into marker values ({mark})")]).await;
        let since = Instant::now();
        let sql = format!("select count(*) from marker where id = {mark}");
        while self.target.connection.query_first(&sql).await.unwrap() != Some(1_u64) {
            if since.elapsed() > TIMEOUT {
                let status = self.status.as_ref().map(Status::snapshot);
                panic!("not applied: {:?} {status:?}", self.states().await);
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Waits until a copy is held; gives the reason.
    pub(crate) async fn until_held(&mut self, copy: &str) -> String {
        let since = Instant::now();
        loop {
            let states = self.states().await;
            let held = states.iter().find(|(name, state, _)| name == copy && state == "held");
            if let Some((_, _, reason)) = held {
                return reason.clone().unwrap_or_default();
            }
            assert!(since.elapsed() < TIMEOUT, "not held: {states:?}");
            tokio::time::sleep(STEP).await;
        }
    }

    /// Drops both databases.
    pub(crate) async fn drop(self) {
        self.source.drop().await;
        self.target.drop().await;
    }
}
