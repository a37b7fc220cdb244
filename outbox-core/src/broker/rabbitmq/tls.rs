//! TLS on the connection to RabbitMQ. In builds without feature `tls` there is the same, and it does nothing:
//! `amqps://` was refused before.

#[cfg(feature = "tls")]
pub(super) use with::Trust;
#[cfg(not(feature = "tls"))]
pub(super) use without::Trust;

#[cfg(feature = "tls")]
mod with {
    use std::io;

    use futures::io::{AsyncRead, AsyncWrite};
    use lapin::tcp::{AsyncTcpStream, RustlsConnector};

    use super::super::address::Address;
    use super::super::failure;
    use crate::error::{Error, ErrorKind, Result};
    use crate::tls::Tls;

    /// Whom a connection trusts, if it is one with TLS.
    #[derive(Debug, Clone, Default)]
    pub(in super::super) struct Trust(Tls);

    /// The same with the files read, for one connection; `None` without TLS.
    pub(in super::super) struct Prepared(Option<RustlsConnector>);

    impl From<Tls> for Trust {
        fn from(tls: Tls) -> Self {
            Self(tls)
        }
    }

    impl Trust {
        /// Reads the files, if the address is `amqps://`.
        pub(in super::super) async fn prepare(&self, address: &Address) -> Result<Prepared> {
            if !address.is_tls() {
                return Ok(Prepared(None));
            }
            let tls = self.0.clone();
            let config = tokio::task::spawn_blocking(move || tls.client_config())
                .await
                .map_err(|e| Error::with_source(ErrorKind::Outage, "reading the files for TLS", e))?
                .map_err(|e| e.context(format!("TLS to RabbitMQ at {address}")))?;
            Ok(Prepared(Some(config.into())))
        }

        /// What an error of a connection attempt means if TLS is the reason, which waiting does not mend; or may
        /// be the reason.
        pub(in super::super) fn failure(&self, error: &lapin::Error, address: &Address) -> Option<Error> {
            let source = failure::io(error)?;
            if let Some(why) = self.0.explain(source, address.host()) {
                return Some(Error::new(ErrorKind::Broker, format!("TLS to RabbitMQ at {address}: {why}")));
            }
            (address.is_tls() && failure::is_cut(source)).then(|| {
                let hint = self.0.explain_cut();
                let text = format!(
                    "TLS to RabbitMQ at {address} is cut: {source}; see that this is its port with TLS, by default 5671; {hint}"
                );
                Error::new(ErrorKind::Outage, text)
            })
        }
    }

    impl Prepared {
        /// Begins TLS on a fresh connection.
        pub(in super::super) async fn begin<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
            &self,
            stream: AsyncTcpStream<S>,
            host: &str,
        ) -> io::Result<AsyncTcpStream<S>> {
            match &self.0 {
                Some(connector) => stream.into_rustls(connector, host).await,
                None => Ok(stream),
            }
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use std::io;

    use super::super::address::Address;
    use crate::error::{Error, Result};

    #[derive(Debug, Clone, Default)]
    pub(in super::super) struct Trust;

    pub(in super::super) struct Prepared;

    impl Trust {
        pub(in super::super) async fn prepare(&self, _: &Address) -> Result<Prepared> {
            Ok(Prepared)
        }

        pub(in super::super) fn failure(&self, _: &lapin::Error, _: &Address) -> Option<Error> {
            None
        }
    }

    impl Prepared {
        pub(in super::super) async fn begin<S>(&self, stream: S, _: &str) -> io::Result<S> {
            Ok(stream)
        }
    }
}
