//! The relay as a user runs it: a process of its own with default settings and one replication.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_relay::config::ReplicationConfig;
use outbox_relay::replication::report;

use super::servers::Side;
use super::workload::TABLE;
use crate::{Failure, process};

/// A replication of the product table into a database of the target.
pub(crate) struct Relay {
    program: std::path::PathBuf,
    folder: tempfile::TempDir,
}

/// What a run took.
pub(crate) struct Run {
    pub(crate) seconds: f64,
    /// Seconds of all its threads on a processor.
    pub(crate) processor: f64,
    /// Its highest resident memory.
    pub(crate) peak_mib: f64,
}

/// A relay that runs; killed when dropped.
pub(crate) struct Running(Child);

impl Relay {
    /// Makes the target's database, with the empty copy as the source's table is.
    pub(crate) async fn prepare(source: &Side, target: &mut Side, database: &str) -> Result<Self, Failure> {
        let target_url = target.make(database).await?;
        let mut sql = target.applier(database).await?;
        sql.query_drop(format!("create table {TABLE}")).await?;
        let source_url = source.server.url();
        report::migrate(&ReplicationConfig::new(database, source_url, &target_url)).await?;
        let folder = tempfile::tempdir()?;
        let config = format!(
            "[[replication]]\nname = {database:?}\nsource = {source_url:?}\ntarget = {target_url:?}\n\n\
             [[replication.table]]\nsource = \"bench.product\"\n"
        );
        std::fs::write(folder.path().join("outbox-relay.toml"), config)?;
        Ok(Self { program: process::program()?, folder })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.path().join("outbox-relay.toml")).arg("run");
        // Its own output is not part of what is printed; `RUST_LOG` says what of it goes to standard error.
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "warn");
        }
        command.stdout(Stdio::null());
        command
    }

    /// Runs until all that the source has now is applied.
    pub(crate) async fn until_idle(&self) -> Result<Run, Failure> {
        let started = Instant::now();
        let mut running = Running(self.command().arg("--until-idle").spawn()?);
        let (mut peak_mib, mut processor) = (0.0, 0.0);
        loop {
            if let Some(status) = running.0.try_wait()? {
                let seconds = started.elapsed().as_secs_f64();
                if !status.success() {
                    return Err(format!("the relay ended with {status}").into());
                }
                return Ok(Run { seconds, processor, peak_mib });
            }
            peak_mib = process::peak_mib(running.0.id()).unwrap_or(peak_mib);
            processor = process::processor_time(running.0.id()).map_or(processor, |time| time.as_secs_f64());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs until it is dropped.
    pub(crate) fn start(&self) -> Result<Running, Failure> {
        Ok(Running(self.command().spawn()?))
    }
}

impl Running {
    /// What it takes of a core, in percent.
    pub(crate) async fn idle_percent(&self, seconds: u64) -> Result<f64, Failure> {
        let (before, started) = (process::processor_time(self.0.id())?, Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let took = process::processor_time(self.0.id())? - before;
        Ok(took.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
