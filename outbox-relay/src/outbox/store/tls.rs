//! TLS to MySQL, MariaDB and PostgreSQL. The drivers are pure Rust and so is TLS: rustls for both.

use outbox_core::tls::Tls;
use outbox_core::{Error, ErrorKind, Result};

/// What a failed attempt means.
fn failure(error: &(dyn std::error::Error + 'static), tls: &Tls, host: &str) -> Option<Error> {
    // No outage: waiting does not mend a certificate.
    tls.explain(error, host).map(|why| Error::new(ErrorKind::Database, format!("TLS: {why}")))
}

fn without() -> Error {
    Error::new(
        ErrorKind::Database,
        "TLS: the server is set up without it: give it a certificate and a key, or set `tls = false` within a trusted \
         network",
    )
}

/// As Diesel would tell it, which `outbox_core` then judges.
#[cfg(feature = "mysql")]
fn said_by_server(text: String) -> Error {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};
    Error::from(Diesel::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text)))
}

/// Reads files off the runtime's threads.
async fn read<T: Send + 'static>(
    tls: &Tls,
    work: impl FnOnce(&Tls) -> Result<T> + Send + 'static,
) -> Result<T> {
    let tls = tls.clone();
    tokio::task::spawn_blocking(move || work(&tls))
        .await
        .map_err(|e| Error::with_source(ErrorKind::Outage, "reading the files for TLS", e))?
        .map_err(|e| e.context("TLS"))
}

/// A connection to MySQL or MariaDB, which is set up as diesel-async does it.
#[cfg(feature = "mysql")]
pub(super) async fn mysql(url: &str, tls: &Tls) -> Result<diesel_async::AsyncMysqlConnection> {
    let opts = mysql_async::Opts::from_url(&super::staying(url))
        .map_err(|e| Error::new(ErrorKind::Invalid, e.to_string()))?;
    let opts = mysql_async::OptsBuilder::from_opts(opts).stmt_cache_size(0).client_found_rows(true);
    let opts = mysql_opts(opts, tls).await?;
    let connection = mysql_async::Conn::new(opts.clone()).await;
    let connection = connection.map_err(|error| mysql_refusal(error, tls, &opts))?;
    diesel_async::AsyncMysqlConnection::try_from(connection).await.map_err(super::connect::refused)
}

/// How the driver connects to MySQL or MariaDB by TLS.
#[cfg(feature = "mysql")]
pub(crate) async fn mysql_opts(opts: mysql_async::OptsBuilder, tls: &Tls) -> Result<mysql_async::Opts> {
    use mysql_async::{ClientIdentity, SslOpts};

    // mysql_async takes the provider of the process; where the process has set one, that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots = read(tls, |tls| {
        // Its own reading of files says less.
        tls.client_config()?;
        tls.roots()
    })
    .await?;
    let mut ssl = SslOpts::default()
        .with_disable_built_in_roots(true)
        .with_root_certs(roots.into_iter().map(|root| root.to_vec().into()).collect());
    if let Some((certificate, key)) = tls.client_files() {
        let identity = ClientIdentity::new(certificate.to_owned().into(), key.to_owned().into());
        ssl = ssl.with_client_identity(Some(identity));
    }
    Ok(opts.ssl_opts(ssl).into())
}

/// Why the driver has no connection with these options of [`mysql_opts`].
#[cfg(feature = "mysql")]
pub(crate) fn mysql_refusal(error: mysql_async::Error, tls: &Tls, opts: &mysql_async::Opts) -> Error {
    use mysql_async::{DriverError, Error as Mysql};

    failure(&error, tls, opts.ip_or_hostname()).unwrap_or_else(|| match error {
        Mysql::Server(said) if super::passes(said.code) => Error::new(ErrorKind::Outage, said.message),
        Mysql::Server(said) => said_by_server(said.message),
        Mysql::Driver(DriverError::NoClientSslFlagFromServer) => without(),
        Mysql::Driver(DriverError::NoKeyFound) => Error::new(
            ErrorKind::Invalid,
            "TLS: client_key: the driver of MySQL takes RSA keys in PKCS#1 only (BEGIN RSA PRIVATE KEY): convert it with \
             `openssl rsa -traditional`",
        ),
        other => Error::new(ErrorKind::Outage, other.to_string()),
    })
}

/// A connection to PostgreSQL.
#[cfg(feature = "postgres")]
pub(super) async fn postgres(url: &str, tls: &Tls) -> Result<diesel_async::AsyncPgConnection> {
    use std::error::Error as _;

    use tokio_postgres::config::{Host, SslMode};
    use tokio_postgres_rustls::MakeRustlsConnect;

    let mut config: tokio_postgres::Config =
        url.parse().map_err(|e: tokio_postgres::Error| Error::new(ErrorKind::Invalid, e.to_string()))?;
    config.ssl_mode(SslMode::Require);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        _ => {
            return Err(Error::new(
                ErrorKind::Invalid,
                "TLS: the URL names no host; a Unix socket has no TLS",
            ));
        }
    };
    let rustls = read(tls, Tls::client_config).await?;
    let (client, connection) = config.connect(MakeRustlsConnect::new(rustls)).await.map_err(|error| {
        let told = failure(&error, tls, &host).or_else(|| super::postgres::refusal(&error));
        told.unwrap_or_else(|| match error.source() {
            Some(why) if why.to_string().contains("does not support TLS") => without(),
            Some(why) => Error::new(ErrorKind::Outage, format!("{error}: {why}")),
            None => Error::new(ErrorKind::Outage, error.to_string()),
        })
    })?;
    diesel_async::AsyncPgConnection::try_from_client_and_connection(client, connection)
        .await
        .map_err(super::connect::refused)
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_is_an_outage_and_a_wrong_password_none() {
        let refusal = |code, message: &str| {
            let (message, state) = (message.to_owned(), "HY000".to_owned());
            let error = mysql_async::ServerError { code, message, state }.into();
            mysql_refusal(error, &Tls::default(), &mysql_async::Opts::default())
        };
        // In the words of another language.
        assert_eq!(refusal(1040, "Zu viele Verbindungen").kind(), ErrorKind::Outage);
        assert_eq!(refusal(1045, "Access denied for user 'u'@'h'").kind(), ErrorKind::Database);
    }
}
