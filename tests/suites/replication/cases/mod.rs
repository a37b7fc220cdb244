//! The catalogue of cases that a table replicator must survive (docs/cases.md): each with its rows copied by the
//! snapshot, and once more by the stream.

mod case;
mod rows;
mod run;
mod schema;
mod types;

use outbox_tests::lab_client::{MARIADB_URL, MYSQL_URL};

use self::run::run;

#[tokio::test(flavor = "multi_thread")]
async fn types_on_mariadb() {
    run(MARIADB_URL, MARIADB_URL, [types::common(), types::mariadb()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_on_mysql() {
    run(MYSQL_URL, MYSQL_URL, [types::common(), types::mysql()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_from_mysql_to_mariadb() {
    run(MYSQL_URL, MARIADB_URL, types::common()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_from_mariadb_to_mysql() {
    run(MARIADB_URL, MYSQL_URL, [types::common(), types::from_mariadb_to_mysql()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_mariadb() {
    run(MARIADB_URL, MARIADB_URL, [rows::common(), rows::mariadb()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_mysql() {
    run(MYSQL_URL, MYSQL_URL, [rows::common(), rows::mysql()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_tables_on_mariadb() {
    schema::run(MARIADB_URL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_tables_on_mysql() {
    schema::run(MYSQL_URL).await;
}
