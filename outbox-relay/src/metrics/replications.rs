//! The Prometheus form of what replications report.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::replication::status::{CopyStatus, Snapshot, Status};

#[derive(Debug)]
pub(super) struct Replications(Vec<Snapshot>);

impl Replications {
    pub(super) fn of(statuses: &[Status]) -> Self {
        Self(statuses.iter().map(Status::snapshot).collect())
    }
}

type Read<F, T> = fn(&F) -> T;
/// Name, help, unit, and how it is read.
type Gauge = (&'static str, &'static str, Option<Unit>, Read<Snapshot, f64>);

const COUNTERS: &[(&str, &str, Read<Snapshot, u64>)] = &[
    ("replication_transactions", "Source transactions taken in", |s| s.progress.transactions),
    ("replication_commits", "Target transactions", |s| s.progress.commits),
    ("replication_upserted", "Rows inserted or updated in copies", |s| s.progress.upserted),
    ("replication_deleted", "Rows deleted from copies", |s| s.progress.deleted),
];

const GAUGES: &[Gauge] = &[
    ("replication_up", "1 while the replication works as it should, a standby too", None, |s| {
        f64::from(u8::from(s.state.is_ready()))
    }),
    ("replication_lag", "How far the copies are behind the source, by its clock", Some(Unit::Seconds), |s| {
        s.progress.lag_seconds
    }),
    (
        "replication_lineage_proven",
        "0 when the source could not be proved to be the one read before",
        None,
        |s| f64::from(u8::from(s.progress.lineage_proven)),
    ),
];

const OF_COPIES: &[(&str, &str, Read<CopyStatus, f64>)] = &[
    ("copy_ready", "1 while the copy is complete and followed", |c| f64::from(u8::from(c.state == "ready"))),
    ("copy_held", "1 while the copy is held until somebody has done something", |c| {
        f64::from(u8::from(c.state == "held"))
    }),
    ("copy_rows_copied", "Rows copied by the snapshot under way or done", |c| c.rows_copied as f64),
    ("copy_rows_estimated", "Rows to copy in all, as the source estimates", |c| c.rows_estimated as f64),
    ("copy_rows_set_aside", "Rows set aside", |c| c.set_aside as f64),
];

impl Collector for Replications {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, read) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for snapshot in &self.0 {
                let labels = [("replication", snapshot.replication.as_str())];
                ConstCounter::new(read(snapshot)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, unit, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for snapshot in &self.0 {
                let labels = [("replication", snapshot.replication.as_str())];
                ConstGauge::new(read(snapshot)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, read) in OF_COPIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for Snapshot { replication, progress, .. } in &self.0 {
                for copy in &progress.copies {
                    let labels = [("replication", replication.as_str()), ("copy", copy.copy.as_str())];
                    ConstGauge::new(read(copy)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replication_is_shown_with_its_copies() {
        let shown = crate::status::Shown { replications: vec![Status::new("order")], ..Default::default() };
        let text = crate::metrics::text(&shown).unwrap();
        for line in [
            "outbox_relay_replication_commits_total{replication=\"order\"} 0",
            "outbox_relay_replication_up{replication=\"order\"} 0.0",
            "# UNIT outbox_relay_replication_lag_seconds seconds",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
