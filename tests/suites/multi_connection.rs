//! Services whose connection is one of several: `#[derive(diesel::MultiConnection)]`.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{EntityOn, Error, InsertOn, OutboxConnection, Result, migrate};
use serde_json::json;

use crate::harness::{Server, TestDatabase};
use crate::items::{self, Item, NewItem, item};

#[derive(diesel::MultiConnection)]
enum AnyConnection {
    Postgres(diesel::PgConnection),
    Mysql(diesel::MysqlConnection),
    Sqlite(diesel::SqliteConnection),
}

/// What a service writes, once for all databases.
fn restock<C>(connection: &mut C, id: i64, by: i64) -> Result<Item>
where
    C: OutboxConnection,
    Item: EntityOn<C, Id = i64>,
{
    connection.outbox_transaction(|tx| {
        let before: Item = tx.lock(&id)?;
        tx.update_from(&before, &Item { amount: before.amount + by, ..before.clone() })
    })
}

fn add<C>(connection: &mut C, name: &str) -> Result<Item>
where
    C: OutboxConnection,
    for<'n> NewItem<'n>: InsertOn<C, Entity = Item>,
{
    connection.record_in_open_transaction(|tx| tx.insert(&NewItem { name, amount: 5 }))
}

impl AnyConnection {
    fn restock(&mut self, id: i64, by: i64) -> Result<Item> {
        match self {
            Self::Postgres(connection) => restock(connection, id, by),
            Self::Mysql(connection) => restock(connection, id, by),
            Self::Sqlite(connection) => restock(connection, id, by),
        }
    }

    fn add(&mut self, name: &str) -> Result<Item> {
        match self {
            Self::Postgres(connection) => add(connection, name),
            Self::Mysql(connection) => add(connection, name),
            Self::Sqlite(connection) => add(connection, name),
        }
    }

    fn create_tables(&mut self) {
        match self {
            Self::Postgres(connection) => {
                migrate::run(connection, &migrate::OUTBOX).unwrap();
                connection.batch_execute(items::POSTGRES).unwrap();
            }
            Self::Mysql(connection) => {
                migrate::run(connection, &migrate::OUTBOX).unwrap();
                connection.batch_execute(items::MYSQL).unwrap();
            }
            Self::Sqlite(connection) => {
                migrate::run(connection, &migrate::OUTBOX).unwrap();
                connection.batch_execute(items::SQLITE).unwrap();
            }
        }
    }
}

diesel::table! {
    outbox (id) {
        id -> BigInt,
        event_type -> Text,
        aggregate_id -> Text,
        payload -> Binary,
    }
}

fn open(server: Server) -> (TestDatabase, AnyConnection) {
    let database = server.empty();
    let mut connection = AnyConnection::establish(&database.url).unwrap();
    connection.create_tables();
    (database, connection)
}

fn items(connection: &mut AnyConnection) -> Vec<Item> {
    item::table.order(item::id).select(Item::as_select()).load(connection).unwrap()
}

/// Event, key and payload of each message.
fn recorded(connection: &mut AnyConnection) -> Vec<(String, String, serde_json::Value)> {
    let rows: Vec<(String, String, Vec<u8>)> = outbox::table
        .order(outbox::id)
        .select((outbox::event_type, outbox::aggregate_id, outbox::payload))
        .load(connection)
        .unwrap();
    rows.into_iter().map(|(event, key, json)| (event, key, serde_json::from_slice(&json).unwrap())).collect()
}

/// The enum's own transaction, with what one function records inside and another one beside it.
fn writes_and_records(server: Server) {
    let (_database, mut connection) = open(server);
    let lamp = connection.transaction(|connection| connection.add("lamp")).unwrap();
    assert_eq!(connection.restock(lamp.id, 2).unwrap(), Item { amount: 7, ..lamp.clone() });

    let rolled_back = connection.transaction(|connection| {
        connection.add("gone")?;
        // A savepoint: outbox_transaction inside another transaction.
        connection.restock(lamp.id, 10)?;
        Err::<(), _>(Error::application("changed my mind"))
    });
    assert!(rolled_back.is_err());
    assert!(connection.add("nothing is open").is_err());

    assert_eq!(items(&mut connection), [Item { amount: 7, ..lamp.clone() }]);
    let recorded = recorded(&mut connection);
    let events: Vec<_> = recorded.iter().map(|(event, key, _)| (event.as_str(), key.clone())).collect();
    assert_eq!(events, [("created", lamp.id.to_string()), ("updated", lamp.id.to_string())]);
    assert_eq!(recorded[1].2["changed"], json!(["amount"]));
    assert_eq!(recorded[1].2["after"]["amount"], 7);
}

#[test]
fn a_multi_connection_writes_and_records_on_sqlite() {
    writes_and_records(Server::Sqlite);
}

#[test]
fn a_multi_connection_writes_and_records_on_mysql() {
    writes_and_records(Server::Mysql);
}

#[test]
fn a_multi_connection_writes_and_records_on_mariadb() {
    writes_and_records(Server::Mariadb);
}

#[test]
fn a_multi_connection_writes_and_records_on_postgres() {
    writes_and_records(Server::Postgres);
}
