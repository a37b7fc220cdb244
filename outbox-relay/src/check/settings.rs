//! Version, settings and clock of the server, as the relay's own session sees them.

use std::time::{SystemTime, UNIX_EPOCH};

use outbox_core::{HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX};

use super::{About, Level, ask};
use crate::outbox::store::{Kind, Question, Setting, Store};

/// Clocks kept by NTP differ by less.
const CLOCK_MICROS_MAX: i64 = 1_000_000;

/// What a server of MySQL or MariaDB has to take at once for the largest message: the payload, the headers, and the
/// statement around them.
const PACKET_BYTES: usize = 20 * 1024 * 1024;
const _: () = assert!(PACKET_BYTES > PAYLOAD_BYTES_MAX + HEADERS_BYTES_MAX + 1024 * 1024);
/// What the servers take by default, or more: less was somebody's choice.
const PACKET_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// Settings that work until a server crashes or a table has grown: name, values, what happens, the value that helps.
const RISKS: &[(&str, &[&str], &str, &str)] = &[
    (
        "innodb_flush_log_at_trx_commit",
        &["0", "2"],
        "a crash takes back committed transactions whose messages may have been published",
        "1",
    ),
    ("fsync", &["off"], "a crash may destroy the database", "on"),
    ("full_page_writes", &["off"], "a crash may leave pages of the database half written", "on"),
    (
        "synchronous_commit",
        &["off"],
        "a crash takes back committed transactions whose messages may have been published",
        "on",
    ),
    ("autovacuum", &["off"], "outbox grows, and reading its start gets slower", "on"),
    ("track_counts", &["off"], "autovacuum does nothing without it", "on"),
];

/// The server's version, and settings that break a promise or put it at risk; whether the tables can be looked at.
pub(super) fn check(kind: Kind, settings: &[Setting], about: &mut About) -> bool {
    let value = |name: &str| settings.iter().find(|s| s.name == name).map(|s| s.value.as_str());
    let version = value("version").unwrap_or("?");
    match kind {
        Kind::Mysql => {
            check_version(
                version,
                if version.contains("MariaDB") { ("MariaDB", 10, 6) } else { ("MySQL", 8, 0) },
                about,
            );
        }
        Kind::Postgres => check_version(version, ("PostgreSQL", 13, 0), about),
        Kind::Sqlite => check_version(version, ("SQLite", 3, 42), about),
    }
    let isolation = value("transaction_isolation").or(value("tx_isolation"));
    if let Some(isolation) = isolation.filter(|i| !i.replace('-', " ").eq_ignore_ascii_case("read committed"))
    {
        about.bad(
            format!("the session runs {isolation} though it asked for READ COMMITTED"),
            "let the relay connect without the proxy that changes its session",
        );
    }
    let bad: &[(&str, &str, &str, &str)] = &[
        (
            "wsrep_on",
            "ON",
            "Galera: several servers write, so ids do not rise in commit order per key",
            "keep the outbox on a server outside the Galera cluster, or replicate it asynchronously",
        ),
        (
            "group_replication_single_primary_mode",
            "OFF",
            "group replication with several primaries: ids do not rise in commit order per key",
            "select group_replication_switch_to_single_primary_mode();",
        ),
    ];
    for (name, wrong, text, fix) in bad {
        if value(name) == Some(wrong) {
            about.bad(*text, *fix);
        }
    }
    if let Some(step) = value("auto_increment_increment").filter(|step| *step != "1") {
        about.bad(
            format!(
                "auto_increment_increment is {step}: several servers write, ids do not rise in commit order"
            ),
            "set global auto_increment_increment = 1; -- in my.cnf too",
        );
    }
    if let Some(mode) = value("journal_mode").filter(|mode| *mode != "wal") {
        about.warn(
            format!(
                "journal_mode is {mode}: readers and writers wait for each other until `run` has set wal"
            ),
            "pragma journal_mode = wal;",
        );
    }
    if let Some(mode) = value("sql_mode").filter(|mode| !mode.contains("STRICT_")) {
        about.warn(
            format!(
                "sql_mode is {mode:?}, not strict: the server cuts what is too long instead of refusing it"
            ),
            "set global sql_mode = concat(@@global.sql_mode, ',STRICT_TRANS_TABLES'); -- in my.cnf too",
        );
    }
    for (name, wrong, text, right) in RISKS {
        if let Some(found) = value(name).filter(|found| wrong.contains(found)) {
            let fix = match kind {
                Kind::Postgres => set_in_postgres(settings, name, right),
                _ => format!("set global {name} = {right}; -- in my.cnf too"),
            };
            about.warn(format!("{name} is {found}: {text}"), fix);
        }
    }
    check_packets(settings, "a larger message is refused when it is recorded", about);
    check_language(kind, settings, about);
    check_writable(kind, settings, about)
}

/// `max_allowed_packet` of MySQL and MariaDB, and what becomes of a message that is larger.
pub(super) fn check_packets(settings: &[Setting], becomes: &str, about: &mut About) {
    let found = settings.iter().find(|setting| setting.name == "max_allowed_packet");
    let Some(bytes) = found.and_then(|setting| setting.value.parse::<usize>().ok()) else { return };
    if bytes >= PACKET_BYTES {
        return;
    }
    // MariaDB's default is enough for all but the largest messages, which few services have.
    let level = if bytes < PACKET_BYTES_DEFAULT { Level::Warning } else { Level::Note };
    about.add(
        level,
        format!("max_allowed_packet is {bytes}: {becomes}"),
        Some(format!("set global max_allowed_packet = {PACKET_BYTES}; -- in my.cnf too")),
    );
}

/// Diesel keeps no numbers of errors, so that writers and subscribers know some by their English texts.
pub(super) fn check_language(kind: Kind, settings: &[Setting], about: &mut About) {
    let found = settings.iter().find(|setting| setting.name == "language");
    let Some(language) = found.map(|found| &found.value).filter(|language| !language.starts_with("en"))
    else {
        return;
    };
    let fix = match kind {
        Kind::Postgres => set_in_postgres(settings, "lc_messages", "'C'"),
        _ => "set global lc_messages = 'en_US'; -- in my.cnf too".to_owned(),
    };
    about.warn(
        format!(
            "the server does not speak English ({language}): writers and subscribers do not know its deadlocks, lock \
             timeouts and missing rights, and take them for mistakes of a message"
        ),
        fix,
    );
}

/// What keeps the relay from writing anything at all.
fn check_writable(kind: Kind, settings: &[Setting], about: &mut About) -> bool {
    let value = |name: &str| settings.iter().find(|s| s.name == name).map(|s| s.value.as_str());
    if value("in_recovery") == Some("true") {
        about.bad("the server is a standby and read only", "connect to the primary");
        return false;
    }
    // MariaDB knows more values than ON.
    if value("read_only").is_some_and(|value| value != "OFF") {
        about.bad(
            "the server is read only",
            "set global read_only = off; -- if this is the primary, or connect to that",
        );
        return false;
    }
    let read_only = value("transaction_read_only").or(value("tx_read_only"));
    if read_only.is_some_and(|value| value.eq_ignore_ascii_case("on")) {
        let fix = match kind {
            Kind::Postgres => {
                let fix = set_in_postgres(settings, "default_transaction_read_only", "off");
                // Otherwise that would be refused too.
                format!("set default_transaction_read_only = off; {fix}")
            }
            _ => "set global transaction read write; -- in my.cnf too".to_owned(),
        };
        about.bad("transactions of the relay's user are read only", fix);
        return false;
    }
    if value("log_bin") == Some("ON") && value("binlog_format") == Some("STATEMENT") {
        about.bad(
            "binlog_format is STATEMENT, which the server refuses under READ COMMITTED",
            "set global binlog_format = 'ROW'; -- in my.cnf too",
        );
        return false;
    }
    true
}

/// What changes a setting of PostgreSQL where it is set: for the database, the user, or the server.
fn set_in_postgres(settings: &[Setting], name: &str, right: &str) -> String {
    let value = |name: &str| settings.iter().find(|s| s.name == name).map_or("", |s| s.value.as_str());
    let (user, database) = (value("user"), value("database"));
    match value(&format!("source of {name}")) {
        "database" => format!("alter database {database} reset {name};"),
        "user" => format!("alter role {user} reset {name};"),
        "database user" => format!("alter role {user} in database {database} reset {name};"),
        "client" => format!("take {name} out of the URL"),
        _ => format!("alter system set {name} = {right}; select pg_reload_conf();"),
    }
}

/// The relay's clock against the database's. Leases keep to the database's alone; latencies compare the two.
pub(super) async fn check_clock(store: &mut Store, about: &mut About) {
    // There it is the same clock.
    if store.database().kind() == Kind::Sqlite {
        return;
    }
    let before = now_us();
    let answer = ask(store, Question::Clock, about).await;
    let after = now_us();
    if let Some(theirs) = answer.first().and_then(|(_, micros)| micros.parse().ok()) {
        compare_clocks(theirs, before, after, about);
    }
}

/// Whether `theirs` lies between the moments before and after the question, give or take what is allowed.
fn compare_clocks(theirs: i64, before: i64, after: i64, about: &mut About) {
    let ahead = theirs - (before + (after - before) / 2);
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let text = format!("the database's clock is {} ms {side} the relay's", ahead.abs() / 1000);
    if ahead.abs() > CLOCK_MICROS_MAX + (after - before) / 2 {
        about.warn(
            format!("{text}: latencies are wrong by as much; leases keep to the database's clock alone"),
            "timedatectl set-ntp true # on both machines",
        );
    } else {
        about.ok(text);
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Whether a version is at least the one we know to work.
fn check_version(version: &str, (name, major, minor): (&str, u32, u32), about: &mut About) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if found >= (major, minor) {
        about.ok(format!("{name} {version} answers"));
    } else {
        about.bad(
            format!("{name} {version} is too old"),
            format!("upgrade to {name} {major}.{minor} or later"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(kind: Kind, settings: &[(&str, &str)]) -> Vec<String> {
        let settings: Vec<_> =
            settings.iter().map(|(n, v)| Setting { name: (*n).into(), value: (*v).into() }).collect();
        let mut about = About::new("outbox x");
        check(kind, &settings, &mut about);
        about.findings.into_iter().filter(|f| f.level == Level::Bad).map(|f| f.text).collect()
    }

    #[test]
    fn servers_with_several_writers_are_refused() {
        let good = [
            ("version", "10.11.19-MariaDB"),
            ("tx_isolation", "READ-COMMITTED"),
            ("auto_increment_increment", "1"),
        ];
        assert!(bad(Kind::Mysql, &good).is_empty());
        assert_eq!(bad(Kind::Mysql, &[("version", "8.0.36"), ("auto_increment_increment", "2")]).len(), 1);
        assert_eq!(bad(Kind::Mysql, &[("version", "8.0.36"), ("wsrep_on", "ON")]).len(), 1);
        assert_eq!(bad(Kind::Mysql, &[("version", "8.0.36"), ("tx_isolation", "REPEATABLE-READ")]).len(), 1);
        assert_eq!(bad(Kind::Mysql, &[("version", "5.7.44")]).len(), 1);
        assert!(bad(Kind::Postgres, &[("version", "15.20 (Debian 15.20-0+deb12u1)")]).is_empty());
    }

    #[test]
    fn risks_are_warned_of() {
        for (kind, name, risky, safe) in [
            (Kind::Mysql, "sql_mode", "NO_ENGINE_SUBSTITUTION", "STRICT_TRANS_TABLES,NO_ZERO_DATE"),
            (Kind::Mysql, "innodb_flush_log_at_trx_commit", "2", "1"),
            (Kind::Postgres, "autovacuum", "off", "on"),
            (Kind::Sqlite, "journal_mode", "delete", "wal"),
        ] {
            let warnings = |value: &str| {
                let mut about = About::new("outbox x");
                let settings = [("version", "99.9"), (name, value)]
                    .map(|(n, v)| Setting { name: n.into(), value: v.into() });
                check(kind, &settings, &mut about);
                about.findings.into_iter().filter(|f| f.level == Level::Warning).count()
            };
            assert_eq!((warnings(risky), warnings(safe)), (1, 0), "{name}");
        }
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        for (theirs, after, level) in [
            (500_000, 1_000_000, Level::Ok),
            (-900_000, 0, Level::Ok),
            (6_000_000, 6_000_000, Level::Ok),
            (3_000_000, 1_000_000, Level::Warning),
            (-2_000_000, 1_000_000, Level::Warning),
        ] {
            let mut about = About::new("outbox x");
            compare_clocks(theirs, 0, after, &mut about);
            assert_eq!(about.findings[0].level, level, "{theirs}");
        }
    }
}
