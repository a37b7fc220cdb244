//! What a replication needs of its source and its target.

use std::collections::BTreeMap;

use mysql_async::prelude::Queryable as _;
use outbox_core::{Result, migrate};

use super::rights::{grantee, is_denied};
use super::{About, Finding, Level, fix_exposed, reading};
use crate::binlog::{Link, Server};
use crate::config::{ReplicationConfig, Secret};
use crate::outbox::store::{Kind, remote_host};
use crate::replication::sql::quoted;
use crate::replication::{
    CopyPlan, CopySpec, NewTable, State, TableFacts, specs, unlogged_actions, unreadable,
};

/// Less than this, and a weekend's outage is too long.
const RETENTION_S: u64 = 3 * 24 * 3600;

/// Settings of a source that have to be so: name, value, what is wrong with another one.
const REQUIRED: &[(&str, &str, &str)] = &[
    ("binlog_format", "ROW", "statements are logged, not rows"),
    ("binlog_row_image", "FULL", "rows are logged in part, so that filters and keys cannot be told"),
    (
        "binlog_row_metadata",
        "FULL",
        "the log does not name columns, so that rows from before a change of their table cannot be read",
    ),
];

/// A table, or a column of it, that this account may not use.
const DENIED: [u16; 2] = [1142, 1143];

const VARIABLES: &str = "show global variables where variable_name in ('log_bin', 'binlog_format', 'binlog_row_image', \
                         'binlog_row_metadata', 'binlog_row_value_options', 'gtid_mode', 'server_id', 'read_only', \
                         'binlog_expire_logs_seconds', 'binlog_checksum', 'max_allowed_packet', \
                         'lower_case_table_names', 'version')";

type Variables = BTreeMap<String, String>;

pub(super) async fn check(config: &ReplicationConfig) -> Vec<Finding> {
    let mut source = About::new(format!("replication {}, source", config.name));
    let mut target = About::new(format!("replication {}, target", config.name));
    check_exposed(&config.source, config.source_tls, "source", &mut source);
    check_exposed(&config.target, config.target_tls, "target", &mut target);
    let mut server = match Server::connect(&config.source()).await {
        Ok(server) => Some(server),
        Err(error) => {
            source.bad(error.to_string(), "start the source, or correct `source` in the configuration");
            None
        }
    };
    let mut state = match State::connect(&config.target(), &config.name).await {
        Ok(state) => Some(state),
        Err(error) => {
            target.bad(error.to_string(), "start the target, or correct `target` in the configuration");
            None
        }
    };
    let there = match &mut server {
        Some(server) => check_source(server, &mut source).await,
        None => Variables::new(),
    };
    if let Some(state) = &mut state {
        check_target(state.connection(), &there, &mut target).await;
    }
    if let Some(server) = &mut server {
        reading::check(config, server, state.as_mut(), &mut source).await;
    }
    if let (Some(server), Some(state)) = (&mut server, &mut state) {
        for (spec, table) in specs(config).iter().zip(&config.table) {
            let mut about = About::new(format!("replication {}, copy {}", config.name, spec.name));
            check_copy(spec, table.create, server, state.connection(), &mut about).await;
            target.findings.extend(about.findings);
        }
    }
    source.findings.extend(target.findings);
    source.findings
}

/// Rows travel there, and without TLS a password under a key that nobody vouches for.
fn check_exposed(url: &Secret, has_tls: bool, side: &str, about: &mut About) {
    let host = remote_host(url.expose()).filter(|_| !has_tls);
    about.warn_exposed(host, fix_exposed(&format!("{side}_")));
}

async fn variables(connection: &mut Link, about: &mut About) -> Variables {
    let rows: mysql_async::Result<Vec<(String, String)>> = connection.query(VARIABLES).await;
    match rows {
        Ok(rows) => rows.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect(),
        Err(error) => {
            about.add(Level::Note, format!("settings not looked at: {error}"), None);
            Variables::new()
        }
    }
}

/// Older servers lack what this is built on.
fn check_version(found: &Variables, about: &mut About) {
    let Some(version) = found.get("version").filter(|version| !is_supported(version)) else { return };
    about.bad(
        format!("it is of version {version}, which is not supported"),
        "upgrade it: MySQL 8.0 or MariaDB 10.6 at least",
    );
}

fn is_supported(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version_of = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    version_of >= if version.contains("MariaDB") { (10, 6) } else { (8, 0) }
}

async fn check_source(server: &mut Server, about: &mut About) -> Variables {
    let is_mariadb = server.is_mariadb();
    let found = variables(server.connection(), about).await;
    let value = |name: &str| found.get(name).map(String::as_str);
    check_version(&found, about);
    if value("log_bin").is_some_and(|on| !on.eq_ignore_ascii_case("ON")) {
        about.bad("it writes no binary log", "start it with log_bin = binlog in its my.cnf");
    }
    let count = about.findings.len();
    for (name, wanted, why) in REQUIRED {
        match value(name) {
            Some(is) if is.eq_ignore_ascii_case(wanted) => {}
            Some(is) => {
                let fix = format!("set global {name} = '{wanted}'; -- in my.cnf too, and end older sessions");
                about.bad(format!("{name} is {is}: {why}"), fix);
            }
            None => about.add(Level::Note, format!("{name} is not known here"), None),
        }
    }
    if value("binlog_row_value_options").is_some_and(|options| !options.is_empty()) {
        about.bad("JSON is logged in parts", "set global binlog_row_value_options = ''; -- in my.cnf too");
    }
    if value("binlog_checksum").is_some_and(|kind| kind.eq_ignore_ascii_case("NONE")) {
        about.warn(
            "binlog_checksum is NONE: what is damaged on its way or on the disk may be taken for rows",
            "set global binlog_checksum = 'CRC32'; -- in my.cnf too",
        );
    }
    if !is_mariadb && value("gtid_mode") != Some("ON") {
        about.bad(
            "it has no GTIDs, without which no copy can be made",
            "set global enforce_gtid_consistency = ON; set global gtid_mode = OFF_PERMISSIVE; \
             set global gtid_mode = ON_PERMISSIVE; set global gtid_mode = ON; -- in my.cnf too",
        );
    }
    let kept = value("binlog_expire_logs_seconds").and_then(|seconds| seconds.parse::<u64>().ok());
    if let Some(seconds @ 1..RETENTION_S) = kept {
        about.warn(
            format!(
                "the log is kept for {} h: a longer outage of the target needs all copies anew",
                seconds / 3600
            ),
            format!("set global binlog_expire_logs_seconds = {};", 7 * 24 * 3600),
        );
    }
    if about.findings.len() == count {
        about.ok("its settings are as they have to be");
    }
    check_reader(server, about).await;
    found
}

/// Who is connected, as GRANT wants it; empty if the server does not say.
pub(super) async fn user(connection: &mut Link) -> String {
    let user: Option<String> = connection.query_first("select current_user()").await.ok().flatten();
    user.map_or_else(String::new, |user| grantee(Kind::Mysql, &user))
}

/// Rights of a reader, but for those on its tables.
async fn check_reader(server: &mut Server, about: &mut About) {
    let user = user(server.connection()).await;
    let monitor = if server.is_mariadb() { "binlog monitor" } else { "replication client" };
    if let Err(error) = server.high_mark().await
        && is_denied(&error)
    {
        about.bad(error.to_string(), format!("grant {monitor} on *.* to {user};"));
    }
    let grants: Vec<String> = server.connection().query("show grants").await.unwrap_or_default();
    let may = |right: &str| {
        let has = |grant: &String| {
            grant.contains(" ON *.* ") && (grant.contains(right) || grant.contains("ALL PRIV"))
        };
        grants.iter().any(has)
    };
    if matches!(server.prepared().await, Ok(None)) {
        about.add(
            Level::Note,
            "it does not show prepared XA transactions: a copy that is begun while there is one stops at its commit",
            Some(format!("grant xa_recover_admin on *.* to {user};")),
        );
    }
    for right in ["SUPER", "INSERT", "DROP"] {
        if may(right) {
            about.warn(
                format!("{user} has rights on the whole server that a reader never uses, {right} among them"),
                "create a user with the rights in docs/replication.md",
            );
            break;
        }
    }
}

async fn check_target(connection: &mut Link, source: &Variables, about: &mut About) {
    let found = variables(connection, about).await;
    check_version(&found, about);
    let number = |of: &Variables, name: &str| of.get(name).and_then(|value| value.parse::<u64>().ok());
    if let (Some(there), Some(here)) =
        (number(source, "max_allowed_packet"), number(&found, "max_allowed_packet"))
        && here < there
    {
        about.warn(
            format!("max_allowed_packet is {here}, the source's {there}: longer rows are set aside"),
            format!("set global max_allowed_packet = {there}; -- in my.cnf too"),
        );
    }
    if found.get("read_only").is_some_and(|value| value.eq_ignore_ascii_case("ON")) {
        about.warn(
            "it is read-only, which stops whoever may not write nevertheless",
            "set global read_only = OFF;",
        );
    }
    if let (Some(there), Some(here)) =
        (source.get("lower_case_table_names"), found.get("lower_case_table_names"))
        && there != here
    {
        let text =
            format!("lower_case_table_names is {here}, the source's {there}: names may mean other tables");
        about.warn(text, "give tables whose names differ by case only other names with `target`");
    }
    let asked: mysql_async::Result<Vec<String>> =
        connection.query("select version from __diesel_schema_migrations").await;
    // Also whoever may not read that table may have all that is needed.
    let is_unread = matches!(&asked, Err(mysql_async::Error::Server(error)) if DENIED.contains(&error.code));
    let applied = asked.unwrap_or_default();
    let pending: Vec<_> =
        migrate::REPLICA.versions().into_iter().filter(|version| !applied.contains(version)).collect();
    if !pending.is_empty() && !is_unread {
        about.bad(format!("its tables are missing or old: {}", pending.join(", ")), "outbox-relay migrate");
        return;
    }
    for (table, statement, right) in [
        (
            "outbox_replication",
            "insert into outbox_replication (name, epoch, owner) select '', 0, '' from dual where false",
            "insert",
        ),
        ("outbox_replication", "update outbox_replication set epoch = epoch where false", "update"),
        ("outbox_copy", "insert into outbox_copy select * from outbox_copy where false", "insert"),
        ("outbox_copy", "update outbox_copy set reason = reason where false", "update"),
        ("outbox_aside", "insert into outbox_aside select * from outbox_aside where false", "insert"),
        ("outbox_copy", "delete from outbox_copy where false", "delete"),
        ("outbox_aside", "update outbox_aside set reason = reason where false", "update"),
        ("outbox_aside", "delete from outbox_aside where false", "delete"),
    ] {
        probe(connection, table, statement, right, about).await;
    }
    if about.findings.iter().all(|finding| finding.level != Level::Bad) {
        about.ok("has the tables of replications, and the rights on them");
    }
}

/// Runs a statement that changes nothing.
async fn probe(connection: &mut Link, table: &str, statement: &str, right: &str, about: &mut About) {
    let Err(error) = connection.query_drop(statement).await else { return };
    let user = user(connection).await;
    about.bad(
        format!("table {table}: {error}"),
        format!("grant select, {right} on {} to {user};", quoted(table)),
    );
}

async fn check_copy(
    spec: &CopySpec,
    create: bool,
    server: &mut Server,
    target: &mut Link,
    about: &mut About,
) {
    let (database, table) = (&spec.source_database, &spec.source_table);
    let source = match TableFacts::describe(server.connection(), database, table).await {
        Ok(Some(facts)) => facts,
        Ok(None) => {
            about.bad(
                format!("the source has no table {database}.{table}, or it may not be read"),
                format!("{} -- or correct `source`", grant_select(server, spec).await),
            );
            return;
        }
        Err(error) => {
            return about.bad(error.to_string(), "change the column's type, or leave it out of `columns`");
        }
    };
    match unreadable(server.connection(), database, table).await {
        Ok(None) => {}
        Ok(Some(why)) => {
            return about.bad(why, "take the copy out of the configuration, or as the text says");
        }
        Err(error) => about.add(Level::Note, format!("{database}.{table} not looked at: {error}"), None),
    }
    let read = format!("select 1 from {}.{} limit 0", quoted(database), quoted(table));
    if let Err(error) = server.connection().query_drop(read).await {
        about.bad(error.to_string(), grant_select(server, spec).await);
    }
    match unlogged_actions(server.connection(), database, table).await {
        Ok(actions) if actions.is_empty() => {}
        Ok(actions) => about.warn(
            format!(
                "foreign keys change rows of {database}.{table} past the binary log, so the copy misses it: {}",
                actions.join(", ")
            ),
            "make them ON DELETE RESTRICT ON UPDATE RESTRICT and let the service write these rows, or run `outbox-relay \
             verify --repair` by a timer",
        ),
        Err(error) => about.add(Level::Note, format!("foreign keys not looked at: {error}"), None),
    }
    match described(target, &spec.target_table).await {
        Ok(Some(facts)) => {
            match CopyPlan::resolve(spec, &source, &facts) {
                Ok(plan) => match plan.merging() {
                    Some(why) => about.bad(
                        why,
                        format!("change table {} so, then have it copied anew", quoted(&spec.target_table)),
                    ),
                    None => about.ok("fits its table"),
                },
                Err(error) => about.bad(
                    error.to_string(),
                    format!("alter table {} as the text says", quoted(&spec.target_table)),
                ),
            }
            check_copy_table(&facts, target, about).await;
        }
        Ok(None) => {
            let version: Option<String> = target.query_first("select version()").await.ok().flatten();
            let is_mariadb = version.is_some_and(|version| version.contains("MariaDB"));
            match CopyPlan::new_table(spec, &source, is_mariadb) {
                Ok(NewTable { left_out, .. }) if create => {
                    about.ok("is created by the first run");
                    for what in left_out {
                        about.add(
                            Level::Note,
                            format!("is created without a key of its source: {what}"),
                            None,
                        );
                    }
                }
                Ok(NewTable { sql, .. }) => {
                    about.bad("the target has no such table", format!("`create = true`, or {sql};"));
                }
                Err(error) => about.bad(error.to_string(), "correct the copy in the configuration"),
            }
        }
        Err(error) => about.bad(error.to_string(), "none known"),
    }
}

/// The right to read a copy's table.
async fn grant_select(server: &mut Server, spec: &CopySpec) -> String {
    let user = user(server.connection()).await;
    format!("grant select on {}.{} to {user};", quoted(&spec.source_database), quoted(&spec.source_table))
}

async fn described(target: &mut Link, table: &str) -> Result<Option<TableFacts>> {
    let database: Option<Option<String>> = target.query_first("select database()").await.ok().flatten();
    TableFacts::describe(target, &database.flatten().unwrap_or_default(), table).await
}

async fn check_copy_table(facts: &TableFacts, target: &mut Link, about: &mut About) {
    let (table, columns) = (&facts.table.name, facts.table.columns.iter().zip(&facts.columns));
    let name = quoted(table);
    let mut probes = vec![
        (format!("insert into {name} select * from {name} where false"), "insert"),
        (format!("delete from {name} where false"), "delete"),
    ];
    let plain =
        columns.into_iter().find(|(_, facts)| !facts.is_generated).map(|(column, _)| quoted(&column.name));
    probes
        .extend(plain.map(|column| (format!("update {name} set {column} = {column} where false"), "update")));
    for (statement, right) in probes {
        match target.query_drop(&statement).await {
            // Generated columns take no value, which is no question of rights.
            Err(mysql_async::Error::Server(error)) if error.code == 3105 || error.code == 1906 => {}
            Err(error) => {
                let user = user(target).await;
                let fix = format!("grant select, insert, update, delete on {name} to {user}; -- {right}");
                about.bad(error.to_string(), fix);
            }
            Ok(()) => {}
        }
    }
    let sql = "select group_concat(trigger_name) from information_schema.triggers \
               where event_object_schema = database() and event_object_table = ?";
    let triggers: Option<Option<String>> = target.exec_first(sql, (table,)).await.ok().flatten();
    if let Some(triggers) = triggers.flatten() {
        let text = format!("its table has triggers ({triggers}), which run for every row that is applied");
        about.warn(text, "drop them if they repeat what the source's triggers have done already");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for version in [
            "8.0.11",
            "8.4.2-commercial",
            "9.7.1",
            "10.6.0-MariaDB",
            "10.11.6-MariaDB-0+deb12u1",
            "12.0.1-MariaDB",
        ] {
            assert!(is_supported(version), "{version}");
        }
        for version in ["5.7.44-log", "10.5.29-MariaDB", "5.5.68-MariaDB", ""] {
            assert!(!is_supported(version), "{version}");
        }
    }

    #[test]
    fn what_leaves_the_machine_unencrypted_is_told() {
        let told = |url: &str, has_tls| {
            let mut about = About::new("replication order, source");
            check_exposed(&Secret::new(url), has_tls, "source", &mut about);
            about.findings.first().map(ToString::to_string)
        };
        let text = told("mysql://repl:secret@db.example:3306", false).unwrap();
        assert!(text.contains("connection to db.example is not encrypted"), "{text}");
        assert!(text.contains("`source_tls = true`") && !text.contains("secret"), "{text}");
        assert_eq!(told("mysql://repl@db.example", true), None);
        assert_eq!(told("mysql://repl@127.0.0.1:3307", false), None);
    }
}
