//! One process at a time: services that migrate at their start may start together.

use std::fmt;

use diesel::backend::Backend;
use diesel::connection::BoxableConnection;
use diesel::migration::{self, Migration, MigrationMetadata, MigrationName, MigrationVersion};
use diesel_migrations::MigrationHarness;

/// What keeps others out while migrations run.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Waits for its turn and takes it.
    take: &'static str,
    /// Gives it back.
    give: &'static str,
    /// What gives it back after a failure, if it is a transaction, in which the migrations can begin none of their own.
    roll_back: Option<&'static str>,
}

/// A lock of the session, named after the database: the server knows one space of names. What is not taken in an hour
/// is an error, of a subquery with two rows for want of a statement that raises one outside of a procedure.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
pub(super) const MYSQL: Turn = Turn {
    take: "SELECT IF(GET_LOCK(CONCAT('outbox_migrate_', LEFT(SHA2(IFNULL(DATABASE(), ''), 256), 40)), 3600) = 1, 1, \
           (SELECT 1 UNION SELECT 2))",
    give: "DO RELEASE_LOCK(CONCAT('outbox_migrate_', LEFT(SHA2(IFNULL(DATABASE(), ''), 256), 40)))",
    roll_back: None,
};

/// An advisory lock of the session, of class `outm`.
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(super) const POSTGRES: Turn = Turn {
    take: "SELECT pg_advisory_lock(1869968493, 0)",
    give: "SELECT pg_advisory_unlock(1869968493, 0)",
    roll_back: None,
};

/// The write lock, waited for as long as `busy_timeout` says: all that is pending is one transaction.
#[cfg(feature = "sqlite")]
pub(super) const SQLITE: Turn = Turn { take: "BEGIN IMMEDIATE", give: "COMMIT", roll_back: Some("ROLLBACK") };

impl Turn {
    /// Runs what is pending of these, once nobody else does; gives the versions.
    pub(super) fn run<DB: Backend + 'static, C: MigrationHarness<DB>>(
        &self,
        connection: &mut C,
        migrations: Vec<Box<dyn Migration<DB>>>,
    ) -> migration::Result<Vec<String>> {
        let is_transaction = self.roll_back.is_some();
        // Who has nothing to do there should not wait for writers.
        if is_transaction && pending(connection, &migrations).is_ok_and(|pending| pending.is_empty()) {
            return Ok(Vec::new());
        }
        match execute(connection, self.take) {
            // The caller's own transaction, which has the lock, or gets it by its first write.
            Err(error) if is_transaction && error.to_string().contains("within a transaction") => {
                return apply(connection, migrations);
            }
            taken => taken?,
        }
        let migrations = if is_transaction {
            migrations.into_iter().map(|migration| Box::new(Within(migration)) as _).collect()
        } else {
            migrations
        };
        let applied = apply(connection, migrations);
        let undo = self.roll_back.filter(|_| applied.is_err());
        let given = execute(connection, undo.unwrap_or(self.give));
        let applied = applied?;
        given.map(|()| applied)
    }
}

fn apply<DB: Backend + 'static, C: MigrationHarness<DB>>(
    connection: &mut C,
    migrations: Vec<Box<dyn Migration<DB>>>,
) -> migration::Result<Vec<String>> {
    let mut applied = Vec::new();
    for migration in pending(connection, &migrations)? {
        applied.push(connection.run_migration(migration)?.to_string());
    }
    Ok(applied)
}

/// What is not applied yet, in order.
fn pending<'m, DB: Backend + 'static, C: MigrationHarness<DB>>(
    connection: &mut C,
    migrations: &'m [Box<dyn Migration<DB>>],
) -> migration::Result<Vec<&'m dyn Migration<DB>>> {
    let done = connection.applied_migrations()?;
    let mut pending: Vec<&dyn Migration<DB>> = migrations.iter().map(|migration| &**migration).collect();
    pending.retain(|migration| !done.contains(&migration.name().version()));
    pending.sort_by_key(|migration| migration.name().version().to_string());
    Ok(pending)
}

/// Runs a statement by a harness, which gives its connection to nothing but a migration: one that fails when the
/// statement is done, so that it is not noted as applied.
fn execute<DB: Backend, C: MigrationHarness<DB>>(
    connection: &mut C,
    statement: &'static str,
) -> migration::Result<()> {
    match connection.run_migration(&Statement(statement)) {
        Ok(_) => Ok(()),
        Err(error) if error.is::<Done>() => Ok(()),
        Err(error) => Err(error),
    }
}

struct Statement(&'static str);

#[derive(Debug)]
struct Done;

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the statement is done")
    }
}

impl std::error::Error for Done {}

impl<DB: Backend> Migration<DB> for Statement {
    fn run(&self, connection: &mut dyn BoxableConnection<DB>) -> migration::Result<()> {
        connection.batch_execute(self.0)?;
        Err(Done.into())
    }

    fn revert(&self, _: &mut dyn BoxableConnection<DB>) -> migration::Result<()> {
        Ok(())
    }

    fn metadata(&self) -> &dyn MigrationMetadata {
        &Unwrapped
    }

    fn name(&self) -> &dyn MigrationName {
        &Unnamed
    }
}

/// A migration without a transaction of its own.
struct Within<DB: Backend>(Box<dyn Migration<DB>>);

impl<DB: Backend> Migration<DB> for Within<DB> {
    fn run(&self, connection: &mut dyn BoxableConnection<DB>) -> migration::Result<()> {
        self.0.run(connection)
    }

    fn revert(&self, connection: &mut dyn BoxableConnection<DB>) -> migration::Result<()> {
        self.0.revert(connection)
    }

    fn metadata(&self) -> &dyn MigrationMetadata {
        &Unwrapped
    }

    fn name(&self) -> &dyn MigrationName {
        self.0.name()
    }
}

struct Unwrapped;

impl MigrationMetadata for Unwrapped {
    fn run_in_transaction(&self) -> bool {
        false
    }
}

struct Unnamed;

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a statement")
    }
}

impl MigrationName for Unnamed {
    /// The version that Diesel's harnesses say nothing of.
    fn version(&self) -> MigrationVersion<'_> {
        MigrationVersion::from("00000000000000")
    }
}
