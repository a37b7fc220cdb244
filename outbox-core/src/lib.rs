//! The write side and the consumer side of a transactional outbox.

pub mod broker;
mod connection;
mod copy;
mod entity;
mod error;
mod inbox;
mod message;
pub mod migrate;
mod retry;
mod schema;
mod subscriber;
mod transaction;

pub use connection::OutboxConnection;
pub use copy::{Replica, ReplicaOn};
pub use entity::{Entity, EntityChange, Event, Image, Operation};
pub use error::{Error, ErrorKind, Result};
pub use inbox::HeldState;
pub use message::{
    BUCKET_HASH, BUCKETS, Frame, HEADERS_BYTES_MAX, Headers, KEY_BYTES_MAX, Message, MessageId,
    NAME_BYTES_MAX, OutboxRow, PAYLOAD_BYTES_MAX, Recorded, Version, WIRE_FORMAT, bucket_of,
};
#[cfg(feature = "derive")]
pub use outbox_macros::{Outbox, OutboxEvent, Replica};
pub use retry::{RetryPolicy, Waits};
pub use subscriber::{Subscriber, SubscriberStats};
pub use transaction::{EntityOn, InsertOn, OutboxTx};

/// What the derives call; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use ::core;
    pub use diesel;
    pub use serde;
    pub use serde_json;

    pub use crate::entity::join_key;

    /// A field of an image; a missing one is `null`, which an `Option` takes.
    pub fn field<T: serde::de::DeserializeOwned>(image: &crate::Image, name: &str) -> crate::Result<T> {
        let value = image.get(name).cloned().unwrap_or(serde_json::Value::Null);
        serde_json::from_value(value).map_err(|e| crate::Error::from(e).context(format!("field {name}")))
    }

    /// Puts a field into an image.
    pub fn put<T: serde::Serialize>(
        image: &mut crate::Image,
        name: &str,
        value: &T,
    ) -> serde_json::Result<()> {
        image.insert(name.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }
}

// Pass their input on if this crate has that database; the derives cannot know its features.
#[cfg(feature = "sqlite")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_sqlite {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "sqlite"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_sqlite {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "mysql")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_mysql {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "mysql"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_mysql {
    ($($tokens:tt)*) => {};
}
#[cfg(feature = "postgres")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_postgres {
    ($($tokens:tt)*) => { $($tokens)* };
}
#[cfg(not(feature = "postgres"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_postgres {
    ($($tokens:tt)*) => {};
}
