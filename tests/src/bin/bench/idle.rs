//! What a relay costs while nothing happens, at default settings: statements and processor time.

use std::time::{Duration, Instant};

use crate::drain::Server;
use crate::process::{Queue, Relay};
use crate::table::Measure;
use crate::{Failure, database};

/// Statements a second, at most.
const QUERIES: f64 = 4.0;
/// Percent of one core, at most.
const PROCESSOR: f64 = 1.0;
/// Until the waits of a fresh relay have grown to their longest.
const SETTLE: Duration = Duration::from_secs(4);

/// Both modes, each against its bound.
pub(crate) async fn measure(server: &Server, seconds: u64, runs: usize) -> Result<Vec<Measure>, Failure> {
    let (admin, amqp) = (server.admin()?, Server::amqp()?);
    let name = format!("bench_idle_{}", std::process::id());
    let mut measures = Vec::new();
    for mode in ["poll", "tail"] {
        let (mut queries, mut percents) = (vec![], vec![]);
        for _ in 0..runs {
            let url = server.create(&admin, &name)?;
            if mode == "tail" && url.starts_with("postgres") {
                database::ring(&url)?;
            }
            let queue = Queue::declare(&amqp).await?;
            let relay = Relay::start(&url, &amqp, mode, &[])?;
            let bell = if mode == "tail" { "heard" } else { "off" };
            let is_ready =
                |status: &serde_json::Value| status["state"] == "running" && status["bell"]["state"] == bell;
            relay.until("idle", is_ready).await?;
            tokio::time::sleep(SETTLE).await;
            let before = (statements(&relay).await?, relay.processor_time()?, Instant::now());
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let processor = relay.processor_time()? - before.1;
            let count = statements(&relay).await? - before.0;
            let elapsed = before.2.elapsed().as_secs_f64();
            queries.push(count / elapsed);
            percents.push(processor.as_secs_f64() / elapsed * 100.0);
            drop(relay);
            queue.delete().await?;
            server.drop(&admin, &name)?;
        }
        let bound = |what: &str, unit, ours, bound| Measure {
            measure: format!("idle {} {mode} {what}", server.name),
            against: "bound".into(),
            unit,
            theirs: vec![bound; runs],
            ours,
        };
        measures.push(bound("queries", "1/s", queries, QUERIES));
        measures.push(bound("processor", "% core", percents, PROCESSOR));
    }
    Ok(measures)
}

async fn statements(relay: &Relay) -> Result<f64, Failure> {
    let status = relay.until("reachable", |_| true).await?;
    status["queries"].as_f64().ok_or_else(|| "the relay does not count its queries".into())
}
