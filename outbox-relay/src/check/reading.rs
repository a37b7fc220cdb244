//! Whether a replication can read its source's log from where its copies are: by reading there.

use std::time::Duration;

use outbox_core::Result;

use super::replication::user;
use super::rights::is_denied;
use super::{About, Level};
use crate::binlog::{Server, Source, Tables, follow};
use crate::change::Position;
use crate::config::ReplicationConfig;
use crate::replication::{State, UNPROVEN, report};

/// How long the log may say nothing: a source that seems to lack transactions is given 15 s for them.
const WORD: Duration = Duration::from_secs(25);
/// How readers of ours name themselves to a source.
const OUR_NAME: &str = "outbox-relay-";

pub(super) async fn check(
    config: &ReplicationConfig,
    server: &mut Server,
    state: Option<&mut State>,
    about: &mut About,
) {
    check_id(config, server, about).await;
    let checkpoint = match state {
        Some(state) => state.checkpoint().await,
        None => Ok(None),
    };
    let remake = format!("outbox-relay snapshot {}", config.name);
    // By an id at random: with its own one this would end the reader that is at work.
    let source = Source { server_id: None, ..config.source() };
    let stream = match checkpoint {
        Ok(Some(checkpoint)) => {
            let stream = follow(source, Tables::default(), checkpoint.position.clone());
            match checkpoint.proof() {
                Some(proof) => stream.prove(proof),
                None => stream,
            }
        }
        // What is wrong with the tables of state is told with them.
        Err(error) if error.is_outage() || error.kind() == outbox_core::ErrorKind::Database => return,
        Err(error) => return about.bad(error.to_string(), remake),
        Ok(None) => {
            // What keeps it from being asked for is told with the settings and rights.
            let Ok(end) = server.high_mark().await else { return };
            follow(source, Tables::default(), Position { gtids: None, ..end })
        }
    };
    let mut stream = stream;
    let read: std::result::Result<Result<_>, _> = tokio::time::timeout(WORD, stream.next()).await;
    match read {
        Ok(Ok(_)) if stream.is_proven() => about.ok("its log can be read from where the copies are"),
        Ok(Ok(_)) => about.warn(
            format!("it is not known to be the source that was read from: {UNPROVEN}"),
            format!("outbox-relay verify {}", config.name),
        ),
        Ok(Err(error)) if is_denied(&error) => {
            let user = user(server.connection()).await;
            about.bad(error.to_string(), format!("grant replication slave on *.* to {user};"));
        }
        Ok(Err(error)) if error.kind() == outbox_core::ErrorKind::Outage => {
            about.bad(
                error.to_string(),
                "mend what the text names; `outbox-relay run` goes on by itself then",
            );
        }
        Ok(Err(error)) => about.bad(error.to_string(), remake),
        Err(_) => about.warn(
            format!("its log says nothing for {WORD:?}, or it cannot be reached for that"),
            "see the log of `outbox-relay run`, which waits for it",
        ),
    }
}

/// Whether another server or reader has the id that the configuration gives.
async fn check_id(config: &ReplicationConfig, server: &mut Server, about: &mut About) {
    let Some(id) = config.server_id else { return };
    let fix = "give the replication another `server_id`, or none";
    let own: Option<u32> =
        mysql_async::prelude::Queryable::query_first(server.connection(), "select @@global.server_id")
            .await
            .ok()
            .flatten();
    if own == Some(id) {
        return about.bad(format!("server_id {id} is the source's own"), fix);
    }
    let Some(readers) = server.readers().await else {
        let right = if server.is_mariadb() { "replication master admin" } else { "replication slave" };
        let user = user(server.connection()).await;
        let fix = Some(format!("grant {right} on *.* to {user};"));
        return about.add(Level::Note, format!("it does not show whether server_id {id} is taken"), fix);
    };
    let Some((_, name)) = readers.into_iter().find(|(of, _)| *of == id) else { return };
    // Its own reader, where it is at work.
    if !(name.starts_with(OUR_NAME) && report::is_run(config).await.unwrap_or(false)) {
        about.bad(format!("server_id {id} is taken by another replica or reader, {name:?}"), fix);
    }
}
