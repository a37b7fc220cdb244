//! The tables of this crate, embedded: [`OUTBOX`] for a service that writes, [`INBOX`] for one that consumes.
//!
//! They share Diesel's `__diesel_schema_migrations` with the application's own; their versions start with
//! `0000outbox` and `0000inbox`, which sort before any date, so reverting the newest never means ours.

use diesel::backend::Backend;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::error::{Error, ErrorKind, Result};

macro_rules! embedded {
    ($folder:literal) => {{
        const EMBEDDED: EmbeddedMigrations = embed_migrations!($folder);
        EMBEDDED
    }};
}

/// The migrations of one role, per database.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// For `mysql://` URLs, MariaDB among them.
    pub mysql: fn() -> EmbeddedMigrations,
    /// For `postgres://` URLs.
    pub postgres: fn() -> EmbeddedMigrations,
    /// For `sqlite://` URLs.
    pub sqlite: fn() -> EmbeddedMigrations,
}

/// `outbox`, `outbox_lease`, `outbox_relay`, `outbox_key` and `outbox_meta`, for the database whose changes
/// are published.
pub const OUTBOX: Migrations = Migrations {
    mysql: || embedded!("migrations/mysql/outbox"),
    postgres: || embedded!("migrations/postgres/outbox"),
    sqlite: || embedded!("migrations/sqlite/outbox"),
};

/// `inbox`, `inbox_held`, `copy_deleted` and `copy_source`, for the database of a subscriber.
pub const INBOX: Migrations = Migrations {
    mysql: || embedded!("migrations/mysql/inbox"),
    postgres: || embedded!("migrations/postgres/inbox"),
    sqlite: || embedded!("migrations/sqlite/inbox"),
};

/// A database with migrations of its own here.
pub trait Migrated: Backend {
    /// The migrations for this database.
    fn of(migrations: &Migrations) -> EmbeddedMigrations;
}

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
impl Migrated for diesel::mysql::Mysql {
    fn of(migrations: &Migrations) -> EmbeddedMigrations {
        (migrations.mysql)()
    }
}

#[cfg(any(feature = "postgres", feature = "async-postgres"))]
impl Migrated for diesel::pg::Pg {
    fn of(migrations: &Migrations) -> EmbeddedMigrations {
        (migrations.postgres)()
    }
}

#[cfg(feature = "sqlite")]
impl Migrated for diesel::sqlite::Sqlite {
    fn of(migrations: &Migrations) -> EmbeddedMigrations {
        (migrations.sqlite)()
    }
}

/// Creates or upgrades the tables of one role; returns the versions that were applied now.
///
/// ```
/// use diesel::prelude::*;
/// use outbox_core::migrate;
///
/// let mut connection = diesel::SqliteConnection::establish(":memory:")?;
/// assert_eq!(migrate::run(&mut connection, &migrate::OUTBOX)?, ["0000outbox0001"]);
/// assert!(migrate::run(&mut connection, &migrate::OUTBOX)?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Errors
/// `Database`, with the statement's error.
pub fn run<DB: Migrated, C: MigrationHarness<DB>>(
    connection: &mut C,
    migrations: &Migrations,
) -> Result<Vec<String>> {
    connection
        .run_pending_migrations(DB::of(migrations))
        .map(|versions| versions.iter().map(ToString::to_string).collect())
        .map_err(|e| Error::with_source(ErrorKind::Database, "migrating the outbox tables", e))
}
