//! Every suite of replication, on MySQL.

pub(crate) const VARIABLE: &str = outbox_tests::lab_client::MYSQL_URL;
pub(crate) const IS_MARIADB: bool = false;

#[path = "reading.rs"]
mod reading;
#[path = "values.rs"]
mod values;
