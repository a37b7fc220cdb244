//! The derive macros of `outbox-core`, which re-exports them beside the traits they write; name that crate,
//! not this one.
//!
//! Each derive goes the same way: `attr` reads the attributes, `ast` puts them into a tree of our own and
//! checks it across fields, `expand` writes the tokens. Where something is wrong, all mistakes are reported
//! in one compile and `fallback` writes stub impls, so that no further errors follow from the missing ones.

mod ast;
mod attr;
mod expand;
mod fallback;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a Diesel model an *entity*, whose writes are recorded, or marks an *insertable* of one.
///
/// | attribute | where | value | default |
/// |---|---|---|---|
/// | `#[outbox(aggregate = "…")]` | entity | 1 to 100 of `[A-Za-z0-9_-]`, first word of the message's kind | required |
/// | `#[outbox(entity = …)]` | insertable | the entity that an inserted row is | required |
/// | `#[outbox(key(a, b))]` | entity | the fields of the message key, none of them an `Option` | `#[diesel(primary_key(…))]`, else `id` |
/// | `#[outbox(key(a, b))]` | insertable | the columns by which MySQL and MariaDB find the inserted row | `#[diesel(primary_key(…))]`, else `id` |
/// | `#[outbox(created = "…")]`, `updated`, `deleted` | entity | what its events are called | `created`, `updated`, `deleted` |
/// | `#[outbox(strict)]` | entity | its messages take a lock of their key before they are written: order for keys that several rows share | |
/// | `#[outbox(skip)]` | entity's field | not recorded; not for key fields | |
/// | `#[outbox(rename = "…")]` | entity's field | its name in the message | as serde has it, else the field's name |
/// | `#[outbox(redact)]` | entity's field | a fixed mark is recorded instead of the value; not for key fields | |
/// | `#[outbox(hash)]` | entity's field | a keyed hash is recorded (`outbox_core::set_hash_key`): copies still join by it; not for key fields | |
/// | `#[outbox(version)]` | entity's field | an integer, the entity's own version number: it travels as a header | |
/// | `#[outbox(crate = path)]` | struct | where `outbox_core` is | `::outbox_core` |
/// | `#[diesel(table_name = path)]` | struct | the table | required |
/// | `#[diesel(column_name = …)]` | field | its column, for keys | the field's name |
///
/// A recorded field needs `Serialize`, a key field `Display`. The struct itself is not serialized, but serde's
/// attributes are followed where ours say nothing else: `rename`, `rename_all`, `skip`, `skip_serializing`,
/// `with` and `serialize_with`; `flatten` is refused. A recorded field is always there: `skip_serializing_if` is not
/// followed, and neither is what stands for the whole struct (`into`, `transparent`, `tag`).
///
/// An entity also needs Diesel's `Queryable`, `Selectable`, `Identifiable`, `Insertable` and `AsChangeset`;
/// rows are found by Diesel's primary key, whatever the message key is. An insertable needs `Insertable`.
/// Diesel's rules for `None` hold: an insert leaves the column to its default and an update leaves it as
/// it is, unless the struct says `#[diesel(treat_none_as_null = true)]`, which an entity with `Option`
/// fields should.
///
/// MySQL and MariaDB have no RETURNING that serves both, so the row is read back: an entity by its primary
/// key, an insertable by its key fields, or, when it has no field for its single key or `None` in it, by
/// `LAST_INSERT_ID()`, which asks for an AUTO_INCREMENT column.
///
/// Not supported: enums, unions, tuple structs, type and const parameters, lifetimes on entities,
/// `#[diesel(embed)]` in entities, and `#[diesel(serialize_as = …)]`, with which Diesel does not insert by
/// reference.
///
/// <details><summary>What it writes</summary>
///
/// ```text
/// impl Entity for Product {
///     const AGGREGATE: &'static str = "product";
///     const SCHEMA: &'static str = "…"; // FNV-1a 64 of the recorded names and types
///     fn key(&self) -> String { join_key(&[&self.id]) }
///     fn write_fields<W: FieldWriter>(&self, fields: &mut W) -> Result<()> { put(fields, "id", &self.id)?; … }
/// }
/// // For each database that outbox-core is built with, pieces of SQL of Diesel's:
/// impl FromRow<Sqlite> for Product { … }
/// impl EntitySql<Sqlite> for Product { fn selection() …; fn is_row(id) …; fn changes(&self) … }
/// impl NewRowSql<Sqlite> for Product { fn values(&self) … }
/// // outbox-core makes statements of them, and so InsertOn, EntityOn and, unless the database generates the
/// // key, UpsertOn; and AsyncInsertOn, AsyncEntityOn, AsyncUpsertOn for diesel-async.
/// ```
///
/// </details>
#[proc_macro_derive(Outbox, attributes(outbox, diesel))]
pub fn derive_outbox(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    outbox(&input).into()
}

/// Makes a struct a domain event, or an enum one event for each variant, to be recorded beside the entity it
/// is about.
///
/// | attribute | where | value | default |
/// |---|---|---|---|
/// | `#[outbox(aggregate = "…")]` | struct, enum | 1 to 100 of `[A-Za-z0-9_-]`, first word of the message's kind | required |
/// | `#[outbox(event = "…")]` | struct | 1 to 100 of `[A-Za-z0-9_-]`, second word; not `current`, which handlers never see | required |
/// | `#[outbox(event = "…")]` | variant | the same; no two variants have one name | the variant's name in snake case, as serde has it: `PriceRaised` is `price_raised` |
/// | `#[outbox(key = field)]`, `#[outbox(key(a, b))]` | struct | the fields of the aggregate's key, as its entity has them; none an `Option` | required |
/// | `#[outbox(key = field)]`, `#[outbox(key(a, b))]` | variant | the same, of this variant's fields | the enum's |
/// | `#[outbox(key = field)]`, `#[outbox(key(a, b))]` | enum | the key of the variants that name none | |
/// | `#[outbox(version = 2)]` | struct, enum | the version of the payload's schema, an integer of at least 1 | 1 |
/// | `#[outbox(strict)]` | struct, enum | keeps events of one key in order where no transaction locks a row of that key, at the price of a lock | |
/// | `#[outbox(crate = path)]` | struct, enum | where `outbox_core` is | `::outbox_core` |
///
/// A key field needs `Display`. A variant has named fields, or holds one struct that is an event of the same
/// aggregate: that event's key is taken, its name is not.
///
/// The payload is the type as serde serializes it: of an enum, in the form that the user chose with serde.
/// `#[serde(tag = "type")]` suits best: the fields stand at the top, so that one variant's payload also reads
/// as a struct of its fields, and the whole enum reads back, for `Subscriber::on_event`. With
/// `#[serde(untagged)]` only handlers of one kind read it safely. Without either the fields stand under the
/// variant's name.
///
/// `EVENTS` names the fields as they are called in the payload. It follows serde's `rename`, `rename_all`,
/// `rename_all_fields`, `skip` and `skip_serializing`; what `skip_serializing_if` may leave out is an `Option`. What
/// `flatten`, `with` or `serialize_with` puts in the place of a field, and `into` or `transparent` in the place of
/// all, cannot be seen: the type of such fields is `?`. A tag is not among
/// the fields, and neither is what a `Serialize` written by hand does.
///
/// Lifetimes are fine; unions, tuple structs, unit and tuple variants, type and const parameters are not
/// supported.
///
/// <details><summary>What it writes</summary>
///
/// ```text
/// impl Event for PriceRaised {
///     const AGGREGATE: &'static str = "product";
///     const EVENTS: &'static [EventSchema] = &[EventSchema { event: "price_raised", fields: &[…] }];
///     const SCHEMA_VERSION: u32 = 1;
///     const STRICT: bool = false;
///     fn event(&self) -> &'static str { "price_raised" }
///     fn key(&self) -> String { join_key(&[&self.product_id]) }
/// }
/// ```
///
/// </details>
#[proc_macro_derive(OutboxEvent, attributes(outbox))]
pub fn derive_outbox_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    event(&input).into()
}

/// Makes a struct the row of a copy: a table that follows an entity of another service.
///
/// | attribute | where | value | default |
/// |---|---|---|---|
/// | `#[replica(of = "…")]` | struct | the aggregate it follows | required |
/// | `#[replica(table = path)]`, `#[diesel(table_name = path)]` | struct | the table | required |
/// | `#[replica(key(a, b))]` | struct | the fields that find the row, none an `Option` | `#[diesel(primary_key(…))]`, else `id` |
/// | `#[replica(soft_delete = column)]` | struct | the column that a delete marks, in place of deleting the row | |
/// | `#[replica(created = "…", updated = "…", deleted = "…")]` | struct | the aggregate's event names, where they are its own | `created`, `updated`, `deleted` |
/// | `#[replica(from = "…")]` | field | its name in the message | the field's name |
/// | `#[replica(with = path)]` | field | a function that makes it from what the message holds: `fn(T) -> Result<Field, E>` | |
/// | `#[replica(local)]` | field | the service's own: the copy never writes its column; not for key fields | |
/// | `#[replica(crate = path)]` | struct | where `outbox_core` is | `::outbox_core` |
/// | `#[diesel(column_name = …)]` | field | its column | the field's name |
///
/// None of Diesel's derives is needed. A field needs `Deserialize`, and to be writable to its column. The
/// table also needs the columns `outbox_generation` and `outbox_id` (`BigInt`) and `outbox_bucket`
/// (`SmallInt`); columns without a field are never touched. `None` is written as NULL.
///
/// With `with` it is the function's parameter that needs `Deserialize`; its error needs `Display`, stands in
/// `inbox_held` and in the log, and should not repeat the value. A `local` field needs `Default`, which is
/// its value before the row is read from the table; an insert leaves the column to the database's default.
///
/// The column of `soft_delete` is either a `Bool`, written `true` and `false`, or a nullable `Timestamp`,
/// `Timestamptz`, `Datetime` (MySQL) or `TimestamptzSqlite`, written `CURRENT_TIMESTAMP` (in the time zone of
/// the session, where the type has none) and `NULL`. A newer change of the row unmarks it. The delete of a row
/// that was never seen is remembered and inserts none. To read the mark, give the column a `local` field.
///
/// Not supported: enums, unions, tuple structs, generics and lifetimes, `#[diesel(embed)]` and
/// `#[diesel(serialize_as = …)]`.
///
/// <details><summary>What it writes</summary>
///
/// ```text
/// impl Replica for ProductCopy {
///     const AGGREGATE: &'static str = "product";
///     const COPY: &'static str = "product_copies";
///     const EVENTS: EventNames = EventNames { created: "created", updated: "updated", deleted: "deleted" };
///     fn from_image(image: &Image) -> Result<Self> { Ok(Self { id: field(image, "id")?, … }) }
/// }
/// // For each database that outbox-core is built with:
/// impl ReplicaOn<SqliteConnection> for ProductCopy { … }
/// ```
///
/// </details>
#[proc_macro_derive(Replica, attributes(replica, diesel))]
pub fn derive_replica(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    replica(&input).into()
}

fn outbox(input: &DeriveInput) -> proc_macro2::TokenStream {
    ast::Outbox::new(input)
        .map_or_else(|error| fallback::outbox(input, &error), |outbox| expand::outbox(&outbox))
}

fn event(input: &DeriveInput) -> proc_macro2::TokenStream {
    ast::Event::new(input).map_or_else(|error| fallback::event(input, &error), |event| expand::event(&event))
}

fn replica(input: &DeriveInput) -> proc_macro2::TokenStream {
    ast::Replica::new(input)
        .map_or_else(|error| fallback::replica(input, &error), |replica| expand::replica(&replica))
}
