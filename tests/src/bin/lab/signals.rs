//! Whether the user wants the lab to end. Everything that waits in here asks again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::failure::{Doing as _, Failure, Result};

/// How long a wait sleeps before it asks again.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    /// Ctrl-C reaches all of the terminal's foreground group, so the tests have it already; SIGTERM has only
    /// come to the lab.
    by_interrupt: Arc<AtomicBool>,
}

impl Stop {
    /// Catches the signals from now on.
    pub(crate) fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for (signal, flag) in [
            (SIGINT, &stop.by_interrupt),
            (SIGINT, &stop.asked),
            (SIGTERM, &stop.asked),
            (SIGHUP, &stop.asked),
        ] {
            signal_hook::flag::register(signal, Arc::clone(flag))
                .doing(|| format!("catching signal {signal}"))?;
        }
        Ok(stop)
    }

    /// The user wants the lab to end.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends every wait, as a signal would.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// It was (also) by Ctrl-C.
    pub(crate) fn by_interrupt(&self) -> bool {
        self.by_interrupt.load(Ordering::Relaxed)
    }

    /// Sleeps one [`POLL`], or fails if the lab is to end.
    pub(crate) fn pause(&self) -> Result<()> {
        if self.asked() {
            return Err(Failure::interrupted());
        }
        thread::sleep(POLL);
        Ok(())
    }
}
