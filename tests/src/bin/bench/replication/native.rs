//! The server's own replication.

use std::time::Instant;

use mysql_async::prelude::Queryable as _;

use super::servers::{Product, Side};
use super::watch;
use crate::Failure;

/// How long a replica may take, in seconds.
const PATIENCE: u32 = 3600;

/// Has the replica apply all that the source has now, from where it is; gives the seconds. It stands still afterwards.
pub(crate) async fn catch_up(source: &mut Side, replica: &mut Side, workers: u32) -> Result<f64, Failure> {
    let (query, wait) = match source.product {
        Product::MySql => ("select @@global.gtid_executed", "wait_for_executed_gtid_set"),
        Product::MariaDb => ("select @@global.gtid_binlog_pos", "master_gtid_wait"),
    };
    let gtids: String = source.sql.query_first(query).await?.unwrap_or_default();
    point(source, replica, workers).await?;
    let started = Instant::now();
    replica.run(replica.product.start()).await?;
    let waited: Option<i64> =
        replica.sql.query_first(format!("select {wait}('{gtids}', {PATIENCE})")).await?;
    let seconds = started.elapsed().as_secs_f64();
    if waited != Some(0) {
        return Err(format!("the replica did not reach {gtids}: {waited:?}").into());
    }
    replica.run(replica.product.stop()).await?;
    super::servers::expect_equal(source, replica, "bench").await?;
    Ok(seconds)
}

/// The same as `watch::latency_ms` of a relay, with one worker.
pub(crate) async fn latency_ms(
    source: &mut Side,
    replica: &mut Side,
    rate: f64,
    samples: u32,
) -> Result<f64, Failure> {
    point(source, replica, 1).await?;
    replica.run(replica.product.start()).await?;
    watch::until_visible(source, replica).await?;
    let milliseconds = watch::latency_ms(source, replica, rate, samples).await?;
    replica.run(replica.product.stop()).await?;
    Ok(milliseconds)
}

/// Tells the replica where its source is.
async fn point(source: &Side, replica: &mut Side, workers: u32) -> Result<(), Failure> {
    let port = url::Url::parse(source.server.url())?.port().unwrap_or(3306);
    let statements = match source.product {
        Product::MySql => [
            format!("set global replica_parallel_workers = {workers}"),
            format!(
                "change replication source to source_host = '127.0.0.1', source_port = {port}, source_user = 'root', \
                 source_password = 'outbox', source_auto_position = 1, get_source_public_key = 1"
            ),
        ],
        Product::MariaDb => [
            format!("set global slave_parallel_threads = {}", if workers == 1 { 0 } else { workers }),
            format!(
                "change master to master_host = '127.0.0.1', master_port = {port}, master_user = 'root', \
                 master_password = 'outbox', master_use_gtid = slave_pos"
            ),
        ],
    };
    for statement in statements {
        replica.run(&statement).await?;
    }
    Ok(())
}

impl Product {
    fn start(self) -> &'static str {
        match self {
            Self::MySql => "start replica",
            Self::MariaDb => "start slave",
        }
    }

    fn stop(self) -> &'static str {
        match self {
            Self::MySql => "stop replica",
            Self::MariaDb => "stop slave",
        }
    }
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
