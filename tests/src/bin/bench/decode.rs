//! Reading the binary log into changes, held against `mysqlbinlog --verbose`, which decodes and prints the same.

use std::process::{Command, Stdio};
use std::time::Instant;

use mysql_async::prelude::Queryable as _;
use outbox_relay::binlog::{Server, Source, Step, Tables, follow};
use outbox_relay::change::{FileOffset, Position};

use crate::table::Measure;
use crate::{Failure, Size};

/// Rows of one transaction.
const BATCH: usize = 10_000;

/// Rows a second of ours and theirs, from the same transactions.
pub(crate) async fn measure(size: Size) -> Result<Measure, Failure> {
    let url = std::env::var("OUTBOX_TEST_MARIADB_URL")
        .map_err(|_| "OUTBOX_TEST_MARIADB_URL is not set: run `cargo lab bench`")?;
    let source = Source::new(&url);
    let mut server = Server::connect(&source).await?;
    let database = format!("bench_{}", std::process::id());
    let sql = server.connection();
    sql.query_drop(format!("create or replace database {database}")).await?;
    sql.query_drop(format!(
        "create table {database}.t (id bigint primary key, sku varchar(40), name varchar(200), price decimal(10,2), \
         stock int unsigned, weight double, made datetime(3), seen timestamp(6) null, status enum('on','off'))"
    ))
    .await?;
    let from = by_file(server.high_mark().await?)?;
    for first in (0..size.rows).step_by(BATCH) {
        let rows: Vec<String> = (first..(first + BATCH).min(size.rows))
            .map(|id| {
                format!(
                    "({id},'sku-{id}','{}',{}.{:02},{id},{id}.5,'2024-05-06 07:08:09.123','2024-05-06 07:08:09','on')",
                    "name ".repeat(30),
                    id % 1000,
                    id % 100
                )
            })
            .collect();
        let sql = server.connection();
        sql.query_drop(format!("insert into {database}.t values {}", rows.join(","))).await?;
    }
    let until = by_file(server.high_mark().await?)?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..size.runs {
        let started = Instant::now();
        let rows = decode(&source, &database, &from, &until).await?;
        ours.push(rows as f64 / started.elapsed().as_secs_f64());
        if rows != size.rows {
            return Err(format!("the binary log held {rows} rows, not {}", size.rows).into());
        }
        let started = Instant::now();
        print(&url, &from, &until)?;
        theirs.push(size.rows as f64 / started.elapsed().as_secs_f64());
    }
    server.connection().query_drop(format!("drop database {database}")).await?;
    Ok(Measure {
        measure: "decode mariadb".to_owned(),
        against: "mysqlbinlog --verbose".to_owned(),
        unit: "rows/s",
        ours,
        theirs,
    })
}

/// Both begin by file: a server looks for a GTID through the whole file.
fn by_file(position: Position) -> Result<FileOffset, Failure> {
    position.file.ok_or_else(|| "the server writes no binary log".into())
}

async fn decode(
    source: &Source,
    database: &str,
    from: &FileOffset,
    until: &FileOffset,
) -> Result<usize, Failure> {
    let tables = Tables::from_iter([(database, "t")]);
    let until = Position::at_file(&until.name, until.offset);
    let mut stream = follow(source.clone(), tables, Position::at_file(&from.name, from.offset));
    let mut rows = 0;
    while stream.position().has_reached(&until) != Some(true) {
        if let Step::Txn(txn) = stream.next().await? {
            for change in txn.changes.iter()? {
                std::hint::black_box(change?);
                rows += 1;
            }
        }
    }
    Ok(rows)
}

/// What `mysqlbinlog` prints goes nowhere.
fn print(url: &str, from: &FileOffset, until: &FileOffset) -> Result<(), Failure> {
    if from.name != until.name {
        return Err("the server began a new file in the middle: run again".into());
    }
    let url = url::Url::parse(url)?;
    let status = Command::new("mysqlbinlog")
        .args(["--no-defaults", "--read-from-remote-server", "--verbose", "--base64-output=decode-rows"])
        .arg(format!("--host={}", url.host_str().unwrap_or_default()))
        .arg(format!("--port={}", url.port().unwrap_or(3306)))
        .arg(format!("--user={}", url.username()))
        .arg(format!("--password={}", url.password().unwrap_or_default()))
        .arg(format!("--start-position={}", from.offset))
        .arg(format!("--stop-position={}", until.offset))
        .arg(&from.name)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("mysqlbinlog: {error}; install mariadb-client"))?;
    if status.success() { Ok(()) } else { Err(format!("mysqlbinlog: {status}").into()) }
}
