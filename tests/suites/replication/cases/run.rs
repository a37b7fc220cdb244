//! Runs many cases through one replication.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Value};
use outbox_relay::config::ReplicationTableConfig;

use super::case::{Case, Expect};
use crate::stage::Stage;

/// A case and its table.
struct Placed {
    case: Case,
    table: String,
}

/// Each case twice: its rows there before the copy begins, then written anew while it is live.
pub(crate) async fn run(source: &str, target: &str, cases: Vec<Case>) {
    let mut stage = Stage::new(source, target).await;
    let placed: Vec<Placed> =
        cases.into_iter().enumerate().map(|(n, case)| Placed { case, table: format!("t{n}") }).collect();
    for Placed { case, table } in &placed {
        said(&mut stage.source.connection, &case.create, table, case).await;
        said(&mut stage.target.connection, &case.target, table, case).await;
        said(&mut stage.source.connection, &case.insert, table, case).await;
        said(&mut stage.source.connection, &case.changes, table, case).await;
        let config = ReplicationTableConfig {
            columns: case.columns.iter().map(ToString::to_string).collect(),
            filter: case.filter.map(str::to_owned),
            key: case.key.iter().map(ToString::to_string).collect(),
            create: case.target.is_empty(),
            ..ReplicationTableConfig::new(format!("{}.{table}", stage.source.database))
        };
        stage.add(config);
    }
    let running = stage.start().await;
    stage.until_live().await;
    let mut wrong = Vec::new();
    check(&mut stage, &placed, "by snapshot", &mut wrong).await;

    for Placed { case, table } in &placed {
        said(&mut stage.source.connection, &["delete from {t}".to_owned()], table, case).await;
    }
    stage.catch_up().await;
    for Placed { case, table } in &placed {
        said(&mut stage.source.connection, &case.insert, table, case).await;
    }
    stage.catch_up().await;
    for Placed { case, table } in &placed {
        said(&mut stage.source.connection, &case.changes, table, case).await;
    }
    stage.catch_up().await;
    check(&mut stage, &placed, "by stream", &mut wrong).await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    running.end().await;
    stage.drop().await;
}

async fn said(connection: &mut Conn, statements: &[String], table: &str, case: &Case) {
    for statement in statements {
        let done = connection.query_drop(statement.replace("{t}", table)).await;
        done.unwrap_or_else(|error| {
            panic!("{}: {error}: {}", case.name, &statement[..statement.len().min(200)])
        });
    }
    connection.query_drop("set sql_mode = default").await.unwrap();
}

/// Compares each copy with what is expected of it, past the relay and its words for values.
async fn check(stage: &mut Stage, placed: &[Placed], way: &str, wrong: &mut Vec<String>) {
    for state in stage.states().await {
        if state.1 != "ready" {
            wrong.push(format!("{way}: {} is {}: {:?}", placed_name(placed, &state.0), state.1, state.2));
        }
    }
    for Placed { case, table } in placed {
        let (sources, copies) = (&mut stage.source.connection, &mut stage.target.connection);
        let (expected, found) = match &case.expect {
            Expect::Equal => {
                let columns = columns(sources, table).await;
                let sql = format!("select {columns} from {table}");
                (lines(sources, &sql).await, lines(copies, &sql).await)
            }
            Expect::Same(source, copy) => (
                lines(sources, &format!("select {source} from {table}")).await,
                lines(copies, &format!("select {copy} from {table}")).await,
            ),
            Expect::Gives(select, expected) => {
                let mut expected: Vec<_> =
                    expected.iter().map(|line| exact(Value::Bytes(line.as_bytes().to_vec()))).collect();
                expected.sort();
                (Ok(expected), texts(copies, &select.replace("{t}", table)).await)
            }
        };
        match (expected, found) {
            (Ok(expected), Ok(found)) if expected == found && !found.is_empty() => {}
            (Ok(expected), Ok(found)) => {
                let first = expected.iter().zip(&found).find(|(expected, found)| expected != found);
                let first: String = format!("{first:?}").chars().take(600).collect();
                wrong.push(format!(
                    "{way}: {}: {} rows, {} expected; first {first}",
                    case.name,
                    found.len(),
                    expected.len()
                ));
            }
            (Err(error), _) | (_, Err(error)) => wrong.push(format!("{way}: {}: {error}", case.name)),
        }
    }
}

fn placed_name(placed: &[Placed], table: &str) -> String {
    placed.iter().find(|placed| placed.table == table).map_or(table, |placed| placed.case.name).to_owned()
}

async fn columns(connection: &mut Conn, table: &str) -> String {
    let sql = "select column_name from information_schema.columns where table_schema = database() and table_name = ? \
               order by ordinal_position";
    let names: Vec<String> = connection.exec(sql, (table,)).await.unwrap();
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The rows, each as a line in which no two values look alike, in one order. By the binary protocol: text rounds.
async fn lines(connection: &mut Conn, sql: &str) -> Result<Vec<String>, mysql_async::Error> {
    let rows: Vec<mysql_async::Row> = connection.exec(sql, ()).await?;
    let mut lines: Vec<String> = rows
        .into_iter()
        .map(|row| row.unwrap().into_iter().map(exact).collect::<Vec<_>>().join(", "))
        .collect();
    lines.sort();
    Ok(lines)
}

/// The same of one column by the text protocol.
async fn texts(connection: &mut Conn, sql: &str) -> Result<Vec<String>, mysql_async::Error> {
    let rows: Vec<Value> = connection.query(sql).await?;
    let mut lines: Vec<String> = rows.into_iter().map(exact).collect();
    lines.sort();
    Ok(lines)
}

fn exact(value: Value) -> String {
    match value {
        Value::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => format!("{text:?}"),
            Err(error) => format!("{:x?}", error.into_bytes()),
        },
        Value::Float(number) => format!("float {number} {:x}", number.to_bits()),
        Value::Double(number) => format!("double {number} {:x}", number.to_bits()),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}
