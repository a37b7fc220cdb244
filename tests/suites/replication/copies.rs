//! Copies of a test source's tables in a database of their own, and whether they are equal.

use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use outbox_core::migrate::{Dialect, REPLICA};
use outbox_relay::binlog::Stream;
use outbox_relay::change::{Change, Changes, Position, Row, Table, Txn};
use outbox_relay::replication::{
    Applied, Checkpoint, CopyPhase, CopyPlan, CopySpec, CopyState, Group, Projected, Target, TargetOptions,
};
use outbox_relay::snapshot;

use crate::source::{TestSource, until};

/// Room for any group of these tests.
pub(crate) const ROOMY: u64 = 64 << 20;

pub(crate) struct Copies {
    pub(crate) source: TestSource,
    /// The target's database, by a connection of the test's own.
    pub(crate) there: TestSource,
    pub(crate) target: Target,
    pub(crate) plans: Vec<Arc<CopyPlan>>,
    pub(crate) stream: Stream,
    pub(crate) checkpoint: Checkpoint,
}

/// A copy of a whole table under its own name.
pub(crate) fn spec(table: &str) -> CopySpec {
    CopySpec {
        name: table.to_owned(),
        source_table: table.to_owned(),
        target_table: table.to_owned(),
        ..CopySpec::default()
    }
}

pub(crate) fn columns(table: &str, columns: &[&str]) -> CopySpec {
    CopySpec { columns: columns.iter().map(ToString::to_string).collect(), ..spec(table) }
}

/// A transaction made by hand.
pub(crate) fn txn(changes: Vec<Change>) -> Txn {
    Txn {
        position: Position::at_file("made.000001", 4),
        committed_at_us: 0,
        checksum: 0,
        changes: Changes::from(changes),
        statements: Vec::new(),
    }
}

pub(crate) fn options(there: &TestSource) -> TargetOptions {
    TargetOptions::new(format!("{}/{}", there.url, there.database))
}

impl Copies {
    /// With what was created in the source; tables of the target that are missing are created for the plans.
    pub(crate) async fn of(
        variable: &str,
        source_sql: &[&str],
        target_sql: &[&str],
        specs: Vec<CopySpec>,
    ) -> Self {
        Self::between(variable, variable, source_sql, target_sql, specs, |options| options).await
    }

    pub(crate) async fn between(
        variable: &str,
        target_variable: &str,
        source_sql: &[&str],
        target_sql: &[&str],
        specs: Vec<CopySpec>,
        tuned: impl FnOnce(TargetOptions) -> TargetOptions,
    ) -> Self {
        let mut source = TestSource::fresh(variable).await;
        let mut there = TestSource::fresh(target_variable).await;
        source.run(source_sql).await;
        there.connection.query_drop(REPLICA.sql(Dialect::Mysql)).await.unwrap();
        there.run(target_sql).await;
        let mut target = Target::open(tuned(options(&there)), "r", "test").await.unwrap();
        let (plans, copies) = resolve(&source, &mut target, specs).await;
        let from = source.position().await;
        let checkpoint = checkpoint(from.clone());
        target.start(&checkpoint, &copies).await.unwrap();
        let mut tables: Vec<_> = plans.iter().map(|plan| plan.source().1.to_owned()).collect();
        tables.dedup();
        let stream = source.follow(&tables.iter().map(String::as_str).collect::<Vec<_>>(), from);
        Self { source, there, target, plans, stream, checkpoint }
    }

    /// What the source has done since the last call.
    pub(crate) async fn read(&mut self) -> Vec<Txn> {
        let mark = self.source.mark().await;
        until(&mut self.stream, &mark).await
    }

    /// Applies transactions as one group.
    pub(crate) async fn apply(&mut self, txns: Vec<Txn>) -> Applied {
        self.apply_within(txns, ROOMY).await
    }

    pub(crate) async fn apply_within(&mut self, txns: Vec<Txn>, bytes_max: u64) -> Applied {
        let mut group = Group::new(&self.plans, bytes_max);
        for txn in txns {
            assert!(group.fits(&txn));
            self.checkpoint.position = txn.position.clone();
            assert_eq!(group.push(txn, None).unwrap(), []);
        }
        self.target.apply(group, &self.checkpoint).await.unwrap()
    }

    /// Runs statements on the source and applies what they did as one group.
    pub(crate) async fn run(&mut self, statements: &[&str]) -> Applied {
        self.source.run(statements).await;
        let txns = self.read().await;
        self.apply(txns).await
    }

    /// The same, with a group per transaction.
    pub(crate) async fn run_each(&mut self, statements: &[&str]) {
        self.source.run(statements).await;
        for txn in self.read().await {
            self.apply(vec![txn]).await;
        }
    }

    /// The rows of a copy as the target has them, in the order of their keys' texts.
    pub(crate) async fn rows_there(&mut self, plan: usize) -> Vec<Projected> {
        let plan = Arc::clone(&self.plans[plan]);
        let sql = format!(
            "select {} from `{}`.`{}`",
            snapshot::select_list(plan.image()),
            self.there.database,
            plan.image().name
        );
        let mut server = self.there.server().await;
        let answers: Vec<mysql_async::Row> = server.connection().exec(sql, ()).await.unwrap();
        let rows = answers.into_iter().map(|answer| snapshot::row(plan.image(), answer).unwrap());
        sorted(&plan, rows.map(|row| Projected(row.0)).collect())
    }

    /// The rows that a copy should have.
    pub(crate) async fn rows_here(&mut self, plan: usize) -> Vec<Projected> {
        let plan = Arc::clone(&self.plans[plan]);
        let (table, rows) = self.source.select(plan.source().1).await;
        projected(&plan, &Arc::new(table), &rows)
    }

    pub(crate) async fn assert_equal(&mut self) {
        for plan in 0..self.plans.len() {
            let (here, there) = (self.rows_here(plan).await, self.rows_there(plan).await);
            assert_eq!(there, here, "copy {}", self.plans[plan].name());
        }
    }

    /// Strings of a query on the target, one column; NULL as `NULL`.
    pub(crate) async fn ask(&mut self, sql: &str) -> Vec<String> {
        let rows: Vec<Option<String>> = self.there.connection.query(sql).await.unwrap();
        rows.into_iter().map(|text| text.unwrap_or_else(|| "NULL".to_owned())).collect()
    }

    pub(crate) async fn drop(self) {
        self.source.drop().await;
        self.there.drop().await;
    }
}

async fn resolve(
    source: &TestSource,
    target: &mut Target,
    specs: Vec<CopySpec>,
) -> (Vec<Arc<CopyPlan>>, Vec<CopyState>) {
    let (mut plans, mut copies) = (Vec::new(), Vec::new());
    for mut spec in specs {
        spec.source_database.clone_from(&source.database);
        let here = facts(source, &spec.source_table).await;
        if target.describe(&spec.target_table).await.unwrap().is_none() {
            let table = CopyPlan::new_table(&spec, &here, target.is_mariadb()).unwrap();
            target.create_table(&table.sql).await.unwrap();
        }
        let there = target.describe(&spec.target_table).await.unwrap().unwrap();
        let plan = CopyPlan::resolve(&spec, &here, &there).unwrap();
        copies.push(CopyState {
            copy: spec.name,
            source_table: format!("{}.{}", spec.source_database, spec.source_table),
            target_table: spec.target_table,
            phase: CopyPhase::Ready,
            reason: None,
            definition: None,
            after_key: None,
            rows_copied: 0,
            rows_estimated: 0,
            drifted: 0,
        });
        plans.push(Arc::new(plan));
    }
    CopyPlan::check_together(&plans).unwrap();
    (plans, copies)
}

pub(crate) async fn facts(source: &TestSource, table: &str) -> outbox_relay::replication::TableFacts {
    let mut server = source.server().await;
    let described =
        outbox_relay::replication::TableFacts::describe(server.connection(), &source.database, table).await;
    described.unwrap().unwrap()
}

pub(crate) fn checkpoint(position: Position) -> Checkpoint {
    Checkpoint {
        position,
        committed_at_us: 1_700_000_000_123_456,
        checksum: 7,
        before: None,
        source_id: "source".to_owned(),
        as_of_us: 1_700_000_000_500_000,
        lag_ms: 5,
        is_unproven: false,
    }
}

pub(crate) fn projected(plan: &CopyPlan, table: &Arc<Table>, rows: &[Row]) -> Vec<Projected> {
    sorted(plan, rows.iter().filter_map(|row| plan.project(table, row.clone()).unwrap()).collect())
}

pub(crate) fn sorted(plan: &CopyPlan, mut rows: Vec<Projected>) -> Vec<Projected> {
    rows.sort_by_key(|row| format!("{:?}", plan.key(row)));
    rows
}
