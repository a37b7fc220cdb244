//! Binary log to copies, held against the server's own replication, its dump, and the limits on both sides. Source,
//! target and replica are servers of the benchmark's own with the same settings, durability relaxed alike.

mod copying;
mod limits;
mod native;
mod relay;
mod servers;
mod watch;
mod workload;

use std::time::Instant;

use crate::Failure;
use crate::table::Measure;

use relay::Relay;
use servers::{Product, Side};
use workload::Workload;

/// Both products.
pub(crate) const PRODUCTS: [Product; 2] = [Product::MySql, Product::MariaDb];

/// What the resident memory may grow to, in MiB.
const MEMORY_MIB: f64 = 128.0;
/// What a replication may take of a core while nothing happens, in percent.
const IDLE_PERCENT: f64 = 0.5;

/// How much is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Rows of (a), in transactions of 500.
    pub(crate) bulk: usize,
    /// Transactions of one row of (b); (c) makes as many changes in transactions of 100.
    pub(crate) single: usize,
    /// Updates of one row.
    pub(crate) hot: usize,
    /// Rows of one large transaction.
    pub(crate) large: usize,
    /// How often ours is measured.
    pub(crate) runs: usize,
}

impl Size {
    /// A part of the whole.
    pub(crate) fn scaled(scale: f64, runs: usize) -> Self {
        let of = |whole: f64| (whole * scale).max(1000.0) as usize;
        Self {
            bulk: of(500_000.0),
            single: of(300_000.0),
            hot: of(1_000_000.0),
            large: of(5_000_000.0),
            runs,
        }
    }
}

/// Everything of one product whose name is wanted; `tell` is called with each measure once it is there.
pub(crate) async fn measure(
    product: Product,
    size: Size,
    wanted: impl Fn(&str) -> bool,
    mut tell: impl FnMut(&Measure),
) -> Result<(), Failure> {
    let name = |what: &str| format!("replication {} {what}", product.name());
    let wants = |what: &str| wanted(&name(what));
    let all = ["catch-up", "snapshot", "hot row", "latency", "idle", "large"];
    if !all.iter().any(|what| wants(what)) {
        return Ok(());
    }
    let mut against = |what: &str, against: &str, unit, ours: &[f64], theirs: f64| {
        let (ours, theirs) = (ours.to_vec(), vec![theirs]);
        tell(&Measure { measure: name(what), against: against.to_owned(), unit, ours, theirs });
    };
    let mut source = Side::start(product).await?;
    let mut target = Side::start(product).await?;
    let mut replica = Side::start(product).await?;
    let mut workload = Workload::begin(&mut source).await?;
    let relay = Relay::prepare(&source, &mut target, "bench").await?;
    // Its copy is complete while the table is empty: all that follows comes by the log.
    relay.until_idle().await?;
    target.keep("bench").await?;
    let begun = source.high_mark().await?;
    let mut peak_mib: f64 = 0.0;

    workload.bulk(&mut source, size.bulk).await?;
    if wants("snapshot") {
        let mut seconds = vec![];
        for _ in 0..size.runs {
            let relay = Relay::prepare(&source, &mut target, "fresh").await?;
            let run = relay.until_idle().await?;
            target.expect_rows("fresh", size.bulk).await?;
            peak_mib = peak_mib.max(run.peak_mib);
            seconds.push(size.bulk as f64 / run.seconds);
        }
        let dump = size.bulk as f64 / copying::dump(&source, &mut target).await?;
        against("snapshot", "dump | client", "rows/s", &seconds, dump);
    }
    if ["catch-up", "hot row"].iter().any(|what| wants(what)) {
        workload.single(&mut source, size.single).await?;
        workload.grouped(&mut source, size.single).await?;
        let changes = (size.bulk + 2 * size.single) as f64;
        let mut speeds = vec![];
        for _ in 0..size.runs {
            target.put_back("bench").await?;
            let run = relay.until_idle().await?;
            servers::expect_equal(&mut source, &mut target, "bench").await?;
            peak_mib = peak_mib.max(run.peak_mib);
            eprintln!("catch-up: {:.1} s, of which the relay computed {:.1} s", run.seconds, run.processor);
            speeds.push(changes / run.seconds);
        }
        if wants("catch-up") {
            let started = Instant::now();
            let count = limits::read_only(&source, &begun).await?;
            let speed = changes / started.elapsed().as_secs_f64();
            eprintln!("the log has {count} transactions");
            against("catch-up", "reading, no decoding", "rows/s", &speeds, speed);
            let bare = changes / limits::bare_upserts(&mut source, &mut target).await?;
            against("catch-up", "bare upserts, 2 connections", "rows/s", &speeds, bare);
            for workers in [4, 1] {
                let seconds = native::catch_up(&mut source, &mut replica, workers).await?;
                let against_what = format!("native, {workers} workers");
                against("catch-up", &against_what, "rows/s", &speeds, changes / seconds);
                if workers == 4 {
                    native::forget(&mut replica).await?;
                }
            }
        }
        if wants("hot row") {
            native::catch_up(&mut source, &mut replica, 1).await?;
            workload.hot(&mut source, size.hot).await?;
            let run = relay.until_idle().await?;
            servers::expect_equal(&mut source, &mut target, "bench").await?;
            peak_mib = peak_mib.max(run.peak_mib);
            let native = native::catch_up(&mut source, &mut replica, 1).await?;
            let speed = |seconds: f64| size.hot as f64 / seconds;
            against("hot row", "native, 1 worker", "rows/s", &[speed(run.seconds)], speed(native));
        }
    }
    if wants("latency") || wants("idle") {
        let running = relay.start()?;
        watch::until_visible(&mut source, &mut target).await?;
        let rates = [(1.0, if size.runs > 1 { 30 } else { 8 }), (100.0, 100)];
        let mut medians = vec![];
        if wants("latency") {
            for (rate, samples) in rates {
                medians.push(watch::latency_ms(&mut source, &mut target, rate, samples).await?);
            }
            against("latency at 1/s", "at 100/s", "ms", &medians[..1], medians[1]);
        }
        if wants("idle") {
            let seconds = if size.runs > 1 { 30 } else { 10 };
            let percent = running.idle_percent(seconds).await?;
            against("idle processor", "bound", "% core", &[percent], IDLE_PERCENT);
        }
        drop(running);
        if wants("latency") {
            native::catch_up(&mut source, &mut replica, 1).await?;
            for ((rate, samples), ours) in rates.into_iter().zip(medians) {
                let native = native::latency_ms(&mut source, &mut replica, rate, samples).await?;
                against(&format!("latency at {rate}/s"), "native, 1 worker", "ms", &[ours], native);
            }
        }
    }
    if peak_mib > 0.0 {
        against("memory, highest", "bound", "MiB", &[peak_mib], MEMORY_MIB);
    }
    if wants("large") {
        let relay = Relay::prepare(&source, &mut target, "large").await?;
        // From where the source is now, with an empty table.
        source.run("delete from bench.product").await?;
        relay.until_idle().await?;
        workload.large(&mut source, size.large).await?;
        let run = relay.until_idle().await?;
        target.expect_rows("large", size.large).await?;
        against("memory, one large transaction", "bound", "MiB", &[run.peak_mib], MEMORY_MIB);
    }
    Ok(())
}
