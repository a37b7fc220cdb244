//! What only MySQL writes: compressed transactions, tagged GTIDs, JSON in parts.

use outbox_relay::change::Position;

use super::VARIABLE;
use crate::source::{TestSource, first_error, inserted};

/// D04, D07.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_and_tagged_transactions_are_read() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source.run(&["create table t (id int primary key, v longtext)"]).await;
    let from = source.position().await;
    source
        .run(&[
            "set session binlog_transaction_compression = on",
            "insert into t values (1, repeat('x', 5000000)), (2, 'short')",
            "set gtid_next = 'automatic:orders'",
            "insert into t values (3, 'tagged')",
            "set session binlog_transaction_compression = off",
            "insert into t values (4, 'plain')",
            "set gtid_next = 'automatic'",
        ])
        .await;
    let txns = source.since(&["t"], &from).await;
    assert_eq!(inserted(&txns), [vec![1, 2], vec![3], vec![4]]);
    // Each place can be stored and read on from.
    for (read, txn) in txns.iter().enumerate() {
        let stored: Position = txn.position.to_string().parse().unwrap();
        assert_eq!(stored, txn.position);
        let rest = source.since(&["t"], &stored).await;
        assert_eq!(inserted(&rest), inserted(&txns[read + 1..]));
    }
    assert!(txns[1].position.to_string().contains(":orders:"), "{}", txns[1].position);
    source.drop().await;
}

/// T25: JSON that was logged in parts holds its table.
#[tokio::test(flavor = "multi_thread")]
async fn json_logged_in_parts_is_refused() {
    let mut source = TestSource::fresh(VARIABLE).await;
    source
        .run(&[
            "create table t (id int primary key, j json)",
            "insert into t values (1, json_object('a', repeat('x', 1000), 'b', 1))",
        ])
        .await;
    let from = source.position().await;
    source
        .run(&[
            "set session binlog_row_value_options = partial_json, session binlog_row_image = minimal",
            "update t set j = json_set(j, '$.b', 9)",
        ])
        .await;
    let error = first_error(&mut source.follow(&["t"], from)).await;
    assert!(error.to_string().contains("binlog_row_value_options"), "{error}");
    source.drop().await;
}
