//! The socket on which tests ask the lab to stop, start and spawn servers.
//!
//! One connection carries one command, a line, and gets one line: `ok`, with words behind it where the command
//! gives something, or `error: REASON`. The client is `outbox_tests::lab_client`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::failure::{Doing as _, Result};
use crate::fleet::Fleet;

/// A client sends its line at once.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers commands from now on, each in a thread of its own: one may take many seconds.
pub(crate) fn listen(fleet: &Arc<Fleet>) -> Result<()> {
    let path = fleet.control_socket();
    let listener = UnixListener::bind(&path).doing(|| format!("listening at {}", path.display()))?;
    let fleet = Arc::clone(fleet);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let fleet = Arc::clone(&fleet);
            thread::spawn(move || answer(&fleet, &stream));
        }
    });
    Ok(())
}

/// A client that has gone needs no answer, so errors of its connection are nobody's concern.
fn answer(fleet: &Fleet, stream: &UnixStream) {
    let mut line = String::new();
    if stream.set_read_timeout(Some(READ_TIMEOUT)).is_err()
        || BufReader::new(stream).read_line(&mut line).is_err()
    {
        return;
    }
    let answer = match fleet.command(line.trim()) {
        Ok(words) => format!("ok {words}").trim_end().to_owned(),
        Err(failure) => format!("error: {}", failure.to_string().replace('\n', " | ")),
    };
    let mut stream = stream;
    let _ = stream.write_all(format!("{answer}\n").as_bytes());
}
