// What the examples in this crate's documentation share; each begins with a hidden `include!` of this file.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{
    Error, ErrorKind, Message, Outbox, OutboxConnection, OutboxEvent, OutboxTx, Result, migrate,
};

diesel::table! {
    product (id) { id -> BigInt, name -> Text, stock -> BigInt, }
}

#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox,
)]
#[diesel(table_name = product)]
#[outbox(aggregate = "product")]
struct Product {
    id: i64,
    name: String,
    stock: i64,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = product)]
#[outbox(entity = Product)]
struct NewProduct<'a> {
    name: &'a str,
}

#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "sold", key = product_id)]
struct Sold {
    product_id: i64,
    count: i64,
}

/// Product 7 is there: a lamp, five in stock.
const TABLE: &str = "create table product (id integer primary key, name text not null, stock bigint not null \
    default 0); insert into product values (7, 'lamp', 5)";

fn connection() -> SqliteConnection {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    connection.batch_execute(TABLE).unwrap();
    connection
}

/// Does it in one outbox transaction.
fn in_transaction(body: impl FnOnce(&mut OutboxTx<'_, SqliteConnection>) -> Result<()>) {
    connection().outbox_transaction(body).unwrap();
}

/// The kinds of what the outbox holds.
fn recorded(connection: &mut SqliteConnection) -> Vec<String> {
    let kinds = "select aggregate_type || '.' || event_type from outbox order by id";
    diesel::dsl::sql::<diesel::sql_types::Text>(kinds).load(connection).unwrap()
}

#[cfg(feature = "async-sqlite")]
fn async_connection() -> outbox_core::AsyncSqliteConnection {
    outbox_core::AsyncSqliteConnection::new(connection())
}
