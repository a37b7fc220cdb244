//! Opens connections: which database a URL means, what a session needs, and errors that name the database
//! without its password.

#[cfg(any(feature = "binlog", feature = "mysql"))]
use std::borrow::Cow;
use std::time::Duration;

use diesel::ConnectionError;
#[cfg(feature = "sqlite")]
use diesel::SqliteConnection;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
use diesel_async::AsyncConnection;
#[cfg(feature = "mysql")]
use diesel_async::AsyncMysqlConnection;
#[cfg(feature = "postgres")]
use diesel_async::AsyncPgConnection;
#[cfg(feature = "sqlite")]
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncMigrationHarness, SimpleAsyncConnection};
use outbox_core::migrate::{self, Migrations};
use outbox_core::{Error, ErrorKind, Result};

use crate::config::{OutboxConfig, Secret, SubscriberConfig, TlsFiles};

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
    #[cfg(feature = "tls")]
    tls: Option<outbox_core::tls::Tls>,
}

/// What other drivers call it. Ours would refuse some of these without a hint, and take others for leave to verify
/// nothing.
const TLS_PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "ssl_mode",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "require_ssl",
    "verify_ca",
    "verify_identity",
    "built_in_roots",
];

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
            let parsed = url::Url::parse(text).map_err(|e| {
                invalid(format!(
                    "{scheme}:// URL: {e}; write reserved characters of a password percent-encoded"
                ))
            })?;
            let foreign = parsed.query_pairs().find(|(name, value)| {
                // PostgreSQL's driver knows these two; the second is what it does anyway.
                TLS_PARAMETERS.contains(&name.as_ref()) && !matches!(value.as_ref(), "disable" | "prefer")
            });
            if let Some((name, _)) = foreign {
                return Err(invalid(format!(
                    "{scheme}:// URL: parameter {name} is not known here; TLS is switched on with `tls = true`, and `ca`, \
                     `client_certificate` and `client_key` name its files"
                )));
            }
        }
        Ok(Self {
            url: url.clone(),
            kind,
            create: false,
            look: false,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }

    /// The database of an outbox, with its keys for TLS.
    ///
    /// # Errors
    /// As [`Database::parse`]; also when the keys for TLS do not fit together, or TLS was left out of this build.
    pub fn of(outbox: &OutboxConfig) -> Result<Self> {
        Self::with_tls(&outbox.database, outbox.tls, outbox.files())
    }

    /// The database of a subscriber, with its keys for TLS.
    ///
    /// # Errors
    /// As [`Database::of`].
    pub fn of_subscriber(subscriber: &SubscriberConfig) -> Result<Self> {
        Self::with_tls(&subscriber.database, subscriber.tls, subscriber.files())
    }

    fn with_tls(url: &Secret, tls: bool, files: TlsFiles<'_>) -> Result<Self> {
        let database = Self::parse(url)?;
        if !tls {
            return Ok(database);
        }
        if database.kind == Kind::Sqlite {
            return Err(invalid("tls: sqlite:// is a file; leave the key out"));
        }
        #[cfg(feature = "tls")]
        return Ok(Self { tls: Some(files.trust()), ..database });
        #[cfg(not(feature = "tls"))]
        let _ = files;
        #[cfg(not(feature = "tls"))]
        Err(invalid("tls: is not part of this build; build it with feature \"tls\""))
    }

    /// The host, if the connection to it leaves this machine and is not encrypted.
    pub fn exposed_host(&self) -> Option<String> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return None;
        }
        (self.kind != Kind::Sqlite).then(|| remote_host(self.url.expose()))?
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
                let mut c = self.open_mysql().await?;
                prepare(&mut c, super::mysql::SESSION).await?;
                Ok(Connection::Mysql(c))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres => {
                let mut c = self.open_postgres().await?;
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

    #[cfg(feature = "mysql")]
    async fn open_mysql(&self) -> Result<AsyncMysqlConnection> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return super::tls::mysql(self.url.expose(), tls).await;
        }
        AsyncMysqlConnection::establish(&staying(self.url.expose())).await.map_err(refused)
    }

    #[cfg(feature = "postgres")]
    async fn open_postgres(&self) -> Result<AsyncPgConnection> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return super::tls::postgres(self.url.expose(), tls).await;
        }
        super::postgres::open(self.url.expose()).await
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

/// A URL of MySQL or MariaDB whose connections stay with its host. Otherwise the driver asks each server, wherever it is,
/// for the path of its Unix socket, and goes on with whatever server takes the login at that path of *this* machine.
/// A URL that says what it wants is left as it is.
#[cfg(any(feature = "binlog", feature = "mysql"))]
pub(crate) fn staying(url: &str) -> Cow<'_, str> {
    const PREFERENCE: &str = "prefer_socket";
    let Ok(parsed) = url::Url::parse(url) else { return url.into() };
    if parsed.query_pairs().any(|(name, _)| name == PREFERENCE) {
        return url.into();
    }
    let separator = if parsed.query().is_some() { '&' } else { '?' };
    format!("{url}{separator}{PREFERENCE}=false").into()
}

/// The host of a URL, if connections to it leave this machine.
pub(crate) fn remote_host(url: &str) -> Option<String> {
    let url = url::Url::parse(url.trim()).ok()?;
    url.host_str().filter(|host| !is_local(host)).map(str::to_owned)
}

/// Whether a host is this machine, or a folder of Unix sockets.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.is_empty()
        || host == "localhost"
        || host.starts_with('/')
        || host.starts_with("%2F")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn refused(error: ConnectionError) -> Error {
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

/// Runs what `outbox_core` holds for the tables of a role. Needs a runtime of several threads.
pub(super) fn migrate(connection: Connection, role: &Migrations) -> Result<Vec<String>> {
    match connection {
        #[cfg(feature = "mysql")]
        Connection::Mysql(c) => migrate::run(&mut AsyncMigrationHarness::new(c), role),
        #[cfg(feature = "postgres")]
        Connection::Postgres(c) => migrate::run(&mut AsyncMigrationHarness::new(c), role),
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(c) => migrate::run(&mut AsyncMigrationHarness::new(c), role),
    }
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_with_the_host_of_its_url() {
        let socket = |url: &str| mysql_async::Opts::from_url(&staying(url)).unwrap().prefer_socket();
        assert!(!socket("mysql://u:p@db.example:3306/shop"));
        assert!(!socket("mysql://u:p%23@127.0.0.1/shop?compression=fast"));
        assert!(!socket("mysql://u:p@db.example/shop?prefer_socket=false"));
        assert!(socket("mysql://u:p@db.example/shop?prefer_socket=true"), "as it is asked for");
        assert_eq!(staying("mysql://u:p@db/x?"), "mysql://u:p@db/x?&prefer_socket=false");
        assert!(!socket("mysql://u:p@db/x?"));
    }
}
