//! The process is killed: wherever it is, and between a COMMIT and its answer.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use outbox_relay::config::Secret;
use outbox_tests::lab_client::FAULTS_FULL;
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::VARIABLE;
use crate::pair::{Pair, TIMEOUT};
use crate::program::Program;

/// How often it is killed.
fn rounds(full: u32, short: u32) -> u32 {
    if std::env::var_os(FAULTS_FULL).is_some() { full } else { short }
}

async fn filled() -> Pair {
    let mut pair = Pair::fresh(VARIABLE).await;
    pair.source.run(&["create table t (id int primary key, v int, pad varchar(200))"]).await;
    for from in [0, 1000, 2000, 3000] {
        let rows: Vec<_> = (from..from + 1000).map(|id| format!("({id}, 0, repeat('x', 150))")).collect();
        pair.source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    }
    pair.copy(&["t"]);
    pair
}

/// A transaction that leaves the table another one, whatever is repeated or lost of it.
async fn change(pair: &mut Pair) {
    let id = rand::rng().random_range(0..5000);
    pair.source
        .run(&["begin", &format!("insert into t values ({id}, 1, '') on duplicate key update v = v + 1")])
        .await;
    pair.source.run(&[&format!("delete from t where id = {}", id / 2 * 3), "commit"]).await;
}

/// F01: at random places, of the snapshot too.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing() {
    let mut pair = filled().await;
    let relay = Program::with(&pair, Some("64 KiB"));
    for round in 0..rounds(100, 10) {
        if round % 10 == 5 {
            outbox_relay::replication::report::remake(&pair.config, Some("t")).await.unwrap();
        }
        let mut child = relay.start(&["run"]);
        let until = Duration::from_millis(rand::rng().random_range(50..900));
        let began = Instant::now();
        while began.elapsed() < until {
            change(&mut pair).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(relay.run(&["run", "--until-idle"]), 0);
    pair.assert_equal("t", "id, v, pad").await;
    pair.drop().await;
}

/// SIGTERM while rows come, in the snapshot too: it ends in good order, and the next run goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_end_ends_in_good_order() {
    let mut pair = filled().await;
    let relay = Program::with(&pair, Some("64 KiB"));
    for _ in 0..rounds(30, 5) {
        let mut child = relay.start(&["run"]);
        // Before it listens for the signal, that would end it by itself.
        let until = Duration::from_millis(rand::rng().random_range(500..1500));
        let began = Instant::now();
        while began.elapsed() < until {
            change(&mut pair).await;
        }
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let began = Instant::now();
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "it does not end");
            change(&mut pair).await;
        };
        assert_eq!(ended.code(), Some(0), "{ended}");
    }
    assert_eq!(relay.run(&["run", "--until-idle"]), 0);
    pair.assert_equal("t", "id, v, pad").await;
    pair.drop().await;
}

/// F02: killed when the target has committed and nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_before_the_answer_to_commit_repeats_nothing() {
    let mut pair = filled().await;
    let gate = Gate::start(pair.config.target.expose()).await;
    let direct = std::mem::replace(&mut pair.config.target, Secret::new(&gate.url));
    let relay = Program::with(&pair, Some("64 KiB"));
    pair.config.target = direct;
    for _ in 0..rounds(100, 8) {
        change(&mut pair).await;
        gate.kill_before_the_answer(&relay).await;
    }
    assert_eq!(relay.run(&["run", "--until-idle"]), 0);
    pair.assert_equal("t", "id, v, pad").await;
    let rounds = rounds(100, 8);
    let rows: Vec<_> = (0..rounds).map(|round| format!("({}, 0, '')", 9000 + round)).collect();
    pair.source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    assert_eq!(relay.run(&["run", "--until-idle"]), 0);
    // From here on the copy counts what it is told of a row: a repeated change would show.
    pair.target
        .run(&[
            "create table counted (id int)",
            "create trigger counting after update on t for each row insert into counted values (new.id)",
        ])
        .await;
    for round in 0..rounds {
        pair.source.run(&[&format!("update t set v = 1 where id = {}", 9000 + round)]).await;
        gate.kill_before_the_answer(&relay).await;
    }
    assert_eq!(relay.run(&["run", "--until-idle"]), 0);
    let counted: Vec<u32> = pair.target.connection.query("select id from counted order by id").await.unwrap();
    assert_eq!(counted, (9000..9000 + rounds).collect::<Vec<_>>());
    pair.assert_equal("t", "id, v, pad").await;
    pair.drop().await;
}

/// Stands before a target, and keeps answers to COMMIT back.
struct Gate {
    url: String,
    /// Of how many.
    shut: Arc<Semaphore>,
    /// How many were.
    hit: Arc<Semaphore>,
}

impl Gate {
    /// Starts the program and kills it when a COMMIT has been executed, before it hears so.
    async fn kill_before_the_answer(&self, relay: &Program) {
        self.shut.add_permits(1);
        let mut child = relay.start(&["run"]);
        let hit = tokio::time::timeout(TIMEOUT, self.hit.acquire()).await.expect("no COMMIT came").unwrap();
        hit.forget();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    async fn start(url: &str) -> Self {
        let mut url = url::Url::parse(url).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        // The driver would go on over the server's own socket, past this gate.
        url.set_query(Some("prefer_socket=false"));
        let (shut, hit) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let gate = Self { url: url.to_string(), shut: Arc::clone(&shut), hit: Arc::clone(&hit) };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(client, server.clone(), Arc::clone(&shut), Arc::clone(&hit)));
            }
        });
        gate
    }
}

async fn pass(client: TcpStream, server: String, shut: Arc<Semaphore>, hit: Arc<Semaphore>) {
    let server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            count = from_client.read(&mut asked) => {
                let Ok(count @ 1..) = count else { return };
                // The packet of the statement and no more.
                let is_commit = asked[..count].ends_with(b"\x03commit");
                let is_shut = is_commit && shut.try_acquire().map(|permit| permit.forget()).is_ok();
                if to_server.write_all(&asked[..count]).await.is_err() {
                    return;
                }
                if is_shut {
                    // It has committed when it answers; nobody hears of it.
                    let _ = from_server.read(&mut answered).await;
                    hit.add_permits(1);
                    let _ = from_client.read(&mut asked).await;
                    return;
                }
            }
            count = from_server.read(&mut answered) => {
                let Ok(count @ 1..) = count else { return };
                if to_client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
