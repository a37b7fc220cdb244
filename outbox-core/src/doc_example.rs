//! What the examples of subscribers on diesel-async share, hidden: a `pool`, a `connection` and a `broker`.

/// A documentation test around these lines.
#[cfg(all(feature = "async-sqlite", feature = "testing"))]
macro_rules! async_example {
    ($lines:literal) => {
        concat!(
            r##"
```
# #[tokio::main]
# async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
# use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool::Pool};
# use outbox_core::{AsyncOutboxConnection, AsyncSqliteConnection, migrate, testing};
# use outbox_core::broker::memory::MemoryBroker;
# let file = tempfile::NamedTempFile::new()?;
# let url = file.path().to_str().unwrap_or_default();
# let mut tables = <diesel::SqliteConnection as diesel::Connection>::establish(url)?;
# migrate::run(&mut tables, &migrate::OUTBOX)?;
# migrate::run(&mut tables, &migrate::INBOX)?;
# drop(tables);
# let mut connection = <AsyncSqliteConnection as diesel_async::AsyncConnection>::establish(url).await?;
# let pool = Pool::builder(AsyncDieselConnectionManager::<AsyncSqliteConnection>::new(url)).build()?;
# let broker = MemoryBroker::new();"##,
            $lines,
            r##"# Ok(())
# }
```
"##
        )
    };
}
