//! An entity's rows in the order of the primary key, and by message key.

use diesel::Table as _;
use diesel::associations::{HasTable, Identifiable};
use diesel::connection::Connection;
use diesel::query_builder::QueryFragment;
use diesel::result::QueryResult;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::entity::{Entity, Image};
use crate::error::Result;
use crate::model::{EntitySql, EntityTable};
use crate::statement::{
    Fragment, Server as _, ServerKind, Statement, StatementConnection, select, select_locked,
};

/// An entity whose rows can be read in the order of their primary key; `#[derive(Outbox)]` gives it where the
/// primary key's types read and write JSON with serde.
///
/// ```
/// # use diesel::prelude::*;
/// use diesel::r2d2::{ConnectionManager, Pool, R2D2Connection};
/// use outbox_core::{OutboxConnection, Resync, ResyncOn};
/// # use outbox_core::{Outbox, testing::memory_pool};
///
/// /// As this service sends its entities again, whatever they are.
/// fn gently<E, C>(pool: Pool<ConnectionManager<C>>) -> Resync<E>
/// where
///     C: OutboxConnection + R2D2Connection,
///     E: ResyncOn<C>,
/// {
///     Resync::new(pool).rows_per_second(500)
/// }
///
/// # diesel::table! { product (id) { id -> BigInt, name -> Text, } }
/// # #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
/// # #[diesel(table_name = product)]
/// # #[outbox(aggregate = "product")]
/// # struct Product { id: i64, name: String }
/// let resync = gently::<Product, _>(memory_pool());
/// assert!(format!("{resync:?}").contains("rows_per_second: 500"));
/// ```
#[diagnostic::on_unimplemented(
    message = "the rows of `{Self}` cannot be sent again from `{C}`",
    note = "derive `Outbox` on it, enable outbox-core's feature for that database, and derive serde's `Serialize` \
            and `Deserialize` on the types of its primary key"
)]
pub trait ResyncOn<C>: Entity + 'static {
    /// What the key's fields are called in messages; empty where the message's key is not the primary key.
    #[doc(hidden)]
    const KEY_FIELDS: &'static [&'static str];

    /// The rows after a [place](Self::place), which is empty at the start.
    #[doc(hidden)]
    fn page(after: &str, rows: usize, connection: &mut C) -> Result<Vec<Self>>;

    /// Locks rows until the transaction ends, and gives them as they are now; what is gone is left out.
    #[doc(hidden)]
    fn lock_rows(rows: Vec<Self>, connection: &mut C) -> QueryResult<Vec<Self>>;

    /// Locks the row of a message key; needs [`KEY_FIELDS`](Self::KEY_FIELDS).
    #[doc(hidden)]
    fn lock_key(key: &str, connection: &mut C) -> Result<Found<Self>>;

    /// Where the row stands, as text.
    #[doc(hidden)]
    fn place(&self) -> Result<String>;
}

/// What is there under a key.
#[doc(hidden)]
#[derive(Debug)]
pub enum Found<E> {
    Row(E),
    /// The key has no row.
    Gone(Image),
    /// The text is no key of this entity.
    NoKey,
}

#[diagnostic::do_not_recommend]
impl<E, C> ResyncOn<C> for E
where
    C: StatementConnection,
    E: EntitySql<C::Backend> + 'static,
    E::Id: Serialize + DeserializeOwned,
    E::Table: HasTable<Table = E::Table>,
    <E::Table as diesel::Table>::PrimaryKey: QueryFragment<C::Backend> + 'static,
    for<'e> &'e E: Identifiable,
    for<'e> <&'e E as Identifiable>::Id: Serialize,
{
    const KEY_FIELDS: &'static [&'static str] = <E as EntityTable>::KEY_FIELDS;

    fn page(after: &str, rows: usize, connection: &mut C) -> Result<Vec<Self>> {
        let after: Option<E::Id> = if after.is_empty() { None } else { Some(serde_json::from_str(after)?) };
        let condition = match &after {
            Some(id) => E::is_after(id),
            None => Box::new(Statement::new("1 = 1")),
        };
        let page = in_order::<E, C>(select::<E, _>(condition)).sql(" LIMIT ").number(rows);
        Ok(connection.load_all(page)?)
    }

    fn lock_rows(rows: Vec<Self>, connection: &mut C) -> QueryResult<Vec<Self>> {
        // One writer: nothing has changed since they were read.
        if rows.is_empty() || C::Backend::KIND == ServerKind::Sqlite {
            return Ok(rows);
        }
        // Of as many conditions as rows, and never twice the same on MySQL: see `select_matching`.
        connection.load_all(select_locked::<E, _>(E::are_rows(&rows)).not_kept())
    }

    fn lock_key(key: &str, connection: &mut C) -> Result<Found<Self>> {
        let Some(id) = id_of_key::<E::Id>(key, <E as EntityTable>::KEY_FIELDS.len()) else {
            return Ok(Found::NoKey);
        };
        let row =
            connection.load_all::<E>(select_locked::<E, _>(E::is_row(&id)).not_kept())?.into_iter().next();
        match row {
            Some(row) if row.key() == key => Ok(Found::Row(row)),
            // "07" reads as 7, whose key is another.
            Some(_) => Ok(Found::NoKey),
            None => {
                let values = match serde_json::to_value(&id)? {
                    Value::Array(values) if <E as EntityTable>::KEY_FIELDS.len() > 1 => values,
                    value => vec![value],
                };
                let names = <E as EntityTable>::KEY_FIELDS.iter().map(|name| (*name).to_owned());
                Ok(Found::Gone(names.zip(values).collect()))
            }
        }
    }

    fn place(&self) -> Result<String> {
        Ok(serde_json::to_string(&Identifiable::id(self))?)
    }
}

/// The rows in the order of the primary key.
fn in_order<'a, E, C>(select: Statement<'a, C::Backend>) -> Statement<'a, C::Backend>
where
    C: Connection,
    E: EntityTable,
    E::Table: HasTable<Table = E::Table>,
    <E::Table as diesel::Table>::PrimaryKey: QueryFragment<C::Backend> + 'static,
{
    let key: Fragment<'a, C::Backend> = Box::new(<E::Table as HasTable>::table().primary_key());
    select.sql(" ORDER BY ").fragment(key)
}

/// The primary key that a message key of so many fields is the text of. Text is taken for text where it can be,
/// else for JSON: a number, a boolean.
fn id_of_key<Id: DeserializeOwned>(key: &str, fields: usize) -> Option<Id> {
    let parts = if fields == 1 { vec![key.to_owned()] } else { split_key(key) };
    // Each field may be the one or the other; keys have a few fields.
    if parts.len() != fields || fields > 8 {
        return None;
    }
    (0_u32..1 << fields).find_map(|choice| {
        let read = |(place, part): (usize, &String)| {
            if choice >> place & 1 == 0 {
                Some(Value::from(part.as_str()))
            } else {
                serde_json::from_str(part).ok()
            }
        };
        let mut values: Vec<Value> = parts.iter().enumerate().map(read).collect::<Option<_>>()?;
        let value = if fields == 1 { values.pop()? } else { Value::Array(values) };
        serde_json::from_value(value).ok()
    })
}

/// Takes apart what [`join_key`](crate::entity::join_key) has joined.
fn split_key(key: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = key.chars();
    while let Some(letter) = letters.next() {
        let part = match letter {
            ':' => {
                parts.push(String::new());
                continue;
            }
            '\\' => letters.next(),
            letter => Some(letter),
        };
        if let Some(last) = parts.last_mut() {
            last.extend(part);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entity::join_key;

    #[test]
    fn a_key_is_read_as_what_its_fields_are() {
        assert_eq!(id_of_key::<i64>("7", 1), Some(7));
        assert_eq!(id_of_key::<String>("7", 1), Some("7".into()));
        assert_eq!(id_of_key::<String>("\"a\"", 1), Some("\"a\"".into()));
        assert_eq!(id_of_key::<i64>("seven", 1), None);
        assert_eq!(id_of_key::<(i64, String)>("7:8", 2), Some((7, "8".into())));
        assert_eq!(id_of_key::<(i64, String)>("7", 2), None);
        assert_eq!(id_of_key::<(String, i32, bool)>(r"a\:b:-1:true", 3), Some(("a:b".into(), -1, true)));
    }

    proptest! {
        #[test]
        fn what_was_joined_comes_apart(a in "[a:\\\\]{0,5}", b in any::<i64>(), c in "\\PC{0,5}") {
            let key = join_key(&[&a, &b, &c]);
            prop_assert_eq!(id_of_key::<(String, i64, String)>(&key, 3), Some((a, b, c)));
        }
    }
}
