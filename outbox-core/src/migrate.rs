//! The tables of this crate, embedded: [`OUTBOX`] for a service that writes, [`INBOX`] for one that consumes,
//! [`REPLICA`] for one that holds copies of tables by a binary log.
//!
//! Apply them with [`run`], with `outbox-relay migrate`, or through any tool from [`Migrations::sql`]; with
//! one way today and another tomorrow, as all of them leave word in the database of what is applied.
//!
//! They share Diesel's `__diesel_schema_migrations` with the application's own; their versions start with
//! `0000outbox`, `0000inbox` and `0000replica`, which sort before any date, so reverting the newest never means ours.
//!
//! A service with embedded migrations of its own puts both into one source, so that `revert_all_migrations`
//! and the like know every version that they find:
#![cfg_attr(
    feature = "sqlite",
    doc = r#"
```
use diesel::migration::{Migration, MigrationSource, Result};
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use outbox_core::migrate;

# /*
const OWN: EmbeddedMigrations = embed_migrations!("migrations");
# */
# const OWN: EmbeddedMigrations = embed_migrations!("migrations/sqlite/inbox");

struct All;

impl MigrationSource<Sqlite> for All {
    fn migrations(&self) -> Result<Vec<Box<dyn Migration<Sqlite>>>> {
        let mut all = (migrate::OUTBOX.sqlite)().migrations()?;
        all.extend(OWN.migrations()?);
        Ok(all)
    }
}

let mut connection = SqliteConnection::establish(":memory:")?;
connection.run_pending_migrations(All)?;
assert!(!connection.has_pending_migration(All)?);
connection.revert_all_migrations(All)?;
# Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
```
"#
)]

mod turn;

use std::fmt::Write as _;

use diesel::backend::Backend;
use diesel::migration::{CREATE_MIGRATIONS_TABLE, MigrationSource as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::error::{Error, ErrorKind, Result};

macro_rules! embedded {
    ($folder:literal) => {{
        const EMBEDDED: EmbeddedMigrations = embed_migrations!($folder);
        EMBEDDED
    }};
}

/// The scripts of one role, per database: the files that `embed_migrations!` embeds, which keeps its own to
/// itself. A test holds the two against each other.
macro_rules! scripts {
    ($role:literal: $($name:literal),+) => {
        |dialect| match dialect {
            Dialect::Mysql => scripts!("mysql", $role, $($name),+),
            Dialect::Postgres => scripts!("postgres", $role, $($name),+),
            Dialect::Sqlite => scripts!("sqlite", $role, $($name),+),
        }
    };
    ($dialect:literal, $role:literal, $($name:literal),+) => {
        &[$(Script {
            name: $name,
            up: include_str!(concat!("../migrations/", $dialect, "/", $role, "/", $name, "/up.sql")),
        }),+]
    };
}

/// Which SQL a script is in.
///
/// ```
/// use outbox_core::migrate::{Dialect, INBOX};
///
/// fn of_url(url: &str) -> Option<Dialect> {
///     match url.split_once("://")?.0 {
///         "mysql" => Some(Dialect::Mysql),
///         "postgres" => Some(Dialect::Postgres),
///         "sqlite" => Some(Dialect::Sqlite),
///         _ => None,
///     }
/// }
/// let script = of_url("postgres://app@db/shop").map(|dialect| INBOX.sql(dialect)).unwrap_or_default();
/// assert!(script.contains("BYTEA") && !INBOX.sql(Dialect::Sqlite).contains("BYTEA"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// One migration as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Script {
    name: &'static str,
    up: &'static str,
}

impl Script {
    /// What Diesel makes of the name.
    fn version(&self) -> String {
        self.name.split('_').next().unwrap_or_default().replace('-', "")
    }
}

/// The migrations of one role, per database.
///
#[cfg_attr(
    all(feature = "mysql", feature = "postgres", feature = "sqlite"),
    doc = r#"
```
use diesel::migration::MigrationSource;
use diesel::{mysql::Mysql, pg::Pg, sqlite::Sqlite};
use outbox_core::migrate::{INBOX, OUTBOX, REPLICA};

// One database may have both roles: their versions differ.
let (write, read) = (OUTBOX.versions(), INBOX.versions());
assert!(!write.is_empty() && write.iter().all(|version| !read.contains(version)));

let mysql = MigrationSource::<Mysql>::migrations(&(OUTBOX.mysql)())?;
let postgres = MigrationSource::<Pg>::migrations(&(OUTBOX.postgres)())?;
assert_eq!((mysql.len(), postgres.len()), (write.len(), write.len()));
let none = MigrationSource::<Sqlite>::migrations(&(REPLICA.sqlite)())?;
assert!(none.is_empty(), "copies by a binary log are for MySQL and MariaDB");
# Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
```
"#
)]
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// For `mysql://` URLs, MariaDB among them.
    pub mysql: fn() -> EmbeddedMigrations,
    /// For `postgres://` URLs.
    pub postgres: fn() -> EmbeddedMigrations,
    /// For `sqlite://` URLs.
    pub sqlite: fn() -> EmbeddedMigrations,
    scripts: fn(Dialect) -> &'static [Script],
}

impl Migrations {
    /// The versions of the role, in the order they are applied; the same for every database that has the role.
    pub fn versions(&self) -> Vec<String> {
        (self.scripts)(Dialect::Mysql).iter().map(Script::version).collect()
    }

    /// All migrations of the role as one script, for tools like Flyway: the statements as they are embedded,
    /// each migration under a comment with its version, followed by the INSERT that marks it applied.
    ///
    /// The marks go into Diesel's `__diesel_schema_migrations`, which is created if it is missing. So
    /// [`run`] and `outbox-relay migrate` find nothing left to do, and later versions may come by either way.
    /// A database that has the first migrations gets the parts of the later ones only.
    ///
    /// ```
    /// use outbox_core::migrate::{Dialect, OUTBOX};
    ///
    /// assert!(OUTBOX.sql(Dialect::Postgres).contains("CREATE TABLE outbox ("));
    /// ```
    pub fn sql(&self, dialect: Dialect) -> String {
        let mut sql = String::from(
            "-- Apply each part once, in this order, as the owner of the schema; on PostgreSQL and SQLite each in a\n\
             -- transaction. The INSERT at its end tells `outbox-relay migrate`, and whatever else runs these\n\
             -- migrations through Diesel, that the part is applied.\n",
        );
        // DDL commits there, so that a part may have to be run again.
        let ignore = if dialect == Dialect::Mysql { " IGNORE" } else { "" };
        for script in (self.scripts)(dialect) {
            let version = script.version();
            // Writing into a String cannot fail.
            let _ = write!(
                sql,
                "\n-- ==== {version} ({name}) ====\n\n{up}\n\n{CREATE_MIGRATIONS_TABLE};\n\
                 INSERT{ignore} INTO __diesel_schema_migrations (version) VALUES ('{version}');\n",
                name = script.name,
                up = script.up.trim_end(),
                CREATE_MIGRATIONS_TABLE = CREATE_MIGRATIONS_TABLE.trim().trim_end_matches(';'),
            );
        }
        sql
    }
}

/// `outbox`, `outbox_lease`, `outbox_relay`, `outbox_key`, `outbox_audit`, `outbox_pause`, `outbox_resync`,
/// `outbox_resync_service` and `outbox_meta`, on MySQL and MariaDB `outbox_slot` too, for the database whose changes
/// are published.
pub const OUTBOX: Migrations = Migrations {
    mysql: || embedded!("migrations/mysql/outbox"),
    postgres: || embedded!("migrations/postgres/outbox"),
    sqlite: || embedded!("migrations/sqlite/outbox"),
    scripts: scripts!("outbox": "0000-outbox-0001_outbox", "0000-outbox-0002_strict", "0000-outbox-0003_audit", "0000-outbox-0004_pause", "0000-outbox-0005_resync", "0000-outbox-0006_unclean"),
};

/// `inbox` and `inbox_…`, `copy_deleted`, `copy_source`, `copy_begun` and `copy_late`, for the database of a
/// subscriber.
pub const INBOX: Migrations = Migrations {
    mysql: || embedded!("migrations/mysql/inbox"),
    postgres: || embedded!("migrations/postgres/inbox"),
    sqlite: || embedded!("migrations/sqlite/inbox"),
    scripts: scripts!("inbox": "0000-inbox-0001_inbox", "0000-inbox-0002_policies", "0000-inbox-0003_resync", "0000-inbox-0004_begun"),
};

/// `outbox_replication`, `outbox_copy`, `outbox_aside` and the view `outbox_freshness`, for a database that holds
/// copies of tables by a binary log: on MySQL and MariaDB; there are none for others.
pub const REPLICA: Migrations = Migrations {
    mysql: || embedded!("migrations/mysql/replica"),
    postgres: || EmbeddedMigrations::new(&[]),
    sqlite: || EmbeddedMigrations::new(&[]),
    scripts: |dialect| match dialect {
        Dialect::Mysql => {
            scripts!("mysql", "replica", "0000-replica-0001_replica", "0000-replica-0002_lineage")
        }
        Dialect::Postgres | Dialect::Sqlite => &[],
    },
};

/// The doorbell of a PostgreSQL outbox that a relay follows with `mode = "tail"`: a trigger that notifies. Each
/// transaction that rings takes a lock of the whole server to commit, so it is installed only where it was
/// asked for, by `outbox-relay migrate`. May be applied again.
pub const POSTGRES_BELL: &str = include_str!("../migrations/postgres/bell/up.sql");

/// Takes [`POSTGRES_BELL`] away again.
pub const POSTGRES_NO_BELL: &str = include_str!("../migrations/postgres/bell/down.sql");

/// A database with migrations of its own here.
///
#[cfg_attr(
    feature = "sqlite",
    doc = r#"
```
use diesel::prelude::*;
use diesel_migrations::MigrationHarness;
use outbox_core::migrate::{self, INBOX, Migrated, OUTBOX};

/// Whether the tables of both roles are as this version of the crate wants them.
fn is_ready<DB: Migrated>(connection: &mut impl MigrationHarness<DB>) -> diesel::migration::Result<bool> {
    Ok(!connection.has_pending_migration(DB::of(&OUTBOX))?
        && !connection.has_pending_migration(DB::of(&INBOX))?)
}

let mut connection = SqliteConnection::establish(":memory:")?;
migrate::run(&mut connection, &OUTBOX)?;
assert!(!is_ready(&mut connection)?);
migrate::run(&mut connection, &INBOX)?;
assert!(is_ready(&mut connection)?);
# Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
```
"#
)]
pub trait Migrated: Backend + 'static {
    /// What keeps others out while migrations run.
    #[doc(hidden)]
    const TURN: turn::Turn;

    /// The migrations for this database.
    fn of(migrations: &Migrations) -> EmbeddedMigrations;
}

#[cfg(any(feature = "mysql", feature = "async-mysql"))]
impl Migrated for diesel::mysql::Mysql {
    const TURN: turn::Turn = turn::MYSQL;

    fn of(migrations: &Migrations) -> EmbeddedMigrations {
        (migrations.mysql)()
    }
}

#[cfg(any(feature = "postgres", feature = "async-postgres"))]
impl Migrated for diesel::pg::Pg {
    const TURN: turn::Turn = turn::POSTGRES;

    fn of(migrations: &Migrations) -> EmbeddedMigrations {
        (migrations.postgres)()
    }
}

#[cfg(feature = "sqlite")]
impl Migrated for diesel::sqlite::Sqlite {
    const TURN: turn::Turn = turn::SQLITE;

    fn of(migrations: &Migrations) -> EmbeddedMigrations {
        (migrations.sqlite)()
    }
}

/// Creates or upgrades the tables of one role; returns the versions that were applied now.
///
/// Services that start together may all call it: one of them migrates, the others wait for it, by a lock of the
/// session on MySQL, MariaDB and PostgreSQL, by the write lock on SQLite, for as long as `busy_timeout` says. On MySQL
/// and MariaDB, where DDL commits by itself, what was cut short is finished by the next call.
///
/// ```
/// use diesel::prelude::*;
/// use outbox_core::migrate;
///
/// let mut connection = diesel::SqliteConnection::establish(":memory:")?;
/// let versions = migrate::run(&mut connection, &migrate::OUTBOX)?;
/// assert_eq!(versions, migrate::OUTBOX.versions());
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
    DB::of(migrations)
        .migrations()
        .and_then(|migrations| DB::TURN.run(connection, migrations))
        .map_err(|e| Error::with_source(ErrorKind::Database, "migrating the outbox tables", e))
}

#[cfg(test)]
#[cfg(all(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod tests {
    use super::*;

    fn embedded<DB: Migrated>(migrations: &Migrations) -> Vec<(String, String)> {
        use diesel::migration::MigrationSource;
        let embedded = MigrationSource::<DB>::migrations(&DB::of(migrations)).unwrap();
        let mut names: Vec<_> =
            embedded.iter().map(|m| (m.name().to_string(), m.name().version().to_string())).collect();
        names.sort();
        names
    }

    #[test]
    fn the_scripts_are_the_embedded_migrations() {
        for migrations in [OUTBOX, INBOX, REPLICA] {
            for (dialect, embedded) in [
                (Dialect::Mysql, embedded::<diesel::mysql::Mysql>(&migrations)),
                (Dialect::Postgres, embedded::<diesel::pg::Pg>(&migrations)),
                (Dialect::Sqlite, embedded::<diesel::sqlite::Sqlite>(&migrations)),
            ] {
                let scripts = (migrations.scripts)(dialect);
                let names: Vec<_> =
                    scripts.iter().map(|script| (script.name.to_owned(), script.version())).collect();
                assert_eq!(names, embedded, "{dialect:?}");
                assert!(scripts.iter().all(|script| migrations.sql(dialect).contains(script.up.trim_end())));
            }
        }
    }
}
