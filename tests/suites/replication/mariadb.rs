//! Every suite of replication, on MariaDB.

pub(crate) const VARIABLE: &str = outbox_tests::lab_client::MARIADB_URL;
pub(crate) const IS_MARIADB: bool = true;

#[path = "reading.rs"]
mod reading;
#[path = "values.rs"]
mod values;
