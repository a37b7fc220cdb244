//! `migrate`: the tables in the configured databases, or their SQL for other tools.

use clap::ValueEnum;
use outbox_core::migrate::{Dialect, INBOX, OUTBOX, POSTGRES_BELL, REPLICA};

use super::{End, replication};
use crate::config::{Config, Mode, OutboxConfig};
#[cfg(feature = "postgres")]
use crate::outbox::store::Kind;
use crate::outbox::store::{Database, Store};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum SqlOf {
    /// MariaDB too
    Mysql,
    Postgres,
    Sqlite,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    Outbox,
    Inbox,
    /// The target of a replication, MySQL and MariaDB only
    Replica,
    /// The doorbell of mode "tail", PostgreSQL only
    Bell,
}

pub(super) fn print_sql(sql: SqlOf, role: Role) -> End {
    let dialect = match sql {
        SqlOf::Mysql => Dialect::Mysql,
        SqlOf::Postgres => Dialect::Postgres,
        SqlOf::Sqlite => Dialect::Sqlite,
    };
    let migrations = match (role, dialect) {
        (Role::Outbox, _) => OUTBOX,
        (Role::Inbox, _) => INBOX,
        (Role::Replica, Dialect::Mysql) => REPLICA,
        (Role::Replica, _) => return End::Wrong("--role replica is for --sql mysql only".into()),
        (Role::Bell, Dialect::Postgres) => {
            print!("{POSTGRES_BELL}");
            return End::Done;
        }
        (Role::Bell, _) => return End::Wrong("--role bell is for --sql postgres only".into()),
    };
    print!("{}", migrations.sql(dialect));
    End::Done
}

pub(super) async fn migrate(config: &Config) -> End {
    let mut failures = Vec::new();
    let mut tell = |about: String, migrated: outbox_core::Result<Vec<String>>| match migrated {
        Ok(versions) if versions.is_empty() => println!("{about}: up to date"),
        Ok(versions) => println!("{about}: applied {}", versions.join(", ")),
        Err(error) => failures.push(format!("{about}: {error}")),
    };
    for outbox in &config.outbox {
        let migrated = async {
            let mut store = Store::new(Database::of(outbox)?, "");
            let mut versions = store.migrate(&OUTBOX).await?;
            versions.extend(install_bell(outbox, &mut store).await?);
            Ok(versions)
        };
        tell(format!("outbox {}", outbox.name), migrated.await);
    }
    for subscriber in &config.subscriber {
        let migrated = async { Store::new(Database::of_subscriber(subscriber)?, "").migrate(&INBOX).await };
        tell(format!("subscriber {}", subscriber.name), migrated.await);
    }
    replication::migrate(config, &mut failures).await;
    if failures.is_empty() { End::Done } else { End::Failed(failures.join("\n")) }
}

/// What makes commits ring, where it was asked for and is missing.
async fn install_bell(outbox: &OutboxConfig, store: &mut Store) -> outbox_core::Result<Option<String>> {
    #[cfg(feature = "postgres")]
    if outbox.mode == Mode::Tail
        && store.database().kind() == Kind::Postgres
        && store.doorbell().await?.fault().is_some()
    {
        store.install_bell().await?;
        return Ok(Some("the doorbell (trigger outbox_bell)".into()));
    }
    let _ = (outbox, store);
    Ok(None)
}
