//! Free loopback ports.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Failure, Result};

const LOWEST: u32 = 10_000;
/// Where Linux begins to choose the local ports of connections, unless set otherwise.
const EPHEMERAL: u32 = 32_768;

/// A port on which nobody listens.
///
/// It is taken from below those that the system gives to outgoing connections: while a server is down, such a
/// connection could take its port, or even connect to itself when a client tries the port again and again.
pub(crate) fn free() -> Result<u16> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let span = highest() - LOWEST;
    // Labs that run at the same time begin far from each other.
    let begin = process::id().wrapping_mul(7919);
    for _ in 0..span {
        let step = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = LOWEST + begin.wrapping_add(step) % span;
        if let Ok(port) = u16::try_from(port)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            return Ok(port);
        }
    }
    Err(Failure::new("no free port on 127.0.0.1"))
}

fn highest() -> u32 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| (LOWEST + 1_000..EPHEMERAL).contains(first))
        .unwrap_or(EPHEMERAL)
}
