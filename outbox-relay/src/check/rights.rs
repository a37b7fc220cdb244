//! What the relay's user may not do and has to, and what it may do and should not.

use std::collections::BTreeMap;

use super::{About, ask};
use crate::config::{Mode, OutboxConfig};
use crate::outbox::store::{Kind, Question, Store};
use crate::retry::{self, Side};

/// Rights that let nobody change anything.
const HARMLESS: &[&str] = &["PROCESS", "REPLICATION CLIENT", "BINLOG MONITOR", "SHOW DATABASES"];

/// What reads the binary log, of all tables.
const OF_TAIL: &str = "REPLICATION SLAVE";

/// Tries every statement that needs a right; whether the tables can be looked at further.
pub(super) async fn check(store: &mut Store, outbox: &OutboxConfig, about: &mut About) -> bool {
    let kind = store.database().kind();
    let mut found = ask(store, Question::Rights, about).await;
    if outbox.mode == Mode::Tail {
        found.retain(|(_, right)| right != OF_TAIL);
    }
    let user = found.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user);
    let user = grantee(kind, user);
    warn_of_excess(&found, &user, about);

    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for probe in store.probes() {
        let Err(error) = store.probe(probe).await else { continue };
        if !is_denied(&error) {
            about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy());
            // A table that is missing is missing for every statement.
            return false;
        }
        missing.entry(probe.table).or_default().push(probe.right);
    }
    if missing.is_empty() {
        about.ok("has every right that the relay needs");
    }
    for (table, rights) in &missing {
        let rights = rights.join(", ");
        about
            .bad(format!("no right to {rights} on {table}"), format!("grant {rights} on {table} to {user};"));
    }
    for probe in store.probes_of_people() {
        // A table that is missing is a migration that is pending, which is told with the tables.
        if store.probe(probe).await.is_err_and(|error| is_denied(&error)) {
            let (table, right) = (probe.table, probe.right);
            let whose = if (table, right) == ("outbox_pause", "SELECT") {
                "a relay does not see that it is paused, nor do `pause` and `resume`"
            } else {
                "`dead replay`, `dead discard`, `pause`, `resume`, `resync` or `check` need it"
            };
            about.warn(
                format!("no right to {right} on {table}: {whose}"),
                format!("grant {right} on {table} to {user};"),
            );
        }
    }
    missing.is_empty()
}

/// Tries every statement that people need in a subscriber's database; whether its tables can be looked at further.
pub(super) async fn check_subscriber(store: &mut Store, about: &mut About) -> bool {
    let kind = store.database().kind();
    let found = ask(store, Question::Rights, about).await;
    let user = found.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user);
    let user = grantee(kind, user);
    let mut has_all = true;
    for probe in store.probes_of_subscribers() {
        let Err(error) = store.probe(probe).await else { continue };
        let (table, right) = (probe.table, probe.right);
        if !is_denied(&error) {
            about.bad(error.to_string(), "outbox-relay migrate");
            return false;
        }
        has_all = false;
        about.warn(
            format!("no right to {right} on {table}: `dead`, `status` or `check` need it"),
            format!("grant {right} on {table} to {user};"),
        );
    }
    if has_all {
        about.ok("has every right that looking and acting need");
    }
    true
}

/// By the words of MySQL and MariaDB in the language of the session, which is English, and of the probe on PostgreSQL.
pub(super) fn is_denied(error: &outbox_core::Error) -> bool {
    error.to_string().contains("denied")
}

/// A user as GRANT wants it.
pub(super) fn grantee(kind: Kind, user: &str) -> String {
    match (kind, user.rsplit_once('@')) {
        (Kind::Mysql, Some((name, host))) => format!("'{name}'@'{host}'"),
        _ => format!("\"{user}\""),
    }
}

/// Who takes over the relay should not have taken over the server.
fn warn_of_excess(found: &[(String, String)], user: &str, about: &mut About) {
    let values = |wanted: &str| -> Vec<&str> {
        let those = found.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        those.filter(|value| !HARMLESS.contains(value)).collect()
    };
    let global = values("global");
    if !global.is_empty() {
        about.warn(
            format!("{user} has rights on the whole server that the relay never uses: {}", some_of(&global)),
            less(user, format!("revoke {} on *.* from {user};", global.join(", "))),
        );
    }
    let others = values("schema");
    if !others.is_empty() {
        let revokes: Vec<_> =
            others.iter().map(|other| format!("revoke all privileges on `{other}`.* from {user};")).collect();
        about.warn(format!("{user} has rights on other databases: {}", some_of(&others)), revokes.join(" "));
    }
    for own in values("own") {
        about.warn(
            format!(
                "{user} has rights on every table of its database, the service's too: grant it those on single tables \
                 first, by docs/operating.md"
            ),
            format!("revoke all privileges on `{own}`.* from {user};"),
        );
    }
    let powers = values("power");
    if !powers.is_empty() {
        let without: Vec<_> = powers.iter().map(|power| format!("no{}", power.to_lowercase())).collect();
        about.warn(
            format!("{user} is {}: the relay needs rights on its tables only", powers.join(", ")),
            less(user, format!("alter role {user} {};", without.join(" "))),
        );
    }
}

/// What takes rights away; the server's own administrator keeps them, and the relay gets a user of its own.
fn less(user: &str, statement: String) -> String {
    if user.starts_with("'root'@") || user == "\"postgres\"" {
        "create a user for the relay with the rights in docs/operating.md, and put it into `database`".into()
    } else {
        statement
    }
}

/// The first few, and how many there are besides.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_rights_are_named_with_what_takes_them() {
        let excess = |found: &[(&str, &str)]| -> Vec<String> {
            let found: Vec<_> = found.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let mut about = About::new("outbox x");
            warn_of_excess(&found, "r", &mut about);
            about.findings.into_iter().filter_map(|f| f.fix).collect()
        };
        assert!(excess(&[("user", "r@%"), ("global", "PROCESS")]).is_empty());
        assert_eq!(
            excess(&[("global", "SUPER"), ("global", "DROP"), ("schema", "other")]),
            ["revoke SUPER, DROP on *.* from r;", "revoke all privileges on `other`.* from r;"]
        );
        assert_eq!(excess(&[("own", "shop")]), ["revoke all privileges on `shop`.* from r;"]);
        let fixes = excess(&[("power", "SUPERUSER"), ("power", "CREATEDB")]);
        assert_eq!(fixes, ["alter role r nosuperuser nocreatedb;"]);
        assert!(less("'root'@'%'", String::new()).starts_with("create a user"));
    }
}
