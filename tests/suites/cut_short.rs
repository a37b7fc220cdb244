//! On MySQL and MariaDB DDL commits by itself: a migration that is cut short after any of its statements is finished
//! by the next run, to the same tables.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;
use outbox_core::migrate::{self, Dialect, INBOX, Migrations, OUTBOX, REPLICA};

use super::database::connect;
use super::{Connection, SERVER};

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Columns, keys, checks and views of a database, and the rows that migrations write.
fn shape(connection: &mut Connection, role: &Migrations) -> Vec<String> {
    let of_role: &[&str] = if role.versions() == OUTBOX.versions() {
        &[
            "select concat_ws(' ', bucket, epoch, unclean) as line from outbox_lease order by bucket",
            "select concat_ws(' ', slot) as line from outbox_slot order by slot",
            "select concat_ws(' ', id, generation, buckets, bucket_hash) as line from outbox_meta",
        ]
    } else {
        &[]
    };
    let of_all = [
        "select concat_ws(' ', table_name, ordinal_position, column_name, column_type, is_nullable, column_default, \
         extra, character_set_name, collation_name, column_comment) as line \
         from information_schema.columns where table_schema = database() order by table_name, ordinal_position",
        "select concat_ws(' ', table_name, index_name, seq_in_index, column_name, non_unique) as line \
         from information_schema.statistics where table_schema = database() \
         order by table_name, index_name, seq_in_index",
        "select concat_ws(' ', constraint_name, check_clause) as line from information_schema.check_constraints \
         where constraint_schema = database() order by constraint_name",
        "select replace(concat_ws(' ', table_name, view_definition), database(), '') as line \
         from information_schema.views where table_schema = database()",
        "select concat_ws(' ', version) as line from __diesel_schema_migrations order by version",
    ];
    let lines = of_all.iter().chain(of_role).flat_map(|query| {
        let rows: Vec<Line> = diesel::sql_query(*query).load(connection).unwrap();
        rows.into_iter().map(|row| row.line)
    });
    lines.collect()
}

/// The statements of a script: each ends at the end of a line.
fn statements(script: &str) -> Vec<String> {
    let code: Vec<_> = script.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let code = code.join("\n");
    code.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).map(Into::into).collect()
}

fn is_finished_after_each_statement(role: &Migrations) {
    let clean = SERVER.empty();
    let mut connection = connect(&clean);
    assert_eq!(migrate::run(&mut connection, role).unwrap(), role.versions());
    let whole = shape(&mut connection, role);
    assert!(whole.len() > 30, "{whole:?}");

    let statements = statements(&role.sql(Dialect::Mysql));
    assert!(statements.iter().filter(|statement| statement.contains("CREATE TABLE")).count() >= 3);
    for cut in 1..statements.len() {
        let database = SERVER.empty();
        let mut connection = connect(&database);
        for statement in &statements[..cut] {
            connection.batch_execute(statement).unwrap();
        }
        let mut connection = connect(&database);
        let told = format!("cut after {:?}", statements[cut - 1]);
        migrate::run(&mut connection, role).unwrap_or_else(|error| panic!("{told}: {error:?}"));
        assert_eq!(shape(&mut connection, role), whole, "{told}");
    }
}

#[test]
fn an_outbox_that_was_cut_short_is_finished() {
    is_finished_after_each_statement(&OUTBOX);
}

#[test]
fn an_inbox_that_was_cut_short_is_finished() {
    is_finished_after_each_statement(&INBOX);
}

#[test]
fn a_replica_that_was_cut_short_is_finished() {
    is_finished_after_each_statement(&REPLICA);
}

/// `outbox` is a name that others think of, too.
#[test]
fn the_table_of_somebody_else_is_not_taken_for_ours() {
    for (role, table) in [(&OUTBOX, "outbox"), (&INBOX, "inbox")] {
        let database = SERVER.empty();
        let mut connection = connect(&database);
        connection.batch_execute(&format!("create table {table} (letter varchar(100) primary key)")).unwrap();
        assert!(migrate::run(&mut connection, role).is_err());
        connection.batch_execute(&format!("drop table {table}")).unwrap();
        assert_eq!(migrate::run(&mut connection, role).unwrap(), role.versions());
    }
}
