//! An entity that cannot be read or sent without a panic of the service's own code.

use std::time::Duration;

use diesel::backend::Backend;
use diesel::connection::SimpleConnection as _;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use outbox_core::{Outbox, Resync};
use serde::{Serialize, Serializer};

use super::database::{connect, pool};
use super::stage::{Stage, insert_silently};
use crate::items::item;

/// A text of which one cannot be read, and another not be sent.
#[derive(Debug, Clone, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
struct Fragile(String);

impl<DB: Backend> ToSql<Text, DB> for Fragile
where
    String: ToSql<Text, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        self.0.to_sql(out)
    }
}

impl<DB: Backend> FromSql<Text, DB> for Fragile
where
    String: FromSql<Text, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        let text = String::from_sql(bytes)?;
        assert_ne!(text, "not read", "it is not to be read");
        Ok(Self(text))
    }
}

impl Serialize for Fragile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, "not sent", "it is not to be sent");
        self.0.serialize(serializer)
    }
}

#[derive(
    Debug, Clone, PartialEq, Eq, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox,
)]
#[diesel(table_name = item, treat_none_as_null = true)]
#[outbox(aggregate = "item")]
struct FragileItem {
    id: i64,
    name: Fragile,
    amount: i64,
    note: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_rows_panic_has_failed_and_says_why() {
    let stage = Stage::new().await;
    let mut source = connect(&stage.source);
    insert_silently(&mut source, 6);
    let resync = Resync::<FragileItem>::new(pool(&stage.source)).page(2).poll(Duration::from_millis(50));
    let tasks = [stage.relay(), stage.serve(resync)];
    stage.offered().await;
    for name in ["not read", "not sent"] {
        source.batch_execute(&format!("update item set name = '{name}' where id = 4")).unwrap();
        let id = stage.ask(&[], 0).await;
        let report = stage.is_over(id).await;
        assert!(!report.is_done(), "{report:?}");
        let why = "sending item again panicked: assertion `left != right` failed: it is not to be";
        assert!(report.error.contains(why), "{report:?}");
        assert_eq!(report.rows, 2, "the page before: {report:?}");
    }

    // Mended, it is served as any other.
    source.batch_execute("update item set name = 'mended' where id = 4").unwrap();
    let id = stage.ask(&[], 0).await;
    assert!(stage.is_over(id).await.is_done());
    stage.is_equal().await;
    for task in tasks {
        task.stop().await;
    }
    stage.stop().await;
}
