//! RabbitMQ over TLS, on servers of the tests' own: who is believed, who is refused, and in which words.

use std::process::Command;
use std::time::Duration;

use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use outbox_core::broker::rabbitmq::{Auth, RabbitMq};
use outbox_core::broker::{Broker as _, Confirm, Consumer as _, Publisher as _, Queue};
use outbox_core::tls::Tls;
use outbox_core::{ErrorKind, Frame, Headers, Message, OutboxConnection as _, Subscriber, migrate};
use outbox_tests::lab_client::PrivateServer;
use tokio_util::sync::CancellationToken;

use crate::certificates::Authority;
use crate::harness::{Server, program, unique};

/// No attempt may hang; far longer than any takes.
const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("an answer within 30 s")
}

fn rabbit(url: &str, tls: Tls) -> RabbitMq {
    RabbitMq::new(url).unwrap().tls(tls).exchange(unique("ex")).timeout(Duration::from_secs(20))
}

/// Sends one message through a queue and back.
async fn a_message_travels(broker: &RabbitMq) {
    let name = unique("q");
    let queue = Queue { name, bindings: vec!["thing.#".into()], prefetch: 1 };
    let frame = Frame {
        routing_key: "thing.made.00".into(),
        message_id: "0192e4a0-0000-7000-8000-000000000001".into(),
        kind: "thing.made".into(),
        content_type: "application/json".into(),
        headers: Headers::default(),
        // Several TLS records.
        body: vec![b'7'; 100_000],
    };
    let mut consumer = soon(broker.consumer(&queue)).await.unwrap();
    let mut publisher = soon(broker.publisher()).await.unwrap();
    assert_eq!(soon(publisher.publish(std::slice::from_ref(&frame))).await.unwrap(), [Confirm::Confirmed]);
    let taken = soon(consumer.next(1)).await.unwrap();
    assert_eq!(taken[0].frame.body, frame.body);
    consumer.ack_through(taken[0].tag).await.unwrap();
    let version = soon(broker.version()).await.unwrap();
    assert!(version.starts_with("RabbitMQ "), "{version}");
}

/// The text of an error whose kind may be either: a server that cuts the connection may take its reason along.
async fn said(broker: RabbitMq) -> String {
    soon(broker.publisher()).await.unwrap_err().to_string()
}

/// The text with which a connection is refused for good; it is no outage, which nobody would look into.
async fn refused(broker: RabbitMq) -> String {
    let error = soon(broker.publisher()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broker, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    error.to_string()
}

fn port(url: &str) -> u16 {
    url::Url::parse(url).unwrap().port().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_certificate_is_believed_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = PrivateServer::spawn_with_tls("rabbitmq", authority.folder(), false).unwrap();
    let url = server.tls_url().unwrap();
    let trusting = Tls::new().ca(authority.ca());

    a_message_travels(&rabbit(url, trusting.clone())).await;

    let text = refused(rabbit(url, Tls::new())).await;
    assert!(text.contains("signed by a CA that is not trusted here") && text.contains("`ca`"), "{text}");
    let text = refused(rabbit(url, Tls::new().ca(other.ca()))).await;
    assert!(text.contains("signed by a CA that is not trusted here"), "{text}");
    let text = refused(rabbit(&url.replace("localhost", "127.0.0.1"), trusting.clone())).await;
    assert!(text.contains("another name than 127.0.0.1"), "{text}");

    let nowhere = authority.folder().join("nowhere.pem");
    let error = soon(rabbit(url, Tls::new().ca(&nowhere)).publisher()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(&format!("ca: {}", nowhere.display())), "{error}");

    // Each side on the other's port.
    let plain = format!("amqps://guest:guest@localhost:{}", port(server.url()));
    let text = said(rabbit(&plain, trusting.clone())).await;
    assert!(
        text.contains("answers without TLS") || text.contains("see that this is its port with TLS"),
        "{text}"
    );
    let secured = format!("amqp://guest:guest@localhost:{}", port(url));
    let text = said(rabbit(&secured, Tls::new())).await;
    assert!(text.contains("write amqps://"), "{text}");

    from_an_outbox_to_a_subscriber(url, &authority).await;
}

async fn from_an_outbox_to_a_subscriber(url: &str, authority: &Authority) {
    let (source, target) = (Server::Sqlite.empty(), Server::Sqlite.empty());
    let mut writer = SqliteConnection::establish(&source.url).unwrap();
    migrate::run(&mut writer, &migrate::OUTBOX).unwrap();
    migrate::run(&mut SqliteConnection::establish(&target.url).unwrap(), &migrate::INBOX).unwrap();
    let exchange = unique("ex");
    let broker = RabbitMq::new(url).unwrap().tls(Tls::new().ca(authority.ca())).exchange(&exchange);

    let (sender, receiver) = std::sync::mpsc::channel();
    let pool =
        Pool::builder().max_size(2).build(ConnectionManager::<SqliteConnection>::new(&target.url)).unwrap();
    let subscriber = Subscriber::new("tls", broker, pool).on("thing.made", move |_, number: i64| {
        let _ = sender.send(number);
        Ok(())
    });
    soon(subscriber.declare()).await.unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(subscriber.run(shutdown.clone()));

    writer
        .outbox_transaction(|tx| {
            tx.record_message(Message::new("thing", "k", "made", b"7".to_vec())?);
            Ok(())
        })
        .unwrap();
    let config = format!(
        "[broker]\nurl = {url:?}\nca = {:?}\nexchange = {exchange:?}\n[[outbox]]\nname = \"items\"\ndatabase = {:?}\n",
        authority.ca(),
        source.url
    );
    relay(&config, &["check"]).await;
    relay(&config, &["run", "--until-idle"]).await;
    let number = tokio::task::spawn_blocking(move || receiver.recv_timeout(SOON)).await.unwrap();
    assert_eq!(number, Ok(7));
    shutdown.cancel();
    soon(running).await.unwrap().unwrap();
}

/// Runs the program, which has to succeed.
async fn relay(config: &str, arguments: &'static [&'static str]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outbox-relay.toml"), config).unwrap();
    let mut command = Command::new(program("outbox-relay"));
    command.args(arguments).current_dir(folder.path());
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(ended.status.success(), "{arguments:?}: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_certificate_needs_no_password() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = PrivateServer::spawn_with_tls("rabbitmq", authority.folder(), true).unwrap();
    let url = server.tls_url().unwrap().replace("guest:guest", "guest:hunter2");
    let with = |(certificate, key)| Tls::new().ca(authority.ca()).client_certificate(certificate, key);
    let guest = authority.client("guest");

    let text = said(rabbit(&url, Tls::new().ca(authority.ca()))).await;
    assert!(text.contains("client certificate") && text.contains("give client_certificate"), "{text}");
    let text = said(rabbit(&url, with(other.client("guest")))).await;
    assert!(text.contains("the client certificate in") && text.contains("trusts its CA"), "{text}");
    let text = refused(rabbit(&url, with(guest.clone()))).await;
    assert!(text.contains("user or password refused"), "{text}");

    a_message_travels(&rabbit(&url, with(guest.clone())).auth(Auth::External)).await;
    let text = refused(rabbit(&url, with(authority.client("nobody"))).auth(Auth::External)).await;
    assert!(text.contains("does not take the client certificate for a user"), "{text}");

    let database = Server::Sqlite.empty();
    migrate::run(&mut SqliteConnection::establish(&database.url).unwrap(), &migrate::OUTBOX).unwrap();
    let config = format!(
        "[broker]\nurl = {:?}\nauth = \"external\"\nca = {:?}\nclient_certificate = {:?}\nclient_key = {:?}\n\
         [[outbox]]\nname = \"items\"\ndatabase = {:?}\n",
        url.replace("guest:hunter2@", ""),
        authority.ca(),
        guest.0,
        guest.1,
        database.url
    );
    relay(&config, &["check"]).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_to_tls_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqps://{}", silent.local_addr().unwrap());
    let authority = Authority::new();
    let broker = rabbit(&url, Tls::new().ca(authority.ca())).timeout(Duration::from_millis(500));
    let error = soon(broker.publisher()).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
}
