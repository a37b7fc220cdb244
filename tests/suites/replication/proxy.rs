//! A bad network between a reader and its source, or an address that moves from one server to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to what the source says. A harm is done once, to the next answer that holds the word `needle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    None,
    /// A byte of it is changed.
    Damage,
    /// Neither it nor anything after it arrives on this connection, which stays open.
    Silence,
    /// The connection ends there.
    Cut,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    pub(crate) harm: Arc<watch::Sender<Harm>>,
    /// Where it leads to.
    server: Arc<watch::Sender<String>>,
    connections: Arc<AtomicU32>,
    /// What arrives in a tenth of a second, in bytes; 0: all.
    pub(crate) slowness: Arc<AtomicU32>,
}

impl Proxy {
    /// Stands before the server of this URL.
    pub(crate) async fn start(url: &str) -> Self {
        let mut url = url::Url::parse(url).unwrap();
        let server = Arc::new(watch::channel(address(&url)).0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        // The driver would go on over the server's own socket, past this proxy.
        url.set_query(Some("prefer_socket=false"));
        let harm = Arc::new(watch::channel(Harm::None).0);
        let connections = Arc::new(AtomicU32::new(0));
        let proxy = Self {
            url: url.to_string(),
            harm: Arc::clone(&harm),
            server: Arc::clone(&server),
            connections: Arc::clone(&connections),
            slowness: Arc::default(),
        };
        let slowness = Arc::clone(&proxy.slowness);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                let (mut moved, harm) = (server.subscribe(), Arc::clone(&harm));
                let slowness = Arc::clone(&slowness);
                tokio::spawn(async move {
                    let server = moved.borrow_and_update().clone();
                    tokio::select! {
                        () = pass(client, server, harm, slowness) => {}
                        _ = moved.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    /// Cuts all connections and leads to another server from now on.
    pub(crate) fn turn_to(&self, url: &str) {
        self.server.send_replace(address(&url::Url::parse(url).unwrap()));
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

fn address(url: &url::Url) -> String {
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

async fn pass(client: TcpStream, server: String, harm: Arc<watch::Sender<Harm>>, slowness: Arc<AtomicU32>) {
    // Nobody may be there: then the client is let go.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(count @ 1..) = from_server.read(&mut buffer).await else { return };
        if let Some(at) = buffer[..count].windows(6).position(|part| part == b"needle") {
            match harm.send_replace(Harm::None) {
                Harm::None => {}
                Harm::Damage => buffer[at] ^= 1,
                Harm::Cut => return,
                Harm::Silence => {
                    // Held open until the reader gives it up.
                    while from_server.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
                    return;
                }
            }
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let part = match slowness.load(Ordering::Relaxed) as usize {
                0 => rest.len(),
                bytes => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    bytes.min(rest.len())
                }
            };
            if to_client.write_all(&rest[..part]).await.is_err() {
                return;
            }
            rest = &rest[part..];
        }
    }
}
