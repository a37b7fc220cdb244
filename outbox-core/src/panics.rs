//! Panics of the service's own code, as errors.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::connection::OutboxConnection;
use crate::error::{Error, ErrorKind, Result};

/// Runs what calls the service's own code; a panic in it is an error, which says what panicked.
pub(crate) fn caught<T>(what: impl Display, run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        Err(Error::new(ErrorKind::Application, format!("{what} panicked: {}", text(&*panic))))
    })
}

/// The same with a connection, which is of use afterwards.
///
/// Around what runs in a transaction, never around the transaction itself: a panic would leave that open.
pub(crate) fn caught_on<C: OutboxConnection, T>(
    connection: &mut C,
    what: impl Display,
    run: impl FnOnce(&mut C) -> Result<T>,
) -> Result<T> {
    let mut panicked = true;
    let outcome = caught(what, || {
        let outcome = run(connection);
        panicked = false;
        outcome
    });
    if panicked {
        connection.after_panic();
    }
    outcome
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_what_it_said() {
        let error = |run: fn() -> Result<()>| caught("the thing", run).unwrap_err().to_string();
        assert_eq!(error(|| panic!("no")), "the thing panicked: no");
        assert_eq!(error(|| panic!("no {}", 7)), "the thing panicked: no 7");
        assert_eq!(error(|| std::panic::panic_any(7)), "the thing panicked: no text");
        assert_eq!(error(|| Err(Error::invalid("plain"))), "plain");
    }
}
