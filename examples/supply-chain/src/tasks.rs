//! Relay and subscribers as tasks of this process; killed, they end at whatever await point they are.

use std::time::Duration;

use outbox_core::broker::Broker;
use outbox_core::{Error, Result, Subscriber, SubscriberStats};
use outbox_relay::{OutboxConfig, Relay, Status, Unrouted};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::Role;
use crate::database::{Database, Service};
use crate::report::Counts;
use crate::servers::{Names, Place};
use crate::story::{Parts, Pools};

/// The tasks, with what each incarnation of them counted.
pub(crate) struct Tasks<C: Database, B> {
    broker: B,
    names: Names,
    pools: Pools<C>,
    relay: OutboxConfig,
    shutdown: CancellationToken,
    running: [Option<JoinHandle<Result<()>>>; Role::ALL.len()],
    stats: Vec<SubscriberStats>,
    relays: Vec<Status>,
}

/// The relay's configuration for this story; with crashes ahead a dead one is noticed sooner.
pub(crate) fn relay_config(place: &Place, crash: bool) -> OutboxConfig {
    let mut config = OutboxConfig::new(Service::Product.name(), place.url(Service::Product));
    if crash {
        config.lease = Duration::from_secs(1).into();
    }
    config
}

impl<C: Database, B: Broker> Tasks<C, B> {
    pub(crate) fn new(place: &Place, pools: &Pools<C>, broker: B, names: Names, crash: bool) -> Self {
        Self {
            broker,
            names,
            pools: pools.clone(),
            relay: relay_config(place, crash),
            shutdown: CancellationToken::new(),
            running: [const { None }; Role::ALL.len()],
            stats: Vec::new(),
            relays: Vec::new(),
        }
    }

    async fn start_subscriber(&mut self, subscriber: Subscriber<B, C>) -> Result<JoinHandle<Result<()>>> {
        subscriber.declare().await?;
        self.stats.push(subscriber.stats());
        Ok(tokio::spawn(subscriber.run(self.shutdown.clone())))
    }
}

impl<C: Database, B: Broker> Parts for Tasks<C, B> {
    async fn start(&mut self, role: Role) -> Result<()> {
        let (broker, pool) = (self.broker.clone(), self.pools.of(role.service()).clone());
        let name = self.names.subscriber(role.service());
        let task = match role {
            Role::Order | Role::OrderToo => {
                self.start_subscriber(C::order_subscriber(name, broker, pool)).await?
            }
            Role::Purchase => self.start_subscriber(C::purchase_subscriber(name, broker, pool)).await?,
            Role::Relay => {
                let relay = Relay::new([self.relay.clone()], broker, Unrouted::Queue)?;
                self.relays.extend(relay.statuses());
                tokio::spawn(relay.run(self.shutdown.clone()))
            }
        };
        self.running[role as usize] = Some(task);
        Ok(())
    }

    async fn kill(&mut self, role: Role) {
        if let Some(task) = self.running[role as usize].take() {
            task.abort();
            // Cancelled is what was asked for; its own end just before is as good.
            let _ = task.await;
        }
    }

    async fn finish(mut self) -> Result<Counts> {
        self.shutdown.cancel();
        for task in self.running.iter_mut().filter_map(Option::take) {
            task.await.unwrap_or_else(|e| Err(Error::application(e)))?;
        }
        let published = self.relays.iter().map(|relay| relay.snapshot().published).sum();
        let mut counts = Counts { published, ..Counts::default() };
        for stats in &self.stats {
            counts += subscriber_counts(stats);
        }
        Ok(counts)
    }
}

/// A subscriber's counters in this story's form.
pub(crate) fn subscriber_counts(stats: &SubscriberStats) -> Counts {
    Counts {
        published: 0,
        applied: stats.applied(),
        duplicates: stats.duplicates(),
        set_aside: stats.set_aside(),
    }
}
