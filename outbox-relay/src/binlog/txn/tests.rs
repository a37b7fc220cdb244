//! Events that no server writes on demand.

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
