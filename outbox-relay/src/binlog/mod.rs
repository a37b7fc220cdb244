//! Reads the binary log of MySQL and MariaDB: whole transactions of subscribed tables.

pub mod position;
