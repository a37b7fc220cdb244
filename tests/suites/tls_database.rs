//! This database over TLS, on servers of the tests' own that take nothing else.

use std::path::PathBuf;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use outbox_core::broker::memory::MemoryBroker;
use outbox_core::{ErrorKind, Message, OutboxConnection as _};
use outbox_relay::outbox::store::{Database, Store};
use outbox_relay::retry::{Side, decide};
use outbox_relay::{CancellationToken, OutboxConfig, Relay, Unrouted};
use outbox_tests::lab_client::PrivateServer;

use super::{Connection, SERVER};
use crate::certificates::Authority;
use crate::harness::Server;

const SOON: Duration = Duration::from_secs(30);

fn spawn(authority: &Authority, mutual: bool) -> PrivateServer {
    PrivateServer::spawn_with_tls(SERVER.lab_kind(), authority.folder(), mutual).unwrap()
}

/// A database `shop` on it, by the name that the server's certificate has.
fn shop(server: &PrivateServer) -> String {
    let mut url = url::Url::parse(server.url()).unwrap();
    url.set_host(Some("localhost")).unwrap();
    url.set_path("shop");
    url.to_string()
}

fn outbox(url: &str, ca: Option<PathBuf>) -> OutboxConfig {
    OutboxConfig { tls: true, ca, ..OutboxConfig::new("items", url) }
}

/// A service's own connection, whose TLS is that of the C library.
fn service(
    server: &PrivateServer,
    authority: &Authority,
    database: &str,
) -> diesel::ConnectionResult<Connection> {
    let mut url = url::Url::parse(server.url()).unwrap();
    let ca = authority.ca();
    let ca = ca.to_str().unwrap();
    if SERVER == Server::Postgres {
        url.set_host(Some("localhost")).unwrap();
        url.query_pairs_mut().append_pair("sslmode", "verify-full").append_pair("sslrootcert", ca);
    } else {
        url.query_pairs_mut().append_pair("ssl_mode", "verify_ca").append_pair("ssl_ca", ca);
    }
    url.set_path(database);
    <Connection as diesel::Connection>::establish(url.as_str())
}

/// The text with which a connection is refused, and what the operator is told to do.
async fn refused(config: &OutboxConfig) -> (String, &'static str) {
    let mut store = Store::new(Database::of(config).unwrap(), "");
    let error =
        tokio::time::timeout(SOON, store.connect()).await.expect("an answer within 30 s").unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Outage, "{error}");
    (error.to_string(), decide(&error, Side::Source).remedy())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_certificate_is_believed_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = spawn(&authority, false);
    let root = if SERVER == Server::Postgres { "postgres" } else { "" };
    service(&server, &authority, root).unwrap().batch_execute("create database shop").unwrap();
    assert!(service(&server, &other, root).is_err(), "the C library verifies the CA too");
    let url = shop(&server);

    let right = outbox(&url, Some(authority.ca()));
    assert!(right.problems().is_empty(), "{:?}", right.problems());
    Store::new(Database::of(&right).unwrap(), "").migrate(&outbox_core::migrate::OUTBOX).await.unwrap();
    service(&server, &authority, "shop")
        .unwrap()
        .outbox_transaction(|tx| {
            tx.record_message(Message::new("thing", "k", "made", b"7".to_vec())?);
            Ok(())
        })
        .unwrap();
    let broker = MemoryBroker::new();
    let relay = Relay::new([right.clone()], broker.clone(), Unrouted::Queue).unwrap();
    let idle = relay.run_until_idle(CancellationToken::new());
    assert!(tokio::time::timeout(2 * SOON, idle).await.expect("an end within 60 s").unwrap().is_empty());
    assert_eq!(broker.unrouted()[0].body, b"7");

    for config in [outbox(&url, Some(other.ca())), outbox(&url, None)] {
        let (said, _) = refused(&config).await;
        assert!(said.contains("signed by a CA that is not trusted here"), "{said}");
    }
    let (said, remedy) = refused(&outbox(&url.replace("localhost", "127.0.0.1"), Some(authority.ca()))).await;
    assert!(said.contains("another name than 127.0.0.1"), "{said}");
    assert!(remedy.contains("change what the text names"), "{remedy}");
    let (said, remedy) = refused(&OutboxConfig::new("items", &url)).await;
    assert!(remedy.contains("`tls = true`"), "{said}: {remedy}");
    if SERVER != Server::Postgres {
        let (certificate, key) = authority.client("relay");
        let (client_certificate, client_key) = (Some(certificate), Some(key));
        let (said, _) = refused(&OutboxConfig { client_certificate, client_key, ..right }).await;
        assert!(said.contains("PKCS#1"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_not_taken_for_one_with() {
    let authority = Authority::new();
    // MariaDB has TLS without a certificate only since 11.4; MySQL has made itself one.
    let database = SERVER.empty();
    let (said, _) = refused(&outbox(&database.url, Some(authority.ca()))).await;
    let wanted = match SERVER {
        Server::Mysql => "signed by a CA that is not trusted here",
        _ => "the server is set up without it",
    };
    assert!(said.contains(wanted), "{said}");
}
