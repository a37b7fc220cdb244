//! `outbox-relay resync` and `outbox-relay generation`.

use std::time::Duration;

use outbox_core::{ErrorKind, Result};

use super::{End, actor, print_json};
use crate::config::{Config, OutboxConfig};
use crate::resync::{self, ResyncReport};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Resync {
    /// The outbox
    name: String,
    /// The aggregate type; all that services offer when none is named
    #[arg(long)]
    aggregate: Option<String>,
    /// Only these keys, one after each --key; copies drop those that have no row
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// At most so many rows a second; 0 for no limit but the service's own
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    rows_per_second: u32,
    /// End when it is done; exit code 1 if it fails
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Generation {
    /// The outbox that was restored
    name: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// End when everything was sent again; exit code 1 if that fails
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn end(done: Result<End>) -> End {
    match done {
        Ok(end) => end,
        Err(error) if error.kind() == ErrorKind::Invalid => End::Wrong(error.to_string()),
        Err(error) => End::Failed(error.to_string()),
    }
}

pub(super) async fn resync(config: &Config, asked: Resync) -> End {
    let done = async {
        let outbox = crate::dead::outboxes(config, Some(&asked.name))?[0];
        let ask = resync::ask(outbox, asked.aggregate.as_deref(), &asked.key, asked.rows_per_second).await?;
        let ids = resync::request(outbox, &ask, &actor()).await?;
        let reports =
            if asked.wait { wait(outbox, &ids).await? } else { resync::reports(outbox, &ids).await? };
        if asked.json {
            print_json(&reports);
        } else {
            reports.iter().for_each(|report| println!("{report}"));
        }
        Ok(succeeded(&reports))
    };
    end(done.await)
}

pub(super) async fn generation(config: &Config, asked: Generation) -> End {
    let done = async {
        let outbox = crate::dead::outboxes(config, Some(&asked.name))?[0];
        let report = resync::generation(outbox, &actor(), asked.dry_run).await?;
        if asked.json {
            print_json(&report);
        } else {
            println!("{report}");
        }
        if asked.wait && !report.resyncs.is_empty() {
            return Ok(succeeded(&wait(outbox, &report.resyncs).await?));
        }
        Ok(End::Done)
    };
    end(done.await)
}

fn succeeded(reports: &[ResyncReport]) -> End {
    let failed = reports.iter().find(|report| report.is_over() && !report.is_done());
    failed.map_or(End::Done, |report| End::Failed(report.to_string()))
}

/// Waits until all are over; says on standard error what changes.
async fn wait(outbox: &OutboxConfig, ids: &[i64]) -> Result<Vec<ResyncReport>> {
    let mut told = Vec::new();
    loop {
        let reports = resync::reports(outbox, ids).await?;
        let states: Vec<_> = reports.iter().map(|report| (report.state.clone(), report.rows)).collect();
        if states != told {
            reports.iter().filter(|report| !report.is_over()).for_each(|report| eprintln!("{report}"));
            told = states;
        }
        if reports.iter().all(ResyncReport::is_over) {
            return Ok(reports);
        }
        tokio::time::sleep(LOOK).await;
    }
}
