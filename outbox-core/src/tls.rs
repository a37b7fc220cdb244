//! TLS with rustls: whom we trust, how we show who we are, and what a failed handshake means.
//!
//! The server's certificate and its name are always verified; there is no switch against that, because a
//! private CA takes one line ([`Tls::ca`]).

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::error::{Error, Result};

/// Whom a TLS connection trusts, and the certificate with which it shows who we are. Holds paths: the files
/// are read for every connection, so a renewed certificate needs no restart.
///
/// ```
/// use outbox_core::tls::Tls;
///
/// let tls = Tls::new().ca("/etc/outbox/ca.pem").client_certificate("/etc/outbox/relay.pem", "/etc/outbox/relay.key");
/// assert!(tls.client_config().unwrap_err().to_string().contains("/etc/outbox/ca.pem"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    ca: Option<PathBuf>,
    client: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// Trusts the roots of the system (or of `SSL_CERT_FILE` and `SSL_CERT_DIR`), and shows no certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the CAs in this PEM file besides.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Shows this certificate to a server that asks for one: PEM files, the certificate with its intermediate
    /// ones behind it, and its key without a password.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client = Some((certificate.into(), key.into()));
        self
    }

    /// The files of the client certificate and its key.
    ///
    /// ```
    /// use outbox_core::tls::Tls;
    ///
    /// let tls = Tls::new().client_certificate("relay.pem", "relay.key");
    /// let files = tls.client_files().into_iter().flat_map(|(certificate, key)| [certificate, key]);
    /// let missing: Vec<_> = files.filter(|file| !file.exists()).collect();
    /// assert_eq!(missing.len(), 2, "what a service can say at its start");
    /// assert_eq!(Tls::new().client_files(), None);
    /// ```
    pub fn client_files(&self) -> Option<(&Path, &Path)> {
        self.client.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()))
    }

    /// All certificates that are trusted. Reads files: tens of milliseconds.
    ///
    /// # Errors
    /// `Invalid`, with the file, when the CA's file cannot be read or holds no certificate, or when nobody is
    /// trusted at all.
    ///
    /// ```
    /// use outbox_core::{ErrorKind, tls::Tls};
    ///
    /// let error = Tls::new().ca("/etc/outbox/nowhere.pem").roots().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Invalid);
    /// assert!(error.to_string().starts_with("ca: /etc/outbox/nowhere.pem: "), "{error}");
    /// ```
    pub fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        let mut store = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        // A store of the system may hold certificates that rustls cannot use; they are nobody's mistake.
        let mut roots: Vec<_> =
            system.certs.into_iter().filter(|root| store.add(root.clone()).is_ok()).collect();
        if let Some(file) = &self.ca {
            let own = certificates("ca", file)?;
            for root in &own {
                store.add(root.clone()).map_err(|e| {
                    Error::invalid(format!("ca: {} holds a certificate of no use: {e}", file.display()))
                })?;
            }
            roots.extend(own);
        }
        if roots.is_empty() {
            let why = system.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
            return Err(Error::invalid(format!(
                "no CA is trusted: the system has no certificates{why}; install them (package ca-certificates), or \
                 give the file of the server's CA with `ca`"
            )));
        }
        Ok(roots)
    }

    /// What rustls connects with, on its `ring` provider. Reads files: tens of milliseconds.
    ///
    /// # Errors
    /// `Invalid`, with the file and what to do, when a file cannot be read, is no PEM, or the key is not the
    /// certificate's.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.roots()?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid(format!("TLS: {e}")))?
            .with_root_certificates(store);
        let Some((certificate, key)) = &self.client else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates("client_certificate", certificate)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| {
            unreadable(
                "client_key",
                key,
                &e,
                "a private key",
                "an unencrypted key as PEM (BEGIN PRIVATE KEY)",
            )
        })?;
        builder.with_client_auth_cert(chain, secret).map_err(|e| {
            Error::invalid(format!(
                "client_key: {} does not go with the certificate in {}: {e}",
                key.display(),
                certificate.display()
            ))
        })
    }

    /// What an error of a connection to `host` means and what helps, if TLS is the reason; looks through
    /// all its causes.
    ///
    /// ```
    /// use std::io;
    /// use outbox_core::tls::Tls;
    /// use rustls::{CertificateError, Error};
    ///
    /// // What a connection fails with; drivers wrap it, each in its own way.
    /// let error = io::Error::other(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    /// let why = Tls::new().explain(&error, "rabbit.example").unwrap_or_default();
    /// assert!(why.contains("give the file of that CA with `ca`"), "{why}");
    /// assert_eq!(Tls::new().explain(&io::Error::from(io::ErrorKind::TimedOut), "rabbit.example"), None);
    /// ```
    pub fn explain(&self, error: &(dyn StdError + 'static), host: &str) -> Option<String> {
        let error = find(error)?;
        Some(match error {
            rustls::Error::InvalidCertificate(why) => Self::refused_by_us(why, host),
            rustls::Error::AlertReceived(alert) => self.refused_by_them(*alert),
            rustls::Error::InvalidMessage(_) => {
                "it answers without TLS: give its TLS port, or connect without TLS".to_owned()
            }
            other => format!("TLS fails: {other}"),
        })
    }

    /// What may stand behind a connection that the server cut right after the handshake: with TLS 1.3 a server
    /// judges the client's certificate then, and its alert may be lost with the connection.
    ///
    /// ```
    /// use outbox_core::tls::Tls;
    ///
    /// assert!(Tls::new().explain_cut().contains("give client_certificate and client_key"));
    /// let tls = Tls::new().client_certificate("/etc/outbox/relay.pem", "/etc/outbox/relay.key");
    /// assert!(tls.explain_cut().contains("/etc/outbox/relay.pem has not expired"));
    /// ```
    pub fn explain_cut(&self) -> String {
        match &self.client {
            None => "if it wants a client certificate, give client_certificate and client_key".to_owned(),
            Some((certificate, _)) => format!(
                "see that the client certificate in {} has not expired and that the server trusts its CA",
                certificate.display()
            ),
        }
    }

    fn refused_by_us(why: &CertificateError, host: &str) -> String {
        let remedy = match why {
            // A signature that does not fit is that of another CA with the same name, mostly one that was renewed.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "it is signed by a CA that is not trusted here: give the file of that CA with `ca`".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                "it was issued for another name than {host}: put the name that it has into the URL, or issue one \
                 for {host}"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired: renew it on the server".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet: compare the clocks of both sides".to_owned()
            }
            _ => "issue a server certificate of its own (X.509 version 3, no CA) for it".to_owned(),
        };
        format!("the server's certificate is refused ({why}); {remedy}")
    }

    fn refused_by_them(&self, alert: AlertDescription) -> String {
        match (alert, &self.client) {
            (AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure, None) => {
                "the server wants a client certificate: give client_certificate and client_key".to_owned()
            }
            (
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::HandshakeFailure,
                Some((certificate, _)),
            ) => format!(
                "the server refuses the client certificate in {} ({alert:?}): see that it has not expired and that \
                 the server trusts its CA",
                certificate.display()
            ),
            _ => format!("the server ends TLS ({alert:?}): its log says why"),
        }
    }
}

/// The error of rustls among the causes of an error. An `io::Error` leaves out what it holds itself.
fn find<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let (what, form) = ("a certificate", "PEM (BEGIN CERTIFICATE)");
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unreadable(key, file, &e, what, form))?;
    if found.is_empty() {
        return Err(unreadable(key, file, &PemError::NoItemsFound, what, form));
    }
    Ok(found)
}

fn unreadable(key: &str, file: &Path, error: &PemError, what: &str, form: impl fmt::Display) -> Error {
    let file = file.display();
    match error {
        PemError::Io(io) => Error::invalid(format!(
            "{key}: {file}: {io}; correct the path, or let this process read the file"
        )),
        PemError::NoItemsFound => {
            Error::invalid(format!("{key}: {file} does not hold {what}; it has to be {form}"))
        }
        other => Error::invalid(format!("{key}: {file} is damaged: {other}; it has to be {form}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_use_are_named_with_their_key() {
        let folder = std::env::temp_dir();
        let text = folder.join(format!("outbox-tls-{}.pem", std::process::id()));
        std::fs::write(&text, "not a certificate").unwrap();
        let said = |tls: Tls| tls.client_config().unwrap_err().to_string();
        let no_pem = said(Tls::new().ca(&text));
        let missing = said(Tls::new().ca(folder.join("outbox-tls-nowhere.pem")));
        std::fs::write(&text, "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n").unwrap();
        let damaged = said(Tls::new().ca(&text));
        std::fs::remove_file(&text).unwrap();
        assert!(
            no_pem.starts_with(&format!("ca: {} does not hold a certificate", text.display())),
            "{no_pem}"
        );
        assert!(
            missing.contains("nowhere.pem: No such file") && missing.contains("correct the path"),
            "{missing}"
        );
        assert!(damaged.contains("is damaged"), "{damaged}");
    }

    #[test]
    fn causes_are_found_inside_errors_of_io() {
        let inner = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, inner));
        let said = Tls::new().explain(&error, "rabbit").unwrap();
        assert!(said.contains("has expired: renew it"), "{said}");
        assert_eq!(Tls::new().explain(&io::Error::other("reset"), "rabbit"), None);
    }

    #[test]
    fn an_alert_is_told_by_what_we_have_shown() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        let said = Tls::new().explain(&alert, "rabbit").unwrap();
        assert!(said.contains("give client_certificate and client_key"), "{said}");
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let said = Tls::new().client_certificate("relay.pem", "relay.key").explain(&alert, "rabbit").unwrap();
        assert!(said.contains("refuses the client certificate in relay.pem"), "{said}");
    }
}
