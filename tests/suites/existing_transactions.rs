//! Recording inside transactions that the application opens itself, with what each database has for that.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::sql_types::{BigInt, Text};
use outbox_core::{Error, OutboxConnection as _, Result, migrate};

use crate::harness::Server;
use crate::items::{self, NewItem};

const LAMP: NewItem<'static> = NewItem { name: "lamp", amount: 5 };

/// Items and messages that are there.
macro_rules! counts {
    ($connection:expr) => {{
        let items: i64 = items::item::table.count().get_result($connection).unwrap();
        let messages: i64 =
            diesel::dsl::sql::<BigInt>("select count(*) from outbox").get_result($connection).unwrap();
        (items, messages)
    }};
}

#[test]
fn a_serializable_transaction_takes_its_messages_along_on_postgres() {
    let database = Server::Postgres.empty();
    let mut connection = diesel::PgConnection::establish(&database.url).unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    connection.batch_execute(items::POSTGRES).unwrap();
    let mut run = |fails: bool| -> Result<()> {
        connection.build_transaction().serializable().run(|connection| {
            connection.record_in_open_transaction(|tx| tx.insert(&LAMP))?;
            let level: String = diesel::dsl::sql::<Text>("select current_setting('transaction_isolation')")
                .get_result(connection)?;
            assert_eq!(level, "serializable");
            if fails { Err(Error::application("no")) } else { Ok(()) }
        })
    };
    run(false).unwrap();
    run(true).unwrap_err();
    assert_eq!(counts!(&mut connection), (1, 1));
}

/// `set transaction` is meant for the next transaction, which is the outbox's own.
fn isolation_of_the_next_transaction(server: Server) {
    let database = server.empty();
    let mut connection = diesel::MysqlConnection::establish(&database.url).unwrap();
    migrate::run(&mut connection, &migrate::OUTBOX).unwrap();
    connection.batch_execute(items::MYSQL).unwrap();
    diesel::sql_query("set transaction isolation level serializable").execute(&mut connection).unwrap();
    let level: String = connection
        .outbox_transaction(|tx| {
            tx.insert(&LAMP)?;
            let own = "select trx_isolation_level from information_schema.innodb_trx \
                where trx_mysql_thread_id = connection_id()";
            Ok(diesel::dsl::sql::<Text>(own).get_result(tx.conn())?)
        })
        .unwrap();
    assert_eq!(level, "SERIALIZABLE");
    assert_eq!(counts!(&mut connection), (1, 1));
}

#[test]
fn the_next_isolation_level_holds_for_an_outbox_transaction_on_mysql() {
    isolation_of_the_next_transaction(Server::Mysql);
}

#[test]
fn the_next_isolation_level_holds_for_an_outbox_transaction_on_mariadb() {
    isolation_of_the_next_transaction(Server::Mariadb);
}

#[test]
fn an_exclusive_transaction_of_a_pooled_connection_takes_its_messages_along_on_sqlite() {
    let database = Server::Sqlite.empty();
    let pool = Pool::new(ConnectionManager::<diesel::SqliteConnection>::new(&database.url)).unwrap();
    let mut connection = pool.get().unwrap();
    migrate::run(&mut *connection, &migrate::OUTBOX).unwrap();
    connection.batch_execute(items::SQLITE).unwrap();
    let mut run = |fails: bool| -> Result<()> {
        connection.exclusive_transaction(|connection| {
            connection.record_in_open_transaction(|tx| tx.insert(&LAMP))?;
            if fails { Err(Error::application("no")) } else { Ok(()) }
        })
    };
    run(false).unwrap();
    run(true).unwrap_err();
    assert_eq!(counts!(&mut *connection), (1, 1));
}
