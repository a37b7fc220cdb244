//! The contract check: a test that fails when a change of a message would break its subscribers.
//!
//! A service keeps a file with the schema of each message that it publishes under version control. The test
//! compares the file with what the code says now, and writes into it what is new.
//!
#![cfg_attr(
    all(feature = "derive", feature = "sqlite"),
    doc = r#"
```
use diesel::prelude::*;
use outbox_core::contract::Contract;
use outbox_core::{Outbox, OutboxEvent, assert_contract};
use serde::Serialize;

diesel::table! {
    product (id) { id -> BigInt, name -> Text, note -> Nullable<Text>, }
}

#[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
#[diesel(table_name = product)]
#[outbox(aggregate = "product")]
struct Product { id: i64, name: String, note: Option<String> }

#[derive(Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "price_raised", key = product_id)]
struct PriceRaised<'a> { product_id: i64, by_cents: i64, why: &'a str }

/// Every message that this service publishes.
fn published() -> Contract {
    Contract::new().entity::<Product>().event::<PriceRaised>()
}

// In a service, the body of a test.
assert_contract!("tests/contract/product.json", published());
```
"#
)]
//!
//! # What breaks subscribers
//!
//! Breaks: a kind of message or a field that is gone (a new name is a new one, and the old one is gone); a
//! field that may be null now; another type, and a type with more values, such as `i64` after `i32`; a field
//! that is redacted or hashed now, or no longer; a schema version that is lower than before.
//!
//! Does not break: a new kind of message; a new field; a type with fewer values, such as `i32` after `i64`
//! and `String` after `Option<String>`; another Rust type of the same JSON, such as `Arc<str>` after `String`
//! and `BTreeMap` after `HashMap`; the order of fields; a higher schema version, which excuses nothing either:
//! a subscriber that reads the old version fails on the new one.
//!
//! Types are compared by their texts and by the last word of a path. What is inside a type that is not of the
//! standard library is not seen, an alias is a type of its own, and `serde` attributes are seen as far as
//! [`FieldSchema`] tells them.
//!
//! # The variable `OUTBOX_CONTRACT`
//!
//! | value | what a check does |
//! |---|---|
//! | `write` | writes a missing file and what is new; a break is an error |
//! | `frozen` | writes nothing; a missing or outdated file is an error too |
//! | `accept` | writes everything, breaks included |
//!
//! Without it `write` holds, and `frozen` where the variable `CI` is set, as it is on the common CI services.

mod changes;
mod file;
mod form;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::changes::{Change, Changes};
use self::form::Form;
use crate::entity::{Entity, FieldSchema, Operation};
use crate::error::{Error, Result};
use crate::event::Event;

/// The messages that a service publishes, with their fields; see the [module](self).
///
/// Messages that are not named here are not checked.
///
#[cfg_attr(
    feature = "derive",
    doc = r##"
```
use outbox_core::contract::Contract;
use outbox_core::{Outbox, OutboxEvent};
# use diesel::prelude::*;

# diesel::table! { product (id) { id -> BigInt, name -> Text, } }
# #[derive(Queryable, Selectable, Identifiable, Insertable, AsChangeset, Outbox)]
# #[diesel(table_name = product)]
# #[outbox(aggregate = "product")]
# struct Product { id: i64, name: String }
#[derive(serde::Serialize, OutboxEvent)]
#[outbox(aggregate = "product", event = "sold", key = product_id)]
struct Sold { product_id: i64, count: u32 }

// `Product` is an entity.
let published = Contract::new().entity::<Product>().event::<Sold>().message("product", "counted", 1, &[]);
let text = published.to_json();
for kind in ["product.created", "product.updated", "product.deleted", "product.sold", "product.counted"] {
    assert!(text.contains(kind), "{kind}");
}
assert!(text.contains(r#""count": "u32""#));
```
"##
)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contract {
    /// In the order of their first kinds.
    messages: Vec<Schema>,
    /// Kinds that two different messages have.
    clashes: Vec<String>,
}

/// What a check found, and did to the file.
///
/// ```no_run
/// use outbox_core::FieldSchema;
/// use outbox_core::contract::{Contract, Outcome};
///
/// let published = Contract::new().message("product", "sold", 1, &[FieldSchema { name: "count", ty: "i64" }]);
/// match published.check("tests/contract/product.json")? {
///     Outcome::Unchanged => {}
///     Outcome::Written => println!("a new file: commit it"),
///     Outcome::Extended(changes) | Outcome::Accepted(changes) => println!("commit {changes:#?}"),
/// }
/// # Ok::<(), outbox_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The file says the same, whatever its order and spaces.
    Unchanged,
    /// There was no file, and now there is; commit it.
    Written,
    /// What no subscriber notices was written into the file, each change in a line of text; commit it.
    Extended(Vec<String>),
    /// By `OUTBOX_CONTRACT=accept` everything was written into the file, among it these breaks; commit it.
    Accepted(Vec<String>),
}

/// The kinds of message that have the same fields, as the file has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    /// `aggregate.event`, at least one.
    kinds: Vec<String>,
    /// Of an event's schema; an entity's changes have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    fields: BTreeMap<String, Form>,
}

impl Contract {
    /// A contract without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the messages of an entity: its `created`, `updated` and `deleted`, as they are called. The state
    /// for copies, `current`, has the same fields.
    #[must_use]
    pub fn entity<E: Entity>(self) -> Self {
        let events = [Operation::Created, Operation::Updated, Operation::Deleted].map(|o| E::EVENTS.of(o));
        self.with(E::AGGREGATE, &events, None, E::FIELDS)
    }

    /// With the messages of an event: one for a struct, one for each variant of an enum.
    #[must_use]
    pub fn event<E: Event>(self) -> Self {
        E::EVENTS.iter().fold(self, |contract, schema| {
            contract.message(E::AGGREGATE, schema.event, E::SCHEMA_VERSION, schema.fields)
        })
    }

    /// With an event that no derive describes, such as one recorded with
    /// [`Message::new`](crate::Message::new): its fields by their names in the payload, with the Rust types
    /// that they have there. `version` is that of its schema, 1 at first.
    ///
    /// ```
    /// use outbox_core::FieldSchema;
    /// use outbox_core::contract::Contract;
    ///
    /// let fields = [FieldSchema { name: "by_cents", ty: "i64" }];
    /// let contract = Contract::new().message("product", "price_raised", 1, &fields);
    /// assert!(contract.to_json().contains("product.price_raised"));
    /// ```
    #[must_use]
    pub fn message(self, aggregate: &str, event: &str, version: u32, fields: &[FieldSchema]) -> Self {
        self.with(aggregate, &[event], Some(version), fields)
    }

    fn with(
        mut self,
        aggregate: &str,
        events: &[&str],
        version: Option<u32>,
        fields: &[FieldSchema],
    ) -> Self {
        let mut kinds: Vec<String> = Vec::new();
        for event in events {
            let kind = format!("{aggregate}.{event}");
            // Operations may share a name.
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        let fields = fields.iter().map(|field| (field.name.to_owned(), field.ty.into())).collect();
        let schema = Schema { kinds, version, fields };
        if self.messages.contains(&schema) {
            return self;
        }
        let taken = |kind: &&String| self.messages.iter().any(|other| other.kinds.contains(*kind));
        let clashes: Vec<_> = schema.kinds.iter().filter(taken).cloned().collect();
        self.clashes.extend(clashes);
        self.messages.push(schema);
        self.messages.sort_by(|one, other| one.kinds.cmp(&other.kinds));
        self
    }

    /// The contract's text in the file: JSON, with messages and fields in the order of their names and each
    /// field in a line of its own.
    pub fn to_json(&self) -> String {
        file::text(&self.messages)
    }

    /// Compares the contract with its file and brings the file up to date, as `OUTBOX_CONTRACT`
    /// [says](self#the-variable-outbox_contract). A relative path begins at the current folder, which is the
    /// package's in tests; [`assert_contract!`](crate::assert_contract) is the same as an assertion.
    ///
    /// # Errors
    /// `Invalid` with a text for the developer: what breaks subscribers, why, and what to do; a file that is
    /// no contract, has an open merge conflict or is of a newer format; where nothing may be written, a
    /// missing or outdated file; a kind of message that two types have with different fields; another value
    /// of `OUTBOX_CONTRACT`. `Application` when the file cannot be read or written.
    ///
    /// ```
    /// use outbox_core::FieldSchema;
    /// use outbox_core::contract::{Contract, Outcome};
    ///
    /// let by_cents = [FieldSchema { name: "by_cents", ty: "i64" }];
    /// let published = Contract::new().message("product", "price_raised", 1, &by_cents);
    /// assert_eq!(published.check("tests/contract/price_raised.json")?, Outcome::Unchanged);
    ///
    /// // Another message of the same kind: nobody could tell them apart.
    /// let clash = published.message("product", "price_raised", 1, &[]);
    /// assert!(clash.check("tests/contract/price_raised.json").is_err());
    /// # Ok::<(), outbox_core::Error>(())
    /// ```
    pub fn check(&self, path: impl AsRef<Path>) -> Result<Outcome> {
        let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let mode = Mode::new(variable("OUTBOX_CONTRACT").as_deref(), variable("CI").as_deref())?;
        self.check_as(mode, path.as_ref())
    }

    fn check_as(&self, mode: Mode, path: &Path) -> Result<Outcome> {
        if !self.clashes.is_empty() {
            return Err(Error::invalid(format!(
                "two types publish {} with different fields; give one of them other event names, or both the \
                 same fields",
                self.clashes.join(", ")
            )));
        }
        let Some(was) = file::read(path)? else {
            if mode == Mode::Frozen {
                return Err(frozen(path, "is missing"));
            }
            file::write(path, &self.messages)?;
            return Ok(Outcome::Written);
        };
        let Changes { breaks, additions } = Changes::between(&was, &self.messages);
        if breaks.is_empty() && additions.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        if !breaks.is_empty() && mode != Mode::Accept {
            return Err(broken(path, &breaks));
        }
        if mode == Mode::Frozen {
            return Err(frozen(path, &format!("is outdated:\n{}", changes::paragraphs(&additions))));
        }
        file::write(path, &self.messages)?;
        Ok(if breaks.is_empty() {
            Outcome::Extended(changes::lines(additions))
        } else {
            Outcome::Accepted(changes::lines(breaks))
        })
    }
}

/// What a check may do to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Write,
    Frozen,
    Accept,
}

impl Mode {
    /// By the environment variables `OUTBOX_CONTRACT` and `CI`; an empty one is none.
    fn new(contract: Option<&str>, ci: Option<&str>) -> Result<Self> {
        match contract.unwrap_or_default() {
            "" if matches!(ci, None | Some("" | "0" | "false")) => Ok(Self::Write),
            "" | "frozen" => Ok(Self::Frozen),
            "write" => Ok(Self::Write),
            "accept" => Ok(Self::Accept),
            other => Err(Error::invalid(format!(
                "OUTBOX_CONTRACT is `{other}`; it takes `write`, `frozen` and `accept`"
            ))),
        }
    }
}

fn frozen(path: &Path, what: &str) -> Error {
    Error::invalid(format!(
        "contract {} {}\nNothing is written here (OUTBOX_CONTRACT=frozen, or CI is set): run the test on your \
         machine and commit the file.",
        path.display(),
        what.trim_end()
    ))
}

fn broken(path: &Path, breaks: &[Change]) -> Error {
    Error::invalid(format!(
        "contract {} is broken: subscribers that read messages as it has them would fail.\n{}\n{WAYS_ON}",
        path.display(),
        changes::paragraphs(breaks)
    ))
}

const WAYS_ON: &str = "\
Ways on:
  - keep the field as it is and put the new one beside it, until no subscriber reads the old one;
  - publish the new form under a new event name, beside the old one, until no subscriber takes that; a higher
    schema version alone does not help: a subscriber that reads the old version fails on the new one;
  - if every subscriber is ready for the change, or none reads what changes: run the test once with
    OUTBOX_CONTRACT=accept and commit the file.";

/// Checks a [`Contract`](crate::contract::Contract) with its file as
/// [`check`](crate::contract::Contract::check) does; a relative path begins at the package that calls it.
///
/// ```
/// use outbox_core::{FieldSchema, assert_contract, contract::Contract};
///
/// let fields = [FieldSchema { name: "by_cents", ty: "i64" }];
/// let published = Contract::new().message("product", "price_raised", 1, &fields);
/// assert_contract!("tests/contract/price_raised.json", published);
/// ```
///
/// # Panics
/// With the text of the error, when a change would break subscribers or the file cannot be used.
#[macro_export]
macro_rules! assert_contract {
    ($path:expr, $contract:expr $(,)?) => {
        $crate::contract::assert_in(::core::env!("CARGO_MANIFEST_DIR"), &$path, &$contract)
    };
}

/// What [`assert_contract!`](crate::assert_contract) calls.
#[doc(hidden)]
#[track_caller]
pub fn assert_in(package: &str, path: &(impl AsRef<Path> + ?Sized), contract: &Contract) {
    if let Err(e) = contract.check(Path::new(package).join(path)) {
        panic!("{e}");
    }
}

#[cfg(test)]
mod tests;
