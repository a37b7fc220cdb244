//! Every suite of replication, on MariaDB.

pub(crate) const VARIABLE: &str = outbox_tests::lab_client::MARIADB_URL;
pub(crate) const KIND: &str = "mariadb";
pub(crate) const IS_MARIADB: bool = true;

#[path = "copies.rs"]
mod copies;
#[path = "copying.rs"]
mod copying;
#[path = "copying_faults.rs"]
mod copying_faults;
#[path = "copying_schema.rs"]
mod copying_schema;
#[path = "reading.rs"]
mod reading;
#[path = "reading_mariadb.rs"]
mod reading_mariadb;
#[path = "values.rs"]
mod values;
#[path = "verifying.rs"]
mod verifying;
