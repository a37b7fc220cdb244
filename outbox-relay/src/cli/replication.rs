//! The verbs for replications, and `run` for both ways of the relay.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use outbox_core::{ErrorKind, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::End;
use crate::config::{Config, ReplicationConfig};
use crate::replication::report::{self, Report};
use crate::replication::status::eta_seconds;
use crate::replication::{CopyPhase, Left, Replication, State};

/// How often progress is shown.
const SHOW: Duration = Duration::from_millis(500);
/// The bar's length in characters.
const BAR: u64 = 30;

/// The replications of a configuration.
pub(super) fn from_config(config: &Config) -> Result<Vec<Replication>> {
    config.replication.iter().map(Replication::from_config).collect()
}

/// The replication of this name.
pub(super) fn named<'c>(config: &'c Config, name: &str) -> Option<&'c ReplicationConfig> {
    config.replication.iter().find(|replication| replication.name == name)
}

/// What to say of a name that no replication has.
pub(super) fn unknown(config: &Config, name: &str) -> String {
    let known: Vec<_> = config.replication.iter().map(|replication| replication.name.as_str()).collect();
    format!("there is no replication {name:?}; there is {}", known.join(", "))
}

/// Runs all until each has applied what its source had at the start; gives what is left, as text.
pub(super) async fn until_idle(replications: Vec<Replication>, shutdown: &CancellationToken) -> Vec<String> {
    let mut running = JoinSet::new();
    for replication in replications {
        running.spawn(replication.run_until_idle(shutdown.clone()));
    }
    let mut left = Vec::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(Left { replication, copies }))) => {
                let told = copies.iter();
                left.extend(
                    told.map(|held| {
                        format!("replication {replication}: copy {}: {}", held.copy, held.reason)
                    }),
                );
            }
            Ok(Err(error)) => left.push(error.to_string()),
            Err(error) => {
                left.push(format!("a replication crashed, this is a mistake in the relay: {error}"))
            }
        }
    }
    left
}

/// Creates or upgrades the tables of state in all targets.
pub(super) async fn migrate(config: &Config, failures: &mut Vec<String>) {
    for replication in &config.replication {
        match report::migrate(replication).await {
            Ok(versions) if versions.is_empty() => println!("replication {}: up to date", replication.name),
            Ok(versions) => println!("replication {}: applied {}", replication.name, versions.join(", ")),
            Err(error) => failures.push(format!("replication {}: {error}", replication.name)),
        }
    }
}

/// Pauses a replication for a reason, or resumes it.
pub(super) async fn pause(config: &ReplicationConfig, reason: Option<&str>) -> End {
    let name = &config.name;
    let acted = async {
        let mut state = State::connect(&config.target(), name).await?;
        let was_paused = state.pause_state().await?.is_some();
        match reason {
            Some(reason) if !was_paused => state.pause(&super::actor(), reason).await?,
            None if was_paused => state.resume().await?,
            _ => {}
        }
        Ok(was_paused)
    };
    let acted: Result<bool> = acted.await;
    match (acted, reason) {
        (Ok(false), Some(_)) => {
            println!("replication {name}: paused; it stops within seconds, wherever it runs")
        }
        (Ok(true), Some(_)) => println!("replication {name}: was paused already"),
        (Ok(true), None) => println!("replication {name}: goes on within seconds"),
        (Ok(false), None) => println!("replication {name}: was not paused"),
        (Err(error), _) if error.kind() == ErrorKind::NotFound => {
            return End::Failed(format!("replication {name} has not begun yet: {error}"));
        }
        (Err(error), _) => return End::Failed(format!("replication {name}: {error}")),
    }
    End::Done
}

/// Has copies made anew in place, and waits for them: by whoever runs the replication, or else here.
pub(super) async fn snapshot(config: &Config, name: &str, table: Option<&str>) -> End {
    let Some(config) = named(config, name) else { return End::Wrong(unknown(config, name)) };
    let copies = match meant(config, table) {
        Ok(copies) => copies,
        Err(text) => return End::Wrong(text),
    };
    let shutdown = CancellationToken::new();
    if let Err(error) = super::signals::end_on_signals(shutdown.clone()) {
        return End::Failed(format!("listening for signals: {error}"));
    }
    match remake(config, table.map(|_| copies[0].as_str()), &copies, &shutdown).await {
        Ok(_) if shutdown.is_cancelled() => {
            End::Failed("ended by a signal; the copies are made by whoever runs the replication next".into())
        }
        Ok(held) if held.is_empty() => End::Done,
        Ok(held) => End::Failed(held.join("\n")),
        Err(error) => End::Failed(format!("replication {name}: {error}")),
    }
}

/// The names of the copies that are meant.
fn meant(config: &ReplicationConfig, table: Option<&str>) -> std::result::Result<Vec<String>, String> {
    let specs = crate::replication::specs(config);
    let Some(table) = table else { return Ok(specs.into_iter().map(|spec| spec.name).collect()) };
    let is_meant = |spec: &&crate::replication::CopySpec| {
        spec.name == table || format!("{}.{}", spec.source_database, spec.source_table) == table
    };
    match specs.iter().find(is_meant) {
        Some(spec) => Ok(vec![spec.name.clone()]),
        None => {
            let known: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
            Err(format!("replication {:?} has no copy {table:?}; it has {}", config.name, known.join(", ")))
        }
    }
}

pub(super) async fn remake(
    config: &ReplicationConfig,
    copy: Option<&str>,
    copies: &[String],
    shutdown: &CancellationToken,
) -> Result<Vec<String>> {
    let is_run = report::is_run(config).await?;
    report::remake(config, copy).await?;
    if is_run {
        eprintln!("replication {}: the process that runs it makes the copies", config.name);
        if let Some(held) = watch(config, copies, true, shutdown).await? {
            return Ok(held);
        }
        eprintln!("replication {}: that process has ended; the copies are made here", config.name);
    }
    let here = shutdown.child_token();
    let running = Replication::from_config(config)?.run_until_idle(here.clone());
    tokio::pin!(running);
    let watching = watch(config, copies, false, &here);
    let held = tokio::select! {
        ran = &mut running => {
            let left = ran?.map_or_else(Vec::new, |left| left.copies);
            return Ok(left.into_iter().map(|held| format!("copy {}: {}", held.copy, held.reason)).collect());
        }
        watched = watching => watched?.unwrap_or_default(),
    };
    here.cancel();
    running.await?;
    Ok(held)
}

/// Shows how far the copies are until each is complete or held; gives the held ones. `None`: they are made by another
/// process, and that one has ended.
async fn watch(
    config: &ReplicationConfig,
    copies: &[String],
    by_another: bool,
    shutdown: &CancellationToken,
) -> Result<Option<Vec<String>>> {
    let began = Instant::now();
    let is_terminal = std::io::stderr().is_terminal();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(Some(Vec::new())),
            () = tokio::time::sleep(SHOW) => {}
        }
        let found = Report::of(config).await;
        if is_terminal {
            let line = line(&found, copies, began.elapsed());
            let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
        }
        let state =
            |name: &String| found.copies.iter().find(|copy| copy.copy == *name).map(|copy| copy.state);
        let is_done = |name: &String| state(name).is_some_and(|state| state != CopyPhase::Copying.as_str());
        if !copies.iter().all(is_done) {
            if by_another && report::is_abandoned(config).await? {
                return Ok(None);
            }
            continue;
        }
        if is_terminal {
            eprintln!();
        }
        let held = found
            .copies
            .iter()
            .filter(|copy| copies.contains(&copy.copy) && copy.state == CopyPhase::Held.as_str());
        let held = held.map(|c| format!("copy {}: {}", c.copy, c.reason.as_deref().unwrap_or_default()));
        return Ok(Some(held.collect()));
    }
}

/// `[######      ]  52 %  520000 of about 1000000 rows, 14 s left`.
fn line(report: &Report, copies: &[String], took: Duration) -> String {
    let meant = || report.copies.iter().filter(|copy| copies.contains(&copy.copy));
    let rows: u64 = meant().map(|copy| copy.rows_copied).sum();
    let about: u64 = meant().map(|copy| copy.rows_estimated.max(copy.rows_copied)).sum::<u64>().max(1);
    match &report.error {
        Some(error) => error.clone(),
        None => bar(rows, about, took),
    }
}

/// How far something is and how long it will take.
pub(super) fn bar(rows: u64, about: u64, took: Duration) -> String {
    let about = about.max(1);
    let filled = (rows.saturating_mul(BAR) / about).min(BAR);
    let bar = format!("{}{}", "#".repeat(filled as usize), " ".repeat((BAR - filled) as usize));
    let left = eta_seconds(took.as_secs(), rows, about.saturating_sub(rows));
    let left = left.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
    let percent = rows.saturating_mul(100) / about;
    format!("[{bar}] {percent:>3} %  {rows} of about {about} rows{left}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::report::CopyReport;

    #[test]
    fn a_line_shows_how_far_it_is_and_how_long_it_takes() {
        let copy = |name: &str, rows_copied| CopyReport {
            copy: name.into(),
            source_table: "a.b".into(),
            state: "copying",
            reason: None,
            rows_copied,
            rows_estimated: 100,
            eta_seconds: None,
            set_aside: 0,
        };
        let report = Report {
            replication: "order".into(),
            source: String::new(),
            target: String::new(),
            error: None,
            owner: None,
            position: None,
            lag_seconds: None,
            unproven_since: None,
            paused: None,
            copies: vec![copy("a", 50), copy("other", 7)],
        };
        let line = line(&report, &["a".to_owned()], Duration::from_secs(8));
        assert_eq!(line, "[###############               ]  50 %  50 of about 100 rows, 8 s left");
    }
}
