//! What keeps a table quick that is mostly empty and never rests: vacuum and purge, statistics, and nobody who
//! holds them back.

use super::{About, Level, ask};
use crate::outbox::store::{Kind, Question, Store};

/// What the migration sets: vacuum by count, since a share of a table that is mostly empty means nothing.
const VACUUM_BY_COUNT: &str =
    "alter table outbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);";
/// Dead rows that a healthy autovacuum never lets gather: ten times its threshold.
const DEAD_MAX: i64 = 100_000;
/// Fewer rows than this are read quickly with any plan.
const ROWS_MIN: i64 = 10_000;

pub(super) async fn check(store: &mut Store, about: &mut About) {
    let kind = store.database().kind();
    let found = ask(store, Question::Upkeep, about).await;
    for (name, value) in &found {
        if let Some(table) = name.strip_prefix("engine ") {
            about.bad(
                format!("{table} is of engine {value}, which knows no transactions"),
                format!("alter table {table} engine = InnoDB;"),
            );
        }
    }
    if found.iter().any(|(name, value)| name == "autoincrement" && value == "0") {
        about.bad(
            "outbox.id is not AUTOINCREMENT: an emptied table starts at 1 again, copies take new changes for old",
            "create the table anew with `outbox-relay migrate`",
        );
    }
    if kind == Kind::Postgres {
        check_vacuum(&found, about);
    }
    // MySQL and MariaDB show them to PROCESS only.
    let Ok(open) = store.ask(Question::Transactions).await else {
        about.add(Level::Note, "long transactions are not looked at: the user lacks PROCESS", None);
        return;
    };
    for row in open {
        about.warn(
            format!(
                "transaction {} is open for {} s: rows deleted since then stay, and reading outbox gets slower",
                row.name, row.value
            ),
            if kind == Kind::Postgres {
                format!("select pg_terminate_backend({});", row.name)
            } else {
                format!("kill {};", row.name)
            },
        );
    }
}

fn check_vacuum(found: &[(String, String)], about: &mut About) {
    let text = |wanted: &str| found.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let number = |wanted: &str| text(wanted).and_then(|value| value.parse::<i64>().ok()).unwrap_or_default();
    let Some(options) = text("reloptions") else { return };
    if ["autovacuum_enabled=false", "autovacuum_enabled=off"].iter().any(|off| options.contains(off)) {
        about.warn(
            "autovacuum is off for outbox: it grows, and reading its start gets slower",
            "alter table outbox reset (autovacuum_enabled);",
        );
    }
    if !options.contains("autovacuum_vacuum_scale_factor=0") {
        about.warn("outbox is vacuumed by a share of its rows, not by their count", VACUUM_BY_COUNT);
    }
    let (live, dead, planned) = (number("live"), number("dead"), number("planned"));
    if dead > DEAD_MAX {
        about.warn(
            format!(
                "outbox holds {dead} deleted rows: autovacuum is too slow, or a transaction holds it back"
            ),
            "vacuum outbox;",
        );
    }
    if live > ROWS_MIN && planned < live / 10 {
        about.warn(
            format!(
                "statistics say {} rows where about {live} are: readers other than the relay, which forbids its \
                 planner to, may read the whole table",
                planned.max(0)
            ),
            "analyze outbox;",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_vacuum_back_is_told() {
        let fixes = |facts: &[(&str, &str)]| -> Vec<String> {
            let facts: Vec<_> = facts.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let mut about = About::new("outbox x");
            check_vacuum(&facts, &mut about);
            about.findings.into_iter().filter_map(|finding| finding.fix).collect()
        };
        let right = ("reloptions", "autovacuum_vacuum_scale_factor=0,autovacuum_vacuum_threshold=10000");
        assert!(fixes(&[right, ("live", "50"), ("dead", "9000"), ("planned", "-1")]).is_empty());
        assert_eq!(fixes(&[("reloptions", "")]), [VACUUM_BY_COUNT]);
        assert_eq!(fixes(&[right, ("live", "50000"), ("planned", "0")]), ["analyze outbox;"]);
        assert_eq!(fixes(&[right, ("dead", "2000000")]), ["vacuum outbox;"]);
    }
}
