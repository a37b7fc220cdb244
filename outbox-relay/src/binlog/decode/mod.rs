//! Bytes of the binary log → events, tables, values. Pure functions: no connection, no clock, no state.

mod bytes;
mod charset;
mod decimal;
mod event;
mod gtid;
mod json;
mod payload;
mod rows;
mod table_map;
mod temporal;
mod value;

use std::fmt;

pub(crate) use charset::{Charsets, CodeTable, THREE_BYTES};
pub(crate) use event::{EventType, Format, HEADER_BYTES, Header, QueryEvent, XaPrepare, rotate};
pub(crate) use gtid::{GtidEvent, mariadb_gtid, mysql_gtid, mysql_tagged_gtid};
pub(crate) use json::double as json_double;
pub(crate) use payload::{Payload, inflate_query};
pub(crate) use rows::{Rows, table_id};
pub(crate) use table_map::{TableMap, TableName, Unusable};

/// Bytes that are not what they have to be, and what was being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Malformed {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

type Result<T, E = Malformed> = std::result::Result<T, E>;
