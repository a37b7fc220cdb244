//! SIGHUP: the configuration is read again, and what can be changed while the relay runs is changed.

use std::path::PathBuf;

use tokio::sync::watch;

use crate::config::{Config, Secret};
use crate::relay::Resettings;

/// Listens until the process ends.
#[cfg(unix)]
pub(super) fn on_signal(
    mut config: Config,
    file: PathBuf,
    relay: Option<Resettings>,
    token: Option<watch::Sender<Secret>>,
) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload(&mut config, &file, relay.as_ref(), token.as_ref());
        }
    });
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn on_signal(
    _: Config,
    _: PathBuf,
    _: Option<Resettings>,
    _: Option<watch::Sender<Secret>>,
) -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn reload(
    config: &mut Config,
    file: &std::path::Path,
    relay: Option<&Resettings>,
    token: Option<&watch::Sender<Secret>>,
) {
    use crate::config::{self, Environment};
    let new = match config::from_file(file, &Environment::of_process()) {
        Ok(new) => new,
        Err(problems) => {
            tracing::error!("reload: the configuration is wrong, nothing is changed:\n{problems}");
            return;
        }
    };
    let changes = crate::reload::compare(config, &new);
    for outbox in &changes.outboxes {
        tracing::info!(outbox = outbox.name, "reload: the pipe starts again with its new settings");
        if let Some(relay) = relay {
            relay.reset(outbox.clone());
        }
    }
    if let (Some(new), Some(token)) = (&changes.token, token) {
        tracing::info!("reload: admin.token is another one");
        token.send_replace(new.clone());
    }
    for key in &changes.needs_restart {
        tracing::warn!("reload: {key}: needs a restart");
    }
    if changes == crate::reload::Changes::default() {
        tracing::info!("reload: nothing has changed");
    }
    changes.apply_to(config);
}
