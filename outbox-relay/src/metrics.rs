//! The Prometheus form of what the pipes report: written anew from their snapshots for each scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

#[cfg(all(test, feature = "binlog"))]
mod packaging;
#[cfg(feature = "binlog")]
mod replications;

use crate::bell::BellState;
use crate::status::{BucketBacklog, Shown, Snapshot, State, Status};
use crate::subscribers::{AppliedReport, SubscriberReport};

/// All metrics in the text form of OpenMetrics.
///
/// # Errors
/// Never in practice: writing to a text does not fail.
pub fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("outbox_relay");
    let snapshots = shown.outboxes.iter().map(Status::snapshot).collect();
    registry.register_collector(Box::new(Pipes { snapshots }));
    let subscribers = shown.subscribers.reports();
    if !subscribers.is_empty() {
        registry.register_collector(Box::new(Subscribers(subscribers)));
    }
    #[cfg(feature = "rabbitmq")]
    registry.register_collector(Box::new(Left(shown.leftovers.clone())));
    #[cfg(feature = "binlog")]
    registry.register_collector(Box::new(replications::Replications::of(&shown.replications)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Pipes {
    snapshots: Vec<Snapshot>,
}

type Read<T> = fn(&Snapshot) -> T;

const COUNTERS: &[(&str, &str, Read<u64>)] = &[
    ("sent", "Messages handed to the broker, those included that were handed to it again", |s| s.sent),
    ("published", "Messages that the broker confirmed", |s| s.published),
    ("returned", "Messages that no queue wanted and that were therefore refused", |s| s.returned),
    ("refused", "Messages that were refused or could not be encoded", |s| s.refused),
    ("retries", "Refused messages that are tried again; the others were parked", |s| s.retries),
    ("settled", "Rows deleted after their confirmation", |s| s.settled),
    ("batches", "Batches delivered", |s| s.batches),
    ("queries", "Statements run on the outbox's database", |s| s.queries),
    ("rings", "Commits told by the doorbell, in tail mode", |s| s.rings),
];

/// How much a second: a unit that the library does not know.
const PER_SECOND: &str = "per_second";
const SECONDS: &str = "seconds";

const GAUGES: &[(&str, &str, Option<&str>, Read<f64>)] = &[
    ("up", "1 while the pipe runs, 0 while it is paused, starting or stopped", None, |s| {
        f64::from(u8::from(s.state == State::Running))
    }),
    (
        "stopped",
        "1 while the outbox does not fit, so that its pipe does not run until somebody mends it",
        None,
        |s| f64::from(u8::from(s.state == State::Stopped)),
    ),
    ("bell_up", "1 while the doorbell tells of commits, 0 while it is silent and in poll mode", None, |s| {
        f64::from(u8::from(s.bell == BellState::Heard))
    }),
    ("state_age", "How long the pipe has been in its state", Some(SECONDS), |s| s.state_seconds as f64),
    ("buckets_held", "Buckets that this relay holds, of 64", None, |s| s.held.len() as f64),
    ("in_flight", "Messages on their way to the broker, not confirmed yet", None, |s| s.in_flight as f64),
    ("keys_waiting", "Keys that wait for another attempt", None, |s| s.waiting_keys as f64),
    ("keys_parked", "Keys that are parked until somebody replays or discards them", None, |s| {
        s.parked_keys as f64
    }),
    ("backlog_rows_max", "At most so many rows wait, by first and last id", None, |s| {
        s.backlog.rows_at_most as f64
    }),
    ("backlog_age", "Age of the first row, by the database's clock", Some(SECONDS), |s| {
        s.backlog.oldest_seconds
    }),
    ("sent", "Messages handed to the broker, over the last ten seconds", Some(PER_SECOND), |s| {
        s.rates.sent_per_second
    }),
    ("published", "Messages that the broker confirmed, over the last ten seconds", Some(PER_SECOND), |s| {
        s.rates.published_per_second
    }),
    ("settled", "Rows deleted after their confirmation, over the last ten seconds", Some(PER_SECOND), |s| {
        s.rates.settled_per_second
    }),
];

type ReadBucket = fn(&BucketBacklog) -> f64;

/// Of the buckets that the relay holds; others' relays tell of theirs.
const OF_BUCKETS: &[(&str, &str, Option<&str>, ReadBucket)] = &[
    ("bucket_backlog_rows", "Rows that wait in a bucket, counted up to 1000", None, |b| b.rows as f64),
    ("bucket_backlog_age", "Age of a bucket's first row, by the database's clock", Some(SECONDS), |b| {
        b.oldest_seconds
    }),
];

fn unit(name: Option<&str>) -> Option<Unit> {
    name.map(|name| Unit::Other(name.to_owned()))
}

impl Collector for Pipes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, read) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for snapshot in &self.snapshots {
                let labels = [("outbox", snapshot.name.as_str())];
                ConstCounter::new(read(snapshot)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, of, read) in GAUGES {
            let of = unit(*of);
            let mut family = encoder.encode_descriptor(name, help, of.as_ref(), MetricType::Gauge)?;
            for snapshot in &self.snapshots {
                let labels = [("outbox", snapshot.name.as_str())];
                ConstGauge::new(read(snapshot)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, of, read) in OF_BUCKETS {
            let of = unit(*of);
            let mut family = encoder.encode_descriptor(name, help, of.as_ref(), MetricType::Gauge)?;
            for snapshot in &self.snapshots {
                for bucket in &snapshot.buckets {
                    let number = format!("{:02}", bucket.bucket);
                    let labels = [("outbox", snapshot.name.as_str()), ("bucket", number.as_str())];
                    ConstGauge::new(read(bucket)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let help = "From the recording of a message to the broker's confirmation, by the relay's clock";
        let seconds = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("latency", help, seconds, MetricType::Histogram)?;
        for Snapshot { name, latency, .. } in &self.snapshots {
            let steps: Vec<_> =
                latency.steps.iter().map(|(end, count)| (end.unwrap_or(f64::INFINITY), *count)).collect();
            let labels = [("outbox", name.as_str())];
            let mut histogram = family.encode_family(&labels)?;
            histogram.encode_histogram::<prometheus_client::encoding::NoLabelSet>(
                latency.sum_seconds,
                latency.count,
                &steps,
                None,
            )?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Subscribers(Vec<SubscriberReport>);

type ReadSubscriber = fn(&SubscriberReport) -> Option<f64>;

/// Without a value while the database cannot be read, or nothing was applied yet.
const OF_SUBSCRIBERS: &[(&str, &str, Option<Unit>, ReadSubscriber)] = &[
    ("subscriber_up", "1 while the subscriber's database can be read and it is not paused", None, |s| {
        Some(f64::from(u8::from(s.error.is_none() && s.paused.is_none())))
    }),
    ("subscriber_dead", "Messages set aside until somebody decides", None, |s| read(s, s.dead as f64)),
    ("subscriber_retrying", "Messages that are tried again after a while", None, |s| {
        read(s, s.retrying as f64)
    }),
    ("subscriber_waiting", "Messages that wait behind an earlier one of their key", None, |s| {
        read(s, s.waiting as f64)
    }),
    ("subscriber_inbox_rows", "About how many rows the inbox of the database has", None, |s| {
        read(s, s.inbox_rows as f64)
    }),
    ("subscriber_resync_buckets", "Buckets of copies in which a resync is under way", None, |s| {
        read(s, s.resyncing.iter().map(|copy| copy.buckets as f64).sum())
    }),
    (
        "subscriber_applied_age",
        "Since when nothing was applied, by the clock of the subscriber's database",
        Some(Unit::Seconds),
        |s| s.applied.iter().map(|applied| applied.applied_seconds).reduce(f64::min),
    ),
    (
        "subscriber_lag",
        "How long after its recording the last message was applied, the longest of all queues in use",
        Some(Unit::Seconds),
        |s| in_use(&s.applied).map(|applied| applied.lag_seconds).reduce(f64::max),
    ),
];

/// Without a value while the broker cannot be asked, or where there is no such queue.
#[cfg(feature = "rabbitmq")]
#[derive(Debug)]
struct Left(crate::leftovers::Leftovers);

#[cfg(feature = "rabbitmq")]
impl Collector for Left {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (exchange, counts) = self.0.seen();
        let labels = [("exchange", exchange.as_str())];
        for (name, help, count) in [
            ("broker_unrouted", "Messages in the broker that no queue was bound for", counts.unrouted),
            (
                "broker_dead",
                "Messages in the broker that a subscriber got again and again and never acknowledged",
                counts.dead,
            ),
        ] {
            let Some(count) = count else { continue };
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(count as f64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// What has applied nothing for so long when other queues have is left over from an earlier number of queues.
const LEFT_OVER_SECONDS: f64 = 3600.0;

fn in_use(applied: &[AppliedReport]) -> impl Iterator<Item = &AppliedReport> {
    let newest = applied.iter().map(|applied| applied.applied_seconds).reduce(f64::min);
    applied
        .iter()
        .filter(move |one| newest.is_some_and(|newest| one.applied_seconds <= newest + LEFT_OVER_SECONDS))
}

fn read(report: &SubscriberReport, value: f64) -> Option<f64> {
    report.error.is_none().then_some(value)
}

impl Collector for Subscribers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, unit, value) in OF_SUBSCRIBERS {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for report in &self.0 {
                let Some(value) = value(report) else { continue };
                let labels = [("subscriber", report.subscriber.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let (name, seconds) = ("subscriber_queue_applied_age", Some(&Unit::Seconds));
        let help =
            "Since when nothing was applied from a queue: one that stands still among others that move";
        let mut family = encoder.encode_descriptor(name, help, seconds, MetricType::Gauge)?;
        for report in &self.0 {
            for AppliedReport { source, queue, applied_seconds, .. } in &report.applied {
                let queue = queue.to_string();
                let labels = [
                    ("subscriber", report.subscriber.as_str()),
                    ("source", source.as_str()),
                    ("queue", queue.as_str()),
                ];
                ConstGauge::new(*applied_seconds).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::status::Backlog;
    use crate::subscribers::Watched;

    /// What a relay prints that has two outboxes, a subscriber and a replication.
    pub(super) fn full_text() -> String {
        let status = Status::new("product");
        status.add_published(3);
        let bucket = BucketBacklog { bucket: 7, rows: 12, oldest_seconds: 1.5 };
        status.set_backlog(Backlog { rows_at_most: 12, oldest_seconds: 1.5 }, vec![bucket]);
        status.observe_latency(Duration::from_millis(4));
        let applied = |queue, applied_seconds, lag_seconds| AppliedReport {
            source: "product".into(),
            queue,
            generation: 1,
            id: 7,
            applied_seconds,
            lag_seconds,
        };
        // The last queue is left over from when there were three.
        let applied = vec![applied(0, 2.0, 0.5), applied(1, 60.0, 1.5), applied(2, 90_000.0, 300.0)];
        let subscriber =
            SubscriberReport { subscriber: "order".into(), dead: 2, applied, ..SubscriberReport::default() };
        let shown = Shown {
            outboxes: vec![status, Status::new("order")],
            subscribers: Watched::of(vec![subscriber]),
            #[cfg(feature = "rabbitmq")]
            leftovers: crate::leftovers::Leftovers::of(
                "outbox",
                outbox_core::broker::rabbitmq::LeftoverCounts { unrouted: Some(2), dead: Some(0) },
            ),
            #[cfg(feature = "binlog")]
            replications: vec![crate::replication::status::Status::new("order")],
        };
        text(&shown).unwrap()
    }

    #[test]
    fn metrics_have_help_units_and_labels() {
        let text = full_text();
        for line in [
            "# HELP outbox_relay_published Messages that the broker confirmed",
            "outbox_relay_published_total{outbox=\"product\"} 3",
            "outbox_relay_published_total{outbox=\"order\"} 0",
            "# UNIT outbox_relay_backlog_age_seconds seconds",
            "# UNIT outbox_relay_published_per_second per_second",
            "outbox_relay_published_per_second{outbox=\"product\"} 0.0",
            "outbox_relay_sent_total{outbox=\"product\"} 0",
            "outbox_relay_bucket_backlog_rows{outbox=\"product\",bucket=\"07\"} 12.0",
            "outbox_relay_bucket_backlog_age_seconds{outbox=\"product\",bucket=\"07\"} 1.5",
            "outbox_relay_up{outbox=\"product\"} 0.0",
            "outbox_relay_stopped{outbox=\"product\"} 0.0",
            "outbox_relay_subscriber_up{subscriber=\"order\"} 1.0",
            "outbox_relay_subscriber_dead{subscriber=\"order\"} 2.0",
            "outbox_relay_subscriber_lag_seconds{subscriber=\"order\"} 1.5",
            "outbox_relay_subscriber_queue_applied_age_seconds{subscriber=\"order\",source=\"product\",queue=\"1\"} 60.0",
            "outbox_relay_in_flight{outbox=\"product\"} 0.0",
            #[cfg(feature = "rabbitmq")]
            "outbox_relay_broker_unrouted{exchange=\"outbox\"} 2.0",
            #[cfg(feature = "rabbitmq")]
            "outbox_relay_broker_dead{exchange=\"outbox\"} 0.0",
            "outbox_relay_bell_up{outbox=\"product\"} 0.0",
            "outbox_relay_latency_seconds_bucket{le=\"0.002\",outbox=\"product\"} 0",
            "outbox_relay_latency_seconds_bucket{le=\"0.005\",outbox=\"product\"} 1",
            "outbox_relay_latency_seconds_bucket{le=\"+Inf\",outbox=\"product\"} 1",
            "outbox_relay_latency_seconds_count{outbox=\"product\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
