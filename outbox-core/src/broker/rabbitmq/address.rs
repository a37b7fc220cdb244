//! Where RabbitMQ is and who we are there, without a way to print the password.

use std::fmt;
use std::net::Ipv6Addr;

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};

use crate::error::{Error, Result};

/// How often RabbitMQ and we tell each other that we live, in seconds, where the URL does not say. A dead
/// peer is noticed after twice this; the server's own 60 s would take two minutes.
const HEARTBEAT_SECONDS: u16 = 10;
/// The longest virtual host name: an AMQP short string.
const VHOST_BYTES_MAX: usize = 255;
/// What a URL looks like, for error texts.
const EXAMPLE: &str = "write amqp://user:password@host:5672/vhost (amqps:// and 5671 with TLS), with the characters / ? # @ : in user, \
                       password and vhost percent-encoded";

/// A parsed `amqp://` or `amqps://` URL. The parsed form of lapin prints the password, so it never leaves this type
/// except to connect.
#[derive(Clone)]
pub(super) struct Address(AMQPUri);

impl Address {
    /// Parses and checks a URL; no text of it that may hold the password gets into an error.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let url = url.trim();
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| Error::invalid(format!("the RabbitMQ URL has no scheme: {EXAMPLE}")))?;
        match scheme.to_ascii_lowercase().as_str() {
            "amqp" => {}
            "amqps" if cfg!(feature = "tls") => {}
            "amqps" => {
                return Err(Error::invalid(
                    "the RabbitMQ URL begins with amqps://, and TLS is not part of this build: build it with feature \
                     \"tls\"",
                ));
            }
            other if !other.is_empty() && other.bytes().all(|b| b.is_ascii_lowercase()) => {
                return Err(Error::invalid(format!("the RabbitMQ URL begins with {other}://: {EXAMPLE}")));
            }
            // Whatever this is, it may be part of a password.
            _ => return Err(Error::invalid(format!("the RabbitMQ URL has no scheme: {EXAMPLE}"))),
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains(['@', '#']) {
            // Most likely a raw / ? or # in the password, which would make its beginning the port.
            return Err(Error::invalid(format!("the RabbitMQ URL does not parse: {EXAMPLE}")));
        }
        // Its texts are fixed phrases, except for URLs without `//`, which do not get here.
        let mut uri: AMQPUri = url.parse().map_err(|e: String| {
            Error::invalid(format!("the RabbitMQ URL does not parse ({e}): {EXAMPLE}"))
        })?;
        let host = authority.rsplit('@').next().unwrap_or_default();
        if let Some((v6, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            // The parser of lapin reads an IPv6 address as `localhost`.
            let v6: Ipv6Addr = v6.parse().map_err(|_| {
                Error::invalid(format!("the RabbitMQ URL has a wrong IPv6 address: {EXAMPLE}"))
            })?;
            uri.authority.host = v6.to_string();
        }
        if uri.vhost.is_empty() {
            // `amqp://host/` by the letter names a virtual host with an empty name, which nobody has.
            uri.vhost = "/".to_owned();
        }
        if uri.vhost.len() > VHOST_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the virtual host in the RabbitMQ URL is longer than {VHOST_BYTES_MAX} bytes"
            )));
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Self(uri))
    }

    /// What lapin connects with; holds the password, and its `Debug` prints it.
    pub(super) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }

    /// Whether it is `amqps://`.
    pub(super) fn is_tls(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }

    /// Lets the client certificate say who we are, or user and password.
    pub(super) fn set_external(&mut self, external: bool) {
        self.0.query.auth_mechanism = external.then_some(SASLMechanism::External);
    }

    /// Whether the client certificate says who we are.
    pub(super) fn is_external(&self) -> bool {
        self.0.query.auth_mechanism == Some(SASLMechanism::External)
    }

    /// The host's name, without the brackets of IPv6.
    #[cfg(feature = "tls")]
    pub(super) fn host(&self) -> &str {
        &self.0.authority.host
    }

    /// The user's name.
    pub(super) fn user(&self) -> &str {
        &self.0.authority.userinfo.username
    }

    /// The virtual host's name.
    pub(super) fn vhost(&self) -> &str {
        &self.0.vhost
    }
}

/// `host:port`, for error texts.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.0.authority;
        if authority.host.contains(':') {
            write!(f, "[{}]:{}", authority.host, authority.port)
        } else {
            write!(f, "{}:{}", authority.host, authority.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls() { "amqps" } else { "amqp" };
        write!(f, "{scheme}://{}:***@{self}/{}", self.user(), self.vhost())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read() {
        let address = Address::parse("amqp://ann:s%2Fecret@rabbit:5673/shop\n").unwrap();
        assert_eq!(address.to_string(), "rabbit:5673");
        assert_eq!((address.user(), address.vhost()), ("ann", "shop"));
        assert_eq!(address.uri().authority.userinfo.password, "s/ecret");
        assert_eq!(address.uri().query.heartbeat, Some(10));
        assert_eq!(Address::parse("amqp://h?heartbeat=3").unwrap().uri().query.heartbeat, Some(3));
        for url in ["amqp://h", "amqp://h/", "amqp://h/%2f", "AMQP://h:5672"] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.to_string().as_str(), address.vhost()), ("h:5672", "/"), "{url}");
        }
        assert_eq!(Address::parse("amqp://u:p@[::1]:99/v").unwrap().to_string(), "[::1]:99");
        assert_eq!(Address::parse("amqp://u:p@127.0.0.1/v").unwrap().to_string(), "127.0.0.1:5672");
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_url_with_tls_has_a_port_of_its_own() {
        let address = Address::parse("AMQPS://ann:hunter2@h/v").unwrap();
        assert!(address.is_tls() && !address.is_external());
        assert_eq!(format!("{address:?}"), "amqps://ann:***@h:5671/v");
        assert!(Address::parse("amqps://h/v?auth_mechanism=external").unwrap().is_external());
    }

    #[test]
    fn wrong_urls_are_refused_and_no_password_is_shown() {
        let cases = [
            #[cfg(not(feature = "tls"))]
            ("amqps://ann:hunter2@h/v", "amqps://, and TLS"),
            ("http://ann:hunter2@h/v", "begins with http://"),
            ("ann:hunter2@h", "no scheme"),
            ("ann:hunter2@h://v", "no scheme"),
            ("", "no scheme"),
            ("amqp://ann:12/hunter2@h/v", "percent-encoded"),
            ("amqp://ann:12#hunter2@h/v", "percent-encoded"),
            ("amqp://ann:12?hunter2@h/v", "percent-encoded"),
            ("amqp://ann:hunter2@h:port/v", "percent-encoded"),
            ("amqp://ann:hunter2@[::x]/v", "percent-encoded"),
            ("amqp://ann:hunter2@h/v?heartbeat=x", "percent-encoded"),
        ];
        for (url, said) in cases {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(said), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let long = format!("amqp://h/{}", "v".repeat(256));
        assert!(Address::parse(&long).unwrap_err().to_string().contains("longer than 255"));
        let shown = format!("{:?}", Address::parse("amqp://ann:hunter2@h/v").unwrap());
        assert_eq!(shown, "amqp://ann:***@h:5672/v");
    }
}
