//! A source and a target of a replication, each a database of its own.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_relay::CancellationToken;
use outbox_relay::config::{ReplicationConfig, ReplicationTableConfig};
use outbox_relay::replication::status::{Snapshot, State, Status};
use outbox_relay::replication::{Left, Replication, report};
use outbox_tests::lab_client::PrivateServer;
use tokio::task::JoinHandle;

use crate::source::TestSource;

/// Longer than anything here takes on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(150);

pub(crate) struct Pair {
    pub(crate) source: TestSource,
    pub(crate) target: TestSource,
    pub(crate) config: ReplicationConfig,
}

/// A replication that runs.
pub(crate) struct Running {
    pub(crate) status: Status,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Pair {
    /// Both on the server whose URL is in this variable; nothing is copied yet.
    pub(crate) async fn fresh(variable: &str) -> Self {
        Self::of(TestSource::fresh(variable).await, TestSource::fresh(variable).await).await
    }

    /// The source on a server of the test's own, the target on the one whose URL is in this variable.
    pub(crate) async fn from_server(server: &PrivateServer, variable: &str) -> Self {
        let source = TestSource::fresh_at(server.url().to_owned()).await;
        Self::of(source, TestSource::fresh(variable).await).await
    }

    /// The other way round.
    pub(crate) async fn onto_server(server: &PrivateServer, variable: &str) -> Self {
        let target = TestSource::fresh_at(server.url().to_owned()).await;
        Self::of(TestSource::fresh(variable).await, target).await
    }

    pub(crate) async fn of(mut source: TestSource, target: TestSource) -> Self {
        // A server looks for a GTID through the whole file, which the other tests make large.
        source.run(&["flush binary logs"]).await;
        let url = format!("{}/{}", target.url.trim_end_matches('/'), target.database);
        let mut config = ReplicationConfig::new("copies", &source.url, url);
        config.chunk_bytes = (64 << 10).into();
        config.memory_bytes = (8 << 20).into();
        report::migrate(&config).await.unwrap();
        Self { source, target, config }
    }

    /// Adds copies of these tables, which are created in the target.
    pub(crate) fn copy(&mut self, tables: &[&str]) {
        for table in tables {
            let source = format!("{}.{table}", self.source.database);
            let table = ReplicationTableConfig { create: true, ..ReplicationTableConfig::new(source) };
            self.config.table.push(table);
        }
    }

    pub(crate) fn replication(&self) -> Replication {
        Replication::from_config(&self.config).unwrap()
    }

    pub(crate) fn run(&self) -> Running {
        let replication = self.replication();
        let (status, shutdown) = (replication.status(), CancellationToken::new());
        let task = tokio::spawn(replication.run(shutdown.clone()));
        Running { status, shutdown, task }
    }

    /// Applies all that is there.
    pub(crate) async fn until_idle(&self) -> Option<Left> {
        let running = self.replication().run_until_idle(CancellationToken::new());
        tokio::time::timeout(TIMEOUT, running).await.expect("it did not become idle").unwrap()
    }

    /// All rows of a table on both sides, as text, in the order of the bytes of that text.
    pub(crate) async fn rows(&mut self, table: &str, columns: &str) -> [Vec<String>; 2] {
        let mut found = [Vec::new(), Vec::new()];
        for (side, rows) in [&mut self.source, &mut self.target].into_iter().zip(&mut found) {
            let sql = format!("select concat_ws('|', {columns}) from {}.{table}", side.database);
            *rows = side.connection.query(sql).await.unwrap();
            rows.sort_unstable();
        }
        found
    }

    /// Fails unless the copy has exactly the rows of the table.
    pub(crate) async fn assert_equal(&mut self, table: &str, columns: &str) {
        let [source, target] = self.rows(table, columns).await;
        let missing: Vec<_> =
            source.iter().filter(|row| target.binary_search(row).is_err()).take(5).collect();
        let extra: Vec<_> = target.iter().filter(|row| source.binary_search(row).is_err()).take(5).collect();
        let counts = (source.len(), target.len());
        assert!(source == target, "{table}: {counts:?} rows, missing {missing:?}, extra {extra:?}");
    }

    /// What a query of one value gives in the target.
    pub(crate) async fn asked<T: mysql_async::prelude::FromValue + Send + 'static>(
        &mut self,
        sql: &str,
    ) -> T {
        self.target.connection.query_first(sql).await.unwrap().expect("a row")
    }

    pub(crate) async fn drop(self) {
        self.source.drop().await;
        self.target.drop().await;
    }
}

/// Waits until something is so.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < TIMEOUT, "still waiting");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Running {
    /// Waits until the status is as it should be.
    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut(&Snapshot) -> bool) -> Snapshot {
        let began = Instant::now();
        loop {
            let snapshot = self.status.snapshot();
            if condition(&snapshot) {
                return snapshot;
            }
            assert!(began.elapsed() < TIMEOUT, "still waiting: {what}: {snapshot:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_live(&self) -> Snapshot {
        self.until("all copies are complete", |snapshot| snapshot.state == State::Live).await
    }

    pub(crate) async fn until_held(&self) -> String {
        let held = |snapshot: &Snapshot| matches!(snapshot.state, State::Held { .. });
        match self.until("it is held", held).await.state {
            State::Held { why } => why,
            other => panic!("{other:?}"),
        }
    }

    /// Ends it in order.
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(TIMEOUT, self.task).await.expect("it did not end").unwrap();
    }

    /// Ends it as a crash would.
    pub(crate) async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
