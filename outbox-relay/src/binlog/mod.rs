//! Reads the binary log of MySQL and MariaDB: the whole transactions of subscribed tables, in the source's order,
//! each once.
//!
//! ```no_run
//! use outbox_relay::binlog::{Source, Step, Tables, follow};
//!
//! # async fn run() -> outbox_core::Result<()> {
//! let source = Source::new("mysql://repl:secret@127.0.0.1:3306");
//! let tables = Tables::from_iter([("product_db", "product")]);
//! let mut stream = follow(source, tables, "mariadb:0-1-1000".parse()?);
//! loop {
//!     if let Step::Txn(txn) = stream.next().await? {
//!         for change in txn.changes.iter()? {
//!             println!("{}", change?.table);
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! *connection* gives events, *decode* understands them, *txn* puts transactions together, *follow* keeps on doing
//! so.

mod connection;
mod decode;
mod failure;
mod follow;
mod link;
pub mod position;
mod server;
pub(crate) mod spool;
mod statement;
mod tables;
mod txn;

use std::path::PathBuf;
use std::time::Duration;

use outbox_core::{Error, ErrorKind, Result};
use url::Url;

pub(crate) use decode::json_double;
pub(crate) use failure::{failed, kind};
pub use follow::{Proof, Step, Stream, follow};
pub use link::Link;
pub use server::Server;
pub use tables::Tables;

use crate::config::Secret;

/// A server to read the binary log of, and how.
#[derive(Debug, Clone)]
pub struct Source {
    /// `mysql://user:password@host:port`.
    pub url: Secret,
    /// TLS; `None`: none.
    #[cfg(feature = "tls")]
    pub tls: Option<outbox_core::tls::Tls>,
    /// The id under which the source knows this reader, another one than those of all servers and readers of the
    /// source. Default: one at random.
    pub server_id: Option<u32>,
    /// How often a source that has nothing new says so; after three times as long without a word the connection
    /// counts as lost. Default 1 s.
    pub heartbeat: Duration,
    /// Of one transaction so many bytes are held in memory, the rest goes to disk. Default 64 MiB.
    pub memory_bytes_max: usize,
    /// The folder for large transactions. Default: the system's for temporary files.
    pub folder: PathBuf,
}

impl Source {
    /// With the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            #[cfg(feature = "tls")]
            tls: None,
            server_id: None,
            heartbeat: Duration::from_secs(1),
            memory_bytes_max: 64 << 20,
            folder: std::env::temp_dir(),
        }
    }

    fn parsed_url(&self) -> Result<ParsedUrl> {
        let wrong = || Error::new(ErrorKind::Invalid, "expected mysql://user:password@host:port");
        let url = Url::parse(self.url.expose()).map_err(|_| wrong())?;
        let decoded = |text: &str| percent_decoded(text).ok_or_else(wrong);
        if url.scheme() != "mysql" {
            return Err(wrong());
        }
        Ok(ParsedUrl {
            host: url.host_str().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(3306),
            user: decoded(url.username())?,
            password: decoded(url.password().unwrap_or_default())?,
        })
    }
}

/// The parts of a source's URL that a connection needs.
struct ParsedUrl {
    host: String,
    port: u16,
    user: String,
    password: String,
}

/// `%40` → `@`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}
