//! The cases of statements (D), projection (M), snapshot (N) and apply (A) that are a table and what happens to it.

use super::case::Case;

/// Of both servers.
pub(crate) fn common() -> Vec<Case> {
    let mut cases = statements();
    cases.extend(mapping());
    cases.extend(keys());
    cases.extend(unique_keys());
    cases
}

fn statements() -> Vec<Case> {
    vec![
        Case::new("D16", "create table {t} (id int primary key, u int unique, v varchar(50))")
            .insert("insert into {t} values (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 4, 'd')")
            .then("replace into {t} values (5, 1, 'replaced')")
            .then("replace into {t} values (2, 3, 'two at once')")
            .then("insert into {t} values (4, 9, 'x') on duplicate key update v = 'updated'")
            .then("insert ignore into {t} values (4, 8, 'ignored'), (8, 8, 'taken')")
            .then("insert into {t} select id + 10, u + 10, v from {t}")
            .then("create table {t}_other (id int primary key, v varchar(50))")
            .then("insert into {t}_other select id, 'other' from {t}")
            .then("update {t} join {t}_other o on o.id = {t}.id set {t}.v = 'joined', o.v = 'too' where {t}.id > 12")
            .then("delete {t}, o from {t} join {t}_other o on o.id = {t}.id where {t}.id = 14")
            .then("drop table {t}_other"),
        Case::new("D16 keys move", "create table {t} (id int primary key, v int)")
            .insert("insert into {t} values (1, 1), (2, 2), (3, 3)")
            .then("update {t} set id = id + 100 order by id desc")
            .then("update {t} set id = id - 99 order by id"),
        Case::new("A03", "create table {t} (a int, b int, v int, primary key (a, b))")
            .insert("begin")
            .insert("insert into {t} values (1, 1, 1)")
            .insert("insert into {t} values (1, 2, 2)")
            .insert("insert into {t} values (1, 3, 3)")
            .insert("commit")
            .then("update {t} set v = 7 where b = 2")
            .then("delete from {t} where b = 3"),
    ]
}

fn mapping() -> Vec<Case> {
    vec![
        Case::new(
            "M01",
            "create table {t} (id int primary key, name varchar(20), price decimal(10,2), stock int)",
        )
        .columns(&["id", "name", "price as unit_price"])
        .insert("insert into {t} values (1, 'a', 1.5, 3), (2, 'b', 2.5, 4)")
        .then("update {t} set stock = stock + 1")
        .then("update {t} set price = 9 where id = 2")
        .same("concat_ws(':', id, name, price)", "concat_ws(':', id, name, unit_price)"),
        Case::new("M03", "create table {t} (id int primary key, status varchar(10), v int)")
            .filter("status = 'ON'")
            .insert("insert into {t} values (1, 'OFF', 1), (2, 'ON', 2), (3, 'ON', 3), (4, 'OFF', 4)")
            .then("update {t} set status = 'ON', v = 10 where id = 1")
            .then("update {t} set status = 'OFF' where id = 2")
            .then("update {t} set v = 30 where id = 3")
            .then("update {t} set v = 40 where id = 4")
            .gives("select concat(id, ':', v) from {t} order by id", &["1:10", "3:30"]),
        Case::new("M04", "create table {t} (id int primary key, status varchar(10), v int)")
            .filter("status = 'ON'")
            .insert("insert into {t} values (1, 'ON', 1), (2, 'OFF', 2), (3, 'ON', 3)")
            .then("update {t} set id = 11, status = 'OFF' where id = 1")
            .then("update {t} set id = 12, status = 'ON' where id = 2")
            .then("update {t} set id = 13 where id = 3")
            .gives("select concat(id, ':', v) from {t} order by id", &["12:2", "13:3"]),
    ]
}

/// N08: every kind of key, each row once, whatever its collation makes equal.
fn keys() -> Vec<Case> {
    let many = |rows: usize, row: &dyn Fn(usize) -> String| {
        let rows: Vec<String> = (0..rows).map(row).collect();
        format!("insert into {{t}} values {}", rows.join(", "))
    };
    vec![
        Case::new("N08 composite", "create table {t} (a varchar(20), b int, v int, primary key (a, b))")
            .insert(many(3000, &|n| format!("('k{}', {}, {n})", n % 7, n as i64 - 1500)))
            .then("delete from {t} where b % 5 = 0")
            .then("update {t} set b = b + 5000 where b % 5 = 1"),
        Case::new("N08 decimal", "create table {t} (id decimal(20,5) primary key, v int)")
            .insert(many(2000, &|n| format!("({}.{:05}, {n})", n as i64 - 1000, n * 7 % 100_000)))
            .then("delete from {t} where v % 3 = 0"),
        Case::new("N08 enum", "create table {t} (id enum('z','a','m'), n int, primary key (id, n))")
            .insert(many(300, &|n| format!("('{}', {n})", ["z", "a", "m"][n % 3])))
            .then("update {t} set id = 'z' where n % 10 = 1"),
        Case::new("N08 binary", "create table {t} (id binary(16) primary key, v int)")
            .insert(many(1000, &|n| format!("(unhex(left(sha2('{n}', 256), 32)), {n})")))
            .then("delete from {t} where v % 3 = 0"),
        Case::new("N08 negative", "create table {t} (id bigint primary key, v int)")
            .insert(many(1000, &|n| format!("({}, {n})", (n as i64 - 500) * 18_000_000_000_000_000)))
            .then("update {t} set v = v + 1 where id < 0"),
        Case::new("N08 unsigned", "create table {t} (id bigint unsigned primary key, v int)")
            .insert("insert into {t} values (0, 0), (9223372036854775808, 1), (18446744073709551615, 2)")
            .then("update {t} set v = v + 1"),
        Case::new("N08 time", "create table {t} (d datetime(6), id int, v int, primary key (d, id))")
            .insert(many(500, &|n| format!("('2024-01-01 00:00:{:02}.{:06}', {n}, {n})", n % 60, n * 1999)))
            .then("delete from {t} where v % 4 = 0"),
        Case::new("N08 declared", "create table {t} (id int not null, v int, unique key (id))")
            .key(&["id"])
            .insert("insert into {t} values (1, 1), (2, 2), (3, 3)")
            .then("update {t} set v = 9 where id = 2")
            .then("delete from {t} where id = 3"),
    ]
}

fn unique_keys() -> Vec<Case> {
    vec![
        Case::new("A05", "create table {t} (id int primary key, sku varchar(10) not null, unique (sku))")
            .with_all_keys()
            .insert("insert into {t} values (1, 'A'), (2, 'C')")
            .then("begin")
            .then("update {t} set sku = 'B' where id = 1")
            .then("update {t} set sku = 'A' where id = 2")
            .then("commit"),
        Case::new("A06", "create table {t} (id int primary key, sku varchar(10) not null, unique (sku))")
            .with_all_keys()
            .insert("insert into {t} values (1, 'A'), (2, 'B')")
            .then("begin")
            .then("update {t} set sku = 'T' where id = 1")
            .then("update {t} set sku = 'A' where id = 2")
            .then("update {t} set sku = 'B' where id = 1")
            .then("commit"),
        Case::new("A06 two transactions", "create table {t} (id int primary key, sku int not null, unique (sku))")
            .with_all_keys()
            .insert("insert into {t} values (1, 10), (2, 20), (3, 30)")
            .then("update {t} set sku = 99 where id = 1")
            .then("update {t} set sku = 10 where id = 2")
            .then("update {t} set sku = 20 where id = 3")
            .then("update {t} set sku = 30 where id = 1"),
        Case::new(
            "A08",
            "create table {t} (id int primary key, n int, sku varchar(20), unique (n), unique prefix (sku(4)))",
        )
        .with_all_keys()
        .insert("insert into {t} values (1, null, 'aaaa1'), (2, null, 'bbbb1'), (3, 3, null), (4, null, null)")
        .then("begin")
        .then("update {t} set sku = 'cccc' where id = 1")
        .then("update {t} set sku = 'aaaa2' where id = 2")
        .then("update {t} set n = null where id = 3")
        .then("update {t} set n = 3 where id = 4")
        .then("commit"),
        Case::new("A11", "create table {t} (id int primary key, v int)")
            .insert("insert into {t} values (1, 0)")
            .then("begin")
            .then("update {t} set v = v + 1")
            .then("update {t} set v = v + 1")
            .then("update {t} set v = v + 1")
            .then("commit"),
        Case::new("own columns", "create table {t} (id int primary key, v int)")
            .into_table("create table {t} (id int primary key, v int, mine varchar(10) default 'kept')")
            .insert("insert into {t} values (1, 1), (2, 2)")
            .then("update {t} set v = 5 where id = 1")
            .gives("select concat_ws(':', id, v, mine) from {t} order by id", &["1:5:kept", "2:2:kept"]),
    ]
}

/// What only MySQL can do.
pub(crate) fn mysql() -> Vec<Case> {
    vec![
        Case::new("D04", "create table {t} (id int primary key, v longtext)")
            .insert("set session binlog_transaction_compression = on")
            .insert("insert into {t} values (1, repeat('x', 3000000)), (2, 'short')")
            .then("set session binlog_transaction_compression = off")
            .then("update {t} set v = 'plain' where id = 2"),
        Case::new(
            "N08 0900_ai_ci",
            "create table {t} (id varchar(20) character set utf8mb4 collate utf8mb4_0900_ai_ci primary key, v int)",
        )
        .insert("insert into {t} values ('ß', 1), ('sz', 2), ('é', 3), ('f', 4), ('g ', 5), ('g', 6)")
        .then("update {t} set id = 'E' where v = 3"),
        Case::new("A08 expression", "create table {t} (id int primary key, name varchar(20), unique ((lower(name))))")
            .with_all_keys()
            .insert("insert into {t} values (1, 'A'), (2, 'B')")
            .then("begin")
            .then("update {t} set name = 'c' where id = 1")
            .then("update {t} set name = 'a' where id = 2")
            .then("commit"),
    ]
}

/// What only MariaDB can do.
pub(crate) fn mariadb() -> Vec<Case> {
    vec![
        Case::new("D15", "create table {t} (id int primary key, v int) engine = myisam")
            .insert("create table if not exists {t}_inno (id int primary key)")
            .insert("begin")
            .insert("insert into {t} values (1, 1)")
            .insert("insert into {t}_inno values (1)")
            .insert("rollback")
            .then("insert into {t} values (2, 2)"),
        Case::new(
            "N08 general_ci",
            "create table {t} (id varchar(20) character set utf8mb4 collate utf8mb4_general_ci primary key, v int)",
        )
        .insert("insert into {t} values ('ß', 1), ('t', 2), ('é', 3), ('f', 4)")
        .then("update {t} set id = 'E' where v = 3"),
    ]
}
