//! MySQL and MariaDB end a connection that sends more than `max_allowed_packet`, often before it has read why. So they
//! are asked before a large message is sent; it goes alone.

use diesel::result::{DatabaseErrorKind, Error, QueryResult};

use crate::buffer::{APPEND_BYTES_MAX, bytes_at_most};
use crate::message::Message;

pub(crate) const LIMIT: &str = "select cast(@@max_allowed_packet as signed) as number";

/// What the statement adds to the message.
const AROUND: usize = 4096;

/// Whether the server is to be asked; the limit is never set as low as the others are.
pub(crate) fn is_large(message: &Message) -> bool {
    bytes_at_most(message) > APPEND_BYTES_MAX
}

/// # Errors
/// As the server's own.
pub(crate) fn check(message: &Message, limit: i64) -> QueryResult<()> {
    if i64::try_from(bytes_at_most(message) + AROUND).is_ok_and(|bytes| bytes <= limit) {
        return Ok(());
    }
    let text = format!("Got a packet bigger than 'max_allowed_packet' bytes, which are {limit}");
    Err(Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text)))
}
