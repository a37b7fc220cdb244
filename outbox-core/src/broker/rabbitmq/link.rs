//! One connection to RabbitMQ that can be cut: lapin alone cannot, it only queues a farewell, which waits
//! as long as RabbitMQ blocks the connection, with all that was not written yet in front of it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::address::Address;
use super::failure;
use super::tls::Trust;
use crate::error::{Error, ErrorKind, Result};

/// How long a connection that is not needed any more may take to say goodbye before it is cut.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection; its clones share it, and with the last of them it is cut.
#[derive(Clone)]
pub(super) struct Link(Arc<Inner>);

struct Inner {
    // Dropped first: nothing that lapin sends while the rest is dropped may get out, least of all a
    // `basic.cancel`, which would let the next consumer overtake what this one has not acknowledged.
    cut: Cut,
    connection: Connection,
    blocked: watch::Receiver<Option<String>>,
    events: AbortHandle,
    address: Address,
    alarm: Alarm,
}

/// Whether it was told that RabbitMQ blocks publishing: once for all connections that are tried meanwhile. Clones share
/// it.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarm(Arc<AtomicBool>);

impl Alarm {
    /// Whether that is news.
    fn begins(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    fn ends(&self, place: &str) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!(broker = %place, "RabbitMQ takes messages again");
        }
    }
}

impl Link {
    /// Connects, within `limit` in all; `name` is shown by RabbitMQ's tools.
    ///
    /// The connection never recovers on its own: what was in flight when it broke would stay unanswered
    /// until it is back, and a topology that RabbitMQ refuses would be tried for ever.
    pub(super) async fn connect(
        address: &Address,
        trust: &Trust,
        name: &str,
        limit: Duration,
        alarm: &Alarm,
    ) -> Result<Self> {
        let cut = Cut::default();
        let failed = |error: &lapin::Error| {
            trust.failure(error, address).unwrap_or_else(|| failure::connecting(error, address))
        };
        let runtime = lapin::runtime::default_runtime().map_err(|e| failed(&e))?;
        let tls = trust.prepare(address).await?;
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let socket = cut.socket.clone();
        let connecting = Connection::connector(
            address.uri(),
            runtime,
            // Runs in the connection's own thread, which must not outlive `limit` by the minutes that the
            // kernel waits for a host that does not answer.
            async move |uri: AMQPUri, runtime| {
                let host = runtime.to_socket_addrs((uri.authority.host.clone(), uri.authority.port));
                let connected = async {
                    let stream = AsyncTcpStream::connect(&runtime, host).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        Cut::keep(&socket, plain.get_ref())?;
                    }
                    tls.begin(stream, &uri.authority.host).await
                };
                let in_time = tokio::time::timeout(limit, connected).await;
                Ok(in_time.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
            },
            properties,
        );
        let connection = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Outage,
                    format!("RabbitMQ at {address} cannot be reached: no answer within {limit:?}"),
                ));
            }
        };
        let (sender, blocked) = watch::channel(None);
        // The events go to one listener only; a second one would take some away from the first.
        let mut events = Box::pin(connection.events_listener());
        let (place, name) = (address.to_string(), name.to_owned());
        let told = alarm.clone();
        let events = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        if told.begins() {
                            tracing::warn!(broker = %place, connection = %name, %reason, "RabbitMQ blocks publishing");
                        }
                        sender.send_replace(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        told.ends(&place);
                        sender.send_replace(None);
                    }
                    _ => {}
                }
            }
        })
        .abort_handle();
        let (address, alarm) = (address.clone(), alarm.clone());
        Ok(Self(Arc::new(Inner { cut, connection, blocked, events, address, alarm })))
    }

    /// A fresh channel.
    pub(super) async fn channel(&self) -> Result<Channel> {
        self.0.connection.create_channel().await.map_err(|e| self.failure(&e, "opening a channel"))
    }

    /// Whether the connection stands, as far as its heartbeats tell.
    pub(super) fn is_up(&self) -> bool {
        self.0.connection.status().connected()
    }

    /// What an error on this connection means.
    pub(super) fn failure(&self, error: &lapin::Error, doing: &str) -> Error {
        failure::map(error, doing, &self.0.address)
    }

    /// The largest frame that both sides agreed on, in bytes.
    pub(super) fn frame_bytes_max(&self) -> usize {
        self.0.connection.configuration().frame_max() as usize
    }

    /// Why RabbitMQ blocks publishing on this connection, if it does: its memory or its disk, mostly.
    pub(super) fn blocked(&self) -> Option<String> {
        self.0.blocked.borrow().clone()
    }

    /// RabbitMQ has confirmed something: a connection that was made after an alarm is not told of its end.
    pub(super) fn takes_messages(&self) {
        if self.0.alarm.0.load(Ordering::Relaxed) && self.blocked().is_none() {
            self.0.alarm.ends(&self.0.address.to_string());
        }
    }

    /// Waits until RabbitMQ does not block publishing on this connection.
    pub(super) async fn unblocked(&self) {
        // An error says that the connection is gone, which whatever comes next will find.
        let _ = self.0.blocked.clone().wait_for(Option::is_none).await;
    }

    /// Ends the connection at once, for all clones: what was not written never goes out.
    pub(super) fn cut(&self) {
        self.0.cut.cut();
    }

    /// Ends the connection as the protocol wants it, or cuts it if that takes too long.
    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(FAREWELL, self.0.connection.close(200, "OK".into())).await;
        self.cut();
    }

    /// Closes in the background and only then drops `rest`; at once where no runtime is left to do that.
    pub(super) fn close_behind<T: Send + 'static>(self, rest: T) {
        // Dropped together if the runtime ends: the link, with its cut, before the rest.
        let pair = (self, rest);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                pair.0.close().await;
                drop(pair);
            });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.events.abort();
    }
}

/// A second handle on the connection's socket, with which it is shut.
#[derive(Default)]
struct Cut {
    /// Unset before the socket is connected, `None` if it was cut before that.
    socket: Arc<OnceLock<Option<TcpStream>>>,
}

impl Cut {
    fn keep(socket: &OnceLock<Option<TcpStream>>, stream: &tokio::net::TcpStream) -> io::Result<()> {
        socket
            .set(Some(twin(stream)?))
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connected too late"))
    }

    fn cut(&self) {
        if let Some(socket) = self.socket.get_or_init(|| None) {
            // Fails if the other side was quicker, which is as well.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.cut();
    }
}

#[cfg(unix)]
fn twin(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd;
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn twin(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    Ok(stream.as_socket().try_clone_to_owned()?.into())
}
