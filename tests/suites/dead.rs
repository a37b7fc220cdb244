//! `dead list|show|replay|discard` as a user runs them: what they do on every database, and what they print.

use outbox_core::Message;
use outbox_tests::lab_client::AMQP_URL;
use serde_json::{Value, json};

use crate::any::{audit, lines, record};
use crate::harness::{Server, server_url};
use crate::programs::{Relay, config};

/// A text that only whoever passes names and values on as they are prints as it was.
const ODD: &str = "a 'b' \"c\" \\ ; -- é";

fn message(key: &str) -> Message {
    Message::new("nobody", key, "wants", br#"{"n":7}"#.to_vec()).unwrap()
}

fn are_listed_shown_replayed_and_discarded(server: Server) {
    let database = server.empty();
    let relay = Relay::with(
        &config(&server_url(AMQP_URL), &database.url)
            .replace("[[outbox]]", "unrouted = \"refuse\"\n[[outbox]]\nattempts = 1"),
    );
    assert_eq!(relay.run(&["migrate"]).code, 0);
    // Of "b" another one waits behind the refused one.
    record(server, &database, &["a", "b", ODD, "b"].map(message));
    let parked = relay.run(&["run", "--until-idle"]);
    assert!(parked.code == 1 && parked.err.contains(ODD), "{parked:?}");

    let list = |arguments: &[&str]| -> Vec<Value> {
        let ended = relay.run(&[&["dead", "list", "--json"], arguments].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        serde_json::from_str(&ended.out).unwrap()
    };
    assert_eq!(list(&[]).len(), 3);
    assert_eq!(list(&["--limit", "2"]).len(), 2);
    assert_eq!(list(&["--key", "b", "--aggregate", "nobody", "--event", "wants", "--newer", "1h"]).len(), 1);
    assert!(list(&["--older", "1h"]).is_empty() && list(&["--error", "no such text"]).is_empty());
    let letter = &list(&["--key", ODD, "--error", "no queue is bound"])[0];
    for (field, value) in [
        ("outbox", json!("items")),
        ("aggregate", json!("nobody")),
        ("event", json!("wants")),
        ("key", json!(ODD)),
        ("attempts", json!(1)),
    ] {
        assert_eq!(letter[field], value, "{letter}");
    }
    assert!((0.0..600.0).contains(&letter["parked_seconds"].as_f64().unwrap()), "{letter}");
    assert_eq!(letter["message_id"].as_str().unwrap().len(), 36, "{letter}");
    let id = letter["id"].to_string();
    let table = relay.run(&["dead", "list"]).out;
    assert_eq!(table.lines().count(), 3, "{table}");
    let line = format!("items {id}: nobody.wants key {ODD}, 1 attempts, parked ");
    assert!(
        table.lines().any(|found| found.starts_with(&line) && found.contains("no queue is bound")),
        "{table}"
    );

    let shown: Value = serde_json::from_str(&relay.run(&["dead", "show", &id, "--json"]).out).unwrap();
    assert_eq!((&shown["payload"], &shown["key"]), (&json!({"n": 7}), &json!(ODD)));
    assert!(shown["headers"].is_object(), "{shown}");
    let text = relay.run(&["dead", "show", &id]).out;
    assert!(text.starts_with(&line) && text.contains("payload:\n{\n  \"n\": 7\n}"), "{text}");
    let missing = relay.run(&["dead", "show", "999"]);
    assert!(missing.code == 1 && missing.err.contains("no dead letter with row 999"), "{missing:?}");

    assert_eq!(relay.run(&["dead", "discard"]).code, 2, "everything needs --all");
    let dry = relay.run(&["dead", "discard", "--all", "--dry-run"]);
    assert!(dry.out.contains("items: would discard 3"), "{dry:?}");
    let discarded = relay.run(&["dead", "discard", "--id", &id, "--json"]);
    let outcomes: Vec<Value> = serde_json::from_str(&discarded.out).unwrap();
    assert_eq!((discarded.code, &outcomes[0]["count"]), (0, &json!(1)), "{discarded:?}");
    let replayed = relay.run(&["dead", "replay", "--key", "b"]);
    assert!(replayed.code == 0 && replayed.out.contains("items: "), "{replayed:?}");
    assert_eq!(relay.run(&["dead", "replay", "--key", "nobody's"]).code, 1);
    assert_eq!(list(&[]).len(), 1);
    let unknown = relay.run(&["dead", "list", "--outbox", "itmes"]);
    assert!(unknown.code == 2 && unknown.err.contains("items"), "{unknown:?}");

    // The discarded row is gone; the replayed one is tried again, what waited behind it stays behind it.
    let keys = "select aggregate_id as line from outbox order by id";
    assert_eq!(lines(server, &database, keys), ["a", "b", "b"]);
    assert_eq!(relay.run(&["run", "--until-idle"]).code, 1);
    assert_eq!(list(&["--key", "b"]).len(), 1);
    let audit = audit(server, &database);
    let actions: Vec<_> = audit.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(actions, ["discard", "replay"], "{audit:?}");
}

#[test]
fn dead_letters_on_sqlite_are_listed_shown_replayed_and_discarded() {
    are_listed_shown_replayed_and_discarded(Server::Sqlite);
}

#[test]
fn dead_letters_on_postgresql_are_listed_shown_replayed_and_discarded() {
    are_listed_shown_replayed_and_discarded(Server::Postgres);
}

#[test]
fn dead_letters_on_mariadb_are_listed_shown_replayed_and_discarded() {
    are_listed_shown_replayed_and_discarded(Server::Mariadb);
}

#[test]
fn dead_letters_on_mysql_are_listed_shown_replayed_and_discarded() {
    are_listed_shown_replayed_and_discarded(Server::Mysql);
}
