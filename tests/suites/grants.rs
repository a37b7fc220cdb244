//! The rights of docs/operating.md, no more and no less: every verb runs as a user who has them, and `check`
//! names each one that is taken away.

use std::process::Command;

use diesel::connection::SimpleConnection as _;
use outbox_core::{Message, OutboxConnection as _};
use outbox_relay::check::{self, Finding, Level};
use outbox_tests::lab_client::{AMQP_URL, PrivateServer};

use super::SERVER;
use super::database::{connect, with_tables};
use super::role::{Rights, Role};
use crate::harness::{Server, TestDatabase, program, server_url, unique};

/// What the relay has on each table.
const RELAY: &Rights = &[
    ("outbox", &["SELECT", "DELETE"]),
    ("outbox_lease", &["SELECT", "UPDATE"]),
    ("outbox_relay", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("outbox_key", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("outbox_meta", &["SELECT"]),
];
/// What `dead`, `pause`, `resume`, `resync` and `check` need besides.
const PEOPLE: &Rights = &[
    ("outbox_audit", &["SELECT", "INSERT", "DELETE"]),
    ("outbox_pause", &["SELECT", "INSERT", "DELETE"]),
    ("outbox_resync", &["SELECT", "INSERT"]),
    ("outbox_resync_service", &["SELECT"]),
    ("__diesel_schema_migrations", &["SELECT"]),
];

/// A user with the documented rights, and the database.
pub(super) struct Relay {
    role: Role,
    database: TestDatabase,
}

impl Relay {
    fn new() -> Self {
        Self::on(SERVER.empty())
    }

    /// In a database that is empty yet.
    pub(super) fn on(database: TestDatabase) -> Self {
        let database = with_tables(database);
        Self { role: Role::with(&database, &[RELAY, PEOPLE]), database }
    }

    /// The same database at another server.
    #[allow(dead_code, reason = "not every database has a standby")]
    pub(super) fn move_to(&mut self, server: &str) {
        let server = url::Url::parse(server).unwrap();
        let mut url = url::Url::parse(&self.database.url).unwrap();
        url.set_port(server.port()).unwrap();
        self.database.url = url.to_string();
        self.role.move_to(&self.database.url);
    }

    /// A statement with the names of this user and this database for `{user}` and `{database}`.
    pub(super) fn named(&self, statement: &str) -> String {
        let url = url::Url::parse(&self.database.url).unwrap();
        statement
            .replace("{user}", &self.role.user())
            .replace("{database}", url.path().trim_start_matches('/'))
    }

    /// Runs statements one after the other, on one connection of who may do everything.
    pub(super) fn execute_all<S: AsRef<str>>(&self, statements: &[S]) {
        let mut connection = connect(&self.database);
        for statement in statements {
            let statement = statement.as_ref();
            connection.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    pub(super) fn config(&self, exchange: &str) -> String {
        format!(
            "[broker]\nurl = {:?}\nexchange = {exchange:?}\nunrouted = \"refuse\"\n\
             [[outbox]]\nname = \"items\"\nattempts = 1\ndatabase = {:?}\n",
            server_url(AMQP_URL),
            self.role.url()
        )
    }

    pub(super) async fn findings(&self) -> Vec<Finding> {
        let environment = outbox_relay::config::Environment::of_process();
        let config = outbox_relay::config::from_text(&self.config("x"), &environment).unwrap();
        let mut findings = check::all(&config).await;
        findings.retain(|finding| finding.about == "outbox items");
        findings
    }
}

#[test]
fn every_verb_runs_with_the_documented_rights() {
    let relay = Relay::new();
    let mut connection = connect(&relay.database);
    connection
        .outbox_transaction(|tx| {
            for key in ["a", "b"] {
                tx.record_message(Message::new("nobody", key, "wants", b"1".to_vec())?);
            }
            Ok(())
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outbox-relay.toml"), relay.config(&unique("ex"))).unwrap();
    for (arguments, code) in [
        (&["check"][..], 0),
        (&["status"], 0),
        (&["pause", "items"], 0),
        (&["resume", "items"], 0),
        // Parks both: nobody wants them.
        (&["run", "--until-idle"], 1),
        (&["dead", "list"], 0),
        (&["dead", "replay", "--key", "a"], 0),
        (&["dead", "discard", "--key", "b"], 0),
    ] {
        let ended = Command::new(program("outbox-relay"))
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {out}{err}");
        assert!(!format!("{out}{err}").contains("denied"), "{arguments:?}: {out}{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_missing_is_named_and_the_fix_gives_it() {
    let relay = Relay::new();
    let role = &relay.role;
    let rights =
        RELAY.iter().flat_map(|(table, rights)| rights.iter().map(move |right| (*table, *right, Level::Bad)));
    let people = PEOPLE
        .iter()
        .flat_map(|(table, rights)| rights.iter().map(move |right| (*table, *right, Level::Warning)));
    for (table, right, level) in rights.chain(people) {
        role.execute(&format!("revoke {right} on {table} from {}", role.user()));
        let findings = relay.findings().await;
        // Reading is part of changing what is chosen by a condition: more may fail than this one.
        let told = findings.iter().find(|f| {
            f.level == level && f.text.starts_with("no right to") && f.text.contains(&format!(" on {table}"))
        });
        let told = told.unwrap_or_else(|| panic!("{right} on {table}: {findings:?}"));
        assert!(told.text.contains(right), "{told:?}");
        role.execute(told.fix.as_deref().unwrap());
        role.execute(&format!("revoke all on {table} from {}", role.user()));
        let (_, documented) = RELAY.iter().chain(PEOPLE).find(|(t, _)| *t == table).unwrap();
        let documented = documented.join(", ");
        role.execute(&format!("grant {documented} on {table} to {}", role.user()));
    }
    let findings = relay.findings().await;
    assert!(findings.iter().all(|f| matches!(f.level, Level::Ok | Level::Note)), "{findings:?}");
}

/// PostgreSQL's texts follow `lc_messages`. A trigger speaks as the server does there: the code is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_known_in_any_language() {
    if SERVER != Server::Postgres {
        return;
    }
    let relay = Relay::new();
    relay.role.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin \
         raise insufficient_privilege using message = 'keine Berechtigung für Tabelle outbox'; end $$; \
         create trigger refuse before delete on outbox for each statement execute function refuse()",
    );
    let findings = relay.findings().await;
    let bad: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Bad).collect();
    let texts: Vec<_> = bad.iter().map(|finding| finding.text.as_str()).collect();
    assert_eq!(texts, ["no right to DELETE on outbox"]);
    assert!(bad[0].fix.as_deref().unwrap().starts_with("grant DELETE on outbox to"), "{bad:?}");
}

/// So do those of MySQL and MariaDB, where a session may choose.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_relay_speaks_english() {
    if !matches!(SERVER, Server::Mariadb | Server::Mysql) {
        return;
    }
    let kind = if SERVER == Server::Mysql { "mysql" } else { "mariadb" };
    let server = PrivateServer::spawn(kind).unwrap();
    let relay = Relay::on(SERVER.empty_at(server.url().to_owned()));
    relay.role.execute("set global lc_messages = 'de_DE'");
    relay.role.execute(&format!("revoke DELETE on outbox from {}", relay.role.user()));
    let findings = relay.findings().await;
    let told = findings.iter().find(|finding| finding.text == "no right to DELETE on outbox");
    assert!(told.is_some(), "{findings:?}");
}

/// Rights that the relay never uses, and how they are told.
fn excesses() -> &'static [(&'static str, &'static str)] {
    match SERVER {
        Server::Postgres => &[
            ("alter role {user} createrole createdb", "is CREATEROLE, CREATEDB"),
            ("alter role {user} superuser replication bypassrls", "is SUPERUSER, REPLICATION, BYPASSRLS"),
        ],
        _ => &[
            ("grant reload, create user on *.* to {user}", "on the whole server that the relay never uses: "),
            (
                "grant select, insert on {database}_too.* to {user}",
                "rights on other databases: {database}_too",
            ),
            ("grant replication slave on *.* to {user}", "never uses: REPLICATION SLAVE"),
            ("grant all privileges on *.* to {user}", "on the whole server that the relay never uses: "),
        ],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_too_much_is_named_and_the_fix_takes_it() {
    let relay = Relay::new();
    for (grant, told) in excesses() {
        let (grant, told) = (relay.named(grant), relay.named(told));
        relay.role.execute(&grant);
        let findings = relay.findings().await;
        let found = findings.iter().find(|f| f.level == Level::Warning && f.text.contains(&told));
        let found = found.unwrap_or_else(|| panic!("{grant}: {findings:?}"));
        relay.role.execute(found.fix.as_deref().unwrap());
        let findings = relay.findings().await;
        assert!(findings.iter().all(|f| matches!(f.level, Level::Ok | Level::Note)), "{grant}: {findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_table_is_named_and_the_fix_repairs_it() {
    let relay = Relay::new();
    let role = &relay.role;
    let drop = if SERVER == Server::Postgres {
        "drop index outbox_bucket"
    } else {
        "drop index outbox_bucket on outbox"
    };
    role.execute(drop);
    role.execute("create index outbox_extra on outbox (event_type)");
    role.execute("insert into __diesel_schema_migrations (version) values ('0000outbox9999')");
    let findings = relay.findings().await;
    for part in ["no index (bucket, id)", "index outbox_extra (event_type)", "0000outbox9999"] {
        let told = findings.iter().find(|finding| finding.text.contains(part));
        let told = told.unwrap_or_else(|| panic!("{part}: {findings:?}"));
        let fix = told.fix.as_deref().unwrap();
        if fix.contains(" index ") {
            role.execute(fix);
        }
    }
    role.execute("delete from __diesel_schema_migrations where version = '0000outbox9999'");
    let findings = relay.findings().await;
    assert!(findings.iter().all(|f| matches!(f.level, Level::Ok | Level::Note)), "{findings:?}");
}
