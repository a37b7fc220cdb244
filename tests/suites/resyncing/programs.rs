//! The verbs, by the program itself.

use std::process::{Child, Command, Stdio};

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::rabbitmq::RabbitMq;
use outbox_core::{Message, OutboxConnection as _, Resync};
use outbox_tests::lab_client::AMQP_URL;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::database::{connect, copies, items, pool};
use super::stage::{insert_silently, number, put_copy};
use super::{SERVER, TABLES};
use crate::harness::{free_address, get, program, server_url, unique, until};
use crate::items::{Item, ItemCopy};

/// The program in a folder with its configuration.
struct Program {
    folder: tempfile::TempDir,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("outbox-relay"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    /// Exit code, and all that it said.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let ended = self.command(arguments).output().unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        (ended.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.command(arguments).output().unwrap();
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|e| {
            panic!("{arguments:?}: {e}: {}", String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()))
        })
    }

    fn start(&self) -> Running {
        let mut run = self.command(&["run"]);
        Running(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_filled_and_its_dead_letters_are_looked_after_by_the_verbs() {
    let (source, target) = (SERVER.empty(), SERVER.empty());
    let (exchange, amqp) = (unique("ex"), server_url(AMQP_URL));
    let name = format!("copies-{exchange}");
    let admin = free_address();
    let config = format!(
        "[admin]\nlisten = {admin:?}\ntoken = \"s3cret\"\n[broker]\nurl = {amqp:?}\nexchange = {exchange:?}\n[[outbox]]\nname = \"items\"\ndatabase = {:?}\n\
         [[subscriber]]\nname = {name:?}\ndatabase = {:?}\n",
        source.url, target.url
    );
    let program = Program { folder: tempfile::tempdir().unwrap() };
    std::fs::write(program.folder.path().join("outbox-relay.toml"), config).unwrap();
    let (code, text) = program.run(&["migrate"]);
    assert!(code == 0 && text.contains("applied 0000inbox0001"), "{text}");
    assert!(program.run(&["migrate"]).1.contains(&format!("subscriber {name}: up to date")));
    let findings = program.json(&["check", "--json"]);
    let about = format!("subscriber {name}");
    let of_subscriber: Vec<_> =
        findings.as_array().unwrap().iter().filter(|f| f["about"] == about.as_str()).collect();
    assert!(!of_subscriber.is_empty() && of_subscriber.iter().all(|f| f["level"] != "bad"), "{findings}");

    let (mut own, mut copy) = (connect(&source), connect(&target));
    own.batch_execute(TABLES).unwrap();
    copy.batch_execute(TABLES).unwrap();
    insert_silently(&mut own, 30);
    put_copy(&mut copy, 555, 1);
    assert_eq!(program.run(&["resync", "items"]).0, 2, "nobody serves it yet");
    assert_eq!(program.run(&["resync", "nothing"]).0, 2);

    let end = CancellationToken::new();
    let subscriber = outbox_core::Subscriber::new(
        name.clone(),
        RabbitMq::new(&amqp).unwrap().exchange(&exchange),
        pool(&target),
    )
    .copy::<ItemCopy>();
    subscriber.declare().await.unwrap();
    let tasks = [
        tokio::spawn(subscriber.run(end.clone())),
        tokio::spawn(Resync::<Item>::new(pool(&source)).run(end.clone())),
    ];
    let _relay = program.start();
    until("somebody serves it", || async { program.run(&["resync", "items", "--key", "1"]).0 == 0 }).await;
    let resynced = program.json(&["resync", "items", "--wait", "--json"]);
    assert_eq!((&resynced[0]["state"], &resynced[0]["rows"]), (&Value::from("done"), &Value::from(30)));
    until("the copy is equal", || async {
        let expected: Vec<ItemCopy> = items(&mut connect(&source)).iter().map(ItemCopy::from).collect();
        copies(&mut connect(&target)) == expected
    })
    .await;

    // A message that the copy cannot read.
    let broken = Message::new("item", "1", "updated", b"{\"after\": {\"id\": 1}}".to_vec()).unwrap();
    own.outbox_transaction(|tx| {
        tx.record_message(broken);
        Ok(())
    })
    .unwrap();
    let of = ["--subscriber", name.as_str()];
    let list = || program.json(&[&["dead", "list", "--json"][..], &of].concat());
    until("it is set aside", || async { list().as_array().unwrap().len() == 1 }).await;
    let listed = list();
    assert_eq!((&listed[0]["kind"], &listed[0]["key"]), (&Value::from("item.updated"), &Value::from("1")));
    let id = listed[0]["id"].to_string();
    let shown = program.json(&[&["dead", "show", &id, "--json"][..], &of].concat());
    assert_eq!(shown["payload"]["after"]["id"], 1);
    assert_eq!(program.run(&["dead", "show", &id]).0, 2, "whose?");
    let (code, text) = program.run(&["status"]);
    assert!(code == 1 && text.contains("1 dead"), "{text}");
    let status = program.json(&["status", "--json"]);
    assert_eq!(status[1]["subscriber"], name.as_str());
    assert_eq!(status[1]["dead"], 1);
    assert_eq!(status[0]["resyncs"][0]["state"], "done");

    // The running relay looks by itself, every ten seconds.
    let served = |path: &str| get(&admin, path, Some("s3cret")).map(|(_, answer)| answer).unwrap_or_default();
    let is_dead = format!("outbox_relay_subscriber_dead{{subscriber=\"{name}\"}} 1.0");
    until("the metrics tell of it", || async { served("/metrics").contains(&is_dead) }).await;
    let answer = served("/api/status");
    let (_, answer) = answer.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(answer).unwrap();
    let entry = answer.as_array().unwrap().iter().find(|entry| entry["subscriber"] == name.as_str());
    assert_eq!(entry.unwrap()["dead"], 1, "{answer}");

    let (code, text) =
        program.run(&[&["dead", "replay", "--dry-run", "--aggregate", "item"][..], &of].concat());
    assert!(code == 0 && text.contains("would replay 1"), "{text}");
    assert_eq!(
        program.run(&[&["dead", "replay", "--error", "is missing", "--force"][..], &of].concat()).0,
        0
    );
    until("it has failed again", || async {
        let listed = list();
        listed.as_array().unwrap().len() == 1 && listed[0]["attempts"] == 2
    })
    .await;
    assert_eq!(program.run(&[&["dead", "discard", "--id", &id][..], &of].concat()).0, 0);
    until("it is gone", || async { number(&mut connect(&target), "select count(*) from inbox_held") == 0 })
        .await;
    assert_eq!(program.run(&[&["dead", "discard", "--all"][..], &of].concat()).0, 1, "there is none");
    assert_eq!(number(&mut copy, "select count(*) from inbox_audit where action in ('force', 'discard')"), 2);

    let (code, text) = program.run(&["generation", "items", "--dry-run"]);
    assert!(code == 0 && text.contains("would be raised from 1 to 2"), "{text}");
    let (code, text) = program.run(&["generation", "items", "--wait"]);
    assert!(code == 0 && text.contains("raised from 1 to 2; sent again: item"), "{text}");
    until("the copy shows the new generation", || async {
        number(&mut connect(&target), "select count(*) from item_copy where outbox_generation = 2") == 30
    })
    .await;
    end.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}
