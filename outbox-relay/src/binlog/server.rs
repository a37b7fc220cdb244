//! What has to be asked from the source besides its binary log.

use std::collections::HashMap;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Opts, OptsBuilder, Row};
use outbox_core::{Error, ErrorKind, Result};

use super::Source;
use super::connection::Identity;
use super::decode::{Charsets, CodeTable, THREE_BYTES};
use super::failure;
use super::link::Link;
use super::position::{Gtids, MySqlGtids, Position};
use crate::change::AddressType;
use crate::outbox::store::staying;

/// The server's error for a statement that it does not know.
const ER_PARSE_ERROR: u16 = 1064;
/// The server's error for XA RECOVER without the right to it.
const ER_XAER_RMERR: u16 = 1401;

/// A connection for queries.
pub struct Server {
    connection: Link,
    is_mariadb: bool,
}

impl Server {
    /// Connects. The session reads text as UTF-8 and times in UTC.
    ///
    /// # Errors
    /// `Outage` when the server cannot be reached, `Database` when it refuses.
    pub async fn connect(source: &Source) -> Result<Self> {
        let refused = |error: mysql_async::Error| {
            let text = source.url.scrub(&error.to_string());
            Error::new(failure::kind(&error), format!("{}: connecting: {text}", source.url))
        };
        let opts = Opts::from_url(&staying(source.url.expose())).map_err(|error| refused(error.into()))?;
        let mut connection = Link::open(
            &source.url,
            OptsBuilder::from_opts(opts),
            #[cfg(feature = "tls")]
            source.tls.clone(),
        )
        .await?;
        let setup = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = ''";
        connection.query_drop(setup).await.map_err(refused)?;
        let version: Option<String> = connection.query_first("SELECT @@version").await.map_err(refused)?;
        let is_mariadb = version.is_some_and(|version| version.contains("MariaDB"));
        Ok(Self { connection, is_mariadb })
    }

    /// Whether it is MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.is_mariadb
    }

    /// The connection itself.
    pub fn connection(&mut self) -> &mut Link {
        &mut self.connection
    }

    /// A name that no other server of a replication group has: MySQL's `server_uuid`, MariaDB's `server_id`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn identity(&mut self) -> Result<String> {
        if self.is_mariadb {
            let id: Option<u32> = self.query_first("SELECT @@global.server_id").await?;
            return Ok(format!("mariadb:{}", id.unwrap_or_default()));
        }
        let uuid: Option<String> = self.query_first("SELECT @@global.server_uuid").await?;
        Ok(format!("mysql:{}", uuid.unwrap_or_default()))
    }

    /// MySQL's transactions that are executed; `None` without GTIDs and on MariaDB.
    pub(crate) async fn executed(&mut self) -> Result<Option<MySqlGtids>> {
        if self.is_mariadb {
            return Ok(None);
        }
        let asked = self.query_first("SELECT @@global.gtid_mode, @@global.gtid_executed").await?;
        match asked {
            Some((mode, executed)) if mode == "ON" => {
                let executed: String = executed;
                Ok(Some(executed.parse()?))
            }
            None | Some::<(String, String)>(_) => Ok(None),
        }
    }

    /// A low mark: only transactions are in it that every SELECT after this call sees.
    ///
    /// MySQL counts a transaction as executed after it is visible; MariaDB says where a snapshot stands, while its
    /// `gtid_binlog_pos` may run ahead of what is visible.
    ///
    /// # Errors
    /// `Invalid` when the source has no GTIDs or no binary log; else as [`connect`](Self::connect).
    pub async fn low_mark(&mut self) -> Result<Position> {
        if !self.is_mariadb {
            let executed = self.executed().await?.ok_or_else(|| {
                let text =
                    "the source has no GTIDs; on it set gtid_mode = ON and enforce_gtid_consistency = ON";
                Error::new(ErrorKind::Invalid, text)
            })?;
            return Ok(Position::at_gtids(Gtids::MySql(executed)));
        }
        let started = self.connection.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await;
        started.map_err(|error| failed("a snapshot", error))?;
        let position = self.snapshot_position().await;
        let position = match position {
            Ok(position) => self.with_gtids(position).await,
            Err(error) => Err(error),
        };
        let ended = self.connection.query_drop("COMMIT").await;
        ended.map_err(|error| failed("a snapshot", error))?;
        position
    }

    /// Where the snapshot of this connection's open transaction stands, by file and exactly: low mark and high mark
    /// of what it reads. Only on MariaDB, after START TRANSACTION WITH CONSISTENT SNAPSHOT.
    ///
    /// # Errors
    /// As [`low_mark`](Self::low_mark).
    pub async fn snapshot_position(&mut self) -> Result<Position> {
        let asked = self.connection.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await;
        let status: Vec<(String, String)> = asked.map_err(|error| failed("a snapshot's position", error))?;
        let value =
            |name: &str| status.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let file = value("Binlog_snapshot_file").filter(|file| !file.is_empty()).ok_or_else(no_binary_log)?;
        let offset: u64 = value("Binlog_snapshot_position")
            .and_then(|offset| offset.parse().ok())
            .ok_or_else(no_binary_log)?;
        Ok(Position::at_file(file, offset))
    }

    /// Adds the GTIDs to a place in MariaDB's files; the server reads through the file for it.
    async fn with_gtids(&mut self, position: Position) -> Result<Position> {
        let Some(file) = &position.file else { return Ok(position) };
        let sql = "SELECT BINLOG_GTID_POS(?, ?)";
        let asked = self.connection.exec_first(sql, (&file.name, file.offset)).await;
        let gtids: Option<Option<String>> = asked.map_err(|error| failed("a snapshot's GTIDs", error))?;
        let gtids = gtids.flatten().unwrap_or_default().parse()?;
        Ok(Position { gtids: Some(Gtids::MariaDb(gtids)), ..position })
    }

    /// A high mark: every transaction is in it that a SELECT before this call can have seen, and perhaps some that
    /// are not visible yet. MySQL's holds no GTIDs, since a visible transaction may not count as executed yet.
    ///
    /// # Errors
    /// `Invalid` when the source writes no binary log; else as [`connect`](Self::connect).
    pub async fn high_mark(&mut self) -> Result<Position> {
        // The first is of MySQL 8.2 and later, which have no longer the second; a right that is missing is not a word
        // that is not known.
        let mut asked = self.connection.query_first("SHOW BINARY LOG STATUS").await;
        if matches!(&asked, Err(mysql_async::Error::Server(error)) if error.code == ER_PARSE_ERROR) {
            asked = self.connection.query_first("SHOW MASTER STATUS").await;
        }
        let row: Option<Row> = asked.map_err(|error| failed("its position", error))?;
        let row = row.ok_or_else(no_binary_log)?;
        let name: String = row.get(0).ok_or_else(no_binary_log)?;
        let offset = row.get(1).ok_or_else(no_binary_log)?;
        let gtids = if self.is_mariadb {
            let gtids: Option<String> = self.query_first("SELECT @@global.gtid_binlog_pos").await?;
            Some(Gtids::MariaDb(gtids.unwrap_or_default().parse()?))
        } else {
            None
        };
        Ok(Position { gtids, ..Position::at_file(name, offset) })
    }

    /// The XA transactions that are prepared and not ended, as `XA COMMIT` takes them; `None`: this account may not see
    /// them (MySQL asks for XA_RECOVER_ADMIN).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn prepared(&mut self) -> Result<Option<Vec<String>>> {
        let found: Vec<(i64, usize, usize, Vec<u8>)> = match self.connection.query("XA RECOVER").await {
            Ok(found) => found,
            Err(mysql_async::Error::Server(error)) if error.code == ER_XAER_RMERR => return Ok(None),
            Err(error) => return Err(failed("its prepared transactions", error)),
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let named = found.iter().map(|(format, length, _, data)| {
            let (global, branch) = data.split_at_checked(*length).unwrap_or((data, &[]));
            format!("X'{}',X'{}',{format}", hex(global), hex(branch))
        });
        Ok(Some(named.collect()))
    }

    async fn query_first<T: mysql_async::prelude::FromRow + Send + 'static>(
        &mut self,
        sql: &str,
    ) -> Result<Option<T>> {
        self.connection.query_first(sql).await.map_err(|error| failed(sql, error))
    }

    /// The character set of each collation; no tables yet.
    pub(crate) async fn charsets(&mut self) -> Result<Charsets> {
        // MariaDB's newer collations have a number per character set, which only the second has.
        let mut collations = HashMap::new();
        for table in ["COLLATIONS", "COLLATION_CHARACTER_SET_APPLICABILITY"] {
            let sql =
                format!("SELECT ID, CHARACTER_SET_NAME FROM information_schema.{table} WHERE ID IS NOT NULL");
            let rows: Vec<(u16, String)> = match self.connection.query(sql).await {
                Ok(rows) => rows,
                // The second has numbers since MariaDB 10.10 only.
                Err(_) if table != "COLLATIONS" => break,
                Err(error) => return Err(failed("its collations", error)),
            };
            collations.extend(rows.into_iter().map(|(id, charset)| (id, charset.into())));
        }
        Ok(Charsets { collations, ..Charsets::default() })
    }

    /// The table of a character set, as this server converts it: all codes of one byte, of two, and of three.
    /// `None` if it has longer ones (gb18030).
    pub(crate) async fn code_table(&mut self, charset: &str) -> Result<Option<CodeTable>> {
        let sql = "SELECT MAXLEN FROM information_schema.CHARACTER_SETS WHERE CHARACTER_SET_NAME = ?";
        let asked = self.connection.exec_first(sql, (charset,)).await;
        let bytes: Option<u64> = asked.map_err(|error| failed("its character sets", error))?;
        if !matches!(bytes, Some(1..=3)) {
            return Ok(None);
        }
        let mut codes = self.codes(charset, "", 0..=0xff).await?;
        if bytes > Some(1) {
            codes.extend(self.codes(charset, "", 0x8000..=0xffff).await?);
        }
        if bytes > Some(2) {
            let lead = format!("{THREE_BYTES:02X}");
            let rest = self.codes(charset, &lead, 0x8000..=0xffff).await?;
            codes.extend(
                rest.into_iter().map(|(code, character)| (u32::from(THREE_BYTES) << 16 | code, character)),
            );
        }
        Ok(Some(CodeTable::new(codes)))
    }

    /// The valid codes of a range, with their characters.
    async fn codes(
        &mut self,
        charset: &str,
        lead: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Vec<(u32, char)>> {
        let digit = |place: u32| {
            let digits: Vec<_> =
                (0..16).map(|digit| format!("SELECT {} AS n{place}", digit << (4 * place))).collect();
            format!("({}) AS d{place}", digits.join(" UNION ALL "))
        };
        let width = if *range.end() > 0xff { 4 } else { 2 };
        let (digits, sum) = ((0..width).map(digit).collect::<Vec<_>>(), (0..width).map(|n| format!("n{n}")));
        let sum = sum.collect::<Vec<_>>().join(" + ");
        let sql = format!(
            "SELECT n, CONVERT(CONVERT(UNHEX(CONCAT('{lead}', LPAD(HEX(n), {width}, '0'))) USING {charset}) \
             USING utf8mb4) AS c FROM (SELECT {sum} AS n FROM {}) AS codes WHERE n >= {} ORDER BY n",
            digits.join(", "),
            range.start()
        );
        let asked = self.connection.query(sql).await;
        let rows: Vec<(u32, Option<String>)> = asked.map_err(|error| failed("a character set", error))?;
        let valid = rows.into_iter().filter_map(|(code, text)| {
            let text = text?;
            let mut characters = text.chars();
            let character = characters.next()?;
            // What is not valid becomes `?`, more than one character or none.
            let is_question = character == '?' && (code != u32::from(b'?') || !lead.is_empty());
            let is_zero = character == '\0' && code != 0;
            (characters.next().is_none() && !is_question && !is_zero).then_some((code, character))
        });
        Ok(valid.collect())
    }

    /// The columns of a table that are of MariaDB's types of fixed bytes, as it is today.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn addresses(&mut self, database: &str, table: &str) -> Result<Vec<(String, AddressType)>> {
        let sql = "SELECT COLUMN_NAME, LOWER(DATA_TYPE) FROM information_schema.COLUMNS \
                   WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND DATA_TYPE IN ('uuid', 'inet4', 'inet6')";
        let rows: Vec<(String, String)> = self
            .connection
            .exec(sql, (database, table))
            .await
            .map_err(|error| failed("the columns of a table", error))?;
        Ok(rows
            .into_iter()
            .filter_map(|(column, kind)| {
                let kind = match kind.as_str() {
                    "uuid" => AddressType::Uuid,
                    "inet4" => AddressType::Inet4,
                    "inet6" => AddressType::Inet6,
                    _ => return None,
                };
                Some((column, kind))
            })
            .collect())
    }

    /// Whether another replica or reader is registered under this identity's server id. Its own connections, dead
    /// ones too, do not count.
    pub(crate) async fn is_taken(&mut self, identity: &Identity) -> Result<bool> {
        let own: Option<u32> = self.query_first("SELECT @@global.server_id").await?;
        if own == Some(identity.server_id) {
            return Ok(true);
        }
        // Where it may not look the source's own check has to do.
        let readers = self.readers().await.unwrap_or_default();
        Ok(readers.iter().any(|(id, name)| *id == identity.server_id && *name != identity.name))
    }

    /// The server id and the name of each replica and reader that is registered; `None`: this account may not see them.
    pub(crate) async fn readers(&mut self) -> Option<Vec<(u32, String)>> {
        for statement in ["SHOW REPLICAS", "SHOW SLAVE HOSTS"] {
            if let Ok(rows) = self.connection.query::<Row, _>(statement).await {
                let reader = |row: &Row| Some((row.get(0)?, row.get(1).unwrap_or_default()));
                return Some(rows.iter().filter_map(reader).collect());
            }
        }
        None
    }

    /// A table's database and name as the server stores them, and has them in its log: some servers find a table by its
    /// name in any case. As they are given where there is no such table.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn stored_name(&mut self, database: &str, table: &str) -> Result<(String, String)> {
        let sql = "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES \
                   WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
        let asked = self.connection.exec(sql, (database, table)).await;
        let stored: Vec<(String, String)> = asked.map_err(|error| failed("the name of a table", error))?;
        let given = (database.to_owned(), table.to_owned());
        Ok(if stored.contains(&given) { given } else { stored.into_iter().next().unwrap_or(given) })
    }
}

fn no_binary_log() -> Error {
    Error::new(ErrorKind::Invalid, "the source writes no binary log: start it with log_bin")
}

fn failed(what: &str, error: mysql_async::Error) -> Error {
    failure::failed(format_args!("asking the source for {what}"), &error)
}
