//! What an error of RabbitMQ or of the connection to it means, and what helps: the one place that knows.

use std::io;

use lapin::ErrorKind as Lapin;

use super::address::Address;
use super::conflict::Conflict;
use crate::error::{Error, ErrorKind};

/// Parts of texts with which RabbitMQ refuses now what it will take later: a queue whose node or leader is
/// away, a virtual host that still starts, a limit on connections.
const PASSING: [&str; 6] =
    ["down or inaccessible", "process is stopped", "is down", "timed out", "timeout", "limit ("];

/// The error of a connection attempt.
pub(super) fn connecting(error: &lapin::Error, address: &Address) -> Error {
    match error.kind() {
        Lapin::ProtocolError(said) if said.get_id() == 403 && address.is_external() => Error::new(
            ErrorKind::Broker,
            format!(
                "RabbitMQ at {address} does not take the client certificate for a user: {}; create the user whose \
                 name it takes from the certificate (`ssl_cert_login_from`, its log shows the name), without a password",
                said.get_message()
            ),
        ),
        Lapin::ProtocolError(said) if said.get_id() == 403 => Error::new(
            ErrorKind::Broker,
            format!(
                "user or password refused by RabbitMQ at {address} (user {}): correct the URL, or set the password \
                 with `rabbitmqctl change_password`; the user guest may connect from the same host only",
                address.user()
            ),
        ),
        Lapin::AuthProviderError(said) => Error::new(
            ErrorKind::Broker,
            format!("user or password refused by RabbitMQ at {address} (user {}): {said}", address.user()),
        ),
        Lapin::ParsingError(_) | Lapin::InvalidProtocolVersion(_) => Error::new(
            ErrorKind::Broker,
            format!(
                "what listens at {address} does not speak AMQP 0-9-1: give RabbitMQ's AMQP port, by default 5672, or \
                 write amqps:// for its TLS port, by default 5671"
            ),
        ),
        Lapin::IOError(io) if is_cut(io) => Error::new(
            ErrorKind::Outage,
            format!(
                "RabbitMQ at {address} cannot be reached: {io}; if this is a port with TLS, by default 5671, write amqps://"
            ),
        ),
        Lapin::IOError(_) | Lapin::MissingHeartbeatError => {
            Error::new(ErrorKind::Outage, format!("RabbitMQ at {address} cannot be reached: {}", text(error)))
        }
        _ => map(error, "connecting", address),
    }
}

/// The error of anything after the connection stood; `doing` says what was done and to what.
pub(super) fn map(error: &lapin::Error, doing: &str, address: &Address) -> Error {
    let said = text(error);
    let Some(code) = code(error) else {
        return Error::new(
            ErrorKind::Outage,
            format!("{doing}: the connection to RabbitMQ at {address} is lost: {said}"),
        );
    };
    if let Some(conflict) = Conflict::of(&said) {
        let text = format!(
            "{doing}: {conflict}, at RabbitMQ at {address}; use the same settings everywhere, or {} (it is declared again \
             if `declare` is on)",
            conflict.remedy()
        );
        return Error::new(ErrorKind::Broker, text);
    }
    let passing = PASSING.iter().any(|passing| said.contains(passing));
    let (user, vhost) = (address.user(), address.vhost());
    let remedy = match code {
        403 => format!(
            "user {user} lacks this permission in virtual host {vhost}: see `rabbitmqctl list_permissions -p {vhost}`, \
             grant it with `rabbitmqctl set_permissions`"
        ),
        404 if !passing => {
            "it does not exist: create it, or let it be created with `declare` switched on".to_owned()
        }
        405 => "another connection uses it exclusively: stop that one first".to_owned(),
        406 => {
            "it exists with other settings: use the same settings everywhere, or delete it (empty a queue \
                first) and let it be declared again"
                .to_owned()
        }
        530 if !passing => format!(
            "create virtual host {vhost} or correct its name in the URL (`rabbitmqctl list_vhosts`), and give user \
             {user} access with `rabbitmqctl set_permissions -p {vhost}`"
        ),
        540 => "this RabbitMQ lacks the feature: use 3.10 or later".to_owned(),
        // 320 a shutdown or an operator, 541 an internal error, the rest broken connections.
        _ => return Error::new(ErrorKind::Outage, format!("{doing}: RabbitMQ at {address} answers: {said}")),
    };
    Error::new(ErrorKind::Broker, format!("{doing}: RabbitMQ at {address} answers: {said}; {remedy}"))
}

/// The reply code with which RabbitMQ closed the channel or the connection; `None` when it said nothing.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        Lapin::ProtocolError(said) => Some(said.get_id()),
        _ => None,
    }
}

/// Whether the other side ended a connection that had stood: a server does that to a client which does not speak its
/// language, and what it answered may be lost with the connection.
pub(super) fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// The error of the socket.
#[cfg(feature = "tls")]
pub(super) fn io(error: &lapin::Error) -> Option<&io::Error> {
    match error.kind() {
        Lapin::IOError(io) => Some(io),
        _ => None,
    }
}

/// The text of an error, in RabbitMQ's own words where there are any.
pub(super) fn text(error: &lapin::Error) -> String {
    match error.kind() {
        Lapin::ProtocolError(said) => said.get_message().to_string(),
        Lapin::IOError(io) => io.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn mapped(code: u16, said: &str) -> Error {
        let address = Address::parse("amqp://ann:hunter2@h/v").unwrap();
        let error = AMQPError::from_id(code, said.into()).unwrap();
        map(&Lapin::ProtocolError(error).into(), "declaring queue q", &address)
    }

    #[test]
    fn replies_are_told_apart() {
        for (code, said, kind) in [
            (
                320,
                "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
                ErrorKind::Outage,
            ),
            (403, "ACCESS_REFUSED - configure access", ErrorKind::Broker),
            (404, "NOT_FOUND - no queue 'q' in vhost 'v'", ErrorKind::Broker),
            (
                404,
                "NOT_FOUND - home node 'x' of durable queue 'q' is down or inaccessible",
                ErrorKind::Outage,
            ),
            (404, "NOT_FOUND - queue 'q' in vhost 'v' process is stopped by supervisor", ErrorKind::Outage),
            (406, "PRECONDITION_FAILED - inequivalent arg", ErrorKind::Broker),
            (530, "NOT_ALLOWED - vhost v not found", ErrorKind::Broker),
            (
                530,
                "NOT_ALLOWED - access to vhost refused: connection limit (1) is reached",
                ErrorKind::Outage,
            ),
            (541, "INTERNAL_ERROR", ErrorKind::Outage),
        ] {
            let error = mapped(code, said);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains("declaring queue q: RabbitMQ at h:5672 answers: "), "{error}");
        }
        let lost: lapin::Error = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        let address = Address::parse("amqp://h").unwrap();
        assert!(map(&lost, "publishing", &address).is_outage());
    }
}
