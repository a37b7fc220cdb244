//! What the relay that runs with the same configuration says of itself, over its `[admin]` address.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::End;
use crate::config::AdminConfig;
use crate::report::RelayReport;
use crate::status::Rates;

/// How long it may take: nobody may be there.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is a few kilobytes an outbox.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// An outbox in its answer; entries of others have no name and no rates.
#[derive(Debug, Deserialize)]
pub(super) struct Pipe {
    name: String,
    pub(super) rates: Rates,
    #[serde(flatten)]
    pub(super) relay: RelayReport,
}

/// The pipes by outbox; none if no relay answers there, or there is no token to ask it with.
pub(super) async fn pipes(admin: &AdminConfig) -> HashMap<String, Pipe> {
    let answered = tokio::time::timeout(PATIENCE, answer(admin)).await;
    let entries: Vec<serde_json::Value> = answered
        .ok()
        .flatten()
        .and_then(|answer| serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok())
        .unwrap_or_default();
    let pipes = entries.into_iter().filter_map(|entry| serde_json::from_value::<Pipe>(entry).ok());
    pipes.map(|pipe| (pipe.name.clone(), pipe)).collect()
}

/// Whether a relay lives there. One that is paused, or has parked keys, does.
pub(super) async fn live(admin: &AdminConfig) -> End {
    if admin.token.is_none() {
        println!(
            "there is no token in [admin], so nothing is served; that it lives is seen by its process only"
        );
        return End::Done;
    }
    let answered = tokio::time::timeout(PATIENCE, get(&admin.listen, "/healthz", "")).await;
    match answered.ok().flatten() {
        Some(answer) if answer.split(' ').nth(1) == Some("200") => {
            println!("the relay at {} lives", admin.listen);
            End::Done
        }
        _ => End::Failed(format!("no relay answers at {}", admin.listen)),
    }
}

async fn answer(admin: &AdminConfig) -> Option<String> {
    let token = admin.token.as_ref()?.expose();
    // A header cannot hold it.
    if token.contains(['\r', '\n']) {
        return None;
    }
    get(&admin.listen, "/api/status", &format!("Authorization: Bearer {token}\r\n")).await
}

/// HTTP/1.0, which has no chunks.
async fn get(address: &str, path: &str, headers: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::config::Secret;
    use crate::retry::Side;
    use crate::status::Status;

    #[tokio::test]
    async fn a_relay_that_runs_is_asked_and_one_that_does_not_is_not_missed() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let admin = AdminConfig { listen: free.to_string(), token: Some(Secret::new("t")) };
        assert!(pipes(&admin).await.is_empty());
        let shutdown = CancellationToken::new();
        let status = Status::new("product");
        crate::admin::serve(&admin, vec![status.clone()], shutdown.clone()).await.unwrap();
        status.set_paused(Side::Target, "broker: gone".into());
        status.set_in_flight(7);
        status.add_returned(2);
        let expected = RelayReport {
            state: "paused".into(),
            state_seconds: 0,
            last_error: Some("broker: gone".into()),
            in_flight: 7,
            returned: 2,
        };
        let pipes_there = pipes(&admin).await;
        assert_eq!(pipes_there["product"].rates, Rates::default());
        assert_eq!(pipes_there["product"].relay, expected);
        let wrong = AdminConfig { token: Some(Secret::new("x")), ..admin };
        assert!(pipes(&wrong).await.is_empty());
        shutdown.cancel();
    }
}
