//! What the test of a program asks of its database, whichever that is.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Message, OutboxConnection};

use crate::harness::{Server, TestDatabase};

/// Records messages, in one transaction.
pub(crate) fn record(server: Server, database: &TestDatabase, messages: &[Message]) {
    let url = &database.url;
    match server {
        Server::Sqlite => {
            // The relay writes too.
            record_on::<diesel::SqliteConnection>(url, "pragma busy_timeout = 20000", messages);
        }
        Server::Postgres => record_on::<diesel::PgConnection>(url, "select 1", messages),
        Server::Mariadb | Server::Mysql => record_on::<diesel::MysqlConnection>(url, "select 1", messages),
    }
}

fn record_on<C: OutboxConnection>(url: &str, settings: &str, messages: &[Message]) {
    let mut connection = C::establish(url).unwrap();
    connection.batch_execute(settings).unwrap();
    connection
        .outbox_transaction(|tx| {
            for message in messages {
                tx.record_message(message.clone());
            }
            Ok(())
        })
        .unwrap();
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = diesel::sql_types::Text)]
    line: String,
}

/// What a query gives whose only column is a text named `line`.
pub(crate) fn lines(server: Server, database: &TestDatabase, query: &str) -> Vec<String> {
    let url = &database.url;
    let query = diesel::sql_query(query);
    let lines: Vec<Line> = match server {
        Server::Sqlite => {
            let mut connection = diesel::SqliteConnection::establish(url).unwrap();
            connection.batch_execute("pragma busy_timeout = 20000").unwrap();
            query.load(&mut connection)
        }
        Server::Postgres => query.load(&mut diesel::PgConnection::establish(url).unwrap()),
        Server::Mariadb | Server::Mysql => query.load(&mut diesel::MysqlConnection::establish(url).unwrap()),
    }
    .unwrap();
    lines.into_iter().map(|line| line.line).collect()
}

/// What `outbox_audit` says, in the order of its lines: what was done, and more.
pub(crate) fn audit(server: Server, database: &TestDatabase) -> Vec<String> {
    let joined = match server {
        Server::Mariadb | Server::Mysql => "concat(action, ': ', detail)",
        Server::Sqlite | Server::Postgres => "action || ': ' || detail",
    };
    lines(server, database, &format!("select {joined} as line from outbox_audit order by id"))
}
