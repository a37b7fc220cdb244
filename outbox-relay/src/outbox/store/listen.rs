//! PostgreSQL's doorbell: whether it is installed, installing it, and hearing it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;

use futures::Stream as _;
use outbox_core::{Error, ErrorKind, Result, migrate};

use super::connect::Connection;
use super::row::Doorbell;
use super::{Store, postgres, within};

impl Store {
    /// The doorbell as the database shows it to this connection.
    ///
    /// # Errors
    /// As every statement; `Invalid` on another database than PostgreSQL.
    pub async fn doorbell(&mut self) -> Result<Doorbell> {
        let doing = "looking at the doorbell of outbox";
        let mut connection = self.take().await?;
        let Connection::Postgres(c) = &mut connection else { return Err(self.no_bell()) };
        self.queries.fetch_add(1, Ordering::Relaxed);
        let seen = within(self.timeout, postgres::doorbell(c)).await;
        self.put_back(connection, seen, doing)
    }

    /// Installs or repairs the doorbell. Waits for open transactions that wrote to `outbox`, ten seconds at
    /// most, since writers wait meanwhile.
    ///
    /// # Errors
    /// As every statement; `Invalid` on another database than PostgreSQL.
    pub async fn install_bell(&mut self) -> Result<()> {
        self.run_for_bell("installing the doorbell of outbox", migrate::POSTGRES_BELL).await
    }

    /// Rings without a message, to see who hears it.
    ///
    /// # Errors
    /// As every statement; `Invalid` on another database than PostgreSQL.
    pub(crate) async fn ring(&mut self) -> Result<()> {
        self.run_for_bell("ringing the doorbell of outbox", "select pg_catalog.pg_notify('outbox', '')").await
    }

    /// Opens a fresh connection that hears the doorbell from now on.
    ///
    /// # Errors
    /// As every statement; `Invalid` on another database than PostgreSQL.
    pub(crate) async fn listen(&mut self) -> Result<()> {
        self.connection = None;
        self.run_for_bell("listening to the doorbell of outbox", postgres::LISTEN).await
    }

    /// Until the doorbell rings on the connection that [`listen`](Self::listen) opened. Dropping the future
    /// loses no ring.
    ///
    /// # Errors
    /// `Outage` when that connection is gone.
    pub(crate) async fn rung(&mut self) -> Result<()> {
        let Some(Connection::Postgres(c)) = &mut self.connection else { return Err(self.no_bell()) };
        let heard = {
            let mut rings = pin!(c.notifications_stream());
            poll_fn(|context| rings.as_mut().poll_next(context)).await
        };
        let error = match heard {
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => Error::from(error),
            None => Error::new(ErrorKind::Outage, "the connection was closed"),
        };
        self.connection = None;
        Err(self.database.blame(error, "listening to the doorbell of outbox"))
    }

    async fn run_for_bell(&mut self, doing: &str, text: &str) -> Result<()> {
        let mut connection = self.take().await?;
        let Connection::Postgres(c) = &mut connection else { return Err(self.no_bell()) };
        self.queries.fetch_add(1, Ordering::Relaxed);
        let done = within(self.timeout, postgres::probe(c, text)).await;
        self.put_back(connection, done, doing)
    }

    fn no_bell(&self) -> Error {
        let text = format!("database {}: no connection to PostgreSQL that listens", self.database.label());
        Error::new(ErrorKind::Invalid, text)
    }
}
