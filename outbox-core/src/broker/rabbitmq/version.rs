//! Which RabbitMQ it is: every server says so in the first frame of a connection, `connection.start` of AMQP 0-9-1
//! (section 4.2.2 of the specification), before anybody logs in. lapin reads it and keeps it to itself.

use std::io;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use lapin::AsyncTcpStream;
use lapin::protocol::connection::{AMQPMethod, Start};
use lapin::protocol::{AMQPClass, constants, parse_class};

use super::address::Address;
use super::failure;
use super::tls::Trust;
use crate::error::{Error, ErrorKind, Result};

/// What a client says first.
const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel and size of a frame.
const FRAME_HEAD_BYTES: usize = 7;
/// The first frame is a few hundred bytes.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// The first with at-least-once dead lettering in quorum queues.
const OLDEST: [u32; 2] = [3, 10];

/// The product and its version, as in `RabbitMQ 3.10.8`.
pub(super) async fn of(address: &Address, trust: &Trust, limit: Duration) -> Result<String> {
    let failed = |error: lapin::Error| {
        trust.failure(&error, address).unwrap_or_else(|| failure::connecting(&error, address))
    };
    let tls = trust.prepare(address).await?;
    let authority = address.uri().authority;
    let asked = async {
        let runtime = lapin::runtime::default_runtime()?;
        let host = runtime.to_socket_addrs((authority.host.clone(), authority.port));
        let stream = AsyncTcpStream::connect(&runtime, host).await?;
        let mut stream = tls.begin(stream, &authority.host).await?;
        stream.write_all(GREETING).await?;
        stream.flush().await?;
        Ok(start(&mut stream).await?)
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(start)) => Ok(told(&start)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => {
            let text = format!("RabbitMQ at {address} does not say its version within {limit:?}");
            Err(Error::new(ErrorKind::Outage, text))
        }
    }
}

/// Reads the first frame.
async fn start(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Start> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "what answers there does not speak AMQP 0-9-1");
    let mut head = [0; FRAME_HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let [kind, _, _, size @ ..] = head;
    let size = u32::from_be_bytes(size);
    if kind != constants::FRAME_METHOD || size > FRAME_BYTES_MAX {
        return Err(wrong());
    }
    let mut payload = Vec::new();
    stream.take(u64::from(size)).read_to_end(&mut payload).await?;
    match parse_class(payload.as_slice()) {
        Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) => Ok(start),
        _ => Err(wrong()),
    }
}

fn told(start: &Start) -> String {
    let property = |name: &str| {
        let value = start.server_properties.inner().get(name)?.as_long_string()?;
        Some(value.to_string())
    };
    let product = property("product").unwrap_or_else(|| "a server that does not say its name".to_owned());
    match property("version") {
        Some(version) => format!("{product} {version}"),
        None => product,
    }
}

/// What speaks against using this server.
pub(super) fn objection(version: &str, address: &Address) -> Option<String> {
    let Some(numbers) = version.strip_prefix("RabbitMQ ") else {
        return Some(format!(
            "{version} at {address} is not RabbitMQ, whose queues and confirmations the promises rest upon: use RabbitMQ \
             3.10 or later"
        ));
    };
    let mut parts = numbers.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let found = [parts.next().unwrap_or_default(), parts.next().unwrap_or_default()];
    (found < OLDEST).then(|| {
        format!(
            "{version} at {address} is too old: its quorum queues may lose what they dead-letter; upgrade it to 3.10 or \
             later"
        )
    })
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use lapin::types::{AMQPValue, FieldTable};

    use super::*;

    fn start_of(properties: &[(&str, &str)]) -> Start {
        let mut server_properties = FieldTable::default();
        for (name, value) in properties {
            server_properties.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        Start {
            version_major: 0,
            version_minor: 9,
            server_properties,
            mechanisms: "PLAIN".into(),
            locales: "en_US".into(),
        }
    }

    #[test]
    fn a_server_is_told_by_its_properties() {
        assert_eq!(told(&start_of(&[("product", "RabbitMQ"), ("version", "4.3.6")])), "RabbitMQ 4.3.6");
        assert_eq!(told(&start_of(&[("product", "RabbitMQ")])), "RabbitMQ");
        assert_eq!(told(&start_of(&[])), "a server that does not say its name");
    }

    #[test]
    fn what_is_too_old_or_another_product_is_objected_to() {
        let address = Address::parse("amqp://me:secret@h").unwrap();
        let objection = |version| objection(version, &address);
        for version in ["RabbitMQ 3.10.0", "RabbitMQ 3.13.7", "RabbitMQ 4.3.6", "RabbitMQ 4.4.0-rc.1"] {
            assert_eq!(objection(version), None);
        }
        for version in ["RabbitMQ 3.9.29", "RabbitMQ 3.8", "RabbitMQ 2.8.7"] {
            let text = objection(version).unwrap();
            assert!(
                text.starts_with(version) && text.contains("upgrade") && !text.contains("secret"),
                "{text}"
            );
        }
        assert!(objection("LavinMQ 2.1.0").unwrap().contains("is not RabbitMQ"));
    }

    #[tokio::test]
    async fn what_does_not_speak_the_protocol_is_told_so() {
        for answer in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"AMQP\x00\x00\x09\x01",
            b"\x01\x00\x00\x00\x00\x00\x01\x00",
        ] {
            let error = start(&mut Cursor::new(answer)).await.unwrap_err();
            assert!(error.to_string().contains("does not speak AMQP"), "{error}");
        }
        let error = start(&mut Cursor::new(b"")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
