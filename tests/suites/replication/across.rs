//! Copies from one product into the other: types that the other lacks, labels in another order, character sets.

use outbox_relay::replication::{CopyPlan, CopySpec};
use outbox_tests::lab_client::{MARIADB_URL, MYSQL_URL};

use crate::copies::{Copies, columns, facts, spec};

/// T04, T13, T16, T30, T34, T40: the same values, whether the copy's table was made by us or by hand.
#[tokio::test(flavor = "multi_thread")]
async fn mariadb_into_mysql() {
    across(
        MARIADB_URL,
        MYSQL_URL,
        "u uuid, i inet4, x inet6",
        "uuid(), '10.0.0.1', 'fd00::1'",
        "u char(36), i varchar(15), x varbinary(39)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_into_mariadb() {
    across(
        MYSQL_URL,
        MARIADB_URL,
        "u vector(2), i int, x int",
        "to_vector('[1,2.5]'), 1, null",
        "u varbinary(8), i bigint, x int",
    )
    .await;
}

async fn across(from: &str, to: &str, extra: &str, extra_values: &str, extra_there: &str) {
    let common = "d date, dt datetime(6), tm time(6), ts timestamp(6) null, f float, g double, n decimal(20,5), \
                  y year, z bigint, zu bigint unsigned, b bit(9), bin binary(4), tx text character set utf8mb4, st set('a','b')";
    let here = format!(
        "create table t (id int primary key, e enum('S','M','L'), c varchar(20) character set gbk, {common}, {extra})"
    );
    let there = format!(
        "create table by_hand (id bigint primary key, c varchar(20) character set utf8mb4, \
         e enum('L','M','S'), {}, {extra_there})",
        common.replace("n decimal(20,5)", "n decimal(30,10)").replace("set('a','b')", "set('b','x','a')")
    );
    let by_hand = CopySpec { name: "by_hand".into(), target_table: "by_hand".into(), ..spec("t") };
    let mut copies =
        Copies::between(from, to, &[&here], &[&there], vec![spec("t"), by_hand], |options| options).await;
    let row = |id: u32, values: &str| format!("insert into t values ({id}, {values}, {extra_values})");
    copies
        .run(&[
            "set sql_mode = 'ALLOW_INVALID_DATES'",
            &row(1, "'S', '你好', '2024-02-31', '2024-00-00', '-838:59:59', '2038-01-19 03:14:07.999999', 0.1, 5e-324, -1.5, 0, -1, 18446744073709551615, b'100000001', 'a', 'it''s \\\\ \"', 'b,a'"),
            &row(2, "'L', 'é', '0000-00-00', '0000-00-00', '-00:00:00.000001', 0, '-0', '-0', 0, 2155, -2, 1, 0, '', '', ''"),
            &row(3, "'', null, null, null, null, null, 3.4028235e38, 1e300, null, null, null, null, null, null, null, null"),
            "update t set tx = concat('more ', id), e = 'M' where id = 2",
        ])
        .await;
    assert_eq!(copies.ask("select coalesce(max(reason), '') from outbox_aside").await, [""]);
    copies.assert_equal().await;
    for table in ["t", "by_hand"] {
        let sql = format!("select concat(id, ':', hex(c), ':', e) from {table} where id < 3 order by id");
        let names = copies.ask(&sql).await;
        assert_eq!(names[0].to_lowercase(), if table == "t" { "1:c4e3bac3:s" } else { "1:e4bda0e5a5bd:s" });
        assert!(names[1].ends_with(":M"), "{names:?}");
    }
    copies.drop().await;
}

/// A collation that the other product lacks: the key keeps rows apart that it tells apart, and no unique key refuses
/// them. Of a table made by hand in whose key they would become one that is known, with what helps.
#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_apart_in_the_other_product() {
    for (from, to, collation, apart) in [
        (MYSQL_URL, MARIADB_URL, "utf8mb4_0900_as_cs", "utf8mb4_nopad_bin"),
        (MARIADB_URL, MYSQL_URL, "utf8mb4_general_nopad_ci", "utf8mb4_0900_bin"),
    ] {
        let create = format!(
            "create table t (id varchar(20) collate {collation} primary key, \
             name varchar(20) collate {collation} not null, n int not null, unique (name), unique (n))"
        );
        let mut copies = Copies::between(from, to, &[&create], &[], vec![spec("t")], |options| options).await;
        let applied = copies
            .run(&[
                "insert into t values ('g', 'n', 1), ('g ', 'n ', 2), ('h', 'o', 3)",
                "update t set n = 9 where id = 'g '",
                "delete from t where id = 'h'",
            ])
            .await;
        assert_eq!(applied.set_aside, 0);
        assert_eq!(copies.ask("select concat('<', id, '>', n) from t order by n").await, ["<g>1", "<g >9"]);
        copies.assert_equal().await;
        let keys = "select group_concat(concat(index_name, non_unique) order by index_name) \
                    from information_schema.statistics where table_schema = database() and table_name = 't'";
        assert_eq!(copies.ask(keys).await, ["n0,name1,PRIMARY0"]);

        let by_hand = CopySpec { target_table: "by_hand".into(), ..spec("t") };
        copies
            .there
            .run(&["create table by_hand (id varchar(20) collate utf8mb4_general_ci primary key, name varchar(20), n int)"])
            .await;
        let (here, there) = (facts(&copies.source, "t").await, facts(&copies.there, "by_hand").await);
        let plan = CopyPlan::resolve(&by_hand, &here, &there).unwrap();
        let why = plan.merging().unwrap();
        assert!(why.contains(collation) && why.contains(apart), "{why}");
        copies.drop().await;
    }
}

/// JSON: the text of the one product is the document of the other.
#[tokio::test(flavor = "multi_thread")]
async fn json_between_the_products() {
    for (from, to) in [(MARIADB_URL, MYSQL_URL), (MYSQL_URL, MARIADB_URL)] {
        let create = "create table t (id int primary key, j json)";
        let mut copies =
            Copies::between(from, to, &[create], &[create], vec![columns("t", &["id", "j"])], |o| o).await;
        copies
            .run(&[r#"insert into t values (1, '{"a": "it''s \\\\ é", "b": [1, 2.0, null]}'), (2, null)"#])
            .await;
        let asked = copies.ask("select concat(json_extract(j, '$.b'), json_unquote(json_extract(j, '$.a'))) from t where id = 1").await;
        assert_eq!(asked, ["[1, 2.0, null]it's \\ é"]);
        assert_eq!(copies.ask("select count(*) from t where j is null").await, ["1"]);
        copies.drop().await;
    }
}
