//! `insert_all` on MySQL and MariaDB writes values into the text of its statement: what then stands in the table
//! is what a prepared statement puts there.

use chrono::{NaiveDate, NaiveDateTime};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{Outbox, OutboxConnection as _};
use proptest::prelude::*;

use super::database::{connect, fresh, outbox};

diesel::table! {
    various (id) {
        id -> BigInt,
        small -> SmallInt,
        #[sql_name = "odd `?` name"]
        medium -> Integer,
        big -> BigInt,
        flag -> Bool,
        text -> Text,
        latin -> Text,
        maybe -> Nullable<Text>,
        defaulted -> Text,
        bytes -> Binary,
        day -> Date,
        at -> Timestamp,
        stamp -> Timestamp,
    }
}

const TABLE: &str = "create table various (
    id bigint auto_increment primary key, small smallint not null, `odd ``?`` name` int not null,
    big bigint not null, flag boolean not null,
    text longtext character set utf8mb4 not null, latin varchar(50) character set latin1 not null,
    maybe text character set utf8mb4, defaulted varchar(50) character set utf8mb4 not null default 'it''s',
    bytes varbinary(50) not null, day date not null, at datetime(6) not null, stamp timestamp(3) not null)";

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = various, treat_none_as_null = true)]
#[outbox(aggregate = "various")]
struct Various {
    id: i64,
    small: i16,
    medium: i32,
    big: i64,
    flag: bool,
    text: String,
    latin: String,
    maybe: Option<String>,
    defaulted: String,
    bytes: Vec<u8>,
    day: NaiveDate,
    at: NaiveDateTime,
    stamp: NaiveDateTime,
}

#[derive(Debug, Clone, Insertable, Outbox)]
#[diesel(table_name = various)]
#[outbox(entity = Various)]
struct NewVarious {
    small: i16,
    medium: i32,
    big: i64,
    flag: bool,
    text: String,
    latin: String,
    maybe: Option<String>,
    defaulted: Option<String>,
    bytes: Vec<u8>,
    day: NaiveDate,
    at: NaiveDateTime,
    stamp: NaiveDateTime,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a'\"\\\\?`ü😀 \\-/*#;]{0,12}",
        Just(String::new()),
        Just("?); drop table various; --".to_owned()),
        "\\PC{0,20}",
    ]
}

fn at() -> impl Strategy<Value = NaiveDateTime> {
    // From 1970 to 2037, which a TIMESTAMP takes too.
    (1_000_000_i64..2_140_000_000, 0_u32..1_000_000)
        .prop_map(|(seconds, us)| chrono::DateTime::from_timestamp(seconds, us * 1000).unwrap().naive_utc())
}

fn row() -> impl Strategy<Value = NewVarious> {
    let numbers = (any::<i16>(), any::<i32>(), any::<i64>(), any::<bool>());
    let texts = (text(), "[a-zéß'?]{0,8}", proptest::option::of(text()), proptest::option::of("[x'?]{0,5}"));
    let rest = (proptest::collection::vec(any::<u8>(), 0..20), at(), at());
    (numbers, texts, rest).prop_map(|(numbers, (text, latin, maybe, defaulted), (bytes, at, stamp))| {
        let (small, medium, big, flag) = numbers;
        let day = at.date();
        NewVarious { small, medium, big, flag, text, latin, maybe, defaulted, bytes, day, at, stamp }
    })
}

#[test]
fn rows_that_are_inserted_together_are_those_that_are_inserted_one_by_one() {
    let database = fresh();
    let mut connection = connect(&database);
    connection.batch_execute(TABLE).unwrap();
    let without_id = |rows: Vec<Various>| -> Vec<Various> {
        rows.into_iter().map(|row| Various { id: 0, ..row }).collect()
    };
    let connection = std::cell::RefCell::new(connection);
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(new in proptest::collection::vec(row(), 2..6))| {
        let mut connection = connection.borrow_mut();
        let together = connection.outbox_transaction(|tx| tx.insert_all(&new)).unwrap();
        prop_assert!(together.is_sorted_by_key(|row| row.id));
        for row in &new {
            diesel::insert_into(various::table).values(row).execute(&mut *connection).unwrap();
        }
        let alone: Vec<Various> = various::table
            .order(various::id.desc())
            .limit(new.len() as i64)
            .select(Various::as_select())
            .load(&mut *connection)
            .unwrap();
        prop_assert_eq!(without_id(together), without_id(alone.into_iter().rev().collect()));
    });
    assert!(outbox(&mut connection.borrow_mut()).len() > 48);
}
