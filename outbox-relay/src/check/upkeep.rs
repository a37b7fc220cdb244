//! What keeps a table quick that is mostly empty and never rests: vacuum and purge, statistics, and nobody who
//! holds them back.

use super::{About, Level, ask};
use crate::outbox::store::{Kind, Question, Store};

/// What the migration sets: vacuum by count, since a share of a table that is mostly empty means nothing.
const VACUUM_BY_COUNT: &str =
    "alter table outbox set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);";
/// Statistics of MySQL and MariaDB: the table's option, which stands over the server's; what happens, what helps.
const STATISTICS: &[(&str, &str, &str)] = &[
    ("stats_persistent", "are mostly those of an empty table", "alter table outbox stats_persistent = 1;"),
    (
        "stats_auto_recalc",
        "stay as when it was empty",
        "alter table outbox stats_auto_recalc = 1; analyze table outbox;",
    ),
];
/// Dead rows that a healthy autovacuum never lets gather: ten times its threshold.
const DEAD_MAX: f64 = 100_000.0;
/// Fewer rows than this are read quickly with any plan.
const ROWS_MIN: f64 = 10_000.0;

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
    match kind {
        Kind::Postgres => check_vacuum(&found, about),
        Kind::Mysql => check_statistics(&found, about),
        Kind::Sqlite => {}
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

fn value<'a>(found: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    found.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

fn check_vacuum(found: &[(String, String)], about: &mut About) {
    if found.is_empty() {
        // Why it could not be asked is told.
        return;
    }
    let number = |wanted: &str| value(found, wanted).and_then(|value| value.parse::<f64>().ok());
    // PostgreSQL takes every beginning of these words.
    let is_off = |value: &str| {
        value == "0" || ["of", "f", "n"].iter().any(|start| value.to_ascii_lowercase().starts_with(start))
    };
    if value(found, "autovacuum_enabled").is_some_and(is_off) {
        about.warn(
            "autovacuum is off for outbox: it grows, and reading its start gets slower",
            "alter table outbox reset (autovacuum_enabled);",
        );
    }
    let by_share = number("autovacuum_vacuum_scale_factor").is_none_or(|share| share > 0.0);
    if by_share {
        about.warn("outbox is vacuumed by a share of its rows, not by their count", VACUUM_BY_COUNT);
    } else if let Some(rows) = number("autovacuum_vacuum_threshold").filter(|rows| *rows > DEAD_MAX) {
        about.warn(format!("outbox is vacuumed only after {rows} deleted rows"), VACUUM_BY_COUNT);
    }
    let [live, dead, planned] = ["live", "dead", "planned"].map(|name| number(name).unwrap_or_default());
    if dead > DEAD_MAX {
        about.warn(
            format!(
                "outbox holds {dead} deleted rows: autovacuum is too slow, or a transaction holds it back"
            ),
            "vacuum outbox;",
        );
    }
    if live > ROWS_MIN && planned < live / 10.0 {
        about.warn(
            format!(
                "statistics say {} rows where about {live} are: readers other than the relay, which forbids its \
                 planner to, may read the whole table",
                planned.max(0.0)
            ),
            "analyze outbox;",
        );
    }
}

fn check_statistics(found: &[(String, String)], about: &mut About) {
    let options = value(found, "options").unwrap_or_default().to_ascii_lowercase();
    for (name, happens, fix) in STATISTICS {
        let own = options.split_whitespace().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        if own.or(value(found, name)) == Some("0") {
            about.warn(
                format!(
                    "{name} is off: statistics of outbox {happens}; the relay names its indexes, other readers get \
                     bad plans"
                ),
                *fix,
            );
        }
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
        let right = [("autovacuum_vacuum_scale_factor", "0"), ("autovacuum_vacuum_threshold", "10000")];
        let besides = |more: &[(&'static str, &'static str)]| fixes(&[&right[..], more].concat());
        assert!(besides(&[("live", "50"), ("dead", "9000"), ("planned", "-1")]).is_empty());
        assert_eq!(fixes(&[("planned", "-1")]), [VACUUM_BY_COUNT]);
        assert_eq!(fixes(&[("autovacuum_vacuum_scale_factor", "0.2")]), [VACUUM_BY_COUNT]);
        let rarely = [right[0], ("autovacuum_vacuum_threshold", "900000")];
        assert_eq!(fixes(&rarely), [VACUUM_BY_COUNT]);
        assert_eq!(besides(&[("live", "50000"), ("planned", "0")]), ["analyze outbox;"]);
        assert_eq!(besides(&[("dead", "2000000")]), ["vacuum outbox;"]);
        for (off, told) in [("off", 1), ("FALSE", 1), ("0", 1), ("no", 1), ("on", 0), ("true", 0), ("1", 0)] {
            assert_eq!(besides(&[("autovacuum_enabled", off)]).len(), told, "{off}");
        }
    }

    #[test]
    fn the_table_has_its_own_say_on_statistics() {
        let told = |options: &str, server: &str| {
            let facts = [("options", options), ("stats_persistent", server), ("stats_auto_recalc", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
            let mut about = About::new("outbox x");
            check_statistics(&facts, &mut about);
            about.findings.len()
        };
        assert_eq!((told("", "1"), told("", "0")), (0, 1));
        assert_eq!(told("row_format=DYNAMIC stats_persistent=1", "0"), 0);
        assert_eq!(
            (told("stats_persistent=0", "1"), told("stats_persistent=0 stats_auto_recalc=0", "1")),
            (1, 2)
        );
    }
}
