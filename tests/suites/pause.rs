//! `pause` and `resume`: all relays of an outbox stop and go on, wherever they run.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outbox_core::Message;
use outbox_tests::lab_client::AMQP_URL;

use crate::any;
use crate::harness::{Server, TestDatabase, program, server_url};
use crate::programs::{Relay, config};

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(relay: &Relay) -> Running {
    let mut command = Command::new(program("outbox-relay"));
    command.arg("run").current_dir(relay.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn record(server: Server, database: &TestDatabase) {
    any::record(server, database, &[Message::new("item", "1", "seen", b"{}".to_vec()).unwrap()]);
}

fn pauses_and_resumes(server: Server) {
    let database = server.empty();
    let relay = Relay::with(&(config(&server_url(AMQP_URL), &database.url) + "lease = \"1s\"\n"));
    assert_eq!(relay.run(&["migrate"]).code, 0);
    let status = || -> serde_json::Value {
        let ended = relay.run(&["status", "--json"]);
        serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:?}"))
    };
    let waits = || status()[0]["backlog"]["first_id"].is_i64();
    assert_eq!(relay.run(&["pause", "itmes"]).code, 2, "a name that is none");

    let running = start(&relay);
    record(server, &database);
    until("the relay delivers", || !waits());

    let paused = relay.run(&["pause", "items", "--reason", "the broker moves"]);
    assert_eq!(paused.code, 0, "{paused:?}");
    assert!(relay.run(&["pause", "items"]).out.contains("already"));
    // It looks every other third of a lease.
    std::thread::sleep(Duration::from_secs(3));
    record(server, &database);
    std::thread::sleep(Duration::from_secs(1));
    assert!(waits(), "a paused relay publishes nothing");
    assert_eq!(relay.run(&["status"]).code, 1);
    let text = status()[0]["paused"].to_string();
    assert!(text.contains("paused by ") && text.contains("the broker moves"), "{text}");

    // A relay that starts later sees it too.
    drop(running);
    let began = Instant::now();
    let idle = relay.run(&["run", "--until-idle"]);
    assert_eq!(idle.code, 1, "{idle:?}");
    assert!(idle.err.contains("the broker moves") && idle.err.contains("resume items"), "{idle:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "at once, not after its patience");
    let running = start(&relay);
    std::thread::sleep(Duration::from_secs(2));
    assert!(waits());

    assert_eq!(relay.run(&["resume", "items"]).code, 0);
    assert!(relay.run(&["resume", "items"]).out.contains("was not paused"));
    until("the relay goes on", || !waits());
    drop(running);
    assert_eq!(any::audit(server, &database), ["pause: the broker moves", "resume: "]);
}

#[test]
fn an_outbox_on_sqlite_is_paused_and_goes_on() {
    pauses_and_resumes(Server::Sqlite);
}

#[test]
fn an_outbox_on_postgresql_is_paused_and_goes_on() {
    pauses_and_resumes(Server::Postgres);
}

#[test]
fn an_outbox_on_mariadb_is_paused_and_goes_on() {
    pauses_and_resumes(Server::Mariadb);
}

#[test]
fn an_outbox_on_mysql_is_paused_and_goes_on() {
    pauses_and_resumes(Server::Mysql);
}
