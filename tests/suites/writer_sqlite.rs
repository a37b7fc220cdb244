//! What COMMIT itself can say on SQLite.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::database::{connect, fresh, message, outbox};
use super::writer::retrying;

/// Without a write-ahead log a reader keeps a COMMIT from writing.
#[test]
fn a_busy_commit_is_tried_again_and_written_once() {
    let database = fresh();
    let mut writer = connect(&database);
    writer.batch_execute("pragma journal_mode = delete; pragma busy_timeout = 0").unwrap();
    let mut reader = diesel::SqliteConnection::establish(&database.url).unwrap();
    reader.batch_execute("begin; select count(*) from outbox").unwrap();
    let mut calls = 0;
    let transaction = retrying(1000).transaction(&mut writer, |tx| {
        calls += 1;
        if calls == 3 {
            reader.batch_execute("commit").unwrap();
        }
        tx.record_message(message("k", "e"));
        Ok(())
    });
    transaction.unwrap();
    assert_eq!(calls, 3, "two COMMITs were refused");
    assert_eq!(outbox(&mut writer).len(), 1);
}
