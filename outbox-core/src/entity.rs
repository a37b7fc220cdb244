//! What the derives write: how an entity or a domain event becomes a message. Names no database type.

use serde::{Deserialize, Serialize};

/// What was done to an entity; the event name of its message.
///
/// ```
/// use outbox_core::Operation;
///
/// let kinds = Operation::ALL.map(|operation| format!("product.{}", operation.name()));
/// assert_eq!(kinds, ["product.created", "product.updated", "product.deleted", "product.current"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Inserted: `created`.
    Created,
    /// Updated: `updated`.
    Updated,
    /// Deleted: `deleted`.
    Deleted,
    /// Its state re-emitted for copies, nothing happened: `current`. Handlers never see it.
    Current,
}

impl Operation {
    /// All operations, in the order in which an entity meets them.
    pub const ALL: [Self; 4] = [Self::Created, Self::Updated, Self::Deleted, Self::Current];

    /// The event name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Current => "current",
        }
    }

    #[doc(hidden)]
    pub fn of_upsert(is_new: bool) -> Self {
        if is_new { Self::Created } else { Self::Updated }
    }
}

/// The event names of an entity's messages; `current` is always called so.
///
/// ```
/// use outbox_core::{EventNames, Operation};
///
/// // As `#[outbox(created = "signed_up")]` has it.
/// let names = EventNames { created: "signed_up", ..EventNames::DEFAULT };
/// assert_eq!(names.of(Operation::Created), "signed_up");
/// assert_eq!((names.of(Operation::Deleted), names.of(Operation::Current)), ("deleted", "current"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventNames {
    /// Of an insert.
    pub created: &'static str,
    /// Of an update.
    pub updated: &'static str,
    /// Of a delete.
    pub deleted: &'static str,
}

impl EventNames {
    /// `created`, `updated`, `deleted`.
    pub const DEFAULT: Self = Self {
        created: Operation::Created.name(),
        updated: Operation::Updated.name(),
        deleted: Operation::Deleted.name(),
    };

    /// The event name of an operation.
    pub const fn of(&self, operation: Operation) -> &'static str {
        match operation {
            Operation::Created => self.created,
            Operation::Updated => self.updated,
            Operation::Deleted => self.deleted,
            Operation::Current => Operation::Current.name(),
        }
    }
}

/// A field of a message's payload, as its contract has it.
///
#[cfg_attr(
    feature = "derive",
    doc = r#"
```
use diesel::prelude::*;
use outbox_core::{Entity, FieldSchema, Outbox};

# diesel::table! {
#     customer (id) { id -> BigInt, title -> Text, email -> Nullable<Text>, phone -> Text, }
# }
#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = customer)]
#[outbox(aggregate = "customer")]
struct Customer {
    id: i64,
    #[outbox(rename = "name")] title: String,
    #[outbox(hash)] email: Option<String>,
    #[outbox(skip)] phone: String,
}

let field = |name, ty| FieldSchema { name, ty };
assert_eq!(Customer::FIELDS, [field("id", "i64"), field("name", "String"), field("email", "hashed")]);
```
"#
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldSchema {
    /// Its name in the message.
    pub name: &'static str,
    /// Its Rust type without spaces; `redacted` and `hashed` for fields that are recorded so.
    pub ty: &'static str,
}

/// A Diesel model whose writes are recorded; derive it with `#[derive(Outbox)]`.
///
/// ```standalone_crate
/// # include!("doc_setup.rs");
/// # fn main() {
/// use outbox_core::Entity;
///
/// let lamp = Product { id: 7, name: "lamp".into(), stock: 5 };
/// assert_eq!((Product::AGGREGATE, lamp.key().as_str()), ("product", "7"));
/// assert_eq!(lamp.image().unwrap()["stock"], 5);
/// # }
/// ```
///
/// What the attributes of the derive say can be read here:
#[cfg_attr(
    feature = "derive",
    doc = r#"
```
use diesel::prelude::*;
use outbox_core::{Entity, Outbox};

# diesel::table! {
#     customer (id) { id -> BigInt, shop -> Text, edition -> Integer, }
# }
#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = customer)]
#[outbox(aggregate = "customer", key(shop, id), created = "signed_up", strict)]
struct Customer { id: i64, shop: String, #[outbox(version)] edition: i32 }

let ann = Customer { id: 7, shop: "eu".into(), edition: 3 };
assert_eq!((ann.key().as_str(), ann.version()), ("eu:7", Some(3)));
assert_eq!(Customer::EVENTS.created, "signed_up");
assert_eq!(Customer::FIELDS.iter().map(|field| field.name).collect::<Vec<_>>(), ["id", "shop", "edition"]);
assert_eq!(Customer::SCHEMA.len(), 16, "hex digits");
assert!(Customer::STRICT);
```
"#
)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an outbox entity",
    note = "add `#[derive(Outbox)]` and `#[outbox(aggregate = \"…\")]` to it"
)]
pub trait Entity: Sized {
    /// The aggregate type, first word of the message's kind.
    const AGGREGATE: &'static str;
    /// A fingerprint of the image's field names and types.
    const SCHEMA: &'static str;
    /// The fields of the image.
    const FIELDS: &'static [FieldSchema];
    /// What its events are called.
    const EVENTS: EventNames = EventNames::DEFAULT;
    /// Whether its messages take a lock of their key before they are written, for keys that several rows
    /// share: order then holds although no row lock is common to the writers.
    const STRICT: bool = false;

    /// The key in text; several fields are joined by `:`, with `:` and `\` in them escaped by `\`.
    fn key(&self) -> String;

    /// Gives the recorded fields to a writer, in the order of their names.
    ///
    /// # Errors
    /// When a field's `Serialize` fails.
    fn write_fields<W: FieldWriter>(&self, fields: &mut W) -> serde_json::Result<()>;

    /// The recorded fields, by name.
    ///
    /// # Errors
    /// When a field's `Serialize` fails.
    fn image(&self) -> serde_json::Result<Image> {
        let mut image = Image::new();
        self.write_fields(&mut image)?;
        Ok(image)
    }

    /// The entity's own version number, where it has one: it travels as a header.
    fn version(&self) -> Option<i64> {
        None
    }
}

/// Takes an entity's recorded fields: into an [`Image`], or straight into the text of a message.
///
#[cfg_attr(
    feature = "derive",
    doc = r##"
```
# use diesel::prelude::*;
# use outbox_core::Outbox;
use outbox_core::{Entity, FieldWriter};
use serde::Serialize;

# diesel::table! {
#     product (id) { id -> BigInt, name -> Text, edition -> BigInt, }
# }
# #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
# #[diesel(table_name = product)]
# #[outbox(aggregate = "product")]
# struct Product { id: i64, name: String, #[outbox(skip)] edition: i64 }
/// A line for a log.
#[derive(Default)]
struct Line(String);

impl FieldWriter for Line {
    fn put<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> serde_json::Result<()> {
        self.0 += &format!("{name}={} ", serde_json::to_string(value)?);
        Ok(())
    }
}

let (lamp, mut line) = (Product { id: 7, name: "lamp".into(), edition: 3 }, Line::default());
lamp.write_fields(&mut line)?;
assert_eq!(line.0, r#"id=7 name="lamp" "#);
# Ok::<(), serde_json::Error>(())
```
"##
)]
pub trait FieldWriter {
    /// Takes a field.
    ///
    /// # Errors
    /// When its `Serialize` fails.
    fn put<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> serde_json::Result<()>;
}

impl FieldWriter for Image {
    fn put<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> serde_json::Result<()> {
        self.insert(name.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }
}

/// The members of a JSON object, each with a comma before it unless it is the first.
struct Members<'t>(&'t mut Vec<u8>);

impl FieldWriter for Members<'_> {
    fn put<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> serde_json::Result<()> {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut *self.0, name)?;
        self.0.push(b':');
        serde_json::to_writer(&mut *self.0, value)
    }
}

/// The text of an [`EntityChange`] with the entity as its `part`, `after` or `before`.
pub(crate) fn change_text<E: Entity>(
    part: &'static str,
    entity: &E,
    changed: Option<&[String]>,
) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(512);
    text.push(b'{');
    serde_json::to_writer(&mut text, part)?;
    text.extend_from_slice(b":{");
    entity.write_fields(&mut Members(&mut text))?;
    text.push(b'}');
    if let Some(changed) = changed {
        Members(&mut text).put("changed", changed)?;
    }
    text.push(b'}');
    Ok(text)
}

/// An entity's recorded fields, by name.
///
/// ```
/// use outbox_core::{EntityChange, Image};
///
/// fn price(image: &Image) -> Option<i64> {
///     image.get("price_cents")?.as_i64()
/// }
///
/// let change: EntityChange = serde_json::from_str(r#"{"after":{"id":7,"price_cents":995}}"#)?;
/// assert_eq!(change.after.as_ref().and_then(price), Some(995));
/// # Ok::<(), outbox_core::Error>(())
/// ```
pub type Image = serde_json::Map<String, serde_json::Value>;

/// The payload of `created`, `updated`, `deleted` and `current` messages.
///
/// ```
/// use outbox_core::EntityChange;
///
/// let read = |payload: &str| serde_json::from_str::<EntityChange>(payload);
/// let updated = read(r#"{"after":{"id":7,"stock":4},"changed":["stock"]}"#)?;
/// assert_eq!(updated.changed.as_deref(), Some(["stock".to_owned()].as_slice()));
///
/// let deleted = read(r#"{"before":{"id":7,"stock":4}}"#)?;
/// assert!(deleted.after.is_none());
/// assert_eq!(deleted.image(), updated.image(), "the last row is that of the update");
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EntityChange {
    /// The row after the change; missing for `deleted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Image>,
    /// The last row, for `deleted` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Image>,
    /// The fields that differ, where the writer said what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<String>>,
}

impl EntityChange {
    /// The one image it holds: the row after the change, or the last one.
    pub fn image(&self) -> Option<&Image> {
        self.after.as_ref().or(self.before.as_ref())
    }
}

/// Joins the fields of a key: see [`Entity::key`].
#[doc(hidden)]
pub fn join_key(fields: &[&dyn std::fmt::Display]) -> String {
    if let [only] = fields {
        return only.to_string();
    }
    let escaped: Vec<_> =
        fields.iter().map(|field| field.to_string().replace('\\', r"\\").replace(':', r"\:")).collect();
    escaped.join(":")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_single_key_is_left_as_it_is() {
        assert_eq!(join_key(&[&"a:b"]), "a:b");
        assert_eq!(join_key(&[&"a:b", &7]), r"a\:b:7");
    }

    proptest! {
        #[test]
        fn different_keys_stay_different(a in "[a:\\\\]{0,4}", b in "[a:\\\\]{0,4}", c in "[a:\\\\]{0,4}", d in "[a:\\\\]{0,4}") {
            let same = join_key(&[&a, &b]) == join_key(&[&c, &d]);
            prop_assert_eq!(same, (a, b) == (c, d));
        }
    }
}
