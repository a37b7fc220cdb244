//! The assertions. What they mean is in [`Expectation`](super::Expectation); here is how they are written.

/// Asserts that exactly one message in the outbox is like this; panics with what is recorded instead, the
/// nearest message field by field.
///
/// Of an entity: its type and `created`, `updated`, `deleted` or `current`, whatever the event is called. Of a
/// domain event: `event` and its type; for an enum any of its events, or the one that `kind = "…"` names. Then,
/// in any order:
///
/// - `key = …`: anything that prints as the key.
/// - `changed = ["a", "b"]`: these fields and no others, in any order. Of entities.
/// - `after = {…}`, `before = {…}`: a JSON object; fields that it does not name may be anything. Of entities.
/// - `payload = {…}`: the same for the payload as a whole.
/// - `headers = {"tenant": "7"}`: these headers, beside others.
/// - `times = n`: so many messages instead of one.
///
/// The connection may be a variable, a `&mut` or one from a pool; for one of diesel-async's give the messages in its
/// place: `recorded_async(&mut connection).await`. In `{…}` values may be expressions, as in
/// `serde_json::json!`.
///
/// ```
/// # use diesel::connection::SimpleConnection as _;
/// # use diesel::prelude::*;
/// # use outbox_core::{Outbox, OutboxConnection, OutboxEvent, assert_recorded};
/// # use serde::{Deserialize, Serialize};
/// # diesel::table! { product (id) { id -> BigInt, name -> Text, price_cents -> BigInt, } }
/// # #[derive(Debug, Clone, Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// # #[diesel(table_name = product)]
/// # #[outbox(aggregate = "product")]
/// # struct Product { id: i64, name: String, price_cents: i64 }
/// # #[derive(Serialize, Deserialize, OutboxEvent)]
/// # #[outbox(aggregate = "product", event = "price_raised", key = product_id)]
/// # struct PriceRaised { product_id: i64, by_cents: i64 }
/// # #[derive(Serialize, Deserialize, OutboxEvent)]
/// # #[serde(tag = "type")]
/// # #[outbox(aggregate = "order", key = id)]
/// # enum OrderEvent { Placed { id: i64 }, Cancelled { id: i64 } }
/// # let mut connection = outbox_core::testing::memory_outbox();
/// # connection.batch_execute("create table product (id integer primary key, name text, price_cents bigint)")?;
/// connection.outbox_transaction(|tx| {
///     let lamp = tx.insert(&Product { id: 7, name: "lamp".into(), price_cents: 950 })?;
///     tx.insert(&Product { id: 8, ..lamp.clone() })?;
///     tx.update_from(&lamp, &Product { price_cents: 995, ..lamp.clone() })?;
///     tx.record(&PriceRaised { product_id: 7, by_cents: 45 })?;
///     tx.record_all(&[OrderEvent::Placed { id: 1 }, OrderEvent::Cancelled { id: 1 }])
/// })?;
/// assert_recorded!(connection, Product, updated, key = 7, changed = ["price_cents"]);
/// assert_recorded!(connection, Product, created, after = {"name": "lamp"}, times = 2);
/// assert_recorded!(connection, event PriceRaised, key = 7, payload = {"by_cents": 45});
/// assert_recorded!(connection, event OrderEvent, kind = "placed");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Panics
/// When there are fewer or more such messages; when a field or kind is named that the entity or event does not
/// have; as [`recorded`](crate::testing::recorded).
#[macro_export]
macro_rules! assert_recorded {
    ($connection:expr, event $event:ty $(, $($arguments:tt)*)?) => {{
        use $crate::testing::AssertRecorded as _;
        ($connection).assert_recorded($crate::__expectation!(
            ($crate::testing::Expectation::event::<$event>()) $($($arguments)*)?
        ))
    }};
    ($connection:expr, $entity:ty, $operation:ident $(, $($arguments:tt)*)?) => {{
        use $crate::testing::AssertRecorded as _;
        ($connection).assert_recorded($crate::__expectation!(
            ($crate::testing::Expectation::entity::<$entity>($crate::__operation!($operation)))
            $($($arguments)*)?
        ))
    }};
}

/// Asserts that no message in the outbox is like this; written as [`assert_recorded!`](crate::assert_recorded),
/// without `times`.
///
/// ```
/// # use outbox_core::OutboxEvent;
/// # #[derive(serde::Serialize, OutboxEvent)]
/// # #[outbox(aggregate = "product", event = "price_raised", key = product_id)]
/// # struct PriceRaised { product_id: i64, by_cents: i64 }
/// use outbox_core::{OutboxConnection, assert_not_recorded, testing};
///
/// let mut connection = testing::memory_outbox();
/// connection.outbox_transaction(|tx| tx.record(&PriceRaised { product_id: 7, by_cents: 45 }))?;
/// assert_not_recorded!(connection, event PriceRaised, key = 8);
/// assert_not_recorded!(connection, event PriceRaised, payload = {"by_cents": 46});
/// # let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
/// #     assert_not_recorded!(connection, event PriceRaised, key = 7);
/// # }));
/// # assert!(failed.is_err());
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Panics
/// When there is such a message, with all that is recorded; when a field or kind is named that the entity or
/// event does not have.
#[macro_export]
macro_rules! assert_not_recorded {
    ($connection:expr, event $event:ty $(, $($arguments:tt)*)?) => {{
        use $crate::testing::AssertRecorded as _;
        ($connection).assert_recorded($crate::__expectation!(
            ($crate::testing::Expectation::event::<$event>()) $($($arguments)*)?
        ).never())
    }};
    ($connection:expr, $entity:ty, $operation:ident $(, $($arguments:tt)*)?) => {{
        use $crate::testing::AssertRecorded as _;
        ($connection).assert_recorded($crate::__expectation!(
            ($crate::testing::Expectation::entity::<$entity>($crate::__operation!($operation)))
            $($($arguments)*)?
        ).never())
    }};
}

/// Asserts that the outbox is empty.
///
/// ```
/// use outbox_core::{Error, Message, OutboxConnection, assert_nothing_recorded, testing};
///
/// let mut connection = testing::memory_outbox();
/// let failed = connection.outbox_transaction(|tx| {
///     tx.record_message(Message::new("product", "7", "seen", b"{}".to_vec())?);
///     Err::<(), _>(Error::application("closed on Sundays"))
/// });
/// assert!(failed.is_err());
/// assert_nothing_recorded!(connection);
/// # connection.outbox_transaction(|tx| {
/// #     tx.record_message(Message::new("product", "7", "seen", b"{}".to_vec())?);
/// #     Ok(())
/// # })?;
/// # let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_nothing_recorded!(connection)));
/// # assert!(failed.is_err());
/// # Ok::<(), outbox_core::Error>(())
/// ```
///
/// # Panics
/// With the messages that it holds.
#[macro_export]
macro_rules! assert_nothing_recorded {
    ($connection:expr $(,)?) => {{
        use $crate::testing::AssertRecorded as _;
        ($connection).assert_nothing_recorded()
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __operation {
    (created) => {
        $crate::Operation::Created
    };
    (updated) => {
        $crate::Operation::Updated
    };
    (deleted) => {
        $crate::Operation::Deleted
    };
    (current) => {
        $crate::Operation::Current
    };
    ($other:ident) => {
        ::core::compile_error!("an entity is created, updated, deleted or current; events: `event TheirType`")
    };
}

/// One argument after the other becomes a call; the first parentheses hold what is built so far.
#[doc(hidden)]
#[macro_export]
macro_rules! __expectation {
    (($so_far:expr)) => { $so_far };
    (($so_far:expr) changed = [$($field:expr),* $(,)?] $(, $($rest:tt)*)?) => {
        $crate::__expectation!(
            ($so_far.changed(&[$(::core::convert::AsRef::<str>::as_ref(&$field)),*])) $($($rest)*)?
        )
    };
    (($so_far:expr) after = {$($json:tt)*} $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.after($crate::testing::json!({$($json)*}))) $($($rest)*)?)
    };
    (($so_far:expr) before = {$($json:tt)*} $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.before($crate::testing::json!({$($json)*}))) $($($rest)*)?)
    };
    (($so_far:expr) payload = {$($json:tt)*} $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.payload($crate::testing::json!({$($json)*}))) $($($rest)*)?)
    };
    (($so_far:expr) headers = {$($json:tt)*} $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.headers($crate::testing::json!({$($json)*}))) $($($rest)*)?)
    };
    (($so_far:expr) key = $key:expr $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.key(&$key)) $($($rest)*)?)
    };
    (($so_far:expr) kind = $kind:expr $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.kind(&$kind)) $($($rest)*)?)
    };
    (($so_far:expr) times = $times:expr $(, $($rest:tt)*)?) => {
        $crate::__expectation!(($so_far.times($times)) $($($rest)*)?)
    };
    (($so_far:expr) $($other:tt)+) => {
        ::core::compile_error!(::core::concat!(
            "not understood: `", ::core::stringify!($($other)+), "`; the arguments are key = …, changed = [\"…\"], \
             after = {…}, before = {…}, payload = {…}, headers = {…}, kind = \"…\" and times = …"
        ))
    };
}
