//! [`Resync`]: sends the current state of entities again, on request, for copies that are new or have lost
//! something.
//!
//! The request is a row of `outbox_resync`, which `outbox-relay resync` writes. The service serves it, since it
//! alone has the model and may read the table: page after page in the order of the primary key, each in one
//! transaction that locks the rows, reads them under the lock and records them as event `current`. So they stand
//! in order with everything that writers record. Copies follow `current`; handlers never see it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
use tokio_util::sync::CancellationToken;

use crate::connection::OutboxConnection;
use crate::connections::Connections;
use crate::error::{Error, ErrorKind, Result};
use crate::message::MessageId;
use crate::retry::RetryPolicy;

pub(crate) mod mark;
mod page;
mod serve;

pub use page::ResyncOn;

/// How often it is said that the service is there.
const OFFER_AGAIN: Duration = Duration::from_secs(60);

/// Serves requests to send the entities of one type again; run one beside the service, in each of its processes
/// if there are several: one of them works at a time, and another goes on where it ends.
///
/// ```no_run
/// # use diesel::prelude::*;
/// # use diesel::r2d2::{ConnectionManager, Pool};
/// # use outbox_core::Outbox;
/// # diesel::table! { product (id) { id -> BigInt, name -> Text, } }
/// # #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// # #[diesel(table_name = product)]
/// # #[outbox(aggregate = "product")]
/// # struct Product { id: i64, name: String }
/// # async fn example(shutdown: tokio_util::sync::CancellationToken) -> outbox_core::Result<()> {
/// use outbox_core::Resync;
///
/// let pool = Pool::new(ConnectionManager::<SqliteConnection>::new("product.db"))?;
/// Resync::<Product>::new(pool).rows_per_second(2000).run(shutdown).await
/// # }
/// ```
///
/// With diesel-async it is made by `Resync::new_async`.
///
/// It can be made to go easy on the database, whose tables it needs:
///
/// ```
/// # use std::time::Duration;
/// # use diesel::prelude::*;
/// # use diesel::r2d2::{ConnectionManager, Pool};
/// # use outbox_core::{ErrorKind, Outbox, Resync};
/// # diesel::table! { product (id) { id -> BigInt, name -> Text, } }
/// # #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// # #[diesel(table_name = product)]
/// # #[outbox(aggregate = "product")]
/// # struct Product { id: i64, name: String }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> outbox_core::Result<()> {
/// let empty = ConnectionManager::<SqliteConnection>::new(":memory:");
/// let resync = Resync::<Product>::new(Pool::builder().max_size(1).build(empty)?)
///     .page(50)
///     .backlog(1000)
///     .poll(Duration::from_secs(10))
///     .lease(Duration::from_secs(60));
/// let shown = format!("{resync:?}");
/// assert!(shown.contains("page: 50") && shown.contains("backlog: 1000"));
/// assert!(shown.contains("poll: 10s") && shown.contains("lease: 60s"));
/// let error = resync.run(Default::default()).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Database);
/// # Ok(())
/// # }
/// ```
pub struct Resync<E> {
    run: Arc<Run>,
    settings: Settings,
    entity: PhantomData<fn() -> E>,
}

/// What is done with one connection of a pool.
type Run = dyn Fn(&Settings, Job) -> Result<Duration> + Send + Sync;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    /// Say that the service is there.
    Offer,
    /// Go on with a request, if there is one.
    Step,
    /// Let another process go on.
    Release,
}

#[derive(Debug, Clone)]
struct Settings {
    owner: String,
    page: usize,
    rows_per_second: u32,
    backlog: i64,
    poll: Duration,
    lease: Duration,
}

impl<E> fmt::Debug for Resync<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resync").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<E> Resync<E> {
    /// Serves requests of the pool's database, once it [runs](Self::run).
    pub fn new<C>(pool: Pool<ConnectionManager<C>>) -> Self
    where
        C: OutboxConnection + R2D2Connection,
        E: ResyncOn<C>,
    {
        Self::over(pool.into())
    }

    pub(crate) fn over<C: OutboxConnection>(connections: Connections<C>) -> Self
    where
        E: ResyncOn<C>,
    {
        let run = move |settings: &Settings, job| {
            let connection: &mut C = &mut *connections.get()?;
            match job {
                Job::Offer => connection.offer_resync(E::AGGREGATE)?,
                Job::Release => connection.release_resync(&settings.owner)?,
                Job::Step => return serve::step::<E, C>(connection, settings),
            }
            Ok(settings.poll)
        };
        let settings = Settings {
            owner: MessageId::now().to_string(),
            page: 200,
            rows_per_second: 0,
            backlog: 10_000,
            poll: Duration::from_secs(2),
            lease: Duration::from_secs(30),
        };
        Self { run: Arc::new(run), settings, entity: PhantomData }
    }

    /// How many rows one transaction locks and records, at least 1. Default 200.
    #[must_use]
    pub fn page(mut self, rows: u16) -> Self {
        self.settings.page = usize::from(rows.max(1));
        self
    }

    /// How many rows a second at most, also where a request asks for more; 0, the default, for no limit.
    #[must_use]
    pub fn rows_per_second(mut self, rows: u32) -> Self {
        self.settings.rows_per_second = rows;
        self
    }

    /// It waits while the outbox holds more rows than this, so that it does not drive the backlog. Default 10 000.
    #[must_use]
    pub fn backlog(mut self, rows: u32) -> Self {
        self.settings.backlog = rows.into();
        self
    }

    /// How often it looks for requests. Default 2 s.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.settings.poll = every;
        self
    }

    /// How long another process waits for this one before it goes on with its request, by the database's clock;
    /// longer than any of its transactions. Default 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Serves requests until `shutdown`, on a blocking thread for each step. Outages are waited out; a request that
    /// cannot be served is marked as failed, with the reason.
    ///
    /// # Errors
    /// At start only: `Database` when the tables are missing.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Self { run, settings, .. } = self;
        let settings = Arc::new(settings);
        let blocking = |job| {
            let (run, settings) = (Arc::clone(&run), Arc::clone(&settings));
            let work = tokio::task::spawn_blocking(move || run(&settings, job));
            async move {
                work.await.unwrap_or_else(|e| Err(Error::with_source(ErrorKind::Application, "resyncing", e)))
            }
        };
        let mut waits = RetryPolicy::default().waits();
        let mut offered: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            let job =
                if offered.is_none_or(|at| at.elapsed() >= OFFER_AGAIN) { Job::Offer } else { Job::Step };
            let wait = match blocking(job).await {
                Ok(wait) => {
                    waits.reset();
                    if job == Job::Offer {
                        offered = Some(Instant::now());
                        continue;
                    }
                    wait
                }
                Err(error) if offered.is_none() && !error.is_outage() => {
                    let help = "serving resyncs needs tables outbox_resync and outbox_resync_service; run \
                                `outbox-relay migrate`";
                    return Err(error.context(help));
                }
                Err(error) => {
                    tracing::warn!(%error, "resyncing is interrupted, trying again");
                    waits.next_wait()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        if offered.is_some() {
            // Without it another process waits for the end of the lease.
            let _ = blocking(Job::Release).await;
        }
        Ok(())
    }
}
