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
    pub(crate) fields: Vec<Field>,
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
        let this = || {
            Some(Self {
                krate: read.krate(),
                ident: read.ident.clone(),
                table: table?,
                aggregate: aggregate?,
                key: key?,
                fields: read.fields.iter().map(|(field, _)| field.clone()).collect(),
            })
        };
        finish(this(), errors)
    }
}
