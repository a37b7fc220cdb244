//! TLS of a server, with certificates that the test has made.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Doing as _, Result};
use crate::ports;

const CA: &str = "ca.pem";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// Who has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The server.
    Server,
    /// The clients too.
    Mutual,
}

/// A server's own copies of the certificates, and its port for TLS where that is another one (RabbitMQ).
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) mode: Mode,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Tls {
    /// Copies `ca.pem`, `server.pem` and `server.key` into the server's folder: its account need not see the
    /// test's.
    pub(crate) fn copy(mode: Mode, from: &Path, folder: &Path) -> Result<Self> {
        for name in [CA, CERTIFICATE, KEY] {
            fs::copy(from.join(name), folder.join(name))
                .doing(|| format!("copying {}", from.join(name).display()))?;
        }
        Ok(Self { mode, folder: folder.to_owned(), port: ports::free()? })
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join(CA)
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.join(KEY)
    }

    /// The arguments of MariaDB and MySQL.
    pub(crate) fn mysql_arguments(&self) -> Vec<String> {
        vec![
            format!("--ssl-ca={}", self.ca().display()),
            format!("--ssl-cert={}", self.certificate().display()),
            format!("--ssl-key={}", self.key().display()),
            "--require-secure-transport=ON".to_owned(),
        ]
    }
}
