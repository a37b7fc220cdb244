//! Where a replication begins: every transaction before it is visible to whoever reads the tables afterwards, and every
//! one after it is in the log as a whole.

use std::time::{Duration, Instant};

use outbox_core::{Error, ErrorKind, Result};
use tracing::warn;

use super::state::Checkpoint;
use crate::binlog::Server;
use crate::change::Position;

/// A transaction counts as executed a moment before it is listed as prepared.
const LISTED: Duration = Duration::from_millis(50);
/// How long those that are open are waited for before the status says so.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often they are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);

/// The place, as a checkpoint.
///
/// # Errors
/// `Outage` while XA transactions are prepared at the source: their rows stand in the log before their commit, so that a
/// beginning between the two would not know them.
pub(super) async fn beginning(server: &mut Server, replication: &str, now_us: i64) -> Result<Checkpoint> {
    Ok(Checkpoint {
        position: position(server, replication).await?,
        committed_at_us: 0,
        checksum: 0,
        before: None,
        source_id: server.identity().await?,
        as_of_us: now_us,
        lag_ms: 0,
        is_unproven: false,
    })
}

async fn position(server: &mut Server, replication: &str) -> Result<Position> {
    let first = server.low_mark().await?;
    tokio::time::sleep(LISTED).await;
    let Some(mut open) = server.prepared().await? else {
        warn!(
            replication,
            "this account does not see prepared XA transactions, and one that is open now would stop the replication at \
             its commit; on the source: GRANT XA_RECOVER_ADMIN ON *.*"
        );
        return Ok(first);
    };
    let since = Instant::now();
    while !open.is_empty() {
        if since.elapsed() >= PATIENCE {
            let text = format!(
                "it cannot begin while XA transactions are prepared at the source, and begins by itself once they have \
                 ended (XA COMMIT or XA ROLLBACK): {}",
                open.join("; ")
            );
            return Err(Error::new(ErrorKind::Outage, text));
        }
        tokio::time::sleep(LOOK).await;
        let now = server.prepared().await?.unwrap_or_default();
        open.retain(|xid| now.contains(xid));
    }
    // What was prepared at the first mark has ended before the second: whatever ends later was prepared between the two
    // or later, so the log is read from the first.
    let second = server.low_mark().await?;
    let replay_from = (first != second).then(|| Box::new(first));
    Ok(Position { replay_from, ..second })
}
