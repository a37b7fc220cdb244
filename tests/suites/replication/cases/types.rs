//! The cases of the types, T01 to T42.

use super::case::Case;

/// What both servers have.
pub(crate) fn common() -> Vec<Case> {
    let mut cases = numbers();
    cases.extend(temporal());
    cases.extend(texts());
    cases.extend([
        Case::new("T10", format!("create table {{t}} (id int primary key, e enum({}))", labels(300)))
            .insert("insert into {t} values (1, 'label 255'), (2, 'label 256'), (3, 'label 300')")
            .then("update {t} set e = 'label 1' where id = 1"),
        Case::new("T12", "create table {t} (id int primary key, e enum('a','b'))")
            .insert("set sql_mode = ''")
            .insert("insert into {t} values (1, 'bogus'), (2, 'a')")
            .then("set sql_mode = ''")
            .then("update {t} set e = 'bogus' where id = 2")
            .same("concat(id, ':', e, ':', e + 0)", "concat(id, ':', e, ':', e + 0)"),
        Case::new("T13", "create table {t} (id int primary key, e enum('S','M','L'))")
            .into_table("create table {t} (id int primary key, e enum('L','M','S'))")
            .insert("insert into {t} values (1, 'S'), (2, 'L')")
            .then("update {t} set e = 'M' where id = 2"),
        Case::new("T14", "create table {t} (id int primary key, s set('a','b','c'))")
            .insert("insert into {t} values (1, 'a,c'), (2, ''), (3, null)")
            .then("update {t} set s = 'b' where id = 1"),
        Case::new(
            "T36",
            "create table {t} (id int primary key, g geometry, p point, srid4326 geometry)",
        )
        .insert(
            "insert into {t} values \
             (1, st_geomfromtext('POINT(1 2)'), st_geomfromtext('POINT(1 2)'), st_geomfromtext('POINT(1 2)', 4326)), \
             (2, st_geomfromtext('POLYGON((0 0, 9 0, 9 9, 0 9, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1))'), null, null), \
             (3, st_geomfromtext('GEOMETRYCOLLECTION EMPTY'), null, null)",
        )
        .then("update {t} set g = st_geomfromtext('LINESTRING(0 0, 1 1)') where id = 1"),
        Case::new(
            "T37",
            "create table {t} (id int primary key, name varchar(20), price decimal(10,2), \
             vat decimal(10,2) as (price * 0.2) stored, n varchar(20) as (upper(name)) virtual)",
        )
        .insert("insert into {t} (id, name, price) values (1, 'ab', 10), (2, null, null)")
        .then("update {t} set price = 20.50 where id = 1")
        .then("update {t} set name = 'c' where id = 2"),
    ]);
    cases
}

fn labels(count: usize) -> String {
    (1..=count).map(|number| format!("'label {number}'")).collect::<Vec<_>>().join(",")
}

fn numbers() -> Vec<Case> {
    let wide: Vec<String> = (1..1017).map(|n| format!("c{n} int")).collect();
    vec![
        Case::new(
            "T01 unsigned",
            "create table {t} (id int primary key, a tinyint unsigned, b smallint unsigned, c mediumint unsigned, \
             d int unsigned, e bigint unsigned)",
        )
        .insert("insert into {t} values (1, 255, 65535, 16777215, 4294967295, 18446744073709551615)")
        .then("update {t} set e = e - 1")
        .gives(
            "select concat_ws(' ', a, b, c, d, e) from {t}",
            &["255 65535 16777215 4294967295 18446744073709551614"],
        ),
        Case::new(
            "T01 signed",
            "create table {t} (id int primary key, a tinyint, b smallint, c mediumint, d int, e bigint)",
        )
        .insert("insert into {t} values (1, -128, -32768, -8388608, -2147483648, -9223372036854775808)")
        .then("update {t} set a = a + 1"),
        Case::new(
            "T03",
            "create table {t} (id int primary key, a bit(1), b bit(9), c bit(10), d bit(64))",
        )
        .insert(format!("insert into {{t}} values (1, b'1', b'100000001', b'1111111111', b'{}')", "1".repeat(64)))
        .gives("select concat_ws(' ', a + 0, b + 0, c + 0, d + 0) from {t}", &["1 257 1023 18446744073709551615"]),
        Case::new("T04", "create table {t} (id int primary key, f float, d double)")
            .insert("set sql_mode = ''")
            .insert("insert into {t} values (1, 0.1, 0.1), (2, 3.4028235e38, 1.7976931348623157e308)")
            .insert("insert into {t} values (3, 1.17549435e-38, 2.2250738585072014e-308), (4, -0.0, -0.0)")
            .insert("insert into {t} values (5, 16777217, 9007199254740993), (6, -1.5, 1e16)")
            .then("update {t} set f = 0.3, d = 0.3 where id = 5"),
        Case::new(
            "T06",
            "create table {t} (id int primary key, a decimal(65,30), b decimal(5,5), c decimal(10,0), d decimal(6,2))",
        )
        .insert(format!(
            "insert into {{t}} values (1, -{}.{}, 0.00001, 7, -0.10), (2, 0, 0, -1234567890, 0)",
            "9".repeat(35),
            "9".repeat(30)
        ))
        .then("update {t} set c = -c"),
        Case::new("T07", format!("create table {{t}} (id int primary key, {})", forty_types()))
            .insert("insert into {t} (id) values (1), (2)")
            .then(format!("update {{t}} set {} where id = 1", forty_values()))
            .then(format!("update {{t}} set {} where id = 2", forty_values()))
            .then(format!("update {{t}} set {} where id = 1", forty_nulls())),
        Case::new("T09", format!("create table {{t}} (id int primary key, {})", wide.join(", ")))
            .insert("insert into {t} (id, c1, c500) values (1, 1, 2)")
            .then("update {t} set c1016 = 7"),
    ]
}

/// Types, each with a value.
const FORTY: [(&str, &str); 40] = [
    ("tinyint", "1"),
    ("tinyint unsigned", "200"),
    ("smallint", "-2"),
    ("smallint unsigned", "60000"),
    ("mediumint", "3"),
    ("mediumint unsigned", "4"),
    ("int", "5"),
    ("int unsigned", "6"),
    ("bigint", "7"),
    ("bigint unsigned", "8"),
    ("float", "1.5"),
    ("double", "2.5"),
    ("decimal(10,2)", "3.50"),
    ("decimal(30,0)", "4"),
    ("bit(1)", "b'1'"),
    ("bit(40)", "b'101'"),
    ("bool", "1"),
    ("date", "'2024-05-06'"),
    ("datetime", "'2024-05-06 07:08:09'"),
    ("datetime(6)", "'2024-05-06 07:08:09.123456'"),
    ("timestamp null", "'2024-05-06 07:08:09'"),
    ("timestamp(3) null", "'2024-05-06 07:08:09.123'"),
    ("time", "'-01:02:03'"),
    ("time(6)", "'01:02:03.5'"),
    ("year", "2024"),
    ("char(5)", "'a'"),
    ("varchar(20)", "'b'"),
    ("varchar(20) character set latin1", "'é'"),
    ("tinytext", "'c'"),
    ("text", "'d'"),
    ("mediumtext", "'e'"),
    ("longtext", "'f'"),
    ("binary(4)", "x'0100'"),
    ("varbinary(20)", "x'00ff'"),
    ("tinyblob", "x'01'"),
    ("blob", "x'02'"),
    ("longblob", "x'03'"),
    ("enum('x','y')", "'y'"),
    ("set('x','y')", "'x,y'"),
    ("json", "'{\"a\": 1}'"),
];

fn forty(part: impl Fn(usize, (&str, &str)) -> String) -> String {
    FORTY.iter().enumerate().map(|(n, column)| part(n, *column)).collect::<Vec<_>>().join(", ")
}

/// Each with a default, which a NULL must not become.
fn forty_types() -> String {
    forty(|n, (kind, value)| {
        let has_none = ["text", "blob", "json"].iter().any(|without| kind.ends_with(without));
        if has_none { format!("c{n} {kind} null") } else { format!("c{n} {kind} default {value}") }
    })
}

fn forty_values() -> String {
    forty(|n, (_, value)| format!("c{n} = {value}"))
}

fn forty_nulls() -> String {
    forty(|n, _| format!("c{n} = null"))
}

fn temporal() -> Vec<Case> {
    vec![
        Case::new(
            "T15",
            "create table {t} (id int primary key, d date, dt datetime, ts timestamp null default null)",
        )
        .insert("set sql_mode = ''")
        .insert("insert into {t} values (1, '0000-00-00', '0000-00-00 00:00:00', 0)")
        .insert("insert into {t} values (2, '2024-01-01', null, null)")
        .then("set sql_mode = ''")
        .then("update {t} set d = '0000-00-00', ts = 0 where id = 2"),
        Case::new("T16", "create table {t} (id int primary key, d date, dt datetime(3))")
            .insert("set sql_mode = 'allow_invalid_dates'")
            .insert("insert into {t} values (1, '2024-00-00', '2024-00-00 01:02:03'), (2, '2024-02-00', null)")
            .insert("insert into {t} values (3, '2024-02-31', '2024-02-31 23:59:59.999')")
            .then("set sql_mode = 'allow_invalid_dates'")
            .then("update {t} set dt = '2024-11-31 00:00:00' where id = 2"),
        Case::new("T18", "create table {t} (id int primary key, ts timestamp not null)")
            .insert("insert into {t} values (1, from_unixtime(1730611800)), (2, from_unixtime(1730615400))")
            .gives("select unix_timestamp(ts) from {t} order by id", &["1730611800", "1730615400"]),
        Case::new("T19", "create table {t} (id int primary key, ts timestamp(6) null)")
            .insert("insert into {t} values (1, '2038-01-19 03:14:07.999999'), (2, '1970-01-01 00:00:01')")
            .then("update {t} set ts = '2001-09-09 01:46:40.000001' where id = 2"),
        Case::new("T21", "create table {t} (id int primary key, a time(6), b time, y year)")
            .insert("insert into {t} values (1, '-838:59:59', '838:59:59', 0), (2, '-00:00:00.000001', '00:00:00', 1901)")
            .insert("insert into {t} values (3, '838:59:59', '-838:59:59', 2155), (4, null, null, null)")
            .then("update {t} set a = '-00:00:01.5', y = 0 where id = 4"),
    ]
}

fn texts() -> Vec<Case> {
    let all = ["gbk", "big5", "latin1", "utf16", "utf32", "ascii"];
    let columns: Vec<String> = all.iter().map(|c| format!("{c}_ varchar(50) character set {c}")).collect();
    let values = ["'中文'", "'中文'", "'€é'", "'中文 😀'", "'中文 😀'", "'plain'"].join(", ");
    vec![
        Case::new(
            "T27",
            "create table {t} (id int primary key, c char(5) character set utf8mb4 collate utf8mb4_bin)",
        )
        .insert("insert into {t} values (1, 'ja'), (2, '')")
        .then("update {t} set c = 'nein' where id = 2"),
        Case::new("T28", "create table {t} (id binary(16) primary key, v int)")
            .insert("insert into {t} values (x'11223344556677889900AABBCCDD0000', 1), (x'00', 1), (x'20', 1)")
            .then("update {t} set v = 2 where id = x'11223344556677889900AABBCCDD0000'")
            .then(format!("delete from {{t}} where id = x'20{}'", "0".repeat(30))),
        Case::new("T30", "create table {t} (id int primary key, v varchar(20) character set gbk)")
            .into_table("create table {t} (id int primary key, v varchar(20) character set utf8mb4)")
            .insert("insert into {t} values (1, '你好')")
            .gives("select hex(v) from {t}", &["E4BDA0E5A5BD"]),
        Case::new("T31", "create table {t} (id int primary key, v varchar(20) character set latin1)")
            .into_table("create table {t} (id int primary key, v varchar(20) character set utf8mb4)")
            .insert("insert into {t} values (1, _latin1 x'80E9')")
            .gives("select hex(v) from {t}", &["E282ACC3A9"]),
        Case::new(
            "T33",
            format!("create table {{t}} (id int primary key, {}, b varbinary(20))", columns.join(", ")),
        )
        .insert(format!("insert into {{t}} values (1, {values}, x'00ff'), (2, '', '', '', '', '', '', '')"))
        .then("update {t} set gbk_ = '好' where id = 2"),
        Case::new("T34", "create table {t} (id int primary key, v text character set utf8mb4)")
            .insert(
                "insert into {t} values (1, concat('a', char(0 using utf8mb4), char(26 using utf8mb4), 'b'))",
            )
            .insert("insert into {t} values (2, '\\\\ \\' \" ` \\n \\r \\t ? :x %s $1 {} --'), (3, '''')")
            .insert("insert into {t} values (4, '\\\\'), (5, '\\\\\\''), (6, '/* */ ; # ')")
            .then("update {t} set v = concat(v, v)"),
    ]
}

/// Text and type of a document, and the types of numbers in it.
const JSON_SHOWN: &str = "concat_ws(':', id, cast(j as char), json_type(j), json_type(j->'$.dec'), json_type(j->'$.most'), \
                          json_type(j->'$.in[1]'))";

/// What only MySQL has.
pub(crate) fn mysql() -> Vec<Case> {
    vec![
        Case::new("T22", "create table {t} (id int primary key, j json)")
            .insert("insert into {t} values (1, '{\"two\": 2.0, \"int\": 2, \"big\": 18446744073709551615}')")
            .then("update {t} set j = '[1e300, 0.1, null, true, \"x\"]' where id = 1")
            // Numbers of which JSON's text would lose digits, and what its text has no type for.
            .insert(format!(
                "insert into {{t}} values (2, json_object('dec', cast('1.10' as decimal(5, 2)), 'in', json_array(2.0e0, \
                 cast('{0}.{0}' as decimal(60, 30)), 'it\\'s', true, null), 'most', cast(18446744073709551616 as decimal(30)))), \
                 (3, cast(cast('-7.000' as decimal(10, 3)) as json)), \
                 (4, json_object('d', cast('2024-01-02' as date), 'b', cast(x'00ff' as binary)))",
                "123456789".repeat(3)
            ))
            .then("insert into {t} select id + 10, j from {t} where id > 1")
            .then("update {t} set j = json_set(j, '$.dec', cast('-0.500' as decimal(5, 3))) where id = 12")
            .same(JSON_SHOWN, JSON_SHOWN),
        Case::new("T24", "create table {t} (id int primary key, j json)")
            .insert("set cte_max_recursion_depth = 1000000")
            .insert(
                "insert into {t} select 1, json_arrayagg(n) from (with recursive s(n) as \
                 (select 1 union all select n + 1 from s where n < 70000) select n from s) x",
            )
            .insert(
                "insert into {t} select 2, json_objectagg(concat('key ', n), repeat('v', 10)) from (with recursive s(n) \
                 as (select 1 union all select n + 1 from s where n < 4000) select n from s) x",
            )
            .then("update {t} set j = json_array_append(j, '$', 'end') where id = 1"),
        Case::new("T39", "create table {t} (id int primary key, v vector(3))")
            .insert("insert into {t} values (1, to_vector('[1, 2.5, -3e10]')), (2, null)")
            .then("update {t} set v = to_vector('[0.1]') where id = 2"),
    ]
}

/// What only MariaDB has.
pub(crate) fn mariadb() -> Vec<Case> {
    vec![
        Case::new("T24", "create table {t} (id int primary key, j json)")
            .insert("insert into {t} values (1, concat('[', repeat('1, ', 70000), '2.0]')), (2, '{\"a\":  2.0}')")
            .then("update {t} set j = '[1,  2]' where id = 2"),
        Case::new("T40", "create table {t} (id uuid primary key, a inet4, b inet6)")
            .insert("insert into {t} values ('11223344-5566-7788-9900-aabbccdd0000', '10.1.0.0', '::ffff:1.2.3.4')")
            .insert("insert into {t} values ('00000000-0000-0000-0000-000000000000', null, '::')")
            .then("update {t} set a = '255.255.255.255', b = 'fe80::' where a is null"),
    ]
}

/// MariaDB's own types become text in MySQL.
pub(crate) fn from_mariadb_to_mysql() -> Vec<Case> {
    let addresses = "concat_ws(':', id, a, b)";
    vec![
        Case::new("T40", "create table {t} (id uuid primary key, a inet4, b inet6)")
            .into_table("create table {t} (id char(36) primary key, a varchar(15), b varchar(45))")
            .insert("insert into {t} values ('11223344-5566-7788-9900-aabbccdd0000', '10.1.0.0', '::ffff:1.2.3.4')")
            .then("update {t} set a = '255.255.255.255', b = 'fe80::'")
            .same(addresses, addresses),
    ]
}
