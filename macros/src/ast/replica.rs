//! `#[derive(Replica)]`.

use syn::ext::IdentExt;
use syn::{DeriveInput, Ident, LitStr, Path};

use super::read::{Field, Read, finish, name};
use crate::attr::{Derive, Errors};

/// The columns of a copy that are not the user's to write.
const VERSION_COLUMNS: [&str; 3] = ["outbox_generation", "outbox_id", "outbox_bucket"];

/// `#[derive(Replica)]`.
pub(crate) struct Replica {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) table: Path,
    pub(crate) aggregate: LitStr,
    pub(crate) key: Vec<Field>,
    /// The fields that follow the message.
    pub(crate) fields: Vec<Followed>,
    /// The fields that belong to the service.
    pub(crate) local: Vec<Field>,
    /// The column that marks deleted rows.
    pub(crate) soft_delete: Option<Ident>,
    /// The event names of `created`, `updated` and `deleted`.
    pub(crate) events: [String; 3],
}

/// A field that follows the message.
pub(crate) struct Followed {
    pub(crate) field: Field,
    /// The function that makes it from what the message holds.
    pub(crate) with: Option<Path>,
}

impl Replica {
    pub(crate) fn new(input: &DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let read = Read::new(input, Derive::Replica, &mut errors);
        read.refuse_generics(
            "the row of a copy has neither generics nor lifetimes: it is read from a message; use owned types",
            |_| true,
            &mut errors,
        );
        read.refuse_embed(&mut errors);
        let aggregate = read.required(
            &read.container.of,
            "aggregate that it follows",
            "#[replica(of = \"…\")]",
            &mut errors,
        );
        if let Some(aggregate) = &aggregate {
            name(aggregate, "an aggregate", &mut errors);
        }
        let table = read.table(&mut errors);
        let container = &read.container;
        let key = read.key(container.key.as_deref().or(container.diesel_key.as_deref()), &mut errors);
        for (index, (field, on)) in read.fields.iter().enumerate() {
            let column = field.column.unraw();
            let place = on.column.as_ref().unwrap_or(&field.ident);
            if VERSION_COLUMNS.iter().any(|reserved| column == reserved) {
                errors.push(place, format!("the outbox itself writes column `{column}`; remove the field"));
            }
            if read.fields.iter().take(index).any(|(earlier, _)| earlier.column.unraw() == column) {
                errors.push(place, format!("column `{column}` has a field already"));
            }
        }
        check_local(&read, key.as_deref().unwrap_or_default(), &mut errors);
        check_soft_delete(&read, &mut errors);
        let events = events(&read, &mut errors);
        let (local, followed): (Vec<_>, Vec<_>) = read.fields.iter().partition(|(_, on)| on.local.is_some());
        let this = || {
            Some(Self {
                krate: read.krate(),
                ident: read.ident.clone(),
                table: table?,
                aggregate: aggregate?,
                key: key?,
                fields: followed
                    .into_iter()
                    .map(|(field, on)| Followed { field: field.clone(), with: on.with.clone() })
                    .collect(),
                local: local.into_iter().map(|(field, _)| field.clone()).collect(),
                soft_delete: container.soft_delete.clone(),
                events,
            })
        };
        finish(this(), errors)
    }
}

fn check_local(read: &Read<'_>, key: &[Field], errors: &mut Errors) {
    for (field, on) in &read.fields {
        let Some(local) = &on.local else { continue };
        if key.iter().any(|key| key.ident == field.ident) {
            errors.push(
                local,
                format!(
                    "`{}` is a key field and cannot be local: the copy finds its row by it; remove `local`, or \
                     choose other fields with `#[replica(key(…))]`",
                    field.ident
                ),
            );
        } else if on.from.is_some() || on.with.is_some() {
            errors.push(
                local,
                "a local field takes nothing from the message; remove `local`, or `from` and `with`",
            );
        }
    }
}

/// The marking column is written by the outbox alone; a local field may read it.
fn check_soft_delete(read: &Read<'_>, errors: &mut Errors) {
    let Some(column) = &read.container.soft_delete else { return };
    if VERSION_COLUMNS.iter().any(|reserved| column.unraw() == reserved) {
        errors
            .push(column, format!("`{column}` is a column of the version; mark deleted rows in another one"));
    }
    if let Some((field, on)) = read.find_column(column)
        && on.local.is_none()
    {
        errors.push(
            on.column.as_ref().unwrap_or(&field.ident),
            format!("column `{column}` marks deleted rows; remove the field, or mark it `#[replica(local)]`"),
        );
    }
}

/// The names by which an operation is told.
fn events(read: &Read<'_>, errors: &mut Errors) -> [String; 3] {
    let container = &read.container;
    let given =
        [("created", &container.created), ("updated", &container.updated), ("deleted", &container.deleted)];
    let names =
        given.map(|(default, given)| given.as_ref().map_or_else(|| default.to_owned(), LitStr::value));
    for (at, (_, text)) in given.iter().enumerate() {
        let Some(text) = text else { continue };
        name(text, "an event", errors);
        if text.value() == "current" {
            errors.push(
                text,
                "`current` is what a state sent again is always called; give the event's own name",
            );
        }
        // Of two that are given the second is the mistake.
        let collides = |(other, (_, given)): (usize, &(&str, &Option<LitStr>))| {
            other != at && names.get(other) == names.get(at) && (given.is_none() || other < at)
        };
        if let Some((_, (other, _))) = given.iter().enumerate().find(|pair| collides(*pair)) {
            errors.push(
                text,
                format!(
                    "`{}` is the name of the operation `{other}` already; give each one of its own",
                    text.value()
                ),
            );
        }
    }
    names
}
