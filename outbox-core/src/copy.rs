//! Copies: tables that follow the entities of another service, row by row, whatever arrives twice or late.

mod mark;
pub(crate) mod misfit;
pub(crate) mod resync;
mod sql;

use std::collections::BTreeMap;

pub use mark::{DeleteMark, Marks, marks};
use sql::Change;

use crate::connection::OutboxConnection;
use crate::entity::{EntityChange, EventNames, Image};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Recorded, Version};
use crate::statement::{Fragment, Server, ServerKind};

/// A row of a copy; derive it with `#[derive(Replica)]`.
///
/// Beside the replicated columns the table has `outbox_generation` and `outbox_id` (the version of the
/// row's last change, both `BIGINT NOT NULL`) and `outbox_bucket` (`SMALLINT NOT NULL`). Its key is the primary
/// key, or unique. Columns that the derive does not name, or names `local`, belong to the service: they are never
/// touched, and need a default.
/// With `soft_delete` a delete marks the row in a column and a later change unmarks it. Unique keys beside that
/// one, and foreign keys, do not go with a copy fed by messages: different keys arrive in no particular order.
///
/// ```
/// use outbox_core::{Image, Replica};
///
/// # diesel::table! {
/// #     product_copy (id) {
/// #         id -> BigInt, name -> Text, gone -> Bool,
/// #         outbox_generation -> BigInt, outbox_id -> BigInt, outbox_bucket -> SmallInt,
/// #     }
/// # }
/// #[derive(Debug, PartialEq, Replica)]
/// #[diesel(table_name = product_copy)]
/// #[replica(of = "product", soft_delete = gone)]
/// struct ProductCopy { id: i64, name: String }
///
/// assert_eq!((ProductCopy::AGGREGATE, ProductCopy::COPY), ("product", "product_copy"));
/// assert_eq!(ProductCopy::EVENTS.deleted, "deleted");
/// let image: Image = serde_json::from_str(r#"{"id": 7, "name": "lamp", "color": "red"}"#)?;
/// assert_eq!(ProductCopy::from_image(&image)?, ProductCopy { id: 7, name: "lamp".into() });
/// let error = ProductCopy::from_image(&Image::new()).unwrap_err();
/// assert!(error.to_string().contains("field id is missing"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the row of a copy",
    note = "add `#[derive(Replica)]` and `#[replica(of = \"…\")]` to it"
)]
pub trait Replica: Sized + Send {
    /// The aggregate it follows.
    const AGGREGATE: &'static str;
    /// The copy's table.
    const COPY: &'static str;
    /// The event names of that aggregate's messages.
    const EVENTS: EventNames = EventNames::DEFAULT;

    /// The row in an entity's image.
    ///
    /// # Errors
    /// `Invalid`, naming the field that is missing or does not convert.
    fn from_image(image: &Image) -> Result<Self>;
}

/// The pieces of a copy's statements on a backend; `#[derive(Replica)]` writes them.
#[diagnostic::on_unimplemented(
    message = "the copy `{Self}` cannot be kept on `{DB}`",
    note = "derive `Replica` on it, and enable outbox-core's feature for that database"
)]
pub trait ReplicaSql<DB: diesel::backend::Backend>: Replica {
    /// The name of the table.
    fn table() -> Fragment<'static, DB>;
    /// The replicated columns, the key's among them.
    fn columns() -> Vec<&'static str>;
    /// Their values, in the same order.
    fn values(&self) -> Vec<Fragment<'_, DB>>;
    /// The columns of the key.
    fn key_columns() -> Vec<&'static str>;
    /// Their values, in the same order.
    fn key_values(&self) -> Vec<Fragment<'_, DB>>;
    /// The same of a row of which no more is known than the key.
    ///
    /// # Errors
    /// As [`Replica::from_image`].
    fn key_of(image: &Image) -> Result<Vec<Fragment<'static, DB>>>;
    /// The column that marks deleted rows.
    fn mark() -> Option<(&'static str, Marks)> {
        None
    }
}

/// A copy that can be kept on a connection: what `#[derive(Replica)]` is on all databases of this build.
///
/// ```
/// use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
/// use outbox_core::broker::memory::MemoryBroker;
/// use outbox_core::{OutboxConnection, Replica, ReplicaOn, Subscriber};
///
/// /// A subscriber for one copy, on whatever database.
/// fn copying<R, C>(broker: MemoryBroker, pool: Pool<ConnectionManager<C>>) -> Subscriber<MemoryBroker, C>
/// where
///     C: OutboxConnection + R2D2Connection,
///     R: ReplicaOn<C> + 'static,
/// {
///     Subscriber::new(format!("{}-copy", R::AGGREGATE), broker, pool).copy::<R>()
/// }
///
/// # diesel::table! {
/// #     product_copy (id) {
/// #         id -> BigInt, name -> Text,
/// #         outbox_generation -> BigInt, outbox_id -> BigInt, outbox_bucket -> SmallInt,
/// #     }
/// # }
/// # #[derive(Replica)]
/// # #[diesel(table_name = product_copy)]
/// # #[replica(of = "product")]
/// # struct ProductCopy { id: i64, name: String }
/// let subscriber = copying::<ProductCopy, _>(MemoryBroker::new(), outbox_core::testing::memory_pool());
/// assert!(format!("{subscriber:?}").contains("product.current"));
/// ```
#[diagnostic::on_unimplemented(
    message = "the copy `{Self}` cannot be kept on `{C}`",
    note = "derive `Replica` on it, and enable outbox-core's feature for that database"
)]
pub trait ReplicaOn<C: OutboxConnection>: ReplicaSql<C::Backend> {}

impl<C: OutboxConnection, R: ReplicaSql<C::Backend>> ReplicaOn<C> for R {}

/// What changes did to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The copy now shows them.
    All,
    /// For one of them it has a newer state, or shows that the key was deleted since; for this one, if known.
    /// What the others did is to be rolled back.
    Stale(Option<usize>),
}

/// Where changes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The queue of their keys, which gives them out in order, to one at a time.
    Queue,
    /// `inbox_held`, whose rows anybody may serve while the queue goes on: their keys are locked first.
    Held,
}

/// The row in a message.
///
/// # Errors
/// `Invalid`, saying what is missing or does not convert.
pub(crate) fn read<R: Replica>(recorded: &Recorded) -> Result<R> {
    let change: EntityChange = serde_json::from_slice(recorded.message.payload())?;
    let image =
        change.image().ok_or_else(|| Error::invalid("the payload has neither `after` nor `before`"))?;
    R::from_image(image)
}

/// Applies changes in the order of their arrival to a copy, inside the caller's transaction: of each key the last
/// one, all rows in one statement.
///
/// What tells of deleted keys is written before the rows: that is what transactions wait for which have the same key,
/// also where there is no row yet.
pub(crate) fn apply<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[(&Recorded, &R)],
    origin: Origin,
) -> Result<Applied> {
    let mut last = BTreeMap::new();
    for (place, (recorded, _)) in changes.iter().enumerate() {
        let earlier = last.insert(recorded.message.key(), place).and_then(|earlier| changes.get(earlier));
        if earlier.is_some_and(|(earlier, _)| earlier.version >= recorded.version) {
            return Ok(Applied::Stale(Some(place)));
        }
    }
    let mut revived = Vec::new();
    for (key, deleted) in deleted_of::<R, C>(connection, changes, &last, origin)? {
        let Some(&place) = last.get(key.as_str()) else { continue };
        if changes.get(place).is_some_and(|(change, _)| deleted >= change.version) {
            return Ok(Applied::Stale(Some(place)));
        }
        revived.push(key);
    }
    let is_delete = |(change, _): &(&Recorded, &R)| change.message.event() == R::EVENTS.deleted;
    let (mut deleted, mut written) = (Vec::new(), Vec::new());
    // In one order for all, against deadlocks.
    for (key, place) in last {
        let Some(change) = changes.get(place) else { continue };
        if !is_delete(change) {
            written.push(change);
            continue;
        }
        deleted.push(change);
        // The row that the delete marks may have come just before it.
        if R::mark().is_some() {
            let of_key = changes.iter().take(place).rev().filter(|(change, _)| change.message.key() == key);
            written.extend(of_key.filter(|change| !is_delete(change)).take(1));
        }
    }
    revived.retain(|key| written.iter().any(|(change, _)| change.message.key() == key));
    revived.sort_unstable();
    let revived: Vec<_> = revived.iter().map(String::as_str).collect();
    connection.forget_deleted(R::COPY, &revived)?;
    let keys: Vec<_> = deleted
        .iter()
        .map(|(change, _)| (change.message.key(), change.message.bucket(), change.version))
        .collect();
    connection.remember_deleted(R::COPY, &keys)?;
    let is_written = write(connection, &written, sql::upsert)?;
    if let ([change], false) = (written.as_slice(), is_written) {
        stands_in_no_way(connection, change)?;
    }
    if !is_written || !write(connection, &deleted, sql::delete)? {
        if origin == Origin::Held {
            // The caller may commit: the newer row that is there needs nothing beside it.
            let keys: Vec<_> = keys.iter().map(|(key, ..)| *key).collect();
            connection.forget_deleted(R::COPY, &keys)?;
        }
        return Ok(Applied::Stale(None));
    }
    resync::note_late::<R, C>(connection, written.iter().map(|(recorded, _)| *recorded))?;
    Ok(Applied::All)
}

/// Fails where what was not written is not older than the copy's row of its key. Only MySQL and MariaDB do not tell
/// such a row from one of another key, with which this one has a unique value in common.
fn stands_in_no_way<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    change: &(&Recorded, &R),
) -> Result<()> {
    if <C::Backend as Server>::KIND != ServerKind::Mysql || sql::is_known(connection, of(change))? {
        return Ok(());
    }
    let text = format!(
        "copy {} has a row of another key with the same value in a unique key: its own key's collation does not tell \
         the two apart, or it has a unique key besides, which does not go with a copy",
        R::COPY
    );
    Err(Error::new(ErrorKind::Application, text))
}

/// A change as its statements need it.
fn of<'a, R>((recorded, row): &(&'a Recorded, &'a R)) -> Change<'a, R> {
    Change { row, version: recorded.version, bucket: recorded.message.bucket() }
}

/// The versions at which keys were deleted; locked, and of the lowest version where there was none, for what was held.
fn deleted_of<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[(&Recorded, &R)],
    last: &BTreeMap<&str, usize>,
    origin: Origin,
) -> Result<Vec<(String, Version)>> {
    if origin == Origin::Queue {
        let keys: Vec<_> = last.keys().copied().collect();
        return Ok(connection.deleted_among(R::COPY, &keys)?);
    }
    let mut deleted = Vec::new();
    for (key, place) in last {
        let Some((change, _)) = changes.get(*place) else { continue };
        let version = connection.lock_deleted(R::COPY, key, change.message.bucket())?;
        deleted.push(((*key).to_owned(), version));
    }
    Ok(deleted)
}

/// In as few statements as the database takes; false as soon as the copy had something newer.
fn write<R: ReplicaOn<C>, C: OutboxConnection>(
    connection: &mut C,
    changes: &[&(&Recorded, &R)],
    statement: impl Fn(&mut C, &[Change<'_, R>]) -> diesel::QueryResult<bool>,
) -> Result<bool> {
    let changes: Vec<_> = changes.iter().map(|change| of(change)).collect();
    for changes in changes.chunks(sql::rows_max::<R, C::Backend>()) {
        if !statement(connection, changes)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A column's name.
pub fn column_name<C: diesel::Column>(_: C) -> &'static str {
    C::NAME
}

/// Checks the types of the columns of a version.
pub fn version_columns<G, I, B>(_generation: G, _id: I, _bucket: B)
where
    G: diesel::Expression<SqlType = diesel::sql_types::BigInt>,
    I: diesel::Expression<SqlType = diesel::sql_types::BigInt>,
    B: diesel::Expression<SqlType = diesel::sql_types::SmallInt>,
{
}

/// A value as the column's type.
pub fn column_value<'a, C, T, DB>(_column: C, value: T) -> Fragment<'a, DB>
where
    DB: diesel::backend::Backend,
    C: diesel::Expression<SqlType: diesel::sql_types::SqlType + diesel::expression::TypedExpressionType>,
    T: diesel::expression::AsExpression<C::SqlType>,
    T::Expression: diesel::query_builder::QueryFragment<DB> + 'a,
{
    Box::new(value.as_expression())
}

/// The table itself.
pub fn table_name<T, DB>(table: T) -> Fragment<'static, DB>
where
    DB: diesel::backend::Backend,
    T: diesel::query_builder::QueryFragment<DB> + 'static,
{
    Box::new(table)
}
