//! The embedded migrations: up, again, down, up.

use diesel_migrations::MigrationHarness as _;
use outbox_core::migrate::{self, INBOX, Migrated as _, OUTBOX};

use super::database::connect;

type Backend = <super::Connection as diesel::Connection>::Backend;

#[test]
fn up_twice_down_and_up() {
    let database = super::SERVER.empty();
    let mut connection = connect(&database);
    assert_eq!(migrate::run(&mut connection, &OUTBOX).unwrap(), ["0000outbox0001", "0000outbox0003"]);
    assert_eq!(migrate::run(&mut connection, &INBOX).unwrap(), ["0000inbox0001"]);
    assert!(migrate::run(&mut connection, &OUTBOX).unwrap().is_empty());

    // Diesel reverts the newest version of the database, whoever made it.
    for migrations in [&OUTBOX, &OUTBOX, &INBOX] {
        connection.revert_last_migration(Backend::of(migrations)).unwrap();
    }
    assert!(connection.applied_migrations().unwrap().is_empty());
    assert_eq!(migrate::run(&mut connection, &OUTBOX).unwrap().len(), 2);
}
