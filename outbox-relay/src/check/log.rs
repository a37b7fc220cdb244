//! The binary log of MySQL and MariaDB, which tells of commits in tail mode: whether rows stand in it as they have to,
//! and whether the relay's user may read it.

use std::time::Duration;

use super::rights::grantee;
use super::{About, ask};
use crate::config::OutboxConfig;
use crate::outbox::follow;
use crate::outbox::store::{Kind, Question, Store};
use crate::retry::{self, Side};

/// How long the first word of the log may take.
const WORD: Duration = Duration::from_secs(15);
/// How often a log without news says so, so that there is a word.
const HEARTBEAT: Duration = Duration::from_millis(200);

pub(super) async fn check(store: &mut Store, outbox: &OutboxConfig, about: &mut About) {
    let reading = async {
        let (settings, stream) = follow::open(&follow::source(outbox, HEARTBEAT)).await?;
        if let Some(mut stream) = stream {
            stream.next().await?;
        }
        Ok(settings)
    };
    let read: Result<outbox_core::Result<_>, _> = tokio::time::timeout(WORD, reading).await;
    match read {
        Ok(Ok(settings)) => {
            match &settings.fault {
                Some((what, fix)) => {
                    about
                        .bad(format!("mode is \"tail\": {what}; the relay polls until that is mended"), *fix);
                }
                None => about.ok("the binary log can be read: commits ring"),
            }
            if settings.sync != 1 {
                about.warn(
                    format!(
                        "sync_binlog is {}: a server that crashes may take back transactions whose messages were \
                         published",
                        settings.sync
                    ),
                    "set global sync_binlog = 1; -- in my.cnf too",
                );
            }
        }
        Ok(Err(error)) if error.to_string().to_ascii_lowercase().contains("access denied") => {
            let found = ask(store, Question::Rights, about).await;
            let user = found.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user);
            let user = grantee(Kind::Mysql, user);
            about.bad(
                format!("mode is \"tail\": {error}; the relay polls until it may"),
                format!("grant replication slave, replication client on *.* to {user};"),
            );
        }
        Ok(Err(error)) => about.bad(
            format!("mode is \"tail\": {error}; the relay polls"),
            retry::decide(&error, Side::Source).remedy(),
        ),
        Err(_) => about.bad(
            format!("mode is \"tail\", and the binary log says nothing for {WORD:?}; the relay polls"),
            "let the relay connect without the proxy that keeps the binary log back",
        ),
    }
}
