//! The story itself: start everybody, write, (kill,) wait until all is applied, compare.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use diesel::r2d2::{ConnectionManager, Pool};
use indicatif::{ProgressBar, ProgressStyle};
use outbox_core::{Error, Result};
use rand::RngExt;

use crate::changes::{Generator, Step};
use crate::cli::{Options, Role};
use crate::database::{Database, Service};
use crate::product::{ProductService, Written};
use crate::report::{Counts, Report};

/// Nothing applied for so long means that it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// With `--crash` the writing is stretched over this time, so that the kills fall into it.
pub(crate) const CRASH_SECONDS: u64 = 6;

/// One pool of connections per service.
pub(crate) struct Pools<C: Database> {
    pub(crate) product: Pool<ConnectionManager<C>>,
    pub(crate) order: Pool<ConnectionManager<C>>,
    pub(crate) purchase: Pool<ConnectionManager<C>>,
}

impl<C: Database> Clone for Pools<C> {
    fn clone(&self) -> Self {
        Self { product: self.product.clone(), order: self.order.clone(), purchase: self.purchase.clone() }
    }
}

impl<C: Database> Pools<C> {
    /// Opens the three databases, in the order of [`Service::ALL`].
    pub(crate) fn open([product, order, purchase]: &[String; 3]) -> Result<Self> {
        Ok(Self { product: C::pool(product)?, order: C::pool(order)?, purchase: C::pool(purchase)? })
    }

    /// The pool of a service.
    pub(crate) fn of(&self, service: Service) -> &Pool<ConnectionManager<C>> {
        match service {
            Service::Product => &self.product,
            Service::Order => &self.order,
            Service::Purchase => &self.purchase,
        }
    }
}

/// The relay and the subscribers, as tasks or as processes.
pub(crate) trait Parts {
    /// Starts a part; returns when its queues are declared.
    async fn start(&mut self, role: Role) -> Result<()>;
    /// Ends a part without letting it finish anything.
    async fn kill(&mut self, role: Role);
    /// Ends all in good order and adds up what they counted.
    async fn finish(self) -> Result<Counts>;
}

/// Tells the story on these databases.
pub(crate) async fn tell<C: Database>(
    options: &Options,
    pools: Pools<C>,
    mut parts: impl Parts,
) -> Result<Report> {
    for service in Service::ALL {
        pools.of(service).get()?.create_tables(service).map_err(|e| {
            e.context(format!("making the tables of {} (they need an empty database)", service.name()))
        })?;
    }
    // Subscribers first: a message that no queue wants yet would only be kept aside.
    for role in [Role::Order, Role::OrderToo, Role::Purchase, Role::Relay] {
        parts.start(role).await?;
    }

    let progress = Progress::new(options.changes, options.json);
    let started = Instant::now();
    let writing = write_on_thread(options, &pools, progress.clone());
    let kills = if options.crash { kill_around(&mut parts, &writing, options.seed).await? } else { 0 };
    let written = writing
        .await
        .unwrap_or_else(|e| Err(Error::application(e)))
        .map_err(|e| e.context("the product service stopped writing"))?;
    wait_until_applied(&pools, written, &progress).await?;
    let seconds = started.elapsed().as_secs_f64();
    let counts = parts.finish().await?;
    Report::read(&pools, written, counts, kills, seconds)
}

/// The three services write: products with their messages, and lines that refer to them.
fn write_on_thread<C: Database>(
    options: &Options,
    pools: &Pools<C>,
    progress: Progress,
) -> tokio::task::JoinHandle<Result<Written>> {
    let (seed, changes) = (options.seed, options.changes);
    let pause = options.crash.then(|| Duration::from_micros(CRASH_SECONDS * 1_000_000 / changes.max(1)));
    let pools = pools.clone();
    tokio::task::spawn_blocking(move || {
        let (mut product, mut order, mut purchase) =
            (pools.product.get()?, pools.order.get()?, pools.purchase.get()?);
        let mut service = ProductService::default();
        let mut generator = Generator::new(seed);
        while service.written.changes < changes {
            match generator.step(service.len()) {
                Step::Products(mut batch) => {
                    let left = usize::try_from(changes - service.written.changes).unwrap_or(usize::MAX);
                    batch.truncate(left);
                    product.write(&mut service, &batch)?;
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
            progress.written(service.written.changes);
        }
        Ok(service.written)
    })
}

/// Kills parts at random moments while the writer is at it; how often.
async fn kill_around<T>(
    parts: &mut impl Parts,
    writing: &tokio::task::JoinHandle<T>,
    seed: u64,
) -> Result<u32> {
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut kills = 0;
    // Each part at least once, however short the writing is.
    while !writing.is_finished() || (kills as usize) < Role::ALL.len() {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
        let role = Role::ALL[kills as usize % Role::ALL.len()];
        parts.kill(role).await;
        parts.start(role).await?;
        kills += 1;
    }
    Ok(kills)
}

/// Waits until the outbox is empty and every message is in the inbox of each subscriber that wants it.
async fn wait_until_applied<C: Database>(
    pools: &Pools<C>,
    written: Written,
    progress: &Progress,
) -> Result<()> {
    let expected = [
        i64::try_from(written.changes + written.events).unwrap_or(i64::MAX),
        i64::try_from(written.changes).unwrap_or(i64::MAX),
    ];
    progress.applying(expected.iter().sum());
    let (mut last, mut since) = ([0, 0], Instant::now());
    loop {
        let pools = pools.clone();
        let (pending, applied, held) = tokio::task::spawn_blocking(move || {
            let (mut order, mut purchase) = (pools.order.get()?, pools.purchase.get()?);
            let mut held = order.held_errors()?;
            held.extend(purchase.held_errors()?);
            Ok::<_, Error>((
                pools.product.get()?.outbox_rows()?,
                [order.inbox_rows()?, purchase.inbox_rows()?],
                held,
            ))
        })
        .await
        .unwrap_or_else(|e| Err(Error::application(e)))?;
        progress.applied(applied.iter().sum());
        if let Some(error) = held.first() {
            return Err(Error::application(format!("a message was set aside: {error}")));
        }
        if pending == 0 && applied == expected {
            progress.done();
            return Ok(());
        }
        if applied != last {
            (last, since) = (applied, Instant::now());
        }
        if since.elapsed() > STUCK_AFTER {
            return Err(Error::application(format!(
                "stuck: {pending} messages in the outbox, applied {applied:?} of {expected:?} in order and purchase"
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A bar on a terminal, a line at each quarter elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(changes: u64, quiet: bool) -> Self {
        let bar = if quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(changes)
        };
        bar.set_length(changes);
        if !quiet && bar.is_hidden() {
            eprintln!("writing {changes} changes …");
        }
        // The template is a constant that indicatif accepts; a plain bar is shown otherwise.
        if let Ok(style) = ProgressStyle::with_template("{msg:9} {bar:40} {pos:>7}/{len} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message("writing");
        Self(bar)
    }

    pub(crate) fn written(&self, changes: u64) {
        self.0.set_position(changes);
    }

    fn applying(&self, messages: i64) {
        self.0.set_message("applying");
        self.0.set_length(messages.unsigned_abs());
    }

    fn applied(&self, messages: i64) {
        self.0.set_position(messages.unsigned_abs());
    }

    pub(crate) fn done(&self) {
        self.0.finish_and_clear();
    }
}
