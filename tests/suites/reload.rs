//! SIGHUP: what a running relay takes from a changed configuration.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outbox_core::Message;
use outbox_tests::lab_client::AMQP_URL;
use rustix::process::{Pid, Signal, kill_process};

use crate::any;
use crate::harness::{Server, TestDatabase, free_address, get, program, server_url, unique};
use crate::programs::{self, Relay};

struct Running {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
}

/// Waits for it; fails after half a minute with what is known.
fn eventually(condition: impl Fn() -> bool, known: impl Fn() -> String) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", known());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_delivered(server: Server, database: &TestDatabase) -> bool {
    any::lines(server, database, "select aggregate_id as line from outbox").is_empty()
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(config: impl Fn(&str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        std::fs::write(folder.path().join("outbox-relay.toml"), config(&address)).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program("outbox-relay"));
        command.arg("run").current_dir(folder.path()).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().unwrap(), folder, address }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Writes another configuration, and waits until the log holds every one of these lines.
    fn reload(&self, config: &str, lines: &[&str]) {
        std::fs::write(self.folder.path().join("outbox-relay.toml"), config).unwrap();
        let seen = self.log().len();
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        eventually(|| lines.iter().all(|line| self.log()[seen..].contains(line)), || self.log());
    }

    fn code(&self, token: &str) -> Option<u16> {
        get(&self.address, "/metrics", Some(token)).map(|(code, _)| code)
    }
}

fn takes_what_it_can_and_names_the_rest(server: Server) {
    let database = server.empty();
    assert_eq!(
        Relay::with(&programs::config(&server_url(AMQP_URL), &database.url)).run(&["migrate"]).code,
        0
    );
    let (amqp, url, exchange) = (server_url(AMQP_URL), database.url.clone(), unique("ex"));
    let config = |address: &str, token: &str, exchange: &str, keys: &str| {
        format!(
            "[admin]\nlisten = {address:?}\ntoken = {token:?}\n\n[broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n\n\
             [[outbox]]\nname = \"items\"\ndatabase = {url:?}\n{keys}\n"
        )
    };
    let relay = Running::start(|address| config(address, "old token", &exchange, ""));
    eventually(|| relay.code("old token") == Some(200), || relay.log());

    let address = relay.address.clone();
    relay.reload(
        &config(&address, "new token", "another", "attempts = 9\npoll_max = \"20ms\""),
        &[
            "starts again with its new settings",
            "admin.token is another one",
            "broker.exchange: needs a restart",
        ],
    );
    assert_eq!([relay.code("old token"), relay.code("new token")], [Some(401), Some(200)]);

    // The pipe goes on with the new settings, to the exchange of the start.
    let deliver = || {
        let message = Message::new("item", "1", "seen", b"{}".to_vec()).unwrap();
        any::record(server, &database, &[message]);
        eventually(|| is_delivered(server, &database), || relay.log());
    };
    deliver();

    relay.reload("[broker]\nurl = \"amqp://\"\nexchnage = \"x\"\n", &["nothing is changed"]);
    assert_eq!(relay.code("new token"), Some(200));
    deliver();
    relay.reload(
        &config(&address, "new token", &exchange, "attempts = 9\npoll_max = \"20ms\""),
        &["nothing has changed"],
    );
    let log = relay.log();
    assert!(!log.contains("old token") && !log.contains("new token"), "{log}");
}

#[test]
fn a_relay_on_sqlite_takes_what_it_can_from_a_changed_configuration_and_names_the_rest() {
    takes_what_it_can_and_names_the_rest(Server::Sqlite);
}

#[test]
fn a_relay_on_postgresql_takes_what_it_can_from_a_changed_configuration_and_names_the_rest() {
    takes_what_it_can_and_names_the_rest(Server::Postgres);
}

#[test]
fn a_relay_on_mariadb_takes_what_it_can_from_a_changed_configuration_and_names_the_rest() {
    takes_what_it_can_and_names_the_rest(Server::Mariadb);
}

#[test]
fn a_relay_on_mysql_takes_what_it_can_from_a_changed_configuration_and_names_the_rest() {
    takes_what_it_can_and_names_the_rest(Server::Mysql);
}
