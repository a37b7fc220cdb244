//! The programs as a user runs them: exit codes, texts, and the story on every kind of server.

use std::process::{Command, Output};

use diesel::prelude::*;
use outbox_core::{Message, OutboxConnection as _};
use outbox_tests::lab_client::{AMQP_URL, MARIADB_URL, MYSQL_URL, POSTGRES_URL};

use crate::harness::{Server, TestDatabase, free_address, get, program, server_url, unique};

/// A folder with a configuration, and the relay run in it.
pub(crate) struct Relay {
    pub(crate) folder: tempfile::TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Relay {
    pub(crate) fn with(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outbox-relay.toml"), config).unwrap();
        Self { folder }
    }

    fn on(database: &TestDatabase) -> Self {
        Self::with(&config(&server_url(AMQP_URL), &database.url))
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        Command::new(program("outbox-relay"))
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
            .into()
    }
}

pub(crate) fn config(amqp: &str, database: &str) -> String {
    let exchange = unique("ex");
    format!(
        "[broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n\n[[outbox]]\nname = \"items\"\ndatabase = {database:?}\n"
    )
}

#[test]
fn a_fresh_start_by_the_verbs_alone() {
    let database = Server::Sqlite.empty();
    let relay = Relay::on(&database);
    let check = relay.run(&["check"]);
    assert_eq!(check.code, 1, "{check:?}");
    assert!((check.out + &check.err).contains("outbox-relay migrate"));

    let migrate = relay.run(&["migrate"]);
    assert_eq!(migrate.code, 0, "{migrate:?}");
    assert_eq!(relay.run(&["migrate"]).code, 0, "again is nothing");
    let check = relay.run(&["check"]);
    assert_eq!(check.code, 0, "{check:?}");

    let mut connection = diesel::SqliteConnection::establish(&database.url).unwrap();
    connection
        .outbox_transaction(|tx| {
            tx.record_message(Message::new("thing", "k", "made", b"1".to_vec())?);
            Ok(())
        })
        .unwrap();
    let status = relay.run(&["status", "--json"]);
    assert_eq!(status.code, 0, "{status:?}");
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert!(status.to_string().contains("items"), "{status}");
    let bucket = &status[0]["buckets"][0];
    assert_eq!(bucket["bucket"], outbox_core::bucket_of("thing", "k"), "{status}");

    let run = relay.run(&["run", "--until-idle"]);
    assert_eq!(run.code, 0, "{run:?}");
    let left = diesel::dsl::sql::<diesel::sql_types::BigInt>("select count(*) from outbox");
    assert_eq!(left.get_result::<i64>(&mut connection), Ok(0));
}

#[test]
fn check_changes_nothing_in_a_file() {
    let database = Server::Sqlite.empty();
    let relay = Relay::on(&database);
    assert_eq!(relay.run(&["migrate"]).code, 0);
    let mut connection = diesel::SqliteConnection::establish(&database.url).unwrap();
    let rollback_journal = "pragma journal_mode = delete";
    diesel::connection::SimpleConnection::batch_execute(&mut connection, rollback_journal).unwrap();
    drop(connection);
    let path = database.url.strip_prefix("sqlite://").unwrap();
    let before = std::fs::read(path).unwrap();
    let check = relay.run(&["check", "--json"]);
    assert_eq!(check.code, 0, "a warning is no error: {check:?}");
    let findings: Vec<serde_json::Value> = serde_json::from_str(&check.out).unwrap();
    assert!(
        findings.iter().any(|f| f["level"] == "warning" && f["fix"] == "pragma journal_mode = wal;"),
        "{findings:?}"
    );
    assert!(before == std::fs::read(path).unwrap(), "the file is as it was");
}

#[test]
fn init_writes_a_configuration_that_is_valid_and_never_overwrites() {
    let relay = Relay { folder: tempfile::tempdir().unwrap() };
    let init = relay.run(&["init"]);
    assert_eq!(init.code, 0, "{init:?}");
    let written = std::fs::read_to_string(relay.folder.path().join("outbox-relay.toml")).unwrap();
    assert!(written.contains("[[outbox]]") && written.contains('#'));
    let again = relay.run(&["init"]);
    assert_ne!(again.code, 0, "{again:?}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let relay = Relay::with(&config("amqp://h", "sqlite:///x").replace("exchange", "exchnage"));
    let ended = relay.run(&["run"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("exchnage") && ended.err.contains("exchange"), "{ended:?}");
}

#[test]
fn a_wrong_scheme_is_refused_with_the_right_ones() {
    for (amqp, database, named) in
        [("http://127.0.0.1", "sqlite:///x.db", "amqp"), ("amqp://127.0.0.1", "oracle://h/d", "postgres://")]
    {
        let ended = Relay::with(&config(amqp, database)).run(&["check"]);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains(named), "{ended:?}");
    }
}

#[test]
fn a_missing_configuration_is_named() {
    let relay = Relay { folder: tempfile::tempdir().unwrap() };
    let ended = relay.run(&["run"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("outbox-relay.toml") && ended.err.contains("init"), "{ended:?}");
}

#[test]
fn an_unreachable_server_is_named_without_its_password() {
    let amqp = server_url(AMQP_URL);
    for (broker, database) in [
        (amqp.as_str(), "mysql://relay:planted-secret@127.0.0.1:1/shop"),
        (amqp.as_str(), "postgres://relay:planted-secret@127.0.0.1:1/shop"),
        ("amqp://relay:planted-secret@127.0.0.1:1/%2f", "sqlite:///tmp/outbox-test-none.db"),
    ] {
        let ended = Relay::with(&config(broker, database)).run(&["check"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        let text = ended.out + &ended.err;
        assert!(text.contains("127.0.0.1:1"), "{text}");
        assert!(!text.contains("planted-secret"), "{text}");
    }
}

#[test]
fn a_wrong_password_is_named() {
    let wrong = |url: String| {
        let mut url = url::Url::parse(&url).unwrap();
        url.set_password(Some("planted-secret")).unwrap();
        url.to_string()
    };
    let amqp = server_url(AMQP_URL);
    let sqlite = Server::Sqlite.empty();
    for (broker, database) in [
        (amqp.clone(), wrong(server_url(MARIADB_URL)) + "/mysql"),
        (amqp.clone(), wrong(server_url(POSTGRES_URL))),
        (wrong(amqp.clone()), sqlite.url.clone()),
    ] {
        let ended = Relay::with(&config(&broker, &database)).run(&["check"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        let text = ended.out + &ended.err;
        assert!(text.to_lowercase().contains("password") || text.contains("denied"), "{text}");
        assert!(!text.contains("planted-secret"), "{text}");
    }
}

#[test]
fn until_idle_names_what_is_parked() {
    let database = Server::Sqlite.empty();
    let relay = Relay::with(
        &config(&server_url(AMQP_URL), &database.url)
            .replace("[[outbox]]", "unrouted = \"refuse\"\n[[outbox]]\nattempts = 1"),
    );
    assert_eq!(relay.run(&["migrate"]).code, 0);
    let mut connection = diesel::SqliteConnection::establish(&database.url).unwrap();
    connection
        .outbox_transaction(|tx| {
            tx.record_message(Message::new("nobody", "lonely-key", "wants", b"1".to_vec())?);
            Ok(())
        })
        .unwrap();
    let ended = relay.run(&["run", "--until-idle"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!((ended.out + &ended.err).contains("lonely-key"));
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

#[test]
fn a_running_relay_serves_health_and_behind_the_token_metrics() {
    let database = Server::Sqlite.empty();
    let address = free_address();
    let relay = Relay::with(&format!(
        "[admin]\nlisten = {address:?}\ntoken = \"s3cret\"\n{}",
        config(&server_url(AMQP_URL), &database.url)
    ));
    assert_eq!(relay.run(&["migrate"]).code, 0);
    let child = Command::new(program("outbox-relay"))
        .args(["run", "--log-format", "json"])
        .current_dir(relay.folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let ready = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        get(&address, "/readyz", None).is_some_and(|(code, _)| code == 200)
    });
    let answers = ["/healthz", "/metrics", "/api/status"]
        .map(|path| [None, Some("wrong!"), Some("s3cret")].map(|token| get(&address, path, token).unwrap()));
    let shown = ["status", "status --json"].map(|verb| relay.run(&words(verb)).out);
    // What somebody has to look at is no reason to restart it.
    let paused = ["pause items", "status", "status --live"].map(|verb| relay.run(&words(verb)).code);
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert!(ready, "{ended:?}");
    let [table, json] = shown;
    assert!(table.contains("the relay here: running for"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["relay"]["state"], "running", "{json}");
    assert_eq!(json[0]["relay"]["in_flight"], 0, "{json}");
    assert!(json[0]["rates"].is_object(), "{json}");
    assert_eq!(paused, [0, 1, 0]);
    let gone = relay.run(&["status", "--live"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.err.contains(&address), "{gone:?}");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.err.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{ended:?}"
    );
    assert!(!ended.err.contains("s3cret"));

    let [health, metrics, status] = answers;
    assert!(health.iter().all(|(code, _)| *code == 200));
    for guarded in [&metrics, &status] {
        assert_eq!(guarded.each_ref().map(|(code, _)| *code), [401, 401, 200]);
    }
    assert!(metrics[2].1.contains("outbox_relay_up{outbox=\"items\"} 1.0"), "{}", metrics[2].1);
    assert!(status[2].1.contains("\"state\":\"running\""), "{}", status[2].1);
}

/// The story, as JSON.
fn story(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(program("supply-chain")).args(arguments).arg("--json").output().unwrap();
    let ended = Ended::from(output);
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:?}"))
}

fn assert_equal(report: &serde_json::Value, changes: u64) {
    assert_eq!(report["changes"], changes);
    for copy in report["copies"].as_array().unwrap() {
        assert_eq!(copy["differences"], 0, "{report}");
        assert!(copy["rows"].as_u64().unwrap() > 20, "{report}");
    }
}

#[test]
fn the_story_ends_equal_by_default() {
    assert_equal(&story(&["--changes", "500"]), 500);
}

#[test]
fn the_story_ends_equal_with_crashes() {
    let report = story(&["--changes", "500", "--crash", "--seed", "3"]);
    assert_equal(&report, 500);
    assert!(report["kills"].as_u64().unwrap() >= 3);
}

#[test]
fn the_story_on_mariadb_and_rabbitmq_with_processes() {
    let (database, broker) = (server_url(MARIADB_URL), server_url(AMQP_URL));
    assert_equal(
        &story(&["--changes", "400", "--database", &database, "--broker", &broker, "--processes"]),
        400,
    );
}

#[test]
fn the_story_on_mysql_and_rabbitmq() {
    let (database, broker) = (server_url(MYSQL_URL), server_url(AMQP_URL));
    assert_equal(&story(&["--changes", "300", "--database", &database, "--broker", &broker]), 300);
}

#[test]
fn the_story_on_postgresql_and_rabbitmq_with_crashes() {
    let (database, broker) = (server_url(POSTGRES_URL), server_url(AMQP_URL));
    let report = story(&["--changes", "400", "--database", &database, "--broker", &broker, "--crash"]);
    assert_equal(&report, 400);
    assert!(report["kills"].as_u64().unwrap() >= 3);
}

#[test]
fn the_story_in_binlog_mode_on_mariadb() {
    let report = story(&["--mode", "binlog", "--changes", "600", "--database", &server_url(MARIADB_URL)]);
    assert_story_in_binlog_mode(&report, 600);
}

#[test]
fn the_story_in_binlog_mode_on_mysql() {
    let report = story(&["--mode", "binlog", "--changes", "600", "--database", &server_url(MYSQL_URL)]);
    assert_story_in_binlog_mode(&report, 600);
}

#[test]
fn the_story_in_binlog_mode_with_crashes_on_mariadb() {
    let database = server_url(MARIADB_URL);
    let report =
        story(&["--mode", "binlog", "--crash", "--changes", "600", "--seed", "5", "--database", &database]);
    assert_story_in_binlog_mode(&report, 600);
    assert!(report["kills"].as_u64().unwrap() >= 4);
}

#[test]
fn the_story_in_binlog_mode_with_crashes_on_mysql() {
    let database = server_url(MYSQL_URL);
    let report = story(&["--mode", "binlog", "--crash", "--changes", "600", "--database", &database]);
    assert_story_in_binlog_mode(&report, 600);
    assert!(report["kills"].as_u64().unwrap() >= 4);
}

fn assert_story_in_binlog_mode(report: &serde_json::Value, changes: u64) {
    assert_eq!((&report["changes"], &report["mode"]), (&changes.into(), &"binlog".into()), "{report}");
    assert_eq!(report["torn"], 0, "{report}");
    let copies = report["copies"].as_array().unwrap();
    assert_eq!(copies.len(), 5, "{report}");
    for copy in copies {
        assert_eq!(copy["differences"], 0, "{report}");
        assert!(copy["rows"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn binlog_mode_is_refused_where_there_is_no_such_log() {
    let postgres = server_url(POSTGRES_URL);
    for arguments in [&[][..], &["--database", &postgres]] {
        let output =
            Command::new(program("supply-chain")).args(["--mode", "binlog"]).args(arguments).output();
        let ended = Ended::from(output.unwrap());
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains("MySQL or MariaDB"), "{ended:?}");
    }
}
