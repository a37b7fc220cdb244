//! `outbox-relay verify`: compares copies with their source. Exit code 0 is that all are equal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{End, print_json, replication};
use crate::config::{Config, ReplicationConfig};
use crate::replication::verify::{self, Progress, Show, Verified};

/// How often progress is shown.
const SHOW: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The replication; all by default
    name: Option<String>,
    /// Name the copies that would be made anew, in place, to repair what differs; with --yes, make them and compare
    /// again
    #[arg(long)]
    repair: bool,
    /// Do repair
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Show the values that differ, not only their columns
    #[arg(long)]
    show_values: bool,
    /// Of each copy so many rows are named, the others counted
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> End {
    let meant: Vec<&ReplicationConfig> = match &arguments.name {
        None => config.replication.iter().collect(),
        Some(name) => match replication::named(config, name) {
            Some(replication) => vec![replication],
            None => return End::Wrong(replication::unknown(config, name)),
        },
    };
    if meant.is_empty() {
        return End::Wrong("there is no [[replication]] in the configuration".into());
    }
    let mut all = Vec::new();
    for config in meant {
        let verified = verified(config, arguments).await;
        match verified {
            Ok(found) => all.extend(found),
            Err(error) => return End::Failed(format!("replication {}: {error}", config.name)),
        }
    }
    if arguments.json {
        print_json(&all);
    } else {
        all.iter().for_each(|verified| println!("{verified}"));
    }
    if all.iter().all(Verified::is_equal) { End::Done } else { End::Failed(String::new()) }
}

/// Compares the copies of a replication, and with --repair --yes once more after what differs was made anew.
async fn verified(config: &ReplicationConfig, arguments: &Arguments) -> outbox_core::Result<Vec<Verified>> {
    let mut found = compared(config, arguments).await?;
    let differing = |found: &[Verified]| -> Vec<String> {
        let differing = found.iter().filter(|verified| verified.differences() > 0);
        differing.map(|verified| verified.copy.clone()).collect()
    };
    let copies = differing(&found);
    if !arguments.repair || copies.is_empty() {
        return Ok(found);
    }
    if !arguments.yes {
        for copy in &copies {
            eprintln!("would make {}/{copy} anew, in place; --yes does", config.name);
        }
        return Ok(found);
    }
    let shutdown = CancellationToken::new();
    super::signals::end_on_signals(shutdown.clone()).map_err(outbox_core::Error::application)?;
    for copy in &copies {
        let before = found.iter().find(|verified| verified.copy == *copy);
        let before = before.map_or(0, Verified::differences);
        eprintln!("making {}/{copy} anew: {before} rows differ", config.name);
        replication::remake(config, Some(copy), std::slice::from_ref(copy), &shutdown).await?;
    }
    if !shutdown.is_cancelled() {
        found = compared(config, arguments).await?;
    }
    Ok(found)
}

/// With a line that shows how far it is, on a terminal.
async fn compared(config: &ReplicationConfig, arguments: &Arguments) -> outbox_core::Result<Vec<Verified>> {
    let show = Show { rows_max: arguments.limit, values: arguments.show_values };
    let is_terminal = std::io::stderr().is_terminal();
    let began = Instant::now();
    let mut shown = Instant::now();
    let mut progress = |Progress { copy, rows, rows_estimated }: Progress<'_>| {
        if is_terminal && shown.elapsed() >= SHOW {
            shown = Instant::now();
            let bar = replication::bar(rows, rows_estimated, began.elapsed());
            let _ = write!(std::io::stderr(), "\r\x1b[2K{copy} {bar}");
        }
    };
    let found = verify::replication(config, &show, &mut progress).await;
    if is_terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[2K");
    }
    found
}
