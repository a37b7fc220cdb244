//! The relay drains a full outbox to a quorum queue, held against raw publishing and bare SQL.

use std::time::{Duration, Instant};

use outbox_core::PAYLOAD_BYTES_MAX;

use crate::process::{Queue, Relay};
use crate::raw::Route;
use crate::table::Measure;
use crate::{Failure, Size, database, raw};

/// The rows of a small backlog, and those of a large one whose rate is taken.
const FIRST: usize = 50_000;
/// Memory while small and while the largest payloads are drained, at most.
const SMALL_MIB: f64 = 64.0;
const LARGE_MIB: f64 = 256.0;

/// A database server with the functions of its connection.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    variable: &'static str,
    create: fn(&str, &str) -> Result<String, Failure>,
    fill: fn(&str, Size) -> Result<(), Failure>,
    multiply: fn(&str, usize) -> Result<(), Failure>,
    bare_rate: fn(&str, Size) -> Result<f64, Failure>,
    left: fn(&str) -> Result<i64, Failure>,
    drop: fn(&str, &str) -> Result<(), Failure>,
}

pub(crate) const MARIADB: Server = Server {
    name: "mariadb",
    variable: "OUTBOX_TEST_MARIADB_URL",
    create: database::mysql::create,
    fill: database::mysql::fill,
    multiply: database::mysql::multiply,
    bare_rate: database::mysql::bare_rate,
    left: database::mysql::left,
    drop: database::mysql::drop,
};

pub(crate) const MYSQL: Server = Server { name: "mysql", variable: "OUTBOX_TEST_MYSQL_URL", ..MARIADB };

pub(crate) const POSTGRES: Server = Server {
    name: "postgres",
    variable: "OUTBOX_TEST_POSTGRES_URL",
    create: database::postgres::create,
    fill: database::postgres::fill,
    multiply: database::postgres::multiply,
    bare_rate: database::postgres::bare_rate,
    left: database::postgres::left,
    drop: database::postgres::drop,
};

impl Server {
    /// Where its databases are made, by an administrator.
    pub(crate) fn admin(&self) -> Result<String, Failure> {
        url_of(self.variable)
    }

    /// A fresh database of that name; its URL.
    pub(crate) fn create(&self, admin: &str, name: &str) -> Result<String, Failure> {
        (self.create)(admin, name)
    }

    /// Drops it.
    pub(crate) fn drop(&self, admin: &str, name: &str) -> Result<(), Failure> {
        (self.drop)(admin, name)
    }

    /// The broker of all of them.
    pub(crate) fn amqp() -> Result<String, Failure> {
        url_of("OUTBOX_TEST_AMQP_URL")
    }
}

fn url_of(variable: &str) -> Result<String, Failure> {
    std::env::var(variable).map_err(|_| format!("{variable} is not set: run `cargo lab bench`").into())
}

/// What one run of the relay came to.
struct Drained {
    rate: f64,
    peak_mib: f64,
}

/// Drain rate against raw lapin, against bare SQL, and the relay's peak memory against its bound.
pub(crate) async fn measure(server: &Server, size: Size) -> Result<Vec<Measure>, Failure> {
    let (admin, amqp) = (server.admin()?, Server::amqp()?);
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
        theirs: vec![SMALL_MIB; peaks.len()],
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
    let queue = Queue::declare(amqp).await?;
    let started = Instant::now();
    let mut relay = Relay::start(database, amqp, "poll", &["--until-idle"])?;
    let mut peak_mib = 0.0;
    let status = loop {
        peak_mib = relay.peak_mib().unwrap_or(0.0).max(peak_mib);
        if let Some(status) = relay.ended()? {
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
    Ok(Drained { rate: size.rows as f64 / seconds, peak_mib })
}

/// Peak memory with payloads as large as they may be. (On PostgreSQL, whose packets are large enough without a
/// setting.)
pub(crate) async fn measure_large(rows: usize, runs: usize) -> Result<Measure, Failure> {
    let (admin, amqp) = (POSTGRES.admin()?, Server::amqp()?);
    let name = format!("bench_large_{}", std::process::id());
    let size = Size { rows, payload_bytes: PAYLOAD_BYTES_MAX, runs };
    let mut peaks = Vec::new();
    for _ in 0..runs {
        let url = POSTGRES.create(&admin, &name)?;
        (POSTGRES.fill)(&url, size)?;
        peaks.push(drain(&url, &amqp, size).await?.peak_mib);
        POSTGRES.drop(&admin, &name)?;
    }
    Ok(Measure {
        measure: "drain 16 MiB payloads memory".into(),
        against: "bound".into(),
        unit: "MiB",
        theirs: vec![LARGE_MIB; runs],
        ours: peaks,
    })
}

/// Peak memory while a backlog of so many rows is drained to its end: it must not grow with the backlog.
pub(crate) async fn measure_memory(
    server: &Server,
    rows: usize,
    payload_bytes: usize,
) -> Result<Measure, Failure> {
    let (admin, amqp) = (server.admin()?, Server::amqp()?);
    let name = format!("bench_memory_{}", std::process::id());
    let first = Size { rows: FIRST.min(rows), payload_bytes, runs: 1 };
    let url = server.create(&admin, &name)?;
    (server.fill)(&url, first)?;
    (server.multiply)(&url, (rows / first.rows).saturating_sub(1))?;
    let drained = drain(&url, &amqp, Size { rows, ..first }).await?;
    server.drop(&admin, &name)?;
    Ok(Measure {
        measure: format!("memory {} of {rows} rows", server.name),
        against: "bound".into(),
        unit: "MiB",
        ours: vec![drained.peak_mib],
        theirs: vec![SMALL_MIB],
    })
}

/// Whether a large backlog slows the drain: the rate of the first [`FIRST`] rows of it, against that of a
/// backlog of [`FIRST`] rows.
pub(crate) async fn measure_backlog(
    server: &Server,
    rows: usize,
    payload_bytes: usize,
) -> Result<Measure, Failure> {
    let (admin, amqp) = (server.admin()?, Server::amqp()?);
    let name = format!("bench_backlog_{}", std::process::id());
    let first = Size { rows: FIRST, payload_bytes, runs: 1 };
    let mut rates = Vec::new();
    for copies in [0, (rows / FIRST).saturating_sub(1)] {
        let url = server.create(&admin, &name)?;
        (server.fill)(&url, first)?;
        (server.multiply)(&url, copies)?;
        let queue = Queue::declare(&amqp).await?;
        let relay = Relay::start(&url, &amqp, "poll", &[])?;
        let settled = |status: &serde_json::Value| status["settled"].as_u64().unwrap_or_default();
        // Not from its start: connecting is no part of it.
        let some = relay.until("at work", |status| settled(status) > 0).await?;
        let (started, before) = (Instant::now(), settled(&some));
        let all = relay.until("done", |status| settled(status) as usize >= FIRST * 9 / 10).await?;
        rates.push((settled(&all) - before) as f64 / started.elapsed().as_secs_f64());
        drop(relay);
        queue.delete().await?;
        server.drop(&admin, &name)?;
    }
    Ok(Measure {
        measure: format!("drain {} of {rows} rows", server.name),
        against: format!("of {FIRST} rows"),
        unit: "msg/s",
        ours: vec![rates[1]],
        theirs: vec![rates[0]],
    })
}
