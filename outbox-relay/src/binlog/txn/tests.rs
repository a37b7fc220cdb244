//! Events that no server writes on demand.

use proptest::prelude::*;

use super::*;

/// An event with a right checksum.
fn event(kind: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    let size = (HEADER_BYTES + body.len() + 4) as u32;
    let mut event = 1_700_000_000_u32.to_le_bytes().to_vec();
    event.push(kind);
    event.extend_from_slice(&1_u32.to_le_bytes());
    event.extend_from_slice(&size.to_le_bytes());
    event.extend_from_slice(&0_u32.to_le_bytes());
    event.extend_from_slice(&flags.to_le_bytes());
    event.extend_from_slice(body);
    let checksum = crc32fast::hash(&event);
    event.extend_from_slice(&checksum.to_le_bytes());
    event
}

/// The start of a stream: a description that says that events have checksums.
fn description() -> Vec<u8> {
    let mut body = 4_u16.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 54]);
    body.push(HEADER_BYTES as u8);
    body.push(1);
    event(15, 0, &body)
}

fn query(sql: &str) -> Vec<u8> {
    let mut body = vec![0; 13];
    body.push(0);
    body.extend_from_slice(sql.as_bytes());
    event(2, 0, &body)
}

fn assembler() -> Assembler {
    let limits = Limits { memory_bytes_max: 1 << 20, folder: std::env::temp_dir() };
    let tables = Arc::new(Tables::from_iter([("shop", "product")]));
    let mut assembler =
        Assembler::new(Position::at_file("bin.000001", 4), tables, Charsets::default(), limits, false);
    assert!(matches!(assembler.event(&description()), Ok(Outcome::Nothing)));
    assembler
}

fn error(assembler: &mut Assembler, event: &[u8]) -> Error {
    assembler.event(event).err().expect("an error")
}

#[test]
fn lost_events_stop_the_reader() {
    // D18.
    let error = error(&mut assembler(), &event(26, 0, &[1, 0, 0]));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("INCIDENT"), "{error}");
}

#[test]
fn unknown_events_stop_the_reader_unless_they_may_be_ignored() {
    // D19.
    let mut assembler = assembler();
    assert!(matches!(assembler.event(&event(200, 0x80, b"later")), Ok(Outcome::Nothing)));
    assert_eq!(assembler.skipped_events(), 1);
    let error = error(&mut assembler, &event(200, 0, b"later"));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("type 200"), "{error}");
}

#[test]
fn a_damaged_event_is_an_outage() {
    // D06: the same is read again over a new connection.
    let whole = query("BEGIN");
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 0x10;
        assert!(error(&mut assembler(), &damaged).is_outage(), "byte {byte}");
    }
    for length in 0..whole.len() {
        assert!(error(&mut assembler(), &whole[..length]).is_outage(), "{length} bytes");
    }
}

#[test]
fn a_transaction_is_given_out_at_its_end_only() {
    let mut assembler = assembler();
    assert!(matches!(assembler.event(&query("BEGIN")), Ok(Outcome::Nothing)));
    let Ok(Outcome::Txn(txn)) = assembler.event(&event(16, 0, &[0; 8])) else { panic!("no transaction") };
    assert!(txn.changes.is_empty());
    let Ok(Outcome::Txn(txn)) = assembler.event(&query("create table x (id int)")) else { panic!("no DDL") };
    assert_eq!(txn.statements[0].sql, "create table x (id int)");
}

#[test]
fn rows_of_a_table_that_was_not_described_stop_the_reader() {
    let rows = event(30, 0, &[9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0xff]);
    assert!(error(&mut assembler(), &rows).to_string().contains("not described"));
    // MySQL's mark for the end of a statement is none.
    let end = event(30, 0, &[0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 2, 0, 1, 0xff]);
    assert!(assembler().event(&end).is_ok());
}

#[test]
fn an_unknown_xa_transaction_stops_the_reader() {
    let error = error(&mut assembler(), &query("XA COMMIT X'78',X'',1"));
    assert!(error.to_string().contains("prepared before"), "{error}");
    assert!(matches!(assembler().event(&query("XA ROLLBACK X'78',X'',1")), Ok(Outcome::Txn(_))));
}

/// A table of many types, `shop.product`, as TABLE_MAP describes it.
fn table_map() -> Vec<u8> {
    let kinds = [1, 3, 8, 4, 5, 246, 16, 13, 10, 19, 18, 17, 15, 254, 252, 247, 248, 245, 255];
    let metadata = [4, 8, 10, 2, 1, 1, 6, 3, 3, 40, 0, 254, 20, 2, 247, 1, 248, 1, 4, 4];
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 4];
    body.extend_from_slice(b"shop\0\x07product\0");
    body.push(kinds.len() as u8);
    body.extend_from_slice(&kinds);
    body.push(metadata.len() as u8);
    body.extend_from_slice(&metadata);
    body.extend_from_slice(&[0xff; 3]);
    let mut field = |kind: u8, value: &[u8]| {
        body.push(kind);
        body.push(value.len() as u8);
        body.extend_from_slice(value);
    };
    field(1, &[0]);
    field(2, &[63]);
    field(4, &kinds.map(|kind| [1, b'a' + kind % 26]).concat());
    field(5, &[2, 1, b'x', 1, b'y']);
    field(6, &[2, 1, b'x', 1, b'y']);
    field(10, &[63]);
    body
}

proptest! {
    /// Whatever the bytes are, they are refused or read, and never end the process.
    #[test]
    fn no_event_panics(kind in any::<u8>(), flags in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut assembler = assembler();
        let _ = assembler.event(&event(kind, flags, &body));
        let _ = assembler.event(&event(16, 0, &[0; 8]));
    }

    #[test]
    fn no_rows_panic(kind in prop::sample::select(vec![23_u8, 24, 25, 30, 31, 32, 166]), rows in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut assembler = assembler();
        prop_assert!(assembler.event(&event(19, 0, &table_map())).is_ok());
        let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0];
        if (30..100).contains(&kind) {
            body.extend_from_slice(&[2, 0]);
        }
        body.push(19);
        let images = if kind % 10 == 4 || kind == 31 { 2 } else { 1 };
        body.extend_from_slice(&[0xff; 3].repeat(images));
        body.extend_from_slice(&rows);
        prop_assert!(assembler.event(&event(kind, 0, &body)).is_ok());
        let Ok(Outcome::Txn(txn)) = assembler.event(&event(16, 0, &[0; 8])) else { panic!("no transaction") };
        for change in txn.changes.iter()? {
            prop_assert!(change.is_ok() || change.is_err_and(|error| error.downcast_ref::<Undecodable>().is_some_and(|why| !why.reason.contains("binlog_row_metadata"))));
        }
    }

    #[test]
    fn no_table_map_panics(at in 0..110_usize, byte in any::<u8>()) {
        let mut body = table_map();
        let at = at % body.len();
        body[at] = byte;
        let _ = assembler().event(&event(19, 0, &body));
    }
}
