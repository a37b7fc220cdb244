//! A PostgreSQL that speaks another language: what is missing or refused is told with the same remedy.

use diesel::connection::SimpleConnection as _;
use outbox_core::ErrorKind;
use outbox_core::broker::memory::MemoryBroker;
use outbox_relay::check::{self, Finding, Level};
use outbox_relay::config::{Environment, Secret, from_text};
use outbox_relay::outbox::store::{Database, Store};
use outbox_relay::retry::{Side, decide};
use outbox_relay::{CancellationToken, Relay, Unrouted};
use outbox_tests::lab_client::PrivateServer;

use super::SERVER;
use super::database::{connect, connect_url, with_tables};
use super::end_to_end::config;
use crate::harness::{TestDatabase, until};

fn server() -> PrivateServer {
    let server = PrivateServer::spawn_german().unwrap();
    let said = connect_url(server.url()).batch_execute("select 1 from nowhere").unwrap_err();
    assert!(said.to_string().contains("existiert nicht"), "it speaks English: {said}");
    server
}

/// What `check` says of the database at this URL, of an outbox and of a subscriber.
async fn findings(url: &str) -> Vec<Finding> {
    let text =
        format!("[broker]\nurl = \"amqp://127.0.0.1:1\"\n[[outbox]]\nname = \"items\"\ndatabase = {url:?}\n");
    let text = format!("{text}[[subscriber]]\nname = \"copies\"\ndatabase = {url:?}\n");
    check::all(&from_text(&text, &Environment::default()).unwrap()).await
}

/// What it says is bad of the outbox, with what mends it.
async fn bad(url: &str) -> (String, String) {
    let findings = findings(url).await;
    let mut bad = findings.into_iter().filter(|f| f.level == Level::Bad && f.about == "outbox items");
    let finding = bad.next().expect("nothing is bad");
    (finding.text, finding.fix.unwrap())
}

/// How a relay on this database ends at its start.
async fn refused(database: &TestDatabase) -> String {
    let relay = Relay::new([config(database)], MemoryBroker::new(), Unrouted::Queue).unwrap();
    relay.run(CancellationToken::new()).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told_with_its_remedy_in_any_language() {
    let server = server();
    let database = SERVER.empty_at(server.url().to_owned());
    let (said, fix) = bad(&database.url).await;
    assert!(said.contains("existiert nicht") && fix.contains("create the tables"), "{said}: {fix}");
    let told = refused(&database).await;
    assert!(told.contains("create the tables with `outbox-relay migrate`"), "{told}");

    let database = with_tables(database);
    connect(&database).batch_execute("alter table outbox_lease drop column unclean").unwrap();
    let (said, fix) = bad(&database.url).await;
    assert!(said.contains("unclean") && fix.contains("upgrade the tables"), "{said}: {fix}");
    let told = refused(&database).await;
    assert!(told.contains("upgrade the tables with `outbox-relay migrate`"), "{told}");
    connect(&database).batch_execute("drop table outbox_key").unwrap();
    let (said, fix) = bad(&database.url).await;
    assert!(said.contains("_key") && fix.contains("create the tables"), "{said}: {fix}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_refused_is_told_with_its_remedy_in_any_language() {
    let server = server();
    let other = |change: &dyn Fn(&mut url::Url)| {
        let mut url = url::Url::parse(server.url()).unwrap();
        change(&mut url);
        url.to_string()
    };
    let nowhere = other(&|url| url.set_path("nowhere"));
    let (said, fix) = bad(&nowhere).await;
    assert!(said.contains("existiert nicht") && fix.contains("check the database's name"), "{said}: {fix}");
    let nobody = other(&|url| url.set_username("nobody").unwrap());
    let wrong = other(&|url| url.set_password(Some("wrong")).unwrap());
    for url in [nobody, wrong] {
        let (said, fix) = bad(&url).await;
        assert!(
            said.contains("password authentication failed") && fix.contains("check user"),
            "{said}: {fix}"
        );
    }

    // A server that has no room for now is an outage, not a refusal.
    connect_url(server.url())
        .batch_execute("create role plain login password 'outbox' connection limit 0")
        .unwrap();
    let plain = other(&|url| url.set_username("plain").unwrap());
    let mut store = Store::new(Database::parse(&Secret::new(&plain)).unwrap(), "");
    let error = store.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Outage, "{error}");
    assert!(decide(&error, Side::Source).remedy().contains("goes on by itself"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_speak_english_is_told_until_it_does() {
    let server = server();
    let database = with_tables(SERVER.empty_at(server.url().to_owned()));
    let told = async || -> Vec<(String, Option<String>)> {
        let findings = findings(&database.url).await.into_iter();
        let of_language =
            findings.filter(|f| f.text.contains("does not speak English (Division durch Null)"));
        of_language.map(|finding| (finding.about, finding.fix)).collect()
    };
    let fix = "alter system set lc_messages = 'C'; select pg_reload_conf();";
    let both = ["outbox items", "subscriber copies"].map(|about| (about.to_owned(), Some(fix.to_owned())));
    assert_eq!(told().await, both);
    let mut admin = connect(&database);
    fix.split_terminator(';').for_each(|statement| admin.batch_execute(statement).unwrap());
    until("it speaks English", || async { told().await.is_empty() }).await;
}
