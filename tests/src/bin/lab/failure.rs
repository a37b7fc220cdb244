//! Why the lab gave up, said so that the reader knows what to do next.

use std::fmt;
use std::fs;
use std::path::Path;

/// The lab's result.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Lines of a server's log that are shown with its failure.
const LOG_LINES_MAX: usize = 20;

/// What went wrong, the log that tells more, and the remedy.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    log: Option<String>,
    remedy: Option<String>,
    exit_code: u8,
}

impl Failure {
    /// A failure without a remedy of its own.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), log: None, remedy: None, exit_code: 1 }
    }

    /// The user ended the lab; the exit code is a shell's for SIGINT.
    pub(crate) fn interrupted() -> Self {
        Self { exit_code: 130, ..Self::new("interrupted") }
    }

    /// Adds what the reader can do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds the last lines of a log, read now: the file goes with the lab's folder.
    pub(crate) fn log(mut self, path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
        let tail = if tail.is_empty() { "(nothing)".to_owned() } else { tail.join("\n    ") };
        self.log = Some(format!("  the end of its log:\n    {tail}"));
        self
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(log) = &self.log {
            write!(f, "\n{log}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

/// Says what was being done when a call of the operating system failed.
pub(crate) trait Doing<T> {
    /// `doing` reads on after "lab:", as in "writing /tmp/x: permission denied".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Failure::new(format!("{}: {e}", doing())))
    }
}
