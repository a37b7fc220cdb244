//! Keys of several columns, of other names than the fields, and read back in every way.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use outbox_core::{Entity, Outbox, OutboxConnection, migrate};

mod schema {
    diesel::table! {
        order_lines (order_id, line) {
            order_id -> Integer,
            line -> Integer,
            sku -> Text,
        }
    }
    diesel::table! {
        customers (id) {
            id -> Integer,
            email -> Text,
        }
    }
}

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = schema::order_lines, primary_key(order_id, line))]
#[outbox(aggregate = "order_line")]
struct OrderLine {
    order_id: i32,
    #[diesel(column_name = line)]
    number: i32,
    sku: String,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = crate::schema::order_lines)]
#[diesel(primary_key(order_id, line))]
#[outbox(entity = OrderLine)]
struct NewOrderLine<'a> {
    order_id: i32,
    #[diesel(column_name = line)]
    number: &'a i32,
    sku: &'a str,
}

/// Its messages go by the e-mail address, its row by the id.
#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = schema::customers)]
#[outbox(aggregate = "customer", key(email))]
struct Customer {
    #[diesel(skip_insertion)]
    id: i32,
    email: String,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = schema::customers)]
#[outbox(entity = Customer)]
struct MaybeNumbered {
    id: Option<i32>,
    email: String,
}

#[derive(Insertable, Outbox)]
#[diesel(table_name = schema::customers)]
#[outbox(entity = self::Customer, key = email, crate = outbox_core)]
struct ByEmail<'a> {
    email: std::borrow::Cow<'a, str>,
}

fn main() {
    let mut connection = SqliteConnection::establish(":memory:").unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    connection
        .batch_execute(
            "create table order_lines (order_id integer not null, line integer not null, sku text not null, \
             primary key (order_id, line));
             create table customers (id integer primary key not null, email text not null)",
        )
        .unwrap();
    let line = connection
        .outbox_transaction(|tx| {
            let line = tx.insert(&NewOrderLine { order_id: 7, number: &1, sku: "k:1" })?;
            tx.insert(&OrderLine { number: 2, sku: "k:2".into(), ..line })?;
            tx.update(&OrderLine { order_id: 7, number: 1, sku: "k:3".into() })
        })
        .unwrap();
    assert_eq!((line.key().as_str(), line.sku.as_str()), ("7:1", "k:3"));

    let ids = connection
        .outbox_transaction(|tx| {
            let a = tx.insert(&MaybeNumbered { id: None, email: "a@b".into() })?;
            let b = tx.insert(&MaybeNumbered { id: Some(5), email: "b@b".into() })?;
            let c = tx.insert(&ByEmail { email: "c@b".into() })?;
            let d = tx.insert(&Customer { id: 0, email: "d@b".into() })?;
            assert_eq!(d.key(), "d@b");
            Ok([a.id, b.id, c.id, d.id])
        })
        .unwrap();
    assert_eq!(ids, [1, 5, 6, 7]);
}
