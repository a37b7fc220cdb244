//! The relay drains a full outbox to a quorum queue, held against raw publishing and bare SQL.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::raw::Route;
use crate::table::Measure;
use crate::{Failure, Size, database, raw};

/// A database server with the functions of its connection.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    variable: &'static str,
    create: fn(&str, &str) -> Result<String, Failure>,
    fill: fn(&str, Size) -> Result<(), Failure>,
    bare_rate: fn(&str, Size) -> Result<f64, Failure>,
    left: fn(&str) -> Result<i64, Failure>,
    drop: fn(&str, &str) -> Result<(), Failure>,
}

pub(crate) const MARIADB: Server = Server {
    name: "mariadb",
    variable: "OUTBOX_TEST_MARIADB_URL",
    create: database::mysql::create,
    fill: database::mysql::fill,
    bare_rate: database::mysql::bare_rate,
    left: database::mysql::left,
    drop: database::mysql::drop,
};

pub(crate) const POSTGRES: Server = Server {
    name: "postgres",
    variable: "OUTBOX_TEST_POSTGRES_URL",
    create: database::postgres::create,
    fill: database::postgres::fill,
    bare_rate: database::postgres::bare_rate,
    left: database::postgres::left,
    drop: database::postgres::drop,
};

/// What one run of the relay came to.
struct Drained {
    rate: f64,
    peak_mib: f64,
}

/// Drain rate against raw lapin, against bare SQL, and the relay's peak memory against its bound.
pub(crate) async fn measure(server: &Server, size: Size) -> Result<Vec<Measure>, Failure> {
    let url_of = |variable: &str| {
        std::env::var(variable).map_err(|_| format!("{variable} is not set: run `cargo lab bench`"))
    };
    let (admin, amqp) = (url_of(server.variable)?, url_of("OUTBOX_TEST_AMQP_URL")?);
    let name = format!("bench_{}", std::process::id());
    let (mut ours, mut peaks, mut bares) = (vec![], vec![], vec![]);
    let (mut raws, mut topics) = (vec![], vec![]);
    for _ in 0..size.runs {
        raws.push(raw::publish_rate(&amqp, size, Route::Straight).await?);
        topics.push(raw::publish_rate(&amqp, size, Route::Topic).await?);
        let url = (server.create)(&admin, &name)?;
        (server.fill)(&url, size)?;
        bares.push((server.bare_rate)(&url, size)?);
        (server.fill)(&url, size)?;
        let drained = drain(&url, &amqp, size).await?;
        let left = (server.left)(&url)?;
        (server.drop)(&admin, &name)?;
        if left != 0 {
            return Err(format!("the relay left {left} rows in the outbox of {}", server.name).into());
        }
        ours.push(drained.rate);
        peaks.push(drained.peak_mib);
    }
    let rate = |against: &str, theirs: &[f64]| Measure {
        measure: format!("drain {}", server.name),
        against: against.to_owned(),
        unit: "msg/s",
        ours: ours.clone(),
        theirs: theirs.to_vec(),
    };
    let bound = Measure {
        measure: format!("drain {} memory", server.name),
        against: "bound".into(),
        unit: "MiB",
        theirs: vec![64.0; peaks.len()],
        ours: peaks,
    };
    Ok(vec![
        rate("raw lapin", &raws),
        rate("raw lapin, same route", &topics),
        rate("bare select + delete", &bares),
        bound,
    ])
}

/// Runs the relay as a process of its own until the outbox is empty.
async fn drain(database: &str, amqp: &str, size: Size) -> Result<Drained, Failure> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("outbox-relay.toml");
    std::fs::write(
        &config,
        format!(
            "[broker]\nurl = {amqp:?}\nexchange = \"bench\"\n\n[[outbox]]\nname = \"bench\"\ndatabase = {database:?}\n"
        ),
    )?;
    let queue = Queue::declare(amqp).await?;
    // Built before the clock runs.
    let program = relay_program()?;
    let started = Instant::now();
    let mut relay = Command::new(program)
        .arg("-c")
        .arg(&config)
        .args(["run", "--until-idle"])
        .stdout(Stdio::null())
        .spawn()?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(peak_memory_kib(relay.id()).unwrap_or(0));
        if let Some(status) = relay.try_wait()? {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("the relay ended with {status}").into());
    }
    let arrived = queue.delete().await?;
    if (arrived as usize) < size.rows {
        return Err(format!("{arrived} of {} messages arrived", size.rows).into());
    }
    Ok(Drained { rate: size.rows as f64 / seconds, peak_mib: f64::from(peak_kib) / 1024.0 })
}

/// The quorum queue that the relay's messages go to.
struct Queue(lapin::Connection, lapin::Channel);

impl Queue {
    async fn declare(amqp: &str) -> Result<Self, Failure> {
        use outbox_core::broker::{Broker as _, Queue as Wanted, rabbitmq::RabbitMq};
        let wanted = Wanted { name: "bench.0".into(), bindings: vec!["bench.#".into()], prefetch: 1 };
        drop(RabbitMq::new(amqp)?.exchange("bench").consumer(&wanted).await?);
        let connection = lapin::Connection::connect(amqp, lapin::ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self(connection, channel))
    }

    /// Deletes it; the number of messages that were in it.
    async fn delete(self) -> Result<u32, Failure> {
        let count = self.1.queue_delete("bench.0".into(), Default::default()).await?;
        self.0.close(200, "done".into()).await?;
        Ok(count)
    }
}

/// The relay as a user runs it, built in release mode beside this program.
fn relay_program() -> Result<std::path::PathBuf, Failure> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--package", "outbox-relay", "--bin", "outbox-relay"])
        .status()?;
    let program = std::env::current_exe()?.with_file_name("outbox-relay");
    if !built.success() || !program.exists() {
        return Err(format!("{} was not built", program.display()).into());
    }
    Ok(program)
}

/// The highest resident memory so far, from the kernel.
fn peak_memory_kib(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
