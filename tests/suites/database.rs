//! What a suite asks of its database, whichever it is.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use outbox_core::{Message, MessageId, migrate};

use super::{Connection, SERVER, TABLES};
use crate::harness::{Server, TestDatabase};
use crate::items::{Item, ItemCopy, item, item_copy, ledger};

/// A fresh database with all tables.
pub(crate) fn fresh() -> TestDatabase {
    with_tables(SERVER.empty())
}

/// All tables, in an empty database.
pub(crate) fn with_tables(database: TestDatabase) -> TestDatabase {
    let mut connection = connect(&database);
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    migrate::run(&mut connection, &migrate::INBOX).unwrap();
    connection.batch_execute(TABLES).unwrap();
    database
}

pub(crate) fn connect(database: &TestDatabase) -> Connection {
    connect_url(&database.url)
}

pub(crate) fn connect_url(url: &str) -> Connection {
    try_connect(url).unwrap()
}

/// A connection, unless the server is away.
pub(crate) fn try_connect(url: &str) -> ConnectionResult<Connection> {
    let mut connection = <Connection as diesel::Connection>::establish(url)?;
    connection.batch_execute(settings()).map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

pub(crate) fn settings() -> &'static str {
    match SERVER {
        Server::Sqlite => {
            "pragma busy_timeout = 20000; pragma journal_mode = wal; pragma synchronous = normal"
        }
        Server::Postgres => "set client_min_messages = warning",
        Server::Mariadb | Server::Mysql => "set time_zone = '+00:00'",
    }
}

#[derive(Debug)]
struct Settings;

impl diesel::r2d2::CustomizeConnection<Connection, diesel::r2d2::Error> for Settings {
    fn on_acquire(&self, connection: &mut Connection) -> Result<(), diesel::r2d2::Error> {
        connection.batch_execute(settings()).map_err(diesel::r2d2::Error::QueryError)
    }
}

pub(crate) fn pool(database: &TestDatabase) -> Pool<ConnectionManager<Connection>> {
    pool_at(&database.url)
}

pub(crate) fn pool_at(url: &str) -> Pool<ConnectionManager<Connection>> {
    Pool::builder()
        .max_size(4)
        .connection_customizer(Box::new(Settings))
        .build(ConnectionManager::new(url))
        .unwrap()
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    id: i64,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    message_id: Vec<u8>,
    #[diesel(sql_type = diesel::sql_types::SmallInt)]
    bucket: i16,
    #[diesel(sql_type = diesel::sql_types::Text)]
    aggregate_type: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    aggregate_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    event_type: String,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    headers: Vec<u8>,
    #[diesel(sql_type = diesel::sql_types::Binary)]
    payload: Vec<u8>,
}

/// A row of the outbox, as a test looks at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pending {
    pub(crate) id: i64,
    pub(crate) message_id: MessageId,
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) headers: serde_json::Value,
    pub(crate) payload: serde_json::Value,
}

/// The outbox in the order of its ids.
pub(crate) fn outbox(connection: &mut Connection) -> Vec<Pending> {
    let rows: Vec<Row> = diesel::sql_query(
        "select id, message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload \
         from outbox order by id",
    )
    .load(connection)
    .unwrap();
    rows.into_iter()
        .map(|row| {
            assert_eq!(row.bucket as u16, outbox_core::bucket_of(&row.aggregate_type, &row.aggregate_id));
            Pending {
                id: row.id,
                message_id: MessageId::from_slice(&row.message_id).unwrap(),
                kind: format!("{}.{}", row.aggregate_type, row.event_type),
                key: row.aggregate_id,
                headers: serde_json::from_slice(&row.headers).unwrap(),
                payload: serde_json::from_slice(&row.payload).unwrap(),
            }
        })
        .collect()
}

pub(crate) fn outbox_is_empty(connection: &mut Connection) -> bool {
    outbox(connection).is_empty()
}

pub(crate) fn items(connection: &mut Connection) -> Vec<Item> {
    item::table.order(item::id).select(Item::as_select()).load(connection).unwrap()
}

pub(crate) fn copies(connection: &mut Connection) -> Vec<ItemCopy> {
    item_copy::table.order(item_copy::id).select(ItemCopy::as_select()).load(connection).unwrap()
}

/// Account and sequence of each ledger entry, in the order in which they were written.
pub(crate) fn ledger_entries(connection: &mut Connection) -> Vec<(String, i64)> {
    ledger::table.order(ledger::id).select((ledger::account, ledger::sequence)).load(connection).unwrap()
}

/// Writes an entry: a handler's effect.
pub(crate) fn enter(connection: &mut Connection, account: &str, sequence: i64) -> QueryResult<()> {
    diesel::insert_into(ledger::table)
        .values((ledger::account.eq(account), ledger::sequence.eq(sequence)))
        .execute(connection)
        .map(|_| ())
}

/// A message made by hand, with a JSON payload.
pub(crate) fn message(key: &str, event: &str) -> Message {
    Message::new("thing", key, event, b"{}".to_vec()).unwrap()
}
