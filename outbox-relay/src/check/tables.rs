//! The tables: that they fit this program, that all migrations are applied, and that `outbox` has the two
//! indexes it needs and no more.

use outbox_core::migrate::OUTBOX;

use super::{About, ask};
use crate::outbox::fit;
use crate::outbox::store::{Kind, Question, Store};
use crate::retry::{self, Side};

/// What fails while a migration is pending.
const NEEDED_FOR: &[(&str, &str)] = &[
    (
        "0000outbox0002",
        "on MySQL and MariaDB, transactions that record events of strict order fail without table outbox_slot",
    ),
    ("0000outbox0003", "`dead replay` and `dead discard` fail without table outbox_audit"),
    ("0000outbox0004", "`pause` and `resume` fail without table outbox_pause"),
    ("0000outbox0005", "`resync` and `generation` fail without table outbox_resync"),
    ("0000outbox0006", "this version of the relay does not start without column unclean of outbox_lease"),
];

pub(super) async fn check(store: &mut Store, name: &str, about: &mut About) {
    let kind = store.database().kind();
    match store.meta().await {
        Ok(meta) => match fit::misfit(&meta, kind) {
            None => about.ok(format!("tables are there and fit, generation {}", meta.generation)),
            Some((what, fix)) => about.bad(what, fix),
        },
        Err(error) => about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy()),
    }
    if let Ok(Some(text)) = fit::other_name(store, name).await {
        about.bad(text, "correct outbox.name, which is the same wherever this database is relayed");
    }
    let applied = ask(store, Question::Migrations, about).await;
    if !applied.is_empty() {
        let applied: Vec<_> = applied.into_iter().map(|(version, _)| version).collect();
        compare_migrations(&applied, &OUTBOX.versions(), NEEDED_FOR, about);
    }
    let indexes = ask(store, Question::Indexes, about).await;
    compare_indexes(kind, &indexes, about);
}

pub(super) fn compare_migrations(
    applied: &[String],
    known: &[String],
    needed_for: &[(&str, &str)],
    about: &mut About,
) {
    for version in known.iter().filter(|version| !applied.contains(version)) {
        let failing = needed_for.iter().find(|(v, _)| v == version).map_or("", |(_, failing)| failing);
        about.warn(format!("migration {version} is pending: {failing}"), "outbox-relay migrate");
    }
    let newer: Vec<_> =
        applied.iter().filter(|version| !known.contains(version)).map(String::as_str).collect();
    if !newer.is_empty() {
        about.warn(
            format!("the tables are newer than this program, which does not know {}", newer.join(", ")),
            "upgrade outbox-relay to the version that applied them",
        );
    }
}

/// Every index is written twice per message, when it is recorded and when it is settled.
fn compare_indexes(kind: Kind, indexes: &[(String, String)], about: &mut About) {
    let named = |columns: &str| -> Vec<&str> {
        indexes.iter().filter(|(_, found)| found == columns).map(|(name, _)| name.as_str()).collect()
    };
    // In SQLite the primary key is the table itself.
    if kind != Kind::Sqlite && named("id").is_empty() {
        about.bad("outbox has no primary key (id)", "alter table outbox add primary key (id);");
    }
    let (by_bucket, broken) = (named("bucket,id"), named("invalid bucket,id"));
    if let ([], Some(broken)) = (by_bucket.as_slice(), broken.first()) {
        about.warn(
            format!("index {broken} (bucket, id) on outbox is invalid"),
            format!("reindex index concurrently \"{broken}\";"),
        );
    } else if by_bucket.is_empty() {
        about.warn("outbox has no index (bucket, id)", "create index outbox_bucket on outbox (bucket, id);");
    }
    let known = ["id", "bucket,id", "invalid bucket,id"];
    let others = indexes.iter().filter(|(_, found)| !known.contains(&found.as_str()));
    let extra = others.map(|(name, columns)| (name.as_str(), columns.as_str()));
    for (name, columns) in extra.chain(by_bucket.iter().skip(1).map(|name| (*name, "bucket,id"))) {
        about.warn(
            format!("index {name} ({columns}) on outbox is not used, and every message pays for it twice"),
            if kind == Kind::Mysql {
                format!("drop index `{name}` on outbox;")
            } else {
                format!("drop index \"{name}\";")
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixes(run: impl FnOnce(&mut About)) -> Vec<String> {
        let mut about = About::new("outbox x");
        run(&mut about);
        about.findings.into_iter().filter_map(|finding| finding.fix).collect()
    }

    #[test]
    fn indexes_are_compared() {
        let compare = |indexes: &[(&str, &str)]| {
            let indexes: Vec<_> = indexes.iter().map(|(n, c)| ((*n).to_owned(), (*c).to_owned())).collect();
            fixes(|about| compare_indexes(Kind::Mysql, &indexes, about))
        };
        let right = [("PRIMARY", "id"), ("outbox_bucket", "bucket,id")];
        assert!(compare(&right).is_empty());
        assert_eq!(compare(&right[..1]), ["create index outbox_bucket on outbox (bucket, id);"]);
        assert_eq!(compare(&right[1..]), ["alter table outbox add primary key (id);"]);
        assert_eq!(
            compare(&[right[0], right[1], ("again", "bucket,id"), ("key", "aggregate_id")]),
            ["drop index `key` on outbox;", "drop index `again` on outbox;"]
        );
    }

    #[test]
    fn migrations_are_compared() {
        let known = ["0000outbox0001", "0000outbox0002"].map(str::to_owned);
        assert!(fixes(|about| compare_migrations(&known, &known, NEEDED_FOR, about)).is_empty());
        assert_eq!(
            fixes(|about| compare_migrations(&known[..1], &known, NEEDED_FOR, about)),
            ["outbox-relay migrate"]
        );
        assert_eq!(fixes(|about| compare_migrations(&known, &known[..1], NEEDED_FOR, about)).len(), 1);
    }
}
