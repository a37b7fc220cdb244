//! A row by SELECT equals the same row by the binary log, for every type of the server.

use outbox_relay::binlog::Stream;
use outbox_relay::change::{Image, Row, Value};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::{IS_MARIADB, VARIABLE};
use crate::source::{TestSource, changes, until};

/// Random values of each type, besides its edges.
const RANDOM: usize = 25;

/// A type with the SQL of values from its edges, and more at random.
struct Case {
    kind: String,
    values: Vec<String>,
}

fn case(kind: impl Into<String>, values: impl IntoIterator<Item = impl Into<String>>) -> Case {
    Case { kind: kind.into(), values: values.into_iter().map(Into::into).collect() }
}

/// The types of both servers.
fn common(rng: &mut StdRng) -> Vec<Case> {
    let mut cases = Vec::new();
    // T01: signs of all widths.
    for (kind, bits) in [("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)] {
        let (low, high) = (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1);
        let mut signed = vec![low, low + 1, -1, 0, 1, high - 1, high];
        signed.extend((0..RANDOM).map(|_| rng.random_range(low..=high)));
        cases.push(case(kind, signed.iter().map(ToString::to_string)));
        let top = (1_i128 << bits) - 1;
        let mut unsigned = vec![0, 1, high, high + 1, top - 1, top];
        unsigned.extend((0..RANDOM).map(|_| rng.random_range(0..=top)));
        cases.push(case(format!("{kind} unsigned"), unsigned.iter().map(ToString::to_string)));
    }
    // T02, T03.
    cases.push(case("tinyint(1)", ["-128", "0", "1", "2"]));
    for bits in [1, 8, 9, 10, 12, 63, 64] {
        let top = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        let mut values = vec![0, 1, top, top >> 1];
        values.extend((0..RANDOM).map(|_| rng.random_range(0..=top)));
        cases.push(case(format!("bit({bits})"), values.iter().map(|bits| format!("b'{bits:b}'"))));
    }
    // T04, T05.
    cases.push(case("float", ["0.1", "3.4028235e38", "-3.4028235e38", "1.17549435e-38", "-0.0", "16777217"]));
    cases.push(case("float unsigned", ["0", "1e10"]));
    let mut doubles: Vec<f64> = vec![0.1, -0.0, f64::MAX, f64::MIN_POSITIVE, 1e15, 1e16, 1.0 / 3.0];
    doubles.extend((0..RANDOM).map(|_| finite(rng)));
    cases.push(case("double", doubles.iter().map(|number| format!("{number:e}"))));
    // T06.
    for (precision, scale) in [(65, 30), (5, 5), (10, 0), (1, 0), (1, 1), (30, 9), (38, 19), (65, 0), (9, 2)]
    {
        let mut values = vec!["0".to_owned()];
        for _ in 0..RANDOM {
            let digits = |rng: &mut StdRng, count: usize| -> String {
                (0..count).map(|_| char::from(b'0' + rng.random_range(0..10_u8))).collect()
            };
            let (used, part) = (rng.random_range(0..=precision - scale), rng.random_range(0..=scale));
            let sign = if rng.random() { "-" } else { "" };
            values.push(format!("{sign}0{}.{}0", digits(rng, used), digits(rng, part)));
        }
        values.push(format!("-{}.{}", "9".repeat(precision - scale), "9".repeat(scale)));
        cases.push(case(format!("decimal({precision},{scale})"), values));
    }
    cases.push(case("decimal(10,2) unsigned", ["0", "0.01", "99999999.99"]));
    cases.extend(temporal(rng));
    cases.extend(texts(rng));
    cases
}

fn finite(rng: &mut StdRng) -> f64 {
    loop {
        let number = f64::from_bits(rng.random());
        // Smaller ones are rounded by the servers' parsers.
        if number.is_normal() {
            return number;
        }
    }
}

/// T15, T16, T18, T19, T21.
fn temporal(rng: &mut StdRng) -> Vec<Case> {
    let mut cases = vec![
        case("year", ["0", "1901", "1999", "2155"]),
        case(
            "date",
            ["'0000-00-00'", "'2024-00-00'", "'2024-02-00'", "'2024-02-31'", "'9999-12-31'", "'0001-01-01'"],
        ),
    ];
    for fraction in 0..=6 {
        let part = |rng: &mut StdRng| format!("{:06}", rng.random_range(0..1_000_000));
        let mut times = vec![
            "'-838:59:59'".to_owned(),
            "'838:59:59'".into(),
            "'00:00:00'".into(),
            "'-00:00:00.000001'".into(),
            "'-00:00:00.5'".into(),
            "'-01:02:03.4'".into(),
            "'-00:59:59.999999'".into(),
        ];
        let mut datetimes = vec![
            "'0000-00-00'".to_owned(),
            "'2024-02-31 23:59:59'".into(),
            "'2024-00-07 01:02:03'".into(),
            "'9999-12-31 23:59:59'".into(),
            "'1000-01-01 00:00:00.1'".into(),
        ];
        let mut stamps = vec!["0".to_owned(), "'1970-01-01 00:00:01'".into(), "'2038-01-19 03:14:07'".into()];
        // Both are 01:30 in New York.
        stamps.extend(["from_unixtime(1730611800)".into(), "from_unixtime(1730615400)".into()]);
        for _ in 0..RANDOM {
            let (sign, hours) = (if rng.random() { "-" } else { "" }, rng.random_range(0..838));
            let clock = format!("{:02}:{:02}", rng.random_range(0..60), rng.random_range(0..60));
            times.push(format!("'{sign}{hours}:{clock}.{}'", part(rng)));
            let day = format!("{:02}-{:02}", rng.random_range(1..13), rng.random_range(1..29));
            datetimes.push(format!("'{:04}-{day} 07:{clock}.{}'", rng.random_range(1..9999), part(rng)));
            stamps.push(format!("'{}-{day} 11:{clock}.{}'", rng.random_range(1971..2037), part(rng)));
        }
        cases.push(case(format!("time({fraction})"), times));
        cases.push(case(format!("datetime({fraction})"), datetimes));
        cases.push(case(format!("timestamp({fraction})"), stamps));
    }
    cases
}

/// T07, T10, T12, T14, T26 to T34.
fn texts(rng: &mut StdRng) -> Vec<Case> {
    let mut cases = Vec::new();
    let tricky = [
        "''",
        "' '",
        "'a '",
        "'ja'",
        "concat('a', char(0 using utf8mb4))",
        "'it''s'",
        "'\"'",
        "'\\\\'",
        "'\\n\\t'",
        "char(26 using utf8mb4)",
        "':x ? %s'",
        "'e\u{301} é ß'",
    ];
    let long = |count: usize| format!("repeat('xyz', {count})");
    for charset in
        ["utf8mb4", "utf8mb3", "latin1", "ucs2", "utf16", "utf16le", "utf32", "cp1251", "gbk", "big5"]
    {
        let wide = match charset {
            "latin1" => "'€é\u{ff}'",
            "cp1251" => "'Привет'",
            "gbk" | "big5" => "'中文'",
            "utf8mb3" | "ucs2" => "'中文 Привет €'",
            _ => "'中文 😀 Привет €'",
        };
        for kind in [
            "char(20)",
            "char(200)",
            "varchar(20)",
            "varchar(5000)",
            "tinytext",
            "text",
            "mediumtext",
            "longtext",
        ] {
            let mut values: Vec<String> = tricky.iter().map(ToString::to_string).collect();
            // What the character set does not have becomes `?` on both ways.
            values.push(wide.to_owned());
            values.push(long(6));
            if kind.contains("text") && kind != "tinytext" || kind == "varchar(5000)" {
                values.extend([long(90), long(1600)]);
            }
            cases.push(case(format!("{kind} character set {charset}"), values));
        }
    }
    cases.push(case("char(5) collate utf8mb4_bin", ["'ja'", "''", "'12345'"]));
    cases.push(case("varchar(20) character set ascii", ["''", "'plain'"]));
    let bytes = |rng: &mut StdRng, max: usize| -> String {
        let count = rng.random_range(0..=max);
        let mut random = vec![0; count];
        rng.fill_bytes(&mut random);
        random.iter().fold("x'".to_owned(), |hex, byte| format!("{hex}{byte:02x}")) + "'"
    };
    for (kind, max) in [
        ("binary(16)", 16),
        ("binary(1)", 1),
        ("binary(255)", 255),
        ("varbinary(20)", 20),
        ("varbinary(400)", 400),
        ("tinyblob", 255),
        ("blob", 300),
        ("mediumblob", 300),
        ("longblob", 300),
    ] {
        let mut values = vec!["''".to_owned(), "x'00'".into()];
        values.extend((0..RANDOM).map(|_| bytes(rng, max)));
        if max >= 16 {
            values.push("x'11223344556677889900AABBCCDD0000'".into());
        }
        cases.push(case(kind, values));
    }
    let labels: Vec<String> = (1..=300).map(|number| format!("'label {number}'")).collect();
    let many = format!("enum({})", labels.join(","));
    cases.push(case(many, ["'label 1'", "'label 255'", "'label 256'", "'label 300'", "'bogus'"]));
    cases.push(case("enum('S','M','it''s','a,b','é')", ["'S'", "'it''s'", "'a,b'", "'é'", "'bogus'", "''"]));
    cases.push(case("enum('é','€') character set latin1", ["'é'", "'€'"]));
    let members: Vec<String> = (1..=64).map(|number| format!("'m{number}'")).collect();
    let mut sets = vec!["''".to_owned(), "'m1'".into(), "'m64,m1'".into(), "18446744073709551615".into()];
    sets.extend((0..RANDOM).map(|_| rng.random::<u64>().to_string()));
    cases.push(case(format!("set({})", members.join(",")), sets));
    cases.push(case("set('a','b','c')", ["''", "'a,c'", "'b'", "7"]));
    // T36.
    let geometries = [
        "st_geomfromtext('POINT(1 2)')",
        "st_geomfromtext('POINT(1 2)', 4326)",
        "st_geomfromtext('POLYGON((0 0, 9 0, 9 9, 0 9, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1))')",
        "st_geomfromtext('GEOMETRYCOLLECTION EMPTY')",
        "st_geomfromtext('MULTIPOINT(1 1, 2 2)')",
    ];
    cases.push(case("geometry", geometries));
    cases.push(case("point", [geometries[0]]));
    cases
}

/// The types of one server only.
fn particular(rng: &mut StdRng) -> Vec<Case> {
    if IS_MARIADB {
        // T40: their text.
        let mut uuids = vec![
            "'00000000-0000-0000-0000-000000000000'".to_owned(),
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'".into(),
            "'11223344-5566-7788-9900-aabbccdd0000'".into(),
            "uuid()".into(),
        ];
        uuids.extend((0..RANDOM).map(|_| format!("'{}'", uuid(rng))));
        let mut v4 = vec!["'0.0.0.0'".to_owned(), "'255.255.255.255'".into(), "'10.1.0.0'".into()];
        v4.extend((0..RANDOM).map(|_| format!("'{}'", std::net::Ipv4Addr::from(rng.random::<u32>()))));
        let mut v6 = vec!["'::'".to_owned(), "'::1'".into(), "'::ffff:1.2.3.4'".into(), "'fe80::'".into()];
        v6.extend((0..RANDOM).map(|_| format!("'{}'", std::net::Ipv6Addr::from(rng.random::<u128>()))));
        let json = ["'{\"a\": 2.0}'", "'[1,  2]'", "'null'"];
        return vec![case("uuid", uuids), case("inet4", v4), case("inet6", v6), case("json", json)];
    }
    // T22, T24.
    let mut json: Vec<String> = [
        "'null'", "'true'", "'[]'", "'{}'", "'2.0'", "'2'", "'-0.0'", "'\"it''s \\\\\"quoted\\\\\" \\\\u0001 é 😀\"'",
        "'{\"b\": 1, \"aa\": [1.5, null, {\"c\": \"\"}], \"a\": -32769}'",
        "'[32767, 32768, -32768, 65535, 65536, 4294967295, 4294967296, -2147483649, 18446744073709551615]'",
        "'[1e300, 1e-300, 0.1, 1e15, 1e16, 123456789012345680, 1.7976931348623157e308]'",
        "json_object('dec', cast('1.10' as decimal(5,2)), 'd', cast('2024-01-02' as date), \
         'b', cast(x'00ff' as binary), 't', cast('-01:02:03.5' as time(6)), 'dt', cast('2024-01-02 03:04:05.6' as datetime(6)))",
        "json_array(cast('-12345678901234567890.123456789' as decimal(65,30)), cast(0 as decimal(3,2)))",
        "json_array(cast(repeat('long', 40) as binary), b'101', cast(2024 as year))",
        "json_array(st_geomfromtext('POINT(1 2)'))",
        "(select json_arrayagg(n) from (with recursive s(n) as (select 1 union all select n + 1 from s where n < 70000) select n from s) x)",
        "(select json_objectagg(concat('key ', n), repeat('v', 20)) from (with recursive s(n) as (select 1 union all select n + 1 from s where n < 5000) select n from s) x)",
        "json_array(repeat('x', 200), repeat('y', 70000))",
    ]
    .map(str::to_owned)
    .into();
    json.extend(
        (0..200).map(|_| format!("'[{:e}, {}, {}]'", finite(rng), rng.random::<i64>(), rng.random::<u64>())),
    );
    json.extend((0..200).map(|_| {
        let (mantissa, exponent) = (rng.random_range(1..1_000_000_u64), rng.random_range(-25..25));
        format!("'[{mantissa}e{exponent}, -{mantissa}e{exponent}]'")
    }));
    let mut cases = vec![case("json", json)];
    // T39.
    cases.push(case("vector(3)", ["to_vector('[1, 2.5, -3e10]')", "to_vector('[0.1]')"]));
    cases
}

fn uuid(rng: &mut StdRng) -> String {
    let hex = format!("{:032x}", rng.random::<u128>());
    // A version from 1 to 8 and the variant of RFC 4122, which MariaDB asks for.
    let version = rng.random_range(1..=8);
    format!("{}-{}-{version}{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_by_select_equals_the_row_by_the_binary_log() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["set sql_mode = 'allow_invalid_dates'"]).await;
    if !IS_MARIADB {
        source.run(&["set cte_max_recursion_depth = 1000000"]).await;
    }
    let mut cases = common(&mut rng);
    cases.extend(particular(&mut rng));
    let mut stream = source.follow(&["t"], source.position().await);
    // Not all in one table: the servers limit the bytes of a row.
    for cases in cases.chunks(8) {
        equals(&mut source, &mut stream, cases).await;
    }
    source.drop().await;
}

/// Each case is a column; its values are repeated until the longest of the others is used up.
async fn equals(source: &mut TestSource, stream: &mut Stream, cases: &[Case]) {
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(n, case)| format!("v{n} {} null", case.kind)).collect();
    let names: Vec<String> = (0..cases.len()).map(|n| format!("v{n}")).collect();
    let table = format!("create table t (id int primary key, {})", columns.join(", "));
    source.run(&["drop table if exists t, c", &table]).await;
    let count = cases.iter().map(|case| case.values.len()).max().unwrap();
    let mut rows = vec![format!("(0{})", ", null".repeat(cases.len()))];
    rows.extend((0..count).map(|row| {
        let values = cases.iter().map(|case| case.values[row % case.values.len()].as_str());
        format!("({}, {})", row + 1, values.collect::<Vec<_>>().join(", "))
    }));
    source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
    let (described, selected) = source.select("t").await;
    // Each row gets the values of the one before it, so that NULL becomes a value too.
    let assignments: Vec<_> = names.iter().map(|name| format!("t.{name} = c.{name}")).collect();
    source
        .run(&[
            &format!("create table c as select id + 1 as next, {} from t", names.join(", ")),
            &format!("update t join c on c.next = t.id set {}", assignments.join(", ")),
            "delete from t",
        ])
        .await;

    let mark = source.mark().await;
    let changes = changes(&until(stream, &mark).await);
    for change in &changes {
        assert_eq!(*change.table, described);
    }
    let equal = |logged: &Row, selected: &Row| {
        for (column, (logged, selected)) in logged.0.iter().zip(&selected.0).enumerate().skip(1) {
            assert_eq!(logged, selected, "{}", columns[column - 1]);
        }
    };
    let id_of = |row: &Row| match row.0[0] {
        Value::Int(id) => id as usize,
        _ => panic!("{row:?}"),
    };
    let (mut inserted, mut updated, mut deleted) = (0, 0, 0);
    for change in &changes {
        match &change.image {
            Image::Insert { after } => {
                inserted += 1;
                equal(after, &selected[id_of(after)]);
            }
            Image::Update { before, after } => {
                updated += 1;
                equal(before, &selected[id_of(before)]);
                equal(after, &selected[id_of(before) - 1]);
            }
            Image::Delete { .. } => deleted += 1,
        }
    }
    assert_eq!((inserted, deleted), (selected.len(), selected.len()));
    assert!(updated > 0);
}

/// T09 in small, T37, T38: many columns, generated and invisible ones, a key of several parts.
#[tokio::test(flavor = "multi_thread")]
async fn wide_rows_with_generated_columns_are_equal() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut source = TestSource::fresh(VARIABLE).await;
    let kinds = ["int", "varchar(10)", "decimal(6,2)", "datetime(3)", "bit(3)", "double", "enum('a','b')"];
    let columns: Vec<String> =
        (0..300).map(|n| format!("c{n} {} null", kinds.choose(&mut rng).unwrap())).collect();
    source
        .run(&[
            &format!(
                "create table t (id int, part varchar(5), price decimal(10,2), vat decimal(10,2) as (price * 0.2) stored, \
                 upper_part varchar(20) as (upper(part)) virtual, hidden int invisible default 3, {}, primary key (part, id))",
                columns.join(", ")
            ),
        ])
        .await;
    let from = source.position().await;
    source
        .run(&[
            "insert into t (id, part, price) values (1, 'a', 10), (2, 'b', null), (3, 'c', 7.55)",
            "update t set c299 = null, c0 = null where id = 1",
            "update t set price = 20, hidden = 4 where id = 2",
        ])
        .await;
    let (described, selected) = source.select("t").await;
    assert_eq!(described.columns.len(), 306);
    assert_eq!(described.primary_key, [1, 0]);
    let changes = changes(&source.since(&["t"], &from).await);
    assert!(changes.iter().all(|change| *change.table == described), "{:?}", changes[0].table);
    let last = |id: i64| {
        changes.iter().rev().find_map(|c| c.after().filter(|row| row.0[0] == Value::Int(id)).cloned())
    };
    for row in &selected {
        let Value::Int(id) = row.0[0] else { panic!("{row:?}") };
        assert_eq!(last(id).as_ref(), Some(row));
    }
    source.drop().await;
}

/// T30 to T33: every character that a character set has, as the server converts it.
#[tokio::test(flavor = "multi_thread")]
async fn every_character_of_a_character_set_is_the_server_s() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["set sql_mode = ''"]).await;
    let charsets = [
        "latin1", "cp1250", "cp1251", "cp1256", "cp1257", "cp866", "greek", "hebrew", "koi8r", "koi8u",
        "latin2", "latin7", "tis620", "geostd8", "swe7", "gbk", "gb2312", "big5", "euckr", "sjis", "cp932",
        "ujis", "eucjpms", "utf8mb3", "utf8mb4", "ucs2", "utf16", "utf16le", "utf32", "ascii",
    ];
    // What a character set does not have becomes `?` before it is stored.
    let characters: Vec<char> =
        (0x20..0xffff_u32).filter_map(char::from_u32).filter(|c| !"'\\".contains(*c)).collect();
    let lines: Vec<String> = characters.chunks(64).map(|chunk| chunk.iter().collect()).collect();
    let mut stream = source.follow(&["t"], source.position().await);
    let mut wrong = Vec::new();
    for charset in charsets {
        let table = format!("create table t (id int primary key, v text character set {charset})");
        source.run(&["drop table if exists t", &table]).await;
        let rows: Vec<String> =
            lines.iter().enumerate().map(|(id, line)| format!("({id}, '{line}')")).collect();
        source.run(&[&format!("insert into t values {}", rows.join(", "))]).await;
        let (_, selected) = source.select("t").await;
        let mark = source.mark().await;
        let txns = until(&mut stream, &mark).await;
        let mut changes = txns.iter().flat_map(|txn| txn.changes.iter().unwrap());
        for row in &selected {
            match changes.next() {
                Some(Ok(change)) if change.after() == Some(row) => {}
                Some(Ok(change)) => {
                    let (Value::Text(logged), Value::Text(selected)) =
                        (&change.after().unwrap().0[1], &row.0[1])
                    else {
                        panic!("{change:?}")
                    };
                    let different = logged.chars().zip(selected.chars()).filter(|(a, b)| a != b);
                    wrong.push(format!("{charset}: {:?}", different.collect::<Vec<_>>()));
                }
                Some(Err(error)) => wrong.push(format!("{charset}: {error} {row:?}")),
                None => break,
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines, first {}", wrong.len(), wrong[0]);
    source.drop().await;
}
