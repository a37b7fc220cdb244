//! The relay as a user runs it: a process of its own with default settings, and what it says and costs.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::Failure;

const TOKEN: &str = "bench";

/// A relay on one outbox; killed when dropped.
pub(crate) struct Relay {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Relay {
    /// Starts one; `mode` is `poll` or `tail`, `arguments` follow the verb `run`.
    pub(crate) fn start(database: &str, amqp: &str, mode: &str, arguments: &[&str]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("outbox-relay.toml");
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let text = format!(
            "[admin]\nlisten = {address:?}\ntoken = {TOKEN:?}\n\n[broker]\nurl = {amqp:?}\nexchange = \"bench\"\n\n\
             [[outbox]]\nname = \"bench\"\ndatabase = {database:?}\nmode = {mode:?}\n"
        );
        std::fs::write(&config, text)?;
        let child = Command::new(program()?)
            .arg("-c")
            .arg(&config)
            .arg("run")
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, address, _folder: folder })
    }

    /// Its exit status once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        Ok(self.child.try_wait()?)
    }

    /// What it says of its one outbox; none while it does not answer.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(
            stream,
            "GET /api/status HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let body = answer.split_once("\r\n\r\n")?.1;
        serde_json::from_str::<Vec<serde_json::Value>>(body).ok()?.pop()
    }

    /// Waits until what it says meets a condition.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_met: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value, Failure> {
        for _ in 0..60_000 {
            match self.status() {
                Some(status) if is_met(&status) => return Ok(status),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        Err(format!("the relay did not become {what}: {:?}", self.status()).into())
    }

    /// As the function of this name.
    pub(crate) fn peak_mib(&self) -> Option<f64> {
        peak_mib(self.child.id())
    }

    /// As the function of this name.
    pub(crate) fn processor_time(&self) -> Result<Duration, Failure> {
        processor_time(self.child.id())
    }
}

/// A process's highest resident memory so far in MiB, from the kernel; none once it has ended.
pub(crate) fn peak_mib(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u32 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

/// The time that a process's threads have had on a processor, those that have ended too.
pub(crate) fn processor_time(process: u32) -> Result<Duration, Failure> {
    // `utime` and `stime`.
    Ok(time_field(process, 14)? + time_field(process, 15)?)
}

/// A field of `/proc/PID/stat`, counted from 1 as in the manual, that is a time: in the kernel's ticks, mostly of ten
/// milliseconds.
pub(crate) fn time_field(process: u32, number: usize) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The 3rd follows the parenthesis around the program's name.
    let ticks = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(number - 3));
    let ticks: u64 = ticks.ok_or_else(|| format!("/proc/PID/stat has no field {number}"))?.parse()?;
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The relay, built beside this program and in its mode, which `cargo lab bench` makes release.
pub(crate) fn program() -> Result<std::path::PathBuf, Failure> {
    let program = std::env::current_exe()?.with_file_name("outbox-relay");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is not built: run `cargo lab bench`", program.display()).into())
}

/// The quorum queue that the relay's messages go to.
pub(crate) struct Queue(lapin::Connection, lapin::Channel);

impl Queue {
    /// Declares exchange and queue.
    pub(crate) async fn declare(amqp: &str) -> Result<Self, Failure> {
        use outbox_core::broker::{Broker as _, Queue as Wanted, rabbitmq::RabbitMq};
        let wanted = Wanted { name: "bench.0".into(), bindings: vec!["bench.#".into()], prefetch: 1 };
        drop(RabbitMq::new(amqp)?.exchange("bench").consumer(&wanted).await?);
        let connection = lapin::Connection::connect(amqp, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self(connection, channel))
    }

    /// Deletes it; the number of messages that were in it.
    pub(crate) async fn delete(self) -> Result<u32, Failure> {
        let count = self.1.queue_delete("bench.0".into(), Default::default()).await?;
        self.0.close(200, "done".into()).await?;
        Ok(count)
    }
}
