//! The outbox tax: how much longer a transaction of an entity takes when it is recorded, at each server's own
//! default durability. All kinds of transaction take turns on one connection, so that noise meets all.
//!
//! The floor is an outbox by hand: the same transaction with a second INSERT of as many bytes as a message has, into a
//! table of four columns without a second index, and nothing is read back, made into JSON or checked.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use outbox_core::{EntityOn as _, InsertOn as _, Outbox, OutboxConnection, migrate};

use crate::Failure;
use crate::table::{Measure, median};

/// Rows of the batch.
const BATCH: usize = 500;

diesel::table! {
    article (id) {
        id -> BigInt,
        sku -> Text,
        name -> Text,
        category -> Text,
        batch -> Text,
        warranty_months -> Integer,
        price_cents -> BigInt,
        stock -> BigInt,
        status -> Text,
        note -> Text,
    }
}

const ARTICLE: &str = "sku varchar(40) not null, name varchar(100) not null, category varchar(40) not null, \
    batch varchar(40) not null, warranty_months integer not null, price_cents bigint not null, \
    stock bigint not null, status varchar(20) not null, note varchar(200) not null)";

#[derive(Debug, Clone, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = article)]
#[outbox(aggregate = "article")]
struct Article {
    id: i64,
    sku: String,
    name: String,
    category: String,
    batch: String,
    warranty_months: i32,
    price_cents: i64,
    stock: i64,
    status: String,
    note: String,
}

#[derive(Debug, Clone, Insertable, Outbox)]
#[diesel(table_name = article)]
#[outbox(entity = Article)]
struct NewArticle {
    sku: String,
    name: &'static str,
    category: &'static str,
    batch: &'static str,
    warranty_months: i32,
    price_cents: i64,
    stock: i64,
    status: &'static str,
    note: &'static str,
}

fn article(number: usize) -> NewArticle {
    NewArticle {
        sku: format!("SKU-{number:08}"),
        name: "sturdy folding lamp, large",
        category: "größen & ölfarben",
        batch: "B-2026-11",
        warranty_months: 24,
        price_cents: 12_995,
        stock: 40,
        status: "active",
        note: "a text of about eighty characters, as people write it into the notes of products",
    }
}

diesel::table! {
    by_hand (id) {
        id -> BigInt,
        kind -> Text,
        entity -> Text,
        payload -> Binary,
    }
}

const BY_HAND: &str = "kind varchar(40) not null, entity varchar(40) not null";

/// A message by hand.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = by_hand, treat_none_as_default_value = false)]
struct ByHand {
    kind: &'static str,
    entity: String,
    payload: Vec<u8>,
}

/// As long as the message of an article.
fn by_hand_of(number: usize) -> Result<ByHand, Failure> {
    let NewArticle { sku, name, category, batch, warranty_months, price_cents, stock, status, note } =
        article(number);
    let image = serde_json::json!({ "after": {
        "id": number, "sku": sku, "name": name, "category": category, "batch": batch,
        "warranty_months": warranty_months, "price_cents": price_cents, "stock": stock, "status": status,
        "note": note,
    }});
    let mut payload = serde_json::to_vec(&image)?;
    // The message's id and its header.
    payload.extend([b' '; 16]);
    payload.extend(br#"{"outbox-schema":"0123456789abcdef"}"#);
    Ok(ByHand { kind: "article.created", entity: number.to_string(), payload })
}

/// How often each is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    pub(crate) single: usize,
    pub(crate) batch: usize,
    pub(crate) runs: usize,
}

/// Times of one kind of transaction, in microseconds: plain, plain with the row given back (what a recorded one
/// does too), plain with an outbox by hand, and recorded.
#[derive(Debug, Default)]
struct Times {
    plain: Vec<f64>,
    read_back: Vec<f64>,
    by_hand: Vec<f64>,
    recorded: Vec<f64>,
}

impl Times {
    fn add(&mut self, plain: Duration, read_back: Duration, by_hand: Duration, recorded: Duration) {
        self.plain.push(plain.as_secs_f64() * 1e6);
        self.read_back.push(read_back.as_secs_f64() * 1e6);
        self.by_hand.push(by_hand.as_secs_f64() * 1e6);
        self.recorded.push(recorded.as_secs_f64() * 1e6);
    }
}

fn timed<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<(Duration, T), Failure> {
    let started = Instant::now();
    let value = run()?;
    Ok((started.elapsed(), value))
}

/// The operations that need a connection's own type; the same text for each.
macro_rules! tax {
    ($module:ident, $connection:ty, $given:path) => {
        mod $module {
            use super::*;

            pub(super) fn measure(url: &str, create: &[&str], turns: Turns) -> Result<[Measure; 9], Failure> {
                let mut c = <$connection>::establish(url)?;
                create.iter().try_for_each(|statement| c.batch_execute(statement))?;
                migrate::run(&mut c, &migrate::OUTBOX)?;
                let mut medians: [Times; 3] = Default::default();
                for _ in 0..turns.runs {
                    let times = run(&mut c, turns)?;
                    for (all, one) in medians.iter_mut().zip(times) {
                        all.plain.push(median(&one.plain));
                        all.read_back.push(median(&one.read_back));
                        all.by_hand.push(median(&one.by_hand));
                        all.recorded.push(median(&one.recorded));
                    }
                    c.batch_execute("delete from outbox; delete from by_hand; delete from article")?;
                }
                let [insert, update, batch] = medians;
                let measure = |what: &str, against: &str, ours: &[f64], theirs: Vec<f64>| Measure {
                    measure: format!("tax {} {what}", stringify!($module)),
                    against: format!("plain Diesel{against} (less is better)"),
                    unit: "µs",
                    ours: ours.to_vec(),
                    theirs,
                };
                let three = |what: &str, times: Times| {
                    let Times { plain, read_back, by_hand, recorded } = times;
                    [
                        measure(what, "", &recorded, plain.clone()),
                        measure(what, " that gives the row", &recorded, read_back),
                        measure(&format!("{what}, by hand"), "", &by_hand, plain),
                    ]
                };
                let [a, b, c] = three("insert", insert);
                let [d, e, f] = three("update", update);
                let [g, h, i] = three(&format!("insert {BATCH}"), batch);
                Ok([a, b, c, d, e, f, g, h, i])
            }

            fn run(c: &mut $connection, turns: Turns) -> Result<[Times; 3], Failure> {
                let (mut insert, mut update, mut batch) =
                    (Times::default(), Times::default(), Times::default());
                let mut number = 0;
                let mut next = || {
                    number += 1;
                    article(number)
                };
                for _ in 0..turns.single {
                    let (new, given, hand, other) = (next(), next(), next(), next());
                    let message = [by_hand_of(1)?];
                    let (plain, ()) = timed(|| plain_insert(c, std::slice::from_ref(&new), &[]))?;
                    let (by_hand, ()) = timed(|| plain_insert(c, std::slice::from_ref(&hand), &message))?;
                    let (read_back, _) = timed(|| Ok(c.transaction(|c| given.insert_on(c))?))?;
                    let (recorded, row) = timed(|| Ok(c.outbox_transaction(|tx| tx.insert(&other))?))?;
                    insert.add(plain, read_back, by_hand, recorded);
                    let changed = Article { price_cents: row.price_cents + 1, ..row };
                    let (plain, ()) = timed(|| plain_update(c, &changed, &[]))?;
                    let changed = Article { price_cents: changed.price_cents + 1, ..changed };
                    let (by_hand, ()) = timed(|| plain_update(c, &changed, &message))?;
                    let changed = Article { price_cents: changed.price_cents + 1, ..changed };
                    let (read_back, _) = timed(|| Ok(c.transaction(|c| changed.update_on(c))?))?;
                    let changed = Article { price_cents: changed.price_cents + 1, ..changed };
                    let (recorded, _) = timed(|| Ok(c.outbox_transaction(|tx| tx.update(&changed))?))?;
                    update.add(plain, read_back, by_hand, recorded);
                }
                for _ in 0..turns.batch {
                    let new: Vec<_> = (0..BATCH).map(|_| next()).collect();
                    let other: Vec<_> = (0..BATCH).map(|_| next()).collect();
                    let given: Vec<_> = (0..BATCH).map(|_| next()).collect();
                    let hand: Vec<_> = (0..BATCH).map(|_| next()).collect();
                    let messages = (0..BATCH).map(by_hand_of).collect::<Result<Vec<_>, _>>()?;
                    let (plain, ()) = timed(|| plain_insert(c, &new, &[]))?;
                    let (by_hand, ()) = timed(|| plain_insert(c, &hand, &messages))?;
                    let (read_back, _) = timed(|| given_insert(c, &given))?;
                    let (recorded, _) = timed(|| Ok(c.outbox_transaction(|tx| tx.insert_all(&other))?))?;
                    batch.add(plain, read_back, by_hand, recorded);
                }
                Ok([insert, update, batch])
            }

            /// What one would write without an outbox, or with one by hand; nothing is read back.
            fn plain_insert(
                c: &mut $connection,
                new: &[NewArticle],
                messages: &[ByHand],
            ) -> Result<(), Failure> {
                c.transaction(|c| {
                    let insert = diesel::insert_into(article::table);
                    match new {
                        [one] => insert.values(one).execute(c),
                        many => insert.values(many).execute(c),
                    }?;
                    record_by_hand(c, messages)
                })?;
                Ok(())
            }

            fn record_by_hand(c: &mut $connection, messages: &[ByHand]) -> QueryResult<usize> {
                let insert = diesel::insert_into(by_hand::table);
                match messages {
                    [] => Ok(0),
                    [one] => insert.values(one).execute(c),
                    many => insert.values(many).execute(c),
                }
            }

            /// The same, and its rows are read back as Diesel does it on this database.
            fn given_insert(c: &mut $connection, new: &[NewArticle]) -> Result<Vec<Article>, Failure> {
                Ok(c.transaction(|c| $given(c, new))?)
            }

            fn plain_update(
                c: &mut $connection,
                changed: &Article,
                messages: &[ByHand],
            ) -> Result<(), Failure> {
                c.transaction(|c| {
                    diesel::update(changed).set(changed).execute(c)?;
                    record_by_hand(c, messages)
                })?;
                Ok(())
            }
        }
    };
}

tax!(mysql, diesel::MysqlConnection, given_by_mysql);
tax!(postgres, diesel::PgConnection, given_by_postgres);
tax!(sqlite, diesel::SqliteConnection, given_by_sqlite);

fn given_by_mysql(c: &mut diesel::MysqlConnection, new: &[NewArticle]) -> QueryResult<Vec<Article>> {
    diesel::insert_into(article::table).values(new).execute(c)?;
    let first = diesel::dsl::sql::<diesel::sql_types::BigInt>("last_insert_id()");
    let rows = article::table.filter(article::id.ge(first)).order(article::id).limit(new.len() as i64);
    rows.select(Article::as_select()).load(c)
}

fn given_by_postgres(c: &mut diesel::PgConnection, new: &[NewArticle]) -> QueryResult<Vec<Article>> {
    diesel::insert_into(article::table).values(new).returning(Article::as_returning()).get_results(c)
}

fn given_by_sqlite(c: &mut diesel::SqliteConnection, new: &[NewArticle]) -> QueryResult<Vec<Article>> {
    let insert = |new| {
        let insert = diesel::insert_into(article::table).values(new);
        insert.returning(Article::as_returning()).get_result(c)
    };
    new.iter().map(insert).collect()
}

#[derive(diesel::QueryableByName)]
struct Text {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

/// The settings that say how durable a COMMIT is.
fn in_force<C>(connection: &mut C, query: &str) -> Result<String, Failure>
where
    C: diesel::connection::LoadConnection,
    diesel::query_builder::SqlQuery: diesel::query_dsl::methods::LoadQuery<'static, C, Text>,
{
    let rows: Vec<Text> = diesel::RunQueryDsl::load(diesel::sql_query(query), connection)?;
    Ok(rows.into_iter().map(|row| row.text).collect())
}

/// All servers; lines with the settings go to standard error.
pub(crate) fn measure(turns: Turns, wanted: impl Fn(&str) -> bool) -> Result<Vec<Measure>, Failure> {
    let name = format!("tax_{}", std::process::id());
    let mut measures = Vec::new();
    for (server, variable) in [("mariadb", "OUTBOX_TEST_MARIADB_URL"), ("mysql", "OUTBOX_TEST_MYSQL_URL")] {
        if wanted(&format!("tax {server}")) {
            let admin_url = url_of(variable)?;
            let mut admin = diesel::MysqlConnection::establish(&admin_url)?;
            // The server's own default of sync_binlog: 0 of MariaDB's, 1 of MySQL's.
            let sync = i32::from(server == "mysql");
            admin.batch_execute(&format!(
                "set global innodb_flush_log_at_trx_commit = 1; set global sync_binlog = {sync}; \
                 create database {name}"
            ))?;
            let settings = in_force(
                &mut admin,
                "select concat('flush_log_at_trx_commit ', @@innodb_flush_log_at_trx_commit, ', log_bin ', \
                 @@log_bin, ', sync_binlog ', @@sync_binlog) as text",
            )?;
            eprintln!("{server}: {settings}");
            let table = format!("create table article (id bigint auto_increment primary key, {ARTICLE}");
            let hand = format!(
                "create table by_hand (id bigint auto_increment primary key, {BY_HAND}, payload longblob not null)"
            );
            let found = mysql::measure(&with_path(&admin_url, &name)?, &[&table, &hand], turns)?;
            measures.extend(found.map(|m| Measure { measure: m.measure.replace("mysql", server), ..m }));
            admin.batch_execute(&format!("drop database {name}"))?;
        }
    }
    if wanted("tax postgres") {
        let admin_url = url_of("OUTBOX_TEST_POSTGRES_URL")?;
        let mut admin = diesel::PgConnection::establish(&admin_url)?;
        admin.batch_execute("alter system set fsync = on")?;
        admin.batch_execute("alter system set synchronous_commit = on")?;
        admin.batch_execute("alter system set full_page_writes = on")?;
        admin.batch_execute("select pg_reload_conf()")?;
        std::thread::sleep(Duration::from_millis(500));
        admin.batch_execute(&format!("create database {name}"))?;
        let settings = in_force(
            &mut admin,
            "select 'fsync ' || current_setting('fsync') || ', synchronous_commit ' || \
             current_setting('synchronous_commit') as text",
        )?;
        eprintln!("postgres: {settings}");
        let table = format!(
            "create table article (id bigint generated by default as identity primary key, {ARTICLE}"
        );
        let hand = format!(
            "create table by_hand (id bigint generated by default as identity primary key, {BY_HAND}, \
             payload bytea not null)"
        );
        measures.extend(postgres::measure(&with_path(&admin_url, &name)?, &[&table, &hand], turns)?);
        admin.batch_execute(&format!("drop database {name}"))?;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            admin.batch_execute(&format!("alter system reset {setting}"))?;
        }
        admin.batch_execute("select pg_reload_conf()")?;
    }
    if wanted("tax sqlite") {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("tax.db").display().to_string();
        let table = format!("create table article (id integer primary key autoincrement not null, {ARTICLE}");
        eprintln!("sqlite: journal_mode wal, synchronous full");
        let settings = "pragma journal_mode = wal; pragma synchronous = full";
        let hand = format!(
            "create table by_hand (id integer primary key autoincrement not null, {BY_HAND}, payload blob not null)"
        );
        measures.extend(sqlite::measure(&file, &[settings, &table, &hand], turns)?);
    }
    Ok(measures)
}

fn url_of(variable: &str) -> Result<String, Failure> {
    std::env::var(variable).map_err(|_| format!("{variable} is not set: run `cargo lab bench`").into())
}

fn with_path(server: &str, database: &str) -> Result<String, Failure> {
    let mut url = url::Url::parse(server)?;
    url.set_path(database);
    Ok(url.to_string())
}
