//! The database: which one, a pool of connections to it, and its tables.

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, deadpool};
use diesel_async::{AsyncConnection as _, AsyncMigrationHarness, SimpleAsyncConnection as _};
use futures::FutureExt as _;
use outbox_core::migrate;

/// All that differs on PostgreSQL.
#[cfg(all(feature = "postgres", not(test)))]
mod kind {
    pub(crate) use diesel_async::AsyncPgConnection as Connection;
    pub(super) const SETTINGS: &str = "set client_min_messages = warning";
    pub(super) const ID: &str = "bigint generated always as identity primary key";
}

/// All that differs on SQLite: one writer at a time, others wait for it.
#[cfg(any(not(feature = "postgres"), test))]
mod kind {
    pub(crate) use outbox_core::AsyncSqliteConnection as Connection;
    pub(super) const SETTINGS: &str =
        "pragma busy_timeout = 2000; pragma journal_mode = wal; pragma synchronous = normal";
    pub(super) const ID: &str = "integer not null primary key autoincrement";
}

pub(crate) use kind::Connection;
pub(crate) type Pool = deadpool::Pool<Connection>;

/// Opens a pool, and creates the tables that are not there yet: the outbox's and our own.
pub(crate) async fn open(url: &str) -> Result<Pool, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(|url| connect(url.to_owned()).boxed());
    let manager = AsyncDieselConnectionManager::new_with_config(url, config);
    let pool = deadpool::Pool::builder(manager).max_size(8).build()?;

    migrate::run(&mut AsyncMigrationHarness::new(pool.get().await?), &migrate::OUTBOX)?;
    let table = format!(
        "create table if not exists product (id {}, sku varchar(40) not null unique, name varchar(200) not null, \
         price_cents bigint not null check (price_cents > 0), cost_cents bigint not null)",
        kind::ID
    );
    pool.get().await?.batch_execute(&table).await?;
    Ok(pool)
}

async fn connect(url: String) -> ConnectionResult<Connection> {
    let mut connection = Connection::establish(&url).await?;
    connection.batch_execute(kind::SETTINGS).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}
