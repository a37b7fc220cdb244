//! Every suite of replication, on MySQL.

pub(crate) const VARIABLE: &str = outbox_tests::lab_client::MYSQL_URL;
pub(crate) const KIND: &str = "mysql";
pub(crate) const IS_MARIADB: bool = false;

#[path = "copies.rs"]
mod copies;
#[path = "reading.rs"]
mod reading;
#[path = "reading_mysql.rs"]
mod reading_mysql;
#[path = "values.rs"]
mod values;
#[path = "verifying.rs"]
mod verifying;
