//! Many messages as one array per column, for PostgreSQL: one statement for any count of rows, several times as
//! fast as a placeholder per value.

use crate::message::Message;
use crate::schema::NewOutboxRow;

/// Binds: the arrays of [`Columns`], in their order. Rows get their ids in the order of the arrays.
pub(crate) const INSERT: &str = "insert into outbox (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload) \
     select message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload \
     from unnest($1, $2, $3, $4, $5, $6, $7) with ordinality \
     as row (message_id, bucket, aggregate_type, aggregate_id, event_type, headers, payload, number) \
     order by number";

#[derive(Debug, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) message_id: Vec<&'a [u8]>,
    pub(crate) bucket: Vec<i16>,
    pub(crate) aggregate_type: Vec<&'a str>,
    pub(crate) aggregate_id: Vec<&'a str>,
    pub(crate) event_type: Vec<&'a str>,
    pub(crate) headers: Vec<Vec<u8>>,
    pub(crate) payload: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    pub(crate) fn of(messages: &'a [Message]) -> Self {
        let mut columns = Self::default();
        for row in messages.iter().map(NewOutboxRow::of) {
            columns.message_id.push(row.message_id);
            columns.bucket.push(row.bucket);
            columns.aggregate_type.push(row.aggregate_type);
            columns.aggregate_id.push(row.aggregate_id);
            columns.event_type.push(row.event_type);
            columns.headers.push(row.headers);
            columns.payload.push(row.payload);
        }
        columns
    }
}

/// The INSERT with its binds.
macro_rules! insert_columns {
    ($messages:expr) => {{
        use diesel::sql_types::{Array, Binary, SmallInt, Text};

        let columns = $crate::connection::columns::Columns::of($messages);
        diesel::sql_query($crate::connection::columns::INSERT)
            .bind::<Array<Binary>, _>(columns.message_id)
            .bind::<Array<SmallInt>, _>(columns.bucket)
            .bind::<Array<Text>, _>(columns.aggregate_type)
            .bind::<Array<Text>, _>(columns.aggregate_id)
            .bind::<Array<Text>, _>(columns.event_type)
            .bind::<Array<Binary>, _>(columns.headers)
            .bind::<Array<Binary>, _>(columns.payload)
    }};
}
pub(crate) use insert_columns;
