//! The connection that the source writes its binary log to, as to a replica. The packets are `mysql_common`'s; the
//! drivers' own binlog streams unpack compressed transactions whole and drop what does not unpack.

use std::time::Duration;

use mysql_common::constants::CapabilityFlags;
use mysql_common::io::ParseBuf;
#[cfg(feature = "tls")]
use mysql_common::packets::SslRequest;
use mysql_common::packets::{AuthPlugin, AuthSwitchRequest, ErrPacket, HandshakePacket, HandshakeResponse};
use mysql_common::proto::MySerialize;
use outbox_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Source;
use super::position::{Gtids, Position};

/// Packets of this length are followed by more of the same.
const PACKET_BYTES_MAX: usize = 0xff_ffff;
/// What is asked from the socket at once.
const READ_BYTES: usize = 256 * 1024;
/// How long a connection, log-in included, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The nonce of a log-in.
const NONCE_BYTES: usize = 20;

/// The error that a source gives for all that is wrong with a reader's request.
const ER_FATAL_READING_BINLOG: u16 = 1236;

/// How the error begins that says that what would be read next was deleted.
const PURGED: &str = "the source no longer has the binary log that comes next";

/// The character set of a log-in over TLS: utf8mb4_general_ci.
#[cfg(feature = "tls")]
const UTF8MB4: u8 = 45;

const COM_QUERY: u8 = 0x03;
const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_REPLICA: u8 = 0x15;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
const BINLOG_THROUGH_GTID: u16 = 0x04;

/// How this reader names itself to the source.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) server_id: u32,
    /// Stands as its host in the source's list of replicas, by which it knows itself again; at most 60 bytes.
    pub(crate) name: String,
    /// The source ends an older connection of the same one.
    pub(crate) uuid: uuid::Uuid,
}

/// A socket, encrypted or not.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection over which events come.
pub(crate) struct Connection {
    socket: Box<dyn Io>,
    is_encrypted: bool,
    /// What has been read and not been taken; `taken` of it has.
    buffer: Vec<u8>,
    taken: usize,
    /// The packets so far of what comes in several.
    packet: Vec<u8>,
    sequence: u8,
    capabilities: CapabilityFlags,
    server_version: String,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// `Outage` when the server cannot be reached; `Database` when it refuses.
    pub(crate) async fn open(source: &Source) -> Result<Self> {
        let opened = timeout(CONNECT_TIMEOUT, Self::log_in(source)).await;
        let opened = opened.map_err(|_| outage(format!("no connection within {CONNECT_TIMEOUT:?}")))?;
        opened.map_err(|error| error.context(format!("{}: connecting", source.url)))
    }

    async fn log_in(source: &Source) -> Result<Self> {
        let url = source.parsed_url()?;
        let socket = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(lost)?;
        socket.set_nodelay(true).map_err(lost)?;
        let mut this = Self {
            socket: Box::new(socket),
            is_encrypted: false,
            buffer: Vec::new(),
            taken: 0,
            packet: Vec::new(),
            sequence: 0,
            capabilities: CapabilityFlags::CLIENT_PROTOCOL_41,
            server_version: String::new(),
        };
        let greeting = this.receive().await?;
        this.check(&greeting)?;
        let handshake: HandshakePacket<'_> = ParseBuf(&greeting).parse(()).map_err(lost)?;
        this.server_version = handshake.server_version_str().into_owned();
        this.capabilities = handshake.capabilities()
            & (CapabilityFlags::CLIENT_PROTOCOL_41
                | CapabilityFlags::CLIENT_LONG_PASSWORD
                | CapabilityFlags::CLIENT_SECURE_CONNECTION
                | CapabilityFlags::CLIENT_PLUGIN_AUTH
                | CapabilityFlags::CLIENT_CONNECT_ATTRS);
        let mut nonce = handshake.nonce();
        #[cfg(feature = "tls")]
        if let Some(tls) = &source.tls {
            this.encrypt(tls, &url.host, handshake.capabilities()).await?;
        }
        let mut plugin = handshake.auth_plugin().unwrap_or(AuthPlugin::MysqlNativePassword).into_owned();
        let response = HandshakeResponse::new(
            Some(scramble(&plugin, &url.password, &nonce).unwrap_or_default()),
            (5, 7, 0),
            Some(url.user.as_bytes()),
            None::<&[u8]>,
            Some(plugin.clone()),
            this.capabilities,
            Some([("program_name".to_owned(), "outbox-relay".to_owned())].into()),
            1 << 30,
        );
        let mut packet = Vec::new();
        response.serialize(&mut packet);
        this.send(&packet).await?;
        loop {
            let answer = this.receive().await?;
            this.check(&answer)?;
            match answer.first() {
                Some(0x00) => return Ok(this),
                Some(0xfe) => {
                    let switch: AuthSwitchRequest<'_> = ParseBuf(&answer).parse(()).map_err(lost)?;
                    plugin = switch.auth_plugin().into_owned();
                    nonce = switch.plugin_data().to_vec();
                    this.send(&scramble(&plugin, &url.password, &nonce)?).await?;
                }
                // caching_sha2_password: the server knows the password, or wants to see it once.
                Some(0x01) if answer[1..] == [3] => {}
                Some(0x01) if answer[1..] == [4] => this.send_password(&url.password, &nonce).await?,
                _ => {
                    return Err(Error::new(
                        ErrorKind::Database,
                        "an answer to the log-in that is not understood",
                    ));
                }
            }
        }
    }

    /// Goes on over TLS; only within the log-in.
    #[cfg(feature = "tls")]
    async fn encrypt(
        &mut self,
        tls: &outbox_core::tls::Tls,
        host: &str,
        offered: CapabilityFlags,
    ) -> Result<()> {
        let refused = |text: String| Error::new(ErrorKind::Database, format!("TLS: {text}"));
        if !offered.contains(CapabilityFlags::CLIENT_SSL) {
            return Err(refused("the server is set up without it: give it a certificate and a key".into()));
        }
        let files = tls.clone();
        let read = tokio::task::spawn_blocking(move || files.client_config()).await;
        let config = read
            .map_err(|error| Error::with_source(ErrorKind::Outage, "reading the files for TLS", error))?
            .map_err(|error| error.context("TLS"))?;
        let name = rustls::pki_types::ServerName::try_from(host.to_owned())
            .map_err(|_| refused(format!("{host:?} is no name that a certificate can have")))?;
        self.capabilities |= CapabilityFlags::CLIENT_SSL;
        let mut packet = Vec::new();
        SslRequest::new(self.capabilities, 1 << 30, UTF8MB4).serialize(&mut packet);
        self.send(&packet).await?;
        let plain = std::mem::replace(&mut self.socket, Box::new(tokio::io::empty()));
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let encrypted =
            connector.connect(name, plain).await.map_err(|error| match tls.explain(&error, host) {
                // No outage: waiting does not mend a certificate.
                Some(why) => refused(why),
                None => lost(error),
            })?;
        self.socket = Box::new(encrypted);
        self.is_encrypted = true;
        Ok(())
    }

    /// The password: over TLS as it is, else encrypted with the server's key.
    async fn send_password(&mut self, password: &str, nonce: &[u8]) -> Result<()> {
        if self.is_encrypted {
            return self.send(&[password.as_bytes(), &[0]].concat()).await;
        }
        self.send(&[2]).await?;
        let answer = self.receive().await?;
        self.check(&answer)?;
        let key = answer.strip_prefix(&[1]).filter(|key| key.starts_with(b"-----BEGIN PUBLIC KEY-----"));
        let Some(key) = key else {
            return Err(Error::new(ErrorKind::Database, "the server did not send the key for the password"));
        };
        let mut hidden: Vec<u8> = password.bytes().chain([0]).collect();
        for (byte, mask) in hidden.iter_mut().zip(mask(nonce).iter().cycle()) {
            *byte ^= mask;
        }
        self.send(&mysql_common::crypto::encrypt(&hidden, key)).await
    }

    /// Whether the server is MariaDB.
    pub(crate) fn is_mariadb(&self) -> bool {
        self.server_version.contains("MariaDB")
    }

    /// Asks for the events after a position.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn request(
        &mut self,
        from: &Position,
        identity: &Identity,
        heartbeat: Duration,
    ) -> Result<()> {
        let period = heartbeat.as_nanos();
        self.set(&format!(
            "@master_heartbeat_period = {period}, @source_heartbeat_period = {period}, \
             @master_binlog_checksum = @@global.binlog_checksum, @source_binlog_checksum = @@global.binlog_checksum, \
             @slave_uuid = '{0}', @replica_uuid = '{0}'",
            identity.uuid
        ))
        .await?;
        self.register(identity).await?;
        let by_gtid = match &from.gtids {
            Some(Gtids::MySql(_)) if self.is_mariadb() => return Err(other_product("MySQL", "MariaDB")),
            Some(Gtids::MariaDb(_)) if !self.is_mariadb() => return Err(other_product("MariaDB", "MySQL")),
            Some(Gtids::MySql(gtids)) => Some(gtids.encode()),
            Some(Gtids::MariaDb(gtids)) => {
                self.set(&format!(
                    "@mariadb_slave_capability = 4, @slave_connect_state = '{gtids}', @slave_gtid_strict_mode = 1"
                ))
                .await?;
                None
            }
            None => {
                if self.is_mariadb() {
                    self.set("@mariadb_slave_capability = 4").await?;
                }
                None
            }
        };
        let mut packet = Vec::new();
        if let Some(gtids) = by_gtid {
            packet.push(COM_BINLOG_DUMP_GTID);
            packet.extend_from_slice(&BINLOG_THROUGH_GTID.to_le_bytes());
            packet.extend_from_slice(&identity.server_id.to_le_bytes());
            packet.extend_from_slice(&0_u32.to_le_bytes());
            packet.extend_from_slice(&4_u64.to_le_bytes());
            packet.extend_from_slice(&(gtids.len() as u32).to_le_bytes());
            packet.extend_from_slice(&gtids);
        } else {
            let (name, offset) = match (&from.gtids, &from.file) {
                (None, Some(file)) => (file.name.as_str(), file.offset),
                (Some(_), _) => ("", 4),
                (None, None) => {
                    return Err(Error::new(ErrorKind::Invalid, "a position without GTIDs and file"));
                }
            };
            let offset = u32::try_from(offset).map_err(|_| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("{name}:{offset} lies beyond 4 GiB, where only GTIDs lead"),
                )
            })?;
            packet.push(COM_BINLOG_DUMP);
            packet.extend_from_slice(&offset.to_le_bytes());
            packet.extend_from_slice(&0_u16.to_le_bytes());
            packet.extend_from_slice(&identity.server_id.to_le_bytes());
            packet.extend_from_slice(name.as_bytes());
        }
        self.sequence = 0;
        self.send(&packet).await
    }

    async fn register(&mut self, identity: &Identity) -> Result<()> {
        let mut packet = vec![COM_REGISTER_REPLICA];
        packet.extend_from_slice(&identity.server_id.to_le_bytes());
        packet.push(identity.name.len().min(60) as u8);
        packet.extend_from_slice(&identity.name.as_bytes()[..identity.name.len().min(60)]);
        // User, password, port, rank, source: none.
        packet.extend_from_slice(&[0; 12]);
        self.command(&packet).await
    }

    async fn set(&mut self, assignments: &str) -> Result<()> {
        let mut packet = vec![COM_QUERY];
        packet.extend_from_slice(b"SET ");
        packet.extend_from_slice(assignments.as_bytes());
        self.command(&packet).await
    }

    async fn command(&mut self, packet: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.send(packet).await?;
        let answer = timeout(CONNECT_TIMEOUT, self.receive()).await;
        let answer = answer.map_err(|_| outage("no answer".to_owned()))??;
        self.check(&answer)
    }

    /// The packet of the next event: behind its first byte come header, body and checksum. `None` when the source
    /// ended the stream.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Outage` when the connection is lost or nothing of it comes for `silence`; other kinds when the source
    /// refuses to go on.
    pub(crate) async fn event(&mut self, silence: Duration) -> Result<Option<Vec<u8>>> {
        let packet = self.receive_within(Some(silence)).await?;
        match packet.first() {
            Some(0x00) => Ok(Some(packet)),
            Some(0xfe) if packet.len() < 9 => Ok(None),
            _ => {
                self.check(&packet)?;
                Err(outage("a packet that is no event".to_owned()))
            }
        }
    }

    /// The packet of the next event, if all of it has been received and it is not larger.
    pub(crate) fn event_at_hand(&mut self, bytes_max: usize) -> Option<Vec<u8>> {
        let (length, sequence) = self.part().filter(|(length, _)| (1..=bytes_max).contains(length))?;
        if !self.packet.is_empty() || self.buffer.get(self.taken + 4) != Some(&0x00) {
            return None;
        }
        self.take_part(length, sequence);
        Some(std::mem::take(&mut self.packet))
    }

    /// A whole packet, put together from its parts. Dropping the future loses nothing.
    async fn receive(&mut self) -> Result<Vec<u8>> {
        self.receive_within(None).await
    }

    /// The same, as long as some of it comes in time: a large event takes its time on a slow line.
    async fn receive_within(&mut self, silence: Option<Duration>) -> Result<Vec<u8>> {
        loop {
            while let Some((length, sequence)) = self.part() {
                self.take_part(length, sequence);
                if length < PACKET_BYTES_MAX {
                    return Ok(std::mem::take(&mut self.packet));
                }
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            self.buffer.reserve(READ_BYTES);
            let reading = self.socket.read_buf(&mut self.buffer);
            let read = match silence {
                Some(silence) => timeout(silence, reading)
                    .await
                    .map_err(|_| outage(format!("the source was silent for {silence:?}")))?,
                None => reading.await,
            };
            if read.map_err(lost)? == 0 {
                return Err(outage("the server closed the connection".to_owned()));
            }
        }
    }

    /// The length and number of the packet at the front of the buffer, if all of it is there.
    fn part(&self) -> Option<(usize, u8)> {
        let [a, b, c, sequence, rest @ ..] = &self.buffer[self.taken..] else { return None };
        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        (rest.len() >= length).then_some((length, *sequence))
    }

    /// Moves the part at the front of the buffer to the packet.
    fn take_part(&mut self, length: usize, sequence: u8) {
        let part = &self.buffer[self.taken + 4..self.taken + 4 + length];
        self.packet.extend_from_slice(part);
        self.taken += 4 + length;
        self.sequence = sequence.wrapping_add(1);
    }

    async fn send(&mut self, packet: &[u8]) -> Result<()> {
        // What is sent here is far shorter than a packet may be.
        let mut framed = (packet.len() as u32).to_le_bytes();
        framed[3] = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&[&framed[..], packet].concat()).await.map_err(lost)
    }

    /// The server's error, if the packet is one.
    fn check(&self, packet: &[u8]) -> Result<()> {
        if packet.first() != Some(&0xff) {
            return Ok(());
        }
        let Ok(ErrPacket::Error(error)) = ParseBuf(packet).parse(self.capabilities) else {
            return Err(outage("an error that is not understood".to_owned()));
        };
        Err(refusal(error.error_code(), &error.message_str()))
    }
}

/// Whether an error says that the source has deleted what would be read next.
pub(crate) fn is_purged(error: &Error) -> bool {
    error.to_string().contains(PURGED)
}

/// What a server's error means for a reader.
fn refusal(code: u16, message: &str) -> Error {
    let text = format!("{message} ({code})");
    let lower = message.to_ascii_lowercase();
    // MariaDB has an error of its own for it.
    if lower.contains("server_uuid/server_id") {
        let remedy = "another reader or replica uses this server id: give each its own `server_id`";
        return Error::new(ErrorKind::Invalid, format!("{remedy}: {text}"));
    }
    if code == ER_FATAL_READING_BINLOG {
        return if lower.contains("purged") || lower.contains("could not find first log") {
            let remedy =
                "the copies have to be built anew; a longer `binlog_expire_logs_seconds` prevents it";
            Error::new(ErrorKind::Invalid, format!("{PURGED}: {remedy}: {text}"))
        } else {
            Error::new(ErrorKind::Invalid, text)
        };
    }
    match code {
        // Log-in, host, grants.
        1044 | 1045 | 1130 | 1142 | 1227 | 1396 | 1698 => Error::new(
            ErrorKind::Database,
            format!("the reader needs: GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.*: {text}"),
        ),
        _ => outage(text),
    }
}

/// The answer to a server's challenge, of which those of MySQL's plugins end with a zero.
fn scramble(plugin: &AuthPlugin<'_>, password: &str, nonce: &[u8]) -> Result<Vec<u8>> {
    let nonce = match plugin {
        AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password => mask(nonce),
        AuthPlugin::Ed25519 => nonce,
        other => {
            let name = String::from_utf8_lossy(other.as_bytes()).into_owned();
            let text = format!(
                "log-in by {name} is not supported: use caching_sha2_password, ed25519 or mysql_native_password"
            );
            return Err(Error::new(ErrorKind::Database, text));
        }
    };
    Ok(plugin.gen_data(Some(password), nonce).map_or_else(Vec::new, |data| data.to_vec()))
}

/// What of a challenge of MySQL's plugins counts.
fn mask(nonce: &[u8]) -> &[u8] {
    &nonce[..nonce.len().min(NONCE_BYTES)]
}

fn other_product(position: &str, server: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the position is {position}'s, the source is {server}"))
}

fn outage(text: String) -> Error {
    Error::new(ErrorKind::Outage, text)
}

fn lost(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Outage, "the connection", error)
}
