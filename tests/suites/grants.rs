//! The rights of docs/operating.md, no more and no less: every verb runs as a user who has them, and `check`
//! names each one that is taken away.

use std::process::Command;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{Message, OutboxConnection as _};
use outbox_relay::check::{self, Finding, Level};
use outbox_relay::{CancellationToken, OutboxConfig, Status, Unrouted};
use outbox_tests::lab_client::{AMQP_URL, PrivateServer};

use super::SERVER;
use super::database::{connect, with_tables};
use super::role::{Rights, Role};
use crate::harness::{Server, TestDatabase, program, server_url, unique, until};

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

/// What a relay that runs needs besides.
const RUNNING: &Rights = &[("outbox_pause", &["SELECT"]), ("outbox_audit", &["SELECT", "DELETE"])];
/// What `status` needs besides the relay's.
const OF_STATUS: &Rights = &[("outbox_resync", &["SELECT"])];
/// What `generation` needs besides what people need.
const OF_GENERATION: &Rights = &[("outbox_meta", &["UPDATE"]), ("outbox_resync", &["UPDATE"])];

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
        Self::with(database, &[RELAY, PEOPLE])
    }

    fn with(database: TestDatabase, rights: &[&Rights]) -> Self {
        let database = with_tables(database);
        Self { role: Role::with(&database, rights), database }
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

    /// Records messages that nobody wants.
    fn record(&self, keys: &[&str]) {
        let messages = keys.iter().map(|key| Message::new("nobody", *key, "wants", b"1".to_vec()).unwrap());
        let recorded = connect(&self.database).outbox_transaction(|tx| {
            messages.for_each(|message| tx.record_message(message));
            Ok(())
        });
        recorded.unwrap();
    }

    /// Runs the program with these arguments, whose exit codes have to be these; nothing may be denied.
    fn run_all(&self, runs: &[(&[&str], i32)]) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outbox-relay.toml"), self.config(&unique("ex"))).unwrap();
        for (arguments, code) in runs {
            let ended = Command::new(program("outbox-relay"))
                .args(*arguments)
                .current_dir(folder.path())
                .output()
                .unwrap();
            let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
            assert_eq!(ended.status.code(), Some(*code), "{arguments:?}: {out}{err}");
            assert!(!format!("{out}{err}").contains("denied"), "{arguments:?}: {out}{err}");
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
    let relay = Relay::with(SERVER.empty(), &[RELAY, PEOPLE, OF_GENERATION]);
    relay.record(&["a", "b"]);
    // As a service that serves resyncs does.
    relay.execute_all(&["insert into outbox_resync_service (aggregate_type) values ('nobody')"]);
    relay.run_all(&[
        (&["check"], 0),
        (&["status"], 0),
        (&["pause", "items"], 0),
        (&["resume", "items"], 0),
        // Parks both: nobody wants them.
        (&["run", "--until-idle"], 1),
        (&["dead", "list"], 0),
        (&["dead", "replay", "--key", "a"], 0),
        (&["dead", "discard", "--key", "b"], 0),
        (&["resync", "items", "--aggregate", "nobody"], 0),
        (&["generation", "items"], 0),
    ]);
}

/// Without those of people.
#[test]
fn a_relay_runs_with_the_rights_of_a_relay_alone() {
    let relay = Relay::with(SERVER.empty(), &[RELAY, RUNNING]);
    relay.record(&["a"]);
    // Parks it: nobody wants it.
    relay.run_all(&[(&["run", "--until-idle"], 1)]);
    let relay = Relay::with(SERVER.empty(), &[RELAY, RUNNING, OF_STATUS]);
    relay.run_all(&[(&["status"], 0)]);
}

/// A relay that may not look any more goes by what it saw last, and one that never could says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_cannot_be_seen_any_more_holds_on() {
    let relay = Relay::with(SERVER.empty(), &[RELAY, RUNNING]);
    let start = || {
        let config = OutboxConfig {
            lease: Duration::from_secs(1).into(),
            ..OutboxConfig::new("items", relay.role.url())
        };
        let running = outbox_relay::Relay::new([config], MemoryBroker::new(), Unrouted::Queue).unwrap();
        let (status, shutdown) = (running.statuses()[0].clone(), CancellationToken::new());
        (status, shutdown.clone(), tokio::spawn(running.run(shutdown)))
    };
    let is = async |status: &Status, state: &str| {
        until(&format!("it is {state}"), || {
            let now = status.snapshot().state;
            async move { now.name() == state }
        })
        .await;
    };
    let (status, shutdown, running) = start();
    is(&status, "running").await;
    relay.execute_all(&["insert into outbox_pause (id, actor, reason) values (1, 'ann', '')"]);
    is(&status, "paused").await;
    let user = relay.role.user();
    relay.role.execute(&format!("revoke SELECT on outbox_pause from {user}"));
    relay.record(&["a"]);
    // It looks every other third of a lease.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let now = status.snapshot();
    assert_eq!((now.state.name(), now.published), ("paused", 0), "{now:?}");
    relay.role.execute(&format!("grant SELECT on outbox_pause to {user}"));
    relay.execute_all(&["delete from outbox_pause"]);
    is(&status, "running").await;
    shutdown.cancel();
    running.await.unwrap().unwrap();

    relay.role.execute(&format!("revoke SELECT on outbox_pause from {user}"));
    let (status, shutdown, running) = start();
    until("it says that it cannot see a pause", || {
        let told = status.snapshot().last_error.unwrap_or_default();
        async move { told.contains("outbox_pause") && told.contains("denied") }
    })
    .await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
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
            ("grant select, drop on {database}.* to {user}", "rights on every table of its database"),
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
