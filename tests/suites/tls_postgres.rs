//! What only PostgreSQL shows quickly: a certificate that has expired, and clients with certificates.

use std::time::Duration;

use outbox_core::{ErrorKind, Result};
use outbox_relay::OutboxConfig;
use outbox_relay::outbox::store::{Database, Store};
use outbox_relay::retry::{Side, decide};
use outbox_tests::lab_client::PrivateServer;

use crate::certificates::Authority;

async fn connect(config: &OutboxConfig) -> Result<()> {
    let mut store = Store::new(Database::of(config).unwrap(), "");
    let connected = tokio::time::timeout(Duration::from_secs(30), store.connect()).await;
    connected.expect("an answer within 30 s")
}

fn outbox(server: &PrivateServer, authority: &Authority) -> OutboxConfig {
    let url = server.url().replace("127.0.0.1", "localhost");
    OutboxConfig { tls: true, ca: Some(authority.ca()), ..OutboxConfig::new("items", url) }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::with_expired_server();
    let server = PrivateServer::spawn_with_tls("postgres", authority.folder(), false).unwrap();
    let error = connect(&outbox(&server, &authority)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert!(error.to_string().contains("has expired: renew it on the server"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = PrivateServer::spawn_with_tls("postgres", authority.folder(), true).unwrap();
    let without = outbox(&server, &authority);
    let error = connect(&without).await.unwrap_err();
    assert!(error.to_string().contains("valid client certificate"), "{error}");
    assert!(decide(&error, Side::Source).remedy().contains("client_certificate"), "{error}");

    let with = |authority: &Authority| {
        let (certificate, key) = authority.client("relay");
        OutboxConfig { client_certificate: Some(certificate), client_key: Some(key), ..without.clone() }
    };
    connect(&with(&authority)).await.unwrap();
    let error = connect(&with(&other)).await.unwrap_err();
    assert!(error.to_string().contains("refuses the client certificate in"), "{error}");
}
