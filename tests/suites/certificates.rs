//! Certificates for the tests of TLS: an authority of the test's own, and what it signs.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A CA in a folder that `PrivateServer::spawn_with_tls` takes, with a certificate of a server `localhost`.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::with_server(false)
    }

    /// The same, and the server's certificate has expired in 2001.
    pub(crate) fn with_expired_server() -> Self {
        Self::with_server(true)
    }

    fn with_server(expired: bool) -> Self {
        let mut params = named("a CA of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let authority = Self { folder: tempfile::tempdir().unwrap(), issuer: Issuer::new(params, key) };
        std::fs::write(authority.ca(), ca.pem()).unwrap();

        let mut server = named("server");
        server.subject_alt_names =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().subject_alt_names;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if expired {
            server.not_before = rcgen::date_time_ymd(2000, 1, 1);
            server.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        authority.sign("server", &server);
        authority
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// The files of a client's certificate with this common name, and its key.
    pub(crate) fn client(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut client = named(name);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, &client)
    }

    fn sign(&self, file: &str, params: &CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate, secret) =
            (self.folder().join(format!("{file}.pem")), self.folder().join(format!("{file}.key")));
        std::fs::write(&certificate, signed.pem()).unwrap();
        std::fs::write(&secret, key.serialize_pem()).unwrap();
        (certificate, secret)
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
