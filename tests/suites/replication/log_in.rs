//! How a reader logs in: each way that an account may be set up, also when the server has not seen the password lately.

use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use outbox_core::ErrorKind;
use outbox_relay::binlog::{Source, follow};
use outbox_tests::lab_client::PrivateServer;

use super::{IS_MARIADB, KIND};
use crate::source::{TestSource, first_error, inserted, until};

/// How an account logs in, in the words of CREATE USER.
const WAYS: &[(&str, &str)] = if IS_MARIADB {
    &[
        ("native", "identified via mysql_native_password using password('secret')"),
        ("ed", "identified via ed25519 using password('secret')"),
    ]
} else {
    &[("sha2", "identified with caching_sha2_password by 'secret'")]
};

#[tokio::test(flavor = "multi_thread")]
async fn accounts_log_in_by_every_usual_plugin() {
    let server = PrivateServer::spawn(KIND).unwrap_or_else(|error| panic!("{error}"));
    let mut source = TestSource::fresh_at(server.url().to_owned()).await;
    if IS_MARIADB {
        source.run(&["install soname 'auth_ed25519'"]).await;
    }
    source.run(&["create table t (id int primary key)"]).await;
    for (number, (name, identified)) in WAYS.iter().enumerate() {
        let reader = Source::new(source.reader_who(name, identified).await);
        let from = source.position().await;
        let id = number as i64;
        source.run(&[&format!("insert into t values ({id})")]).await;
        let mark = source.mark().await;
        // MySQL forgets whose password it knows, again and again, so that each connection has to show it.
        let mut forgetter = source.connect().await;
        let forgetting = tokio::spawn(async move {
            loop {
                forgetter.query_drop("flush privileges").await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let mut stream = follow(reader, source.tables(&["t"]), from);
        assert_eq!(inserted(&until(&mut stream, &mark).await), [[id]], "{name}");
        forgetting.abort();
    }
}

/// Whoever has to change an account is told which and to what.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told() {
    let mut source = TestSource::fresh(super::VARIABLE).await;
    let name = format!("w_{}", &source.database[2..]);
    let (_, identified) = WAYS[0];
    let reader = Source::new(source.reader_who(&name, identified).await);
    let from = source.position().await;
    source.run(&[&format!("alter user {name}@'%' identified by 'another'")]).await;
    let error = first_error(&mut follow(reader, source.tables(&["t"]), from)).await;
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert!(error.to_string().contains(&format!("'{name}'")), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    source.run(&[&format!("drop user {name}@'%'")]).await;
    source.drop().await;
}
