//! What SIGTERM and SIGINT do to a verb that runs long.

use tokio_util::sync::CancellationToken;

/// The first SIGTERM or SIGINT ends in order, a second one at once.
#[cfg(unix)]
pub(super) fn end_on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if is_second {
                std::process::exit(1);
            }
            tracing::info!("ending: what is in flight is finished first");
            shutdown.cancel();
        }
    });
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn end_on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            shutdown.cancel();
        }
    });
    Ok(())
}
