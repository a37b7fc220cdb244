//! Servers of the benchmark's own: the same settings for all of one product.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};
use outbox_relay::binlog::{Server, Source};
use outbox_relay::change::Position;
use outbox_tests::lab_client::PrivateServer;

use crate::Failure;

/// Whoever applies; not root, so that MariaDB's target writes no binary log, as its replicas write none.
const APPLIER: &str = "applier";
/// The databases of a target.
const DATABASES: [&str; 5] = ["bench", "fresh", "dumped", "bare", "large"];

/// Durability as far as it can be relaxed; memory for the whole table.
const SETTINGS: [&str; 3] = [
    "set global innodb_flush_log_at_trx_commit = 0",
    "set global sync_binlog = 0",
    "set global innodb_buffer_pool_size = 1073741824",
];

/// The product of all servers of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    MySql,
    MariaDb,
}

impl Product {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
        }
    }
}

/// A server and a connection to it as root.
pub(crate) struct Side {
    pub(crate) product: Product,
    pub(crate) server: PrivateServer,
    pub(crate) sql: Conn,
}

impl Side {
    pub(crate) async fn start(product: Product) -> Result<Self, Failure> {
        let server = PrivateServer::spawn(product.name())?;
        let mut sql = Conn::new(Opts::from_url(server.url())?).await?;
        for setting in SETTINGS {
            sql.query_drop(setting).await?;
        }
        Ok(Self { product, server, sql })
    }

    pub(crate) async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        self.sql.query_drop(sql).await.map_err(|error| {
            let sql: String = sql.chars().take(200).collect();
            format!("{sql}: {error}").into()
        })
    }

    /// As root.
    pub(crate) fn source(&self) -> Source {
        Source::new(self.server.url())
    }

    pub(crate) async fn high_mark(&mut self) -> Result<Position, Failure> {
        Ok(Server::connect(&self.source()).await?.high_mark().await?)
    }

    /// Makes a database of a target empty, with the account that writes it; gives the URL.
    pub(crate) async fn make(&mut self, database: &str) -> Result<String, Failure> {
        self.run("set sql_log_bin = 0").await?;
        self.run(&format!("drop database if exists {database}; create database {database}")).await?;
        self.run(&format!("create user if not exists {APPLIER}@'%' identified by 'secret'")).await?;
        for database in DATABASES {
            self.run(&format!("grant all on {database}.* to {APPLIER}@'%'")).await?;
        }
        if self.product == Product::MariaDb {
            self.run(&format!("grant binlog admin on *.* to {APPLIER}@'%'")).await?;
            self.run("set global init_connect = 'set sql_log_bin = 0'").await?;
        }
        let port = url::Url::parse(self.server.url())?.port().unwrap_or(3306);
        Ok(format!("mysql://{APPLIER}:secret@127.0.0.1:{port}/{database}"))
    }

    /// A connection as whoever applies.
    pub(crate) async fn applier(&self, database: &str) -> Result<Conn, Failure> {
        let opts = OptsBuilder::from_opts(Opts::from_url(self.server.url())?)
            .user(Some(APPLIER))
            .pass(Some("secret"))
            .db_name(Some(database));
        Ok(Conn::new(opts).await?)
    }

    /// Notes where a replication is.
    pub(crate) async fn keep(&mut self, database: &str) -> Result<(), Failure> {
        for table in ["outbox_replication", "outbox_copy"] {
            self.run(&format!("create table {database}.kept_{table} as select * from {database}.{table}"))
                .await?;
        }
        Ok(())
    }

    /// Puts a replication back to where it was, with an empty copy.
    pub(crate) async fn put_back(&mut self, database: &str) -> Result<(), Failure> {
        for table in ["outbox_replication", "outbox_copy"] {
            self.run(&format!("replace into {database}.{table} select * from {database}.kept_{table}"))
                .await?;
        }
        self.run(&format!("truncate {database}.product")).await
    }

    pub(crate) async fn expect_rows(&mut self, database: &str, rows: usize) -> Result<(), Failure> {
        let found: Option<usize> =
            self.sql.query_first(format!("select count(*) from {database}.product")).await?;
        if found == Some(rows) {
            Ok(())
        } else {
            Err(format!("{database} has {found:?} rows, not {rows}").into())
        }
    }
}

/// Fails unless a copy has the rows of its table.
pub(crate) async fn expect_equal(
    source: &mut Side,
    target: &mut Side,
    database: &str,
) -> Result<(), Failure> {
    let sums = |database: &str| {
        format!(
            "select count(*), bit_xor(crc32(concat_ws('|', id, sku, name, category, price, status, weight, attributes, \
             made, seen))) from {database}.product"
        )
    };
    let there: Option<(u64, u64)> = source.sql.query_first(sums("bench")).await?;
    let here: Option<(u64, u64)> = target.sql.query_first(sums(database)).await?;
    if there == here { Ok(()) } else { Err(format!("the copy differs: {here:?}, not {there:?}").into()) }
}
