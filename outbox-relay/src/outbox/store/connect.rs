//! Opens connections: which database a URL means, what a session needs, and errors that name the database
//! without its password.

use std::time::Duration;

use diesel::ConnectionError;
#[cfg(feature = "sqlite")]
use diesel::SqliteConnection;
#[cfg(feature = "mysql")]
use diesel_async::AsyncMysqlConnection;
#[cfg(feature = "postgres")]
use diesel_async::AsyncPgConnection;
#[cfg(feature = "sqlite")]
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncMigrationHarness, SimpleAsyncConnection};
use diesel_migrations::MigrationHarness;
use outbox_core::{Error, ErrorKind, Result, migrate};

use crate::config::Secret;

/// Which SQL a database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// MySQL and MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// A database by its URL.
#[derive(Debug, Clone)]
pub struct Database {
    url: Secret,
    kind: Kind,
    create: bool,
    look: bool,
}

/// An open connection of one of the databases that are compiled in.
// There are a few of these in a process; boxing them would only add a step.
#[allow(clippy::large_enum_variant)]
pub(super) enum Connection {
    #[cfg(feature = "mysql")]
    Mysql(AsyncMysqlConnection),
    #[cfg(feature = "postgres")]
    Postgres(AsyncPgConnection),
    #[cfg(feature = "sqlite")]
    Sqlite(SyncConnectionWrapper<SqliteConnection>),
}

impl Database {
    /// The database that a URL means.
    ///
    /// # Errors
    /// `Invalid` when the scheme is none of the three, or names a database that was left out of this build.
    pub fn parse(url: &Secret) -> Result<Self> {
        let text = url.expose();
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let (kind, compiled) = match scheme {
            "mysql" => (Kind::Mysql, cfg!(feature = "mysql")),
            "postgres" | "postgresql" => (Kind::Postgres, cfg!(feature = "postgres")),
            "sqlite" => (Kind::Sqlite, cfg!(feature = "sqlite")),
            _ => {
                return Err(invalid(format!(
                    "{url:?} starts with none of mysql://, postgres:// and sqlite://"
                )));
            }
        };
        if !compiled {
            return Err(invalid(format!(
                "{scheme}:// is not part of this build; build it with feature {scheme:?}"
            )));
        }
        if kind == Kind::Sqlite && (text.contains(":memory:") || text.contains("mode=memory")) {
            return Err(invalid(
                "sqlite:// needs a file: a database in memory has one connection, the relay several",
            ));
        }
        if kind != Kind::Sqlite {
            url::Url::parse(text).map_err(|e| {
                invalid(format!(
                    "{scheme}:// URL: {e}; write reserved characters of a password percent-encoded"
                ))
            })?;
        }
        Ok(Self { url: url.clone(), kind, create: false, look: false })
    }

    /// The same database, with an SQLite file created if there is none.
    pub(super) fn creating(mut self) -> Self {
        self.create = true;
        self
    }

    /// The same database, with sessions that leave no trace in it.
    pub(crate) fn looking(mut self) -> Self {
        self.look = true;
        self
    }

    /// Which SQL it speaks.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The URL without its password.
    pub fn label(&self) -> String {
        format!("{:?}", self.url)
    }

    /// Puts the database and what was being done before an error, and takes the password out of its text.
    pub(super) fn blame(&self, error: Error, doing: &str) -> Error {
        let kind = if is_outage(&error.to_string()) { ErrorKind::Outage } else { error.kind() };
        Error::new(
            kind,
            format!("database {}: {doing}: {}", self.label(), self.url.scrub(&error.to_string())),
        )
    }

    pub(super) async fn connect(&self, timeout: Duration) -> Result<Connection> {
        let opened = tokio::time::timeout(timeout, self.open()).await;
        let result = opened.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Outage, format!("no connection within {timeout:?}")))
        });
        match result {
            Ok(connection) => Ok(connection),
            Err(error) => {
                let why = self.why_unreachable(&error).await;
                Err(self.blame(why.map_or(error, |why| Error::new(ErrorKind::Outage, why)), "connecting"))
            }
        }
    }

    async fn open(&self) -> Result<Connection> {
        match self.kind {
            #[cfg(feature = "mysql")]
            Kind::Mysql => {
                let mut c = AsyncMysqlConnection::establish(self.url.expose()).await.map_err(refused)?;
                prepare(&mut c, super::mysql::SESSION).await?;
                Ok(Connection::Mysql(c))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres => {
                let mut c = AsyncPgConnection::establish(self.url.expose()).await.map_err(refused)?;
                prepare(&mut c, super::postgres::SESSION).await?;
                if self.create {
                    // A migration may have to wait for writers and to rewrite a table.
                    prepare(&mut c, &["set statement_timeout = 0; set lock_timeout = 0"]).await?;
                }
                Ok(Connection::Postgres(c))
            }
            #[cfg(feature = "sqlite")]
            Kind::Sqlite => {
                let url = self.sqlite_url();
                let mut c = SyncConnectionWrapper::establish(&url).await.map_err(refused)?;
                let session = if self.look { super::sqlite::LOOKING_SESSION } else { super::sqlite::SESSION };
                prepare(&mut c, session).await?;
                Ok(Connection::Sqlite(c))
            }
            #[allow(unreachable_patterns)]
            _ => Err(invalid("this database is not part of this build")),
        }
    }

    /// A relay must not make an empty file of a mistyped name; only `migrate` creates one.
    #[cfg(feature = "sqlite")]
    fn sqlite_url(&self) -> String {
        let url = self.url.expose();
        match (self.create || url.contains("mode="), url.contains('?')) {
            (true, _) => url.to_owned(),
            (false, true) => format!("{url}&mode=rw"),
            (false, false) => format!("{url}?mode=rw"),
        }
    }

    /// PostgreSQL's driver says only "error connecting to server"; the socket itself says why.
    async fn why_unreachable(&self, error: &Error) -> Option<String> {
        if self.kind != Kind::Postgres || !error.to_string().contains("error connecting to server") {
            return None;
        }
        let url = url::Url::parse(self.url.expose()).ok()?;
        let (host, port) = (url.host_str()?, url.port().unwrap_or(5432));
        let connecting = tokio::net::TcpStream::connect((host, port));
        match tokio::time::timeout(Duration::from_secs(2), connecting).await {
            Ok(Err(error)) => Some(format!("{host} port {port}: {error}")),
            _ => None,
        }
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}

fn refused(error: ConnectionError) -> Error {
    match error {
        ConnectionError::CouldntSetupConfiguration(error) => Error::from(error),
        ConnectionError::InvalidConnectionUrl(text) => invalid(text),
        other => Error::new(ErrorKind::Outage, other.to_string()),
    }
}

/// Texts of the pure Rust drivers for a connection that is gone, which `outbox_core` does not know.
fn is_outage(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "error connecting to server",
        "error communicating with the server",
        "input/output error",
        "no answer within",
    ]
    .iter()
    .any(|passing| text.contains(passing))
}

async fn prepare<C: SimpleAsyncConnection>(connection: &mut C, session: &[&str]) -> Result<()> {
    for statement in session {
        connection.batch_execute(statement).await?;
    }
    Ok(())
}

/// Runs what `outbox_core` holds for the tables of a writer's database. Needs a runtime of several threads.
pub(super) fn migrate(connection: Connection) -> Result<Vec<String>> {
    let applied = match connection {
        #[cfg(feature = "mysql")]
        Connection::Mysql(c) => AsyncMigrationHarness::new(c)
            .run_pending_migrations((migrate::OUTBOX.mysql)())
            .map(|versions| versions.iter().map(ToString::to_string).collect()),
        #[cfg(feature = "postgres")]
        Connection::Postgres(c) => AsyncMigrationHarness::new(c)
            .run_pending_migrations((migrate::OUTBOX.postgres)())
            .map(|versions| versions.iter().map(ToString::to_string).collect()),
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(c) => AsyncMigrationHarness::new(c)
            .run_pending_migrations((migrate::OUTBOX.sqlite)())
            .map(|versions| versions.iter().map(ToString::to_string).collect()),
    };
    applied.map_err(|error| Error::new(ErrorKind::Database, error.to_string()))
}
