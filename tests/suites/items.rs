//! What the suites write and follow: items with an amount, a copy of them, and a ledger of deltas, in
//! which an effect that came twice shows.

use diesel::prelude::*;
use outbox_core::{Outbox, OutboxEvent, Replica};
use serde::{Deserialize, Serialize};

diesel::table! {
    item (id) {
        id -> BigInt,
        name -> Text,
        amount -> BigInt,
        note -> Nullable<Text>,
        secret -> Text,
    }
}

diesel::table! {
    item_copy (id) {
        id -> BigInt,
        name -> Text,
        total -> BigInt,
        note -> Nullable<Text>,
        own -> Text,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

diesel::table! {
    flagged_copy (id) {
        id -> BigInt,
        amount_cents -> BigInt,
        own -> Text,
        gone -> Bool,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

diesel::table! {
    timed_copy (id) {
        id -> BigInt,
        name -> Text,
        deleted_at -> Nullable<Timestamp>,
        outbox_generation -> BigInt,
        outbox_id -> BigInt,
        outbox_bucket -> SmallInt,
    }
}

diesel::table! {
    ledger (id) {
        id -> BigInt,
        account -> Text,
        sequence -> BigInt,
    }
}

diesel::table! {
    copy_source (copy) {
        copy -> Text,
        source -> Text,
    }
}

diesel::table! {
    inbox (consumer, message_id) {
        consumer -> Text,
        message_id -> Binary,
    }
}

diesel::table! {
    inbox_held (consumer, message_id) {
        consumer -> Text,
        message_id -> Text,
        kind -> Text,
        attempts -> Integer,
        error -> Text,
        payload -> Binary,
    }
}

#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox,
)]
#[diesel(table_name = item, treat_none_as_null = true)]
#[outbox(aggregate = "item")]
pub(crate) struct Item {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) amount: i64,
    pub(crate) note: Option<String>,
    #[outbox(skip)]
    pub(crate) secret: String,
}

#[derive(Debug, Clone, Insertable, Outbox)]
#[diesel(table_name = item)]
#[outbox(entity = Item)]
pub(crate) struct NewItem<'a> {
    pub(crate) name: &'a str,
    pub(crate) amount: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = item_copy)]
#[replica(of = "item")]
pub(crate) struct ItemCopy {
    pub(crate) id: i64,
    pub(crate) name: String,
    #[replica(from = "amount")]
    pub(crate) total: i64,
    pub(crate) note: Option<String>,
}

/// A copy of goods, whose amounts travel as text and whose deletes leave the row, marked.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = flagged_copy)]
#[replica(of = "good", soft_delete = gone, created = "listed", updated = "changed", deleted = "delisted")]
pub(crate) struct FlaggedCopy {
    pub(crate) id: i64,
    #[replica(from = "amount", with = cents)]
    #[diesel(column_name = amount_cents)]
    pub(crate) cents: i64,
    #[replica(local)]
    pub(crate) own: String,
    #[replica(local)]
    pub(crate) gone: bool,
}

/// The cents of an amount like `9.50`; careless about negative ones.
fn cents(amount: String) -> Result<i64, &'static str> {
    assert!(!amount.starts_with('-'), "a negative amount");
    let (units, cents) = amount.split_once('.').ok_or("no decimal point")?;
    match (units.parse::<i64>(), cents.parse::<u8>()) {
        (Ok(units), Ok(cents)) => Ok(units * 100 + i64::from(cents)),
        _ => Err("not a number"),
    }
}

/// A copy of items whose deletes leave the row, with the time.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Replica)]
#[diesel(table_name = timed_copy)]
#[replica(of = "item", soft_delete = deleted_at)]
pub(crate) struct TimedCopy {
    pub(crate) id: i64,
    pub(crate) name: String,
}

/// What happens to a purse: an enum of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, OutboxEvent)]
#[serde(tag = "type")]
#[outbox(aggregate = "purse", key = purse)]
pub(crate) enum PurseEvent {
    Filled {
        purse: String,
        by: i64,
    },
    #[outbox(event = "renamed", key = old)]
    NameChanged {
        old: String,
        new: String,
    },
    Emptied(Emptied),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, OutboxEvent)]
#[outbox(aggregate = "purse", event = "emptied", key = purse)]
pub(crate) struct Emptied {
    pub(crate) purse: String,
}

/// One step of an account; the ledger must hold each exactly once and in order.
#[derive(Debug, Clone, Serialize, Deserialize, OutboxEvent)]
#[outbox(aggregate = "account", event = "stepped", key = account)]
pub(crate) struct Stepped {
    pub(crate) account: String,
    pub(crate) sequence: i64,
}

impl From<&Item> for ItemCopy {
    fn from(item: &Item) -> Self {
        Self { id: item.id, name: item.name.clone(), total: item.amount, note: item.note.clone() }
    }
}

/// The tables above, for SQLite.
pub(crate) const SQLITE: &str = "
    create table item (id integer not null primary key autoincrement, name text not null,
        amount bigint not null, note text, secret text not null default 'hush');
    create table item_copy (id bigint not null primary key, name text not null, total bigint not null,
        note text, own text not null default 'mine', outbox_generation bigint not null,
        outbox_id bigint not null, outbox_bucket smallint not null);
    create table flagged_copy (id bigint not null primary key, amount_cents bigint not null,
        own text not null default 'mine', gone boolean not null, outbox_generation bigint not null,
        outbox_id bigint not null, outbox_bucket smallint not null);
    create table timed_copy (id bigint not null primary key, name text not null, deleted_at timestamp,
        outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null);
    create table ledger (id integer not null primary key autoincrement, account text not null,
        sequence bigint not null);";

/// The tables above, for MySQL and MariaDB.
pub(crate) const MYSQL: &str = "
    create table item (id bigint not null auto_increment primary key, name varchar(200) not null,
        amount bigint not null, note varchar(200), secret varchar(200) not null default 'hush')
        default charset = utf8mb4;
    create table item_copy (id bigint not null primary key, name varchar(200) not null,
        total bigint not null, note varchar(200), own varchar(200) not null default 'mine',
        outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null)
        default charset = utf8mb4;
    create table flagged_copy (id bigint not null primary key, amount_cents bigint not null,
        own varchar(200) not null default 'mine', gone boolean not null, outbox_generation bigint not null,
        outbox_id bigint not null, outbox_bucket smallint not null)
        default charset = utf8mb4;
    create table timed_copy (id bigint not null primary key, name varchar(200) not null, deleted_at timestamp null,
        outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null)
        default charset = utf8mb4;
    create table ledger (id bigint not null auto_increment primary key, account varchar(200) not null,
        sequence bigint not null) default charset = utf8mb4;";

/// The tables above, for PostgreSQL.
pub(crate) const POSTGRES: &str = "
    create table item (id bigint generated by default as identity primary key, name text not null,
        amount bigint not null, note text, secret text not null default 'hush');
    create table item_copy (id bigint not null primary key, name text not null, total bigint not null,
        note text, own text not null default 'mine', outbox_generation bigint not null,
        outbox_id bigint not null, outbox_bucket smallint not null);
    create table flagged_copy (id bigint not null primary key, amount_cents bigint not null,
        own text not null default 'mine', gone boolean not null, outbox_generation bigint not null,
        outbox_id bigint not null, outbox_bucket smallint not null);
    create table timed_copy (id bigint not null primary key, name text not null, deleted_at timestamp,
        outbox_generation bigint not null, outbox_id bigint not null, outbox_bucket smallint not null);
    create table ledger (id bigint generated by default as identity primary key, account text not null,
        sequence bigint not null);";
