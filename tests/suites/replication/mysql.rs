//! Every suite of replication, on MySQL.

pub(crate) const VARIABLE: &str = outbox_tests::lab_client::MYSQL_URL;
pub(crate) const KIND: &str = "mysql";
pub(crate) const IS_MARIADB: bool = false;

/// Has a recursive WITH make many rows.
pub(crate) const MANY: &str = "set session cte_max_recursion_depth = 1000000";

/// Columns of types that the other product lacks.
pub(crate) const APPLY_KINDS: &[(&str, &str)] = &[("js", "json"), ("vec", "vector(3)")];

#[path = "apply.rs"]
mod apply;
#[path = "checks.rs"]
mod checks;
#[path = "copying.rs"]
mod copying;
#[path = "copying_faults.rs"]
mod copying_faults;
#[path = "copying_kills.rs"]
mod copying_kills;
#[path = "copying_schema.rs"]
mod copying_schema;
#[path = "created.rs"]
mod created;
#[path = "failover.rs"]
mod failover;
#[path = "interrupted.rs"]
mod interrupted;
#[path = "lineage.rs"]
mod lineage;
#[path = "log_in.rs"]
mod log_in;
#[path = "quiet.rs"]
mod quiet;
#[path = "reading.rs"]
mod reading;
#[path = "reading_mysql.rs"]
mod reading_mysql;
#[path = "remaking.rs"]
mod remaking;
#[path = "shapes.rs"]
mod shapes;
#[path = "stalled.rs"]
mod stalled;
#[path = "values.rs"]
mod values;
#[path = "verifying.rs"]
mod verifying;
#[path = "windows.rs"]
mod windows;
