//! The server's own replication.

use std::time::Instant;

use mysql_async::prelude::Queryable as _;

use super::servers::{Product, Side};
use crate::Failure;

/// How long a replica may take, in seconds.
const PATIENCE: u32 = 3600;

/// Has the replica apply all that the source has now, from where it is; gives the seconds. It stands still afterwards.
pub(crate) async fn catch_up(source: &mut Side, replica: &mut Side, workers: u32) -> Result<f64, Failure> {
    let port = url::Url::parse(source.server.url())?.port().unwrap_or(3306);
    let (gtids, setup, start, wait, stop) = match source.product {
        Product::MySql => {
            let gtids: Option<String> = source.sql.query_first("select @@global.gtid_executed").await?;
            let gtids = gtids.unwrap_or_default();
            let setup = format!(
                "set global replica_parallel_workers = {workers}; change replication source to source_host = '127.0.0.1', \
                 source_port = {port}, source_user = 'root', source_password = 'outbox', source_auto_position = 1, \
                 get_source_public_key = 1"
            );
            let wait = format!("select wait_for_executed_gtid_set('{gtids}', {PATIENCE})");
            (gtids, setup, "start replica", wait, "stop replica")
        }
        Product::MariaDb => {
            let gtids: Option<String> = source.sql.query_first("select @@global.gtid_binlog_pos").await?;
            let gtids = gtids.unwrap_or_default();
            let threads = if workers == 1 { 0 } else { workers };
            let setup = format!(
                "set global slave_parallel_threads = {threads}; change master to master_host = '127.0.0.1', \
                 master_port = {port}, master_user = 'root', master_password = 'outbox', master_use_gtid = slave_pos"
            );
            let wait = format!("select master_gtid_wait('{gtids}', {PATIENCE})");
            (gtids, setup, "start slave", wait, "stop slave")
        }
    };
    for statement in setup.split("; ") {
        replica.run(statement).await?;
    }
    let started = Instant::now();
    replica.run(start).await?;
    let waited: Option<i64> = replica.sql.query_first(wait).await?;
    let seconds = started.elapsed().as_secs_f64();
    if waited != Some(0) {
        return Err(format!("the replica did not reach {gtids}: {waited:?}").into());
    }
    replica.run(stop).await?;
    super::servers::expect_equal(source, replica, "bench").await?;
    Ok(seconds)
}

/// Makes the replica one that has nothing.
pub(crate) async fn forget(replica: &mut Side) -> Result<(), Failure> {
    let reset: &[&str] = match replica.product {
        Product::MySql => &["reset replica all", "drop database bench", "reset binary logs and gtids"],
        Product::MariaDb => {
            &["reset slave all", "drop database bench", "reset master", "set global gtid_slave_pos = ''"]
        }
    };
    for statement in reset {
        replica.run(statement).await?;
    }
    Ok(())
}
