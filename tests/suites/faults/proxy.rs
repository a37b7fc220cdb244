//! A TCP proxy between the relay and a server, with the faults of a network: cut connections, packets that
//! vanish, latency, a narrow line, an end in the middle of a frame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// So that latency does not make the line narrow, too.
const BUFFER: usize = 256 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToRelay,
}

/// What happens to all connections.
#[derive(Debug, Clone, Default)]
struct Rules {
    /// Nothing passes this way; sockets stay open.
    is_hole: [bool; 2],
    /// Connections with a lower number pass nothing any more and are never closed: half-open.
    frozen_below: u64,
    /// Connections with a lower number are reset.
    cut_below: u64,
    /// Before each piece is passed on.
    latency: Duration,
    bytes_per_second: Option<u32>,
}

#[derive(Debug)]
struct Shared {
    /// Where new connections lead.
    server: watch::Sender<SocketAddr>,
    rules: watch::Sender<Rules>,
    opened: AtomicU64,
    /// Bytes each way until all is cut; negative for never.
    fuses: [AtomicI64; 2],
    trap: watch::Sender<Option<Trap>>,
}

/// What, on its way to the server, freezes its connection.
#[derive(Debug, Clone, Copy)]
struct Trap {
    text: &'static [u8],
    kind: TrapKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrapKind {
    /// It does not arrive.
    Before,
    /// It arrives, and no answer comes back.
    Unanswered,
    /// It arrives, and answers may come back.
    Behind,
}

/// A listener of the test's own in front of a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Proxy {
    /// In front of the server of `url`; the URL that leads through it comes along.
    pub(crate) async fn before(url: &str) -> (Self, String) {
        let server = address(url);
        let mut url = url::Url::parse(url).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: watch::channel(server).0,
            rules: watch::channel(Rules::default()).0,
            opened: AtomicU64::new(0),
            fuses: [AtomicI64::new(-1), AtomicI64::new(-1)],
            trap: watch::channel(None).0,
        });
        let passing = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = passing.opened.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connect(client, number, Arc::clone(&passing)));
            }
        })
        .abort_handle();
        url.set_port(Some(port)).unwrap();
        (Self { shared, accepting }, url.to_string())
    }

    /// New connections lead to the server of this URL.
    pub(crate) fn redirect(&self, url: &str) {
        self.shared.server.send_replace(address(url));
    }

    /// Resets every connection; new ones pass.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts once so many more bytes have gone this way, which may be in the middle of a frame; never, if negative.
    pub(crate) fn cut_after(&self, way: Way, bytes: i64) {
        self.shared.fuses[way as usize].store(bytes, Ordering::SeqCst);
    }

    /// Lets nothing pass this way, without closing anything, or lets it pass again.
    pub(crate) fn hole(&self, ways: &[Way], is_hole: bool) {
        self.shared
            .rules
            .send_modify(|rules| ways.iter().for_each(|way| rules.is_hole[*way as usize] = is_hole));
    }

    /// Leaves every connection half-open for good; new ones pass.
    pub(crate) fn freeze(&self) {
        self.shared.freeze();
    }

    /// Freezes the next connection on which `text` goes to the server, once it has.
    pub(crate) fn freeze_behind(&self, text: &'static str) {
        self.shared.trap.send_replace(Some(Trap { text: text.as_bytes(), kind: TrapKind::Behind }));
    }

    /// Freezes every connection both ways once `text` is on its way to the server, which never gets it.
    pub(crate) fn freeze_before(&self, text: &'static str) {
        self.shared.trap.send_replace(Some(Trap { text: text.as_bytes(), kind: TrapKind::Before }));
    }

    /// As [`Self::freeze_before`], but the server gets it.
    #[allow(dead_code, reason = "the subscribers' faults alone use it")]
    pub(crate) fn freeze_unanswered(&self, text: &'static str) {
        self.shared.trap.send_replace(Some(Trap { text: text.as_bytes(), kind: TrapKind::Unanswered }));
    }

    /// Whether what [`Self::freeze_behind`] and the like wait for has come.
    pub(crate) fn has_frozen(&self) -> bool {
        self.shared.trap.borrow().is_none()
    }

    /// Each way.
    pub(crate) fn set_latency(&self, latency: Duration) {
        self.shared.rules.send_modify(|rules| rules.latency = latency);
    }

    /// Each way, for each connection.
    pub(crate) fn set_bandwidth(&self, bytes_per_second: Option<u32>) {
        self.shared.rules.send_modify(|rules| rules.bytes_per_second = bytes_per_second);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    fn cut(&self) {
        let opened = self.opened.load(Ordering::SeqCst);
        self.rules.send_modify(|rules| rules.cut_below = opened);
    }

    fn freeze(&self) {
        let opened = self.opened.load(Ordering::SeqCst);
        self.rules.send_modify(|rules| rules.frozen_below = opened);
    }

    /// Whether the trap springs, if it is of this kind.
    fn springs(&self, piece: &[u8], kind: TrapKind) -> bool {
        self.trap.send_if_modified(|trap| {
            let is_in = |trap: &Trap| {
                trap.kind == kind && piece.windows(trap.text.len()).any(|part| part == trap.text)
            };
            trap.take_if(|trap| is_in(trap)).is_some()
        })
    }

    /// How much of `bytes` may pass before the fuse blows.
    fn burn(&self, way: Way, bytes: usize) -> Option<usize> {
        let bytes = bytes as i64;
        let before = self.fuses[way as usize].fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            (left >= 0).then_some(if left < bytes { -1 } else { left - bytes })
        });
        before.ok().filter(|left| *left < bytes).map(|left| left as usize)
    }
}

fn address(url: &str) -> SocketAddr {
    let url = url::Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}

async fn connect(client: TcpStream, number: u64, shared: Arc<Shared>) {
    let server = *shared.server.borrow();
    let Ok(server) = TcpStream::connect(server).await else { return };
    for socket in [&client, &server] {
        // So that the end is a reset, as a firewall or a crash makes it.
        let _ = socket.set_zero_linger();
        let _ = socket.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut rules = shared.rules.subscribe();
    let pumps = async {
        tokio::join!(
            pump(from_client, to_server, Way::ToServer, number, &shared),
            pump(from_server, to_client, Way::ToRelay, number, &shared)
        )
    };
    tokio::select! {
        _ = pumps => {}
        _ = rules.wait_for(|rules| rules.cut_below > number) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, number: u64, shared: &Shared) {
    let mut rules = shared.rules.subscribe();
    let mut frozen = false;
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        let passes = rules
            .wait_for(|rules| !frozen && !rules.is_hole[way as usize] && rules.frozen_below <= number)
            .await
            .map(|rules| (rules.latency, rules.bytes_per_second));
        let Ok((latency, bandwidth)) = passes else { return };
        if read == 0 {
            let _ = to.shutdown().await;
            return;
        }
        let mut piece = &buffer[..read];
        let mut wait = latency;
        if let Some(bandwidth) = bandwidth {
            wait += Duration::from_secs_f64(read as f64 / f64::from(bandwidth));
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if way == Way::ToServer && shared.springs(piece, TrapKind::Before) {
            shared.freeze();
            continue;
        }
        if way == Way::ToServer && shared.springs(piece, TrapKind::Unanswered) {
            shared.freeze();
        }
        let rest = shared.burn(way, piece.len());
        piece = &piece[..rest.unwrap_or(piece.len())];
        let is_last = rest.is_some();
        if to.write_all(piece).await.is_err() {
            return;
        }
        if is_last {
            shared.cut();
        }
        frozen |= way == Way::ToServer && shared.springs(piece, TrapKind::Behind);
    }
}
