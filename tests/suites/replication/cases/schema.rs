//! The cases of changed tables (L): what touches a replicated column holds its copy and says so, anything else passes
//! unseen, and no other copy waits.

use crate::stage::Stage;

/// A table, what is done to it, and a part of the reason for which its copy is held; none: it is not held.
struct Case {
    name: &'static str,
    create: &'static str,
    columns: &'static [&'static str],
    filter: Option<&'static str>,
    then: &'static [&'static str],
    held: Option<&'static str>,
}

const fn case(
    name: &'static str,
    create: &'static str,
    then: &'static [&'static str],
    held: Option<&'static str>,
) -> Case {
    Case { name, create, columns: &[], filter: None, then, held }
}

const PLAIN: &str = "create table {t} (id int primary key, a varchar(10), b varchar(10))";

const CASES: &[Case] = &[
    case(
        "L01",
        PLAIN,
        &[
            "insert into {t} values (2, 'a', 'b')",
            "alter table {t} drop column b",
            "insert into {t} values (3, 'c')",
        ],
        Some("b"),
    ),
    Case {
        name: "L01 of no interest",
        columns: &["id", "a"],
        ..case("", PLAIN, &["alter table {t} drop column b", "insert into {t} values (3, 'c')"], None)
    },
    case(
        "L04",
        PLAIN,
        &[
            "alter table {t} change a b varchar(10), change b a varchar(10)",
            "insert into {t} values (3, 'b', 'a')",
        ],
        Some("a"),
    ),
    case(
        "a column dropped and added anew",
        PLAIN,
        &["alter table {t} drop column a, add column a varchar(10)", "insert into {t} values (3, 'b', 'a')"],
        Some("column `a` is gone"),
    ),
    case(
        "a column dropped and added anew by two statements",
        PLAIN,
        &[
            "alter table {t} drop a",
            "alter table {t} add a varchar(10) after id",
            "insert into {t} values (3, 'a', 'b')",
        ],
        Some("column `a` is gone"),
    ),
    case(
        "another key, by a statement that does more",
        PLAIN,
        &[
            "alter table {t} modify a varchar(10) not null, drop primary key, add primary key (id, a)",
            "insert into {t} values (1, 'other', 'b')",
        ],
        Some(""),
    ),
    case(
        "another key",
        "create table {t} (id int, a varchar(10) not null, primary key (id))",
        &["alter table {t} drop primary key, add primary key (id, a)", "insert into {t} values (1, 'other')"],
        Some("its key is (id, a) and was (id)"),
    ),
    case(
        "another collation of the key",
        "create table {t} (id varchar(10) collate utf8mb4_bin primary key, a varchar(10), b varchar(10))",
        &[
            "alter table {t} modify id varchar(10) collate utf8mb4_general_ci",
            "insert into {t} values ('x', 'a', 'b')",
        ],
        Some("is utf8mb4_general_ci and was utf8mb4_bin"),
    ),
    case(
        "another expression of a computed column",
        "create table {t} (id int primary key, a varchar(10), b varchar(10), \
         g varchar(20) as (concat(a, b)) stored)",
        &[
            "alter table {t} modify g varchar(20) as (concat(b, a)) stored",
            "insert into {t} (id, a, b) values (3, 'a', 'b')",
        ],
        Some("column `g`, which is computed, is"),
    ),
    case(
        "L03",
        PLAIN,
        &["alter table {t} modify a varchar(10) after b", "insert into {t} (id, a, b) values (3, 'a', 'b')"],
        None,
    ),
    Case {
        name: "L07 of no interest",
        columns: &["id", "a", "b"],
        ..case(
            "",
            PLAIN,
            &["alter table {t} add column c int default 5", "insert into {t} values (3, 'a', 'b', 6)"],
            None,
        )
    },
    case(
        "L15",
        PLAIN,
        &["drop table {t}", "create table {t} (other int primary key)", "insert into {t} values (3)"],
        Some(""),
    ),
    case(
        "L16",
        PLAIN,
        &["alter table {t} modify a varchar(300)", "insert into {t} values (3, repeat('a', 300), 'b')"],
        Some("a"),
    ),
    case(
        "L18",
        PLAIN,
        &["/*app*/ alter /*!50100 */ table `{db}`.`{t}` drop column a", "insert into {t} values (3, 'b')"],
        Some("a"),
    ),
    case(
        "L19",
        PLAIN,
        &[
            "create table {t}_other (id int, a int)",
            "alter table {t}_other drop column a",
            "create procedure {t}_p() comment 'ALTER TABLE {t} DROP a' begin end",
            "drop procedure {t}_p",
            "drop table {t}_other",
            "insert into {t} values (3, 'a', 'b')",
        ],
        None,
    ),
    Case {
        name: "L25",
        columns: &["id", "a"],
        filter: Some("b = 'yes'"),
        ..case("", PLAIN, &["alter table {t} drop column b", "insert into {t} values (3, 'c')"], Some("b"))
    },
    case("L27", PLAIN, &["alter table {t} add unique (a)", "insert into {t} values (3, 'a', 'b')"], None),
    case("L22", PLAIN, &["truncate table {t}"], Some("")),
    case(
        "D01",
        PLAIN,
        &[
            "set session binlog_row_image = minimal",
            "update {t} set b = 'x'",
            "set session binlog_row_image = default",
        ],
        Some("binlog_row_image"),
    ),
    case(
        "D03",
        "create table {t} (id int primary key, a varchar(10), b blob)",
        &[
            "set session binlog_row_image = noblob",
            "update {t} set a = 'x'",
            "set session binlog_row_image = default",
        ],
        Some("binlog_row_image"),
    ),
];

pub(super) async fn run(variable: &str) {
    let mut stage = Stage::new(variable, variable).await;
    let database = stage.source.database.clone();
    for (n, case) in CASES.iter().enumerate() {
        let table = format!("l{n}");
        stage.source.run(&[&case.create.replace("{t}", &table)]).await;
        let columns = if case.create.contains(" b ") {
            "(id, a, b) values (1, 'first', 'yes')"
        } else {
            "values (1, 'first')"
        };
        stage.source.run(&[&format!("insert into {table} {columns}")]).await;
        let config = stage.add_table(&table);
        config.columns = case.columns.iter().map(ToString::to_string).collect();
        config.filter = case.filter.map(str::to_owned);
    }
    let running = stage.start().await;
    stage.until_live().await;
    for (n, case) in CASES.iter().enumerate() {
        for statement in case.then {
            let statement = statement.replace("{t}", &format!("l{n}")).replace("{db}", &database);
            stage.source.run(&[&statement]).await;
        }
    }
    // The others go on.
    stage.catch_up().await;
    let states = stage.states().await;
    let mut wrong = Vec::new();
    for (n, case) in CASES.iter().enumerate() {
        let table = format!("l{n}");
        let (_, state, reason) = states.iter().find(|(copy, ..)| *copy == table).unwrap();
        let is_right = match case.held {
            None => state == "ready",
            Some(part) => state == "held" && reason.as_ref().is_some_and(|reason| reason.contains(part)),
        };
        if !is_right {
            wrong.push(format!("{}: {state}: {reason:?}", case.name));
        }
        // What was copied before is there in any case.
        let sql = format!("select count(*) from {table} where id = 1");
        let there: Option<u64> =
            mysql_async::prelude::Queryable::query_first(&mut stage.target.connection, sql).await.unwrap();
        if there != Some(1) {
            wrong.push(format!("{}: the row of before is gone", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    running.end().await;
    stage.drop().await;
}
