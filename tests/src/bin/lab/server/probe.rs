//! Whether a server takes connections, asked in its own protocol: an open port is not enough, since the
//! databases listen before they answer. No client library is here yet, and the first message is all it takes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::Kind;

const TIMEOUT: Duration = Duration::from_secs(2);

/// PostgreSQL's start-up message, protocol 3.0, for the user `postgres`: its length, the version, pairs of
/// words. A server that is not ready answers with an error, one that is asks for the password.
const POSTGRES_HELLO: &[u8] = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";
/// The field of its error with the code for a client that no rule lets in.
const POSTGRES_REFUSES: &[u8] = b"\0C28000\0";
/// AMQP 0-9-1's header.
const AMQP_HELLO: &[u8] = b"AMQP\0\0\x09\x01";

/// The version of the server at `address`, once it is ready; empty where the protocol does not tell it
/// (PostgreSQL).
pub(crate) fn ready(kind: Kind, address: SocketAddr) -> Option<String> {
    let hello = match kind {
        Kind::Mariadb | Kind::Mysql => b"",
        Kind::Postgres => POSTGRES_HELLO,
        Kind::Rabbitmq | Kind::Rabbitmq4 => AMQP_HELLO,
    };
    let answer = exchange(address, hello)?;
    match kind {
        Kind::Mariadb | Kind::Mysql => mysql_version(&answer),
        // A server that takes TLS only refuses us (28000), which one that is not ready does not come to.
        Kind::Postgres => {
            let refuses = answer.windows(POSTGRES_REFUSES.len()).any(|window| window == POSTGRES_REFUSES);
            (answer.first() == Some(&b'R') || refuses).then(String::new)
        }
        // A frame of type 1, channel 0: Connection.Start, with the broker's properties.
        Kind::Rabbitmq | Kind::Rabbitmq4 => {
            answer.starts_with(&[1, 0, 0]).then(|| amqp_version(&answer).unwrap_or_default())
        }
    }
}

/// Whether somebody answers HTTP there.
pub(crate) fn http(port: u16) -> bool {
    exchange(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), b"HEAD / HTTP/1.0\r\n\r\n")
        .is_some_and(|answer| answer.starts_with(b"HTTP/1."))
}

/// Whether somebody takes connections there; for a port that speaks TLS only.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT).is_ok()
}

/// The address in `SCHEME://[USER[:PASSWORD]@]HOST:PORT[/...]`.
pub(crate) fn address(url: &str) -> Option<SocketAddr> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host_and_port.to_socket_addrs().ok()?.next()
}

/// The first piece of the answer; each that is looked at here comes in one.
fn exchange(address: SocketAddr, hello: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.write_all(hello).ok()?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).ok().filter(|length| *length > 0)?;
    answer.truncate(length);
    Some(answer)
}

/// Out of the greeting: 4 bytes of frame, the protocol's number (255 for an error), the version up to a zero.
/// MariaDB puts `5.5.5-` before its own, for old replicas.
fn mysql_version(greeting: &[u8]) -> Option<String> {
    let version =
        greeting.get(5..).filter(|_| greeting.get(4) == Some(&10))?.split(|byte| *byte == 0).next()?;
    let version = String::from_utf8_lossy(version);
    let version = version.strip_prefix("5.5.5-").unwrap_or(&version);
    Some(version.split('-').next().unwrap_or_default().to_owned())
}

/// Out of the broker's properties: the name with its length before it, `S`, the length, the text.
fn amqp_version(start: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let at = start.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let length = u32::from_be_bytes(start.get(at..at + 4)?.try_into().ok()?);
    let text = start.get(at + 4..)?.get(..usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_greetings() {
        assert_eq!(mysql_version(b"\x4a\0\0\0\x0a9.7.4-2\0rest").as_deref(), Some("9.7.4"));
        assert_eq!(mysql_version(b"\x4a\0\0\0\x0a5.5.5-10.11.19-MariaDB-log\0").as_deref(), Some("10.11.19"));
        assert_eq!(mysql_version(b"\x4a\0\0\0\xffToo many connections"), None);
        assert_eq!(mysql_version(b"\x4a\0"), None);
        assert_eq!(amqp_version(b"...\x07versionS\0\0\0\x063.10.8\x04next").as_deref(), Some("3.10.8"));
        assert_eq!(amqp_version(b"...\x07versionS\0\0\0\xff3.10.8"), None);
    }

    #[test]
    fn the_length_in_the_start_up_message_is_its_own() {
        assert_eq!(POSTGRES_HELLO[3] as usize, POSTGRES_HELLO.len());
    }

    #[test]
    fn addresses_of_urls() {
        let expected = "127.0.0.1:5672".parse().ok();
        assert_eq!(address("amqp://guest:g@u@127.0.0.1:5672/%2f"), expected);
        assert_eq!(address("http://127.0.0.1:5672"), expected);
        assert_eq!(address("postgres://u:p@127.0.0.1:5672/postgres?sslmode=disable"), expected);
        assert_eq!(address("127.0.0.1:5672"), None);
    }
}
