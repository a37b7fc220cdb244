//! A database of its own on a source, and what a reader gives of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use outbox_relay::binlog::{Server, Source, Step, Stream, Tables, follow};
use outbox_relay::change::{Change, Position, Row, Table, Txn, Value};
use outbox_relay::snapshot;
use outbox_tests::lab_client;

/// Longer than anything here takes; a stream that gives nothing more would otherwise wait for ever.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A fresh database on a server, and a connection to it. Dropped by [`TestSource::end`], or with the server.
pub(crate) struct TestSource {
    pub(crate) url: String,
    pub(crate) database: String,
    pub(crate) connection: Conn,
}

impl TestSource {
    /// On the server whose URL is in this variable.
    pub(crate) async fn fresh(variable: &str) -> Self {
        let url = lab_client::url(variable).unwrap_or_else(|error| panic!("{error}"));
        let url = url.unwrap_or_else(|| panic!("{variable}: this run does without that server"));
        Self::fresh_at(url).await
    }

    pub(crate) async fn fresh_at(url: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = format!("r_{}_{}_{count}", now.as_millis() % 1_000_000_000, std::process::id());
        let mut connection = Conn::new(Opts::from_url(&url).unwrap()).await.unwrap();
        connection.query_drop(format!("create database {database}")).await.unwrap();
        connection.query_drop(format!("use {database}")).await.unwrap();
        connection.query_drop("set names utf8mb4, time_zone = '+00:00'").await.unwrap();
        Self { url, database, connection }
    }

    /// The same database at another server, which has it or gets it.
    pub(crate) async fn at(&self, url: &str) -> Self {
        let connection = Conn::new(Opts::from_url(url).unwrap()).await.unwrap();
        Self { url: url.to_owned(), database: self.database.clone(), connection }
    }

    /// Makes a table whose rows have these ids and take several pieces to be read.
    pub(crate) async fn make_filled(&mut self, table: &str, ids: std::ops::Range<u32>) {
        self.run(&[&format!("create table {table} (id int primary key, v varchar(200))")]).await;
        let ids: Vec<_> = ids.collect();
        for ids in ids.chunks(1000) {
            let rows: Vec<_> = ids.iter().map(|id| format!("({id}, repeat('v', 150))")).collect();
            self.run(&[&format!("insert into {table} values {}", rows.join(", "))]).await;
        }
    }

    /// Another connection to the database.
    pub(crate) async fn connect(&self) -> Conn {
        let mut connection = Conn::new(Opts::from_url(&self.url).unwrap()).await.unwrap();
        connection.query_drop(format!("use {}", self.database)).await.unwrap();
        connection
    }

    pub(crate) async fn run(&mut self, statements: &[&str]) {
        for statement in statements {
            let done = self.connection.query_drop(*statement).await;
            done.unwrap_or_else(|error| panic!("{}: {error}", &statement[..statement.len().min(300)]));
        }
    }

    pub(crate) fn source(&self) -> Source {
        Source::new(&self.url)
    }

    /// Drops the database.
    pub(crate) async fn drop(mut self) {
        self.connection.query_drop(format!("drop database {}", self.database)).await.unwrap();
    }

    pub(crate) async fn server(&self) -> Server {
        Server::connect(&self.source()).await.unwrap()
    }

    /// A place to begin at: whatever comes after this call is read, nothing before it.
    pub(crate) async fn position(&self) -> Position {
        let mut server = self.server().await;
        // It looks for a GTID through the whole file, which the other tests make large.
        server.connection().query_drop("flush binary logs").await.unwrap();
        let low = server.low_mark().await.unwrap();
        Position { file: server.high_mark().await.unwrap().file, ..low }
    }

    /// Where the binary log ends now.
    pub(crate) async fn mark(&self) -> Position {
        self.server().await.high_mark().await.unwrap()
    }

    pub(crate) fn tables(&self, tables: &[&str]) -> Tables {
        tables.iter().map(|table| (self.database.as_str(), *table)).collect()
    }

    /// A user that may do what a reader needs and no more, and the URL for it.
    pub(crate) async fn reader(&mut self) -> (String, String) {
        let name = format!("u_{}", &self.database[2..]);
        let url = self.reader_who(&name, "identified by 'secret'").await;
        (name, url)
    }

    /// The same with a name, who logs in in these words of CREATE USER with the password `secret`; the URL.
    pub(crate) async fn reader_who(&mut self, name: &str, identified: &str) -> String {
        self.run(&[
            &format!("create user {name}@'%' {identified}"),
            &format!("grant replication slave, replication client on *.* to {name}@'%'"),
            &format!("grant select on {}.* to {name}@'%'", self.database),
        ])
        .await;
        let (_, host) = self.url.rsplit_once('@').unwrap();
        format!("mysql://{name}:secret@{host}")
    }

    /// Follows tables of this database.
    pub(crate) fn follow(&self, tables: &[&str], from: Position) -> Stream {
        follow(self.source(), self.tables(tables), from)
    }

    /// The transactions between a position and now that touched the tables.
    pub(crate) async fn since(&self, tables: &[&str], from: &Position) -> Vec<Txn> {
        let mark = self.mark().await;
        let mut stream = self.follow(tables, from.clone());
        until(&mut stream, &mark).await
    }

    /// A table as its description says, and its rows in the order of its key.
    pub(crate) async fn select(&self, table: &str) -> (Table, Vec<Row>) {
        let mut server = self.server().await;
        let described = snapshot::describe(&mut server, &self.database, table).await.unwrap().unwrap();
        let sql = format!(
            "select {} from {}.{table} order by {}",
            snapshot::select_list(&described),
            self.database,
            described.columns[described.primary_key[0]].name
        );
        let answers: Vec<mysql_async::Row> = server.connection().exec(sql, ()).await.unwrap();
        let rows = answers.into_iter().map(|answer| snapshot::row(&described, answer).unwrap()).collect();
        (described, rows)
    }
}

/// What a stream gives until a position is reached, without transactions that touched none of its tables.
pub(crate) async fn until(stream: &mut Stream, mark: &Position) -> Vec<Txn> {
    let read = async {
        let mut txns = Vec::new();
        while stream.position().has_reached(mark) != Some(true) {
            if let Step::Txn(txn) = stream.next().await.unwrap() {
                txns.push(txn);
            }
        }
        txns.retain(|txn| !txn.changes.is_empty());
        txns
    };
    tokio::time::timeout(TIMEOUT, read).await.expect("the mark was not reached")
}

/// All changes of some transactions.
pub(crate) fn changes(txns: &[Txn]) -> Vec<Change> {
    txns.iter().flat_map(|txn| txn.changes.iter().unwrap()).map(Result::unwrap).collect()
}

/// An integer of a row.
pub(crate) fn int(row: &Row, column: usize) -> i64 {
    match row.0[column] {
        Value::Int(number) => number,
        ref other => panic!("{other:?}"),
    }
}

/// The first column of each inserted row, per transaction.
pub(crate) fn inserted(txns: &[Txn]) -> Vec<Vec<i64>> {
    let rows = |txn: &Txn| {
        changes(std::slice::from_ref(txn)).iter().filter_map(|c| c.after().map(|row| int(row, 0))).collect()
    };
    txns.iter().map(rows).collect()
}

/// The first error of a stream, or of a change in it.
pub(crate) async fn first_error(stream: &mut Stream) -> outbox_core::Error {
    let read = async {
        loop {
            match stream.next().await {
                Ok(Step::Txn(txn)) => {
                    if let Some(error) = txn.changes.iter().unwrap().find_map(Result::err) {
                        return error;
                    }
                }
                Ok(Step::Quiet) => {}
                Err(error) => return error,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("no error came")
}
