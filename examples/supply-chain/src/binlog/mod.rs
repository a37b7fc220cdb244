//! The story in binlog mode: the product service writes plain tables and knows of nobody; the relay reads the
//! database's log and keeps copies of product, category, batch and warranty in the other services' databases.

mod relay;
mod report;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use outbox_core::{Error, Result};
use rand::RngExt;

pub(crate) use self::relay::play;
pub(crate) use self::report::Report;

use self::relay::Relay;
use self::service::PlainService;
use crate::changes::{Generator, Step};
use crate::cli::Options;
use crate::database::{Database, Service};
use crate::servers::Place;
use crate::story::{CRASH_SECONDS, Pools, Progress};

type Connection = diesel::MysqlConnection;

/// The kills of a story with crashes, however short the writing is.
const KILLS_MIN: u32 = 4;

/// Tells the story; the copies in the report are compared.
///
/// # Errors
/// As the servers and the relay say.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let place = Place::prepare(&options.database)?;
    if !options.json {
        println!("databases: {}", place.describe());
        println!("relay:     reads the binary log{}", if options.crash { ", as a process" } else { "" });
    }
    let report = tell(options, &place).await;
    if options.keep {
        println!("kept: {}", place.urls().join(" "));
        place.keep();
    }
    report
}

async fn tell(options: &Options, place: &Place) -> Result<Report> {
    let pools = Pools::<Connection>::open(place.urls())?;
    create_tables(&pools)?;
    let progress = Progress::new(options.changes, options.json);
    let started = Instant::now();
    let writing = write_on_thread(options, &pools, progress.clone());
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = watch_on_thread(pools.order.clone(), Arc::clone(&is_over));
    // The relay comes later than the first rows, which it copies while more are being written.
    let mut relay = Relay::new(place, options.crash)?;
    relay.start().await?;
    let kills = if options.crash { kill_around(&mut relay, &writing, options.seed).await? } else { 0 };
    let written = writing.await.unwrap_or_else(|e| Err(Error::application(e)));
    let written = written.map_err(|e| e.context("the product service stopped writing"));
    let ended = relay.finish().await;
    let written = written?;
    ended?;
    progress.done();
    let seconds = started.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    let watched = watching.await.unwrap_or_else(|e| Err(Error::application(e)))?;
    let numbers = report::Numbers { written, kills, seconds, watched };
    tokio::task::spawn_blocking(move || Report::read(&pools, numbers))
        .await
        .unwrap_or_else(|e| Err(Error::application(e)))
}

/// Each service's own tables, and beside the copies those of the relay.
fn create_tables(pools: &Pools<Connection>) -> Result<()> {
    for service in Service::ALL {
        let own = match service {
            Service::Product => include_str!("../../sql/product.binlog.sql"),
            Service::Order => include_str!("../../sql/order.binlog.sql"),
            Service::Purchase => include_str!("../../sql/purchase.binlog.sql"),
        };
        let mut connection = pools.of(service).get()?;
        let made = connection.batch_execute(own).map_err(Error::from);
        made.map_err(|e| {
            e.context(format!("making the tables of {} (they need an empty database)", service.name()))
        })?;
        if service != Service::Product {
            outbox_core::migrate::run(&mut *connection, &outbox_core::migrate::REPLICA)?;
        }
    }
    Ok(())
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    transactions: u64,
    changes: u64,
}

/// The three services write: products, and lines that refer to them.
fn write_on_thread(
    options: &Options,
    pools: &Pools<Connection>,
    progress: Progress,
) -> tokio::task::JoinHandle<Result<Written>> {
    let (seed, changes) = (options.seed, options.changes);
    let pause = options.crash.then(|| Duration::from_micros(CRASH_SECONDS * 1_000_000 / changes.max(1)));
    let pools = pools.clone();
    tokio::task::spawn_blocking(move || {
        let (mut product, mut order, mut purchase) =
            (pools.product.get()?, pools.order.get()?, pools.purchase.get()?);
        let mut service = PlainService::default();
        let mut generator = Generator::new(seed);
        while service.changes < changes {
            match generator.step(service.len()) {
                Step::Products(mut batch) => {
                    let left = usize::try_from(changes - service.changes).unwrap_or(usize::MAX);
                    batch.truncate(left);
                    service.write(&mut product, &batch)?;
                    std::thread::sleep(pause.unwrap_or_default() * u32::try_from(batch.len()).unwrap_or(1));
                }
                Step::Order(subject, quantity) => {
                    if let Some(id) = service.id(subject) {
                        order.add_order_line(id, quantity)?;
                    }
                }
                Step::Purchase(subject, quantity) => {
                    if let Some(id) = service.id(subject) {
                        purchase.add_purchase_line(id, quantity)?;
                    }
                }
            }
            progress.written(service.changes);
        }
        Ok(Written { transactions: service.transactions, changes: service.changes })
    })
}

/// What a reader of the copies saw while they were being written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Watched {
    /// How often it looked once the copies were ready.
    looks: u64,
    /// How often they did not fit together.
    torn: u64,
}

#[derive(diesel::QueryableByName)]
struct Seen {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    unready: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    products: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    by_category: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    by_warranty: i64,
}

/// Reads the copies in order's database again and again: whole transactions only, or the sums differ.
fn watch_on_thread(
    order: Pool<ConnectionManager<Connection>>,
    is_over: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Result<Watched>> {
    const LOOK: &str = "select \
        cast((select 3 - count(*) from outbox_freshness where ready) as signed) as unready, \
        (select count(*) from product_copy) as products, \
        cast((select coalesce(sum(products), 0) from category) as signed) as by_category, \
        cast((select coalesce(sum(products), 0) from warranty) as signed) as by_warranty";
    tokio::task::spawn_blocking(move || {
        let mut connection = order.get()?;
        let mut watched = Watched::default();
        loop {
            let last = is_over.load(Ordering::Relaxed);
            // The tables of the relay's making may not be there yet.
            let seen = diesel::sql_query(LOOK).get_result::<Seen>(&mut connection);
            if let Some(seen) = seen.ok().filter(|seen| seen.unready == 0) {
                watched.looks += 1;
                watched.torn +=
                    u64::from(seen.products != seen.by_category || seen.products != seen.by_warranty);
            }
            if last {
                return Ok(watched);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    })
}

/// Kills the relay at random moments while the writer is at it; how often.
async fn kill_around<T>(relay: &mut Relay, writing: &tokio::task::JoinHandle<T>, seed: u64) -> Result<u32> {
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut kills = 0;
    while !writing.is_finished() || kills < KILLS_MIN {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
        relay.kill().await;
        relay.start().await?;
        kills += 1;
    }
    Ok(kills)
}
