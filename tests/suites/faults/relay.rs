//! The relay, as the program that users run: started, killed, stopped, asked for its state.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::Deserialize;

use crate::harness::{free_address, program};

const TOKEN: &str = "faults";

/// How to start a relay.
#[derive(Debug, Clone)]
pub(crate) struct RelayConfig {
    pub(crate) database: String,
    pub(crate) amqp: String,
    pub(crate) exchange: String,
    pub(crate) lease: &'static str,
    /// Further keys of `[broker]`.
    pub(crate) broker_keys: String,
    /// Further keys of `[[outbox]]`.
    pub(crate) keys: String,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// What a relay says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RelayStatus {
    pub(crate) state: String,
    pub(crate) refused: u64,
    pub(crate) parked_keys: u64,
    pub(crate) held: Vec<u16>,
}

/// A running relay; killed when dropped.
pub(crate) struct RelayProcess {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl RelayConfig {
    pub(crate) fn start(&self) -> RelayProcess {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let Self { database, amqp, exchange, lease, broker_keys, keys, environment } = self;
        let text = format!(
            "[admin]\nlisten = {address:?}\ntoken = {TOKEN:?}\n\n\
             [broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n{broker_keys}\n\
             [[outbox]]\nname = \"items\"\ndatabase = {database:?}\nlease = {lease:?}\n{keys}\n"
        );
        std::fs::write(folder.path().join("outbox-relay.toml"), text).unwrap();
        let log = std::fs::File::create(log(&folder)).unwrap();
        let child = Command::new(program("outbox-relay"))
            .arg("run")
            .current_dir(folder.path())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        RelayProcess { child, address, folder }
    }
}

fn log(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("log")
}

impl RelayProcess {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGTERM, and how it ended; fails if it takes longer than `limit`.
    pub(crate) async fn terminate(mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < limit, "the relay has not ended {limit:?} after SIGTERM");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its exit code, if it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().and_then(|status| status.code())
    }

    /// `None` while it does not listen, or is stopped.
    pub(crate) fn status(&self) -> Option<RelayStatus> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        write!(
            stream,
            "GET /api/status HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let mut all: Vec<RelayStatus> = serde_json::from_str(body).unwrap();
        all.pop()
    }

    pub(crate) fn is(&self, state: &str) -> bool {
        self.status().is_some_and(|status| status.state == state)
    }

    /// The most memory that it has had resident, in MiB.
    pub(crate) fn peak_mib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
        kib / 1024
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(log(&self.folder)).unwrap()
    }
}

impl Drop for RelayProcess {
    /// SIGKILL; a failing test shows the end of the log.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            println!("the end of the log of relay {}:\n{}", self.id(), tail.join("\n"));
        }
    }
}
