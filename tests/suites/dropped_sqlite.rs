//! Futures of diesel-async's that are dropped while their statement still runs on a thread of its own, as on SQLite.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use outbox_core::AsyncOutboxConnection as _;

use super::asynchronous::open;
use super::database::{connect, fresh, items};
use crate::items::NewItem;

/// Takes a second or so.
const SLOW: &str = "with recursive n (i) as (select 1 union all select i + 1 from n where i < 3000000) \
                    select count(*) from n";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_nobody_waits_for_is_waited_for_before_commit() {
    let database = fresh();
    let mut connection = open(&database).await;
    connection
        .outbox_transaction(async |tx| {
            tx.insert(&NewItem { name: "kept", amount: 5 }).await?;
            let slow = diesel::sql_query(SLOW).execute(tx.conn());
            tokio::time::timeout(Duration::from_millis(20), slow).await.unwrap_err();
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(items(&mut connect(&database)).len(), 1);
}
