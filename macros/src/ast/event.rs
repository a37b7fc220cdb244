//! `#[derive(OutboxEvent)]`.

use syn::{DeriveInput, GenericParam, Generics, Ident, LitStr, Path};

use super::read::{Field, Read, finish, name};
use crate::attr::{Derive, Errors};

/// `#[derive(OutboxEvent)]`.
pub(crate) struct Event {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) aggregate: LitStr,
    pub(crate) event: LitStr,
    pub(crate) key: Vec<Field>,
}

impl Event {
    pub(crate) fn new(input: &DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let read = Read::new(input, Derive::Event, &mut errors);
        read.refuse_generics(
            "an event may have lifetimes, not type or const parameters: one kind of message has one payload; \
             derive it for each payload",
            |parameter| !matches!(parameter, GenericParam::Lifetime(_)),
            &mut errors,
        );
        let aggregate = read.required(
            &read.container.aggregate,
            "aggregate",
            "#[outbox(aggregate = \"…\")]",
            &mut errors,
        );
        let event = read.required(&read.container.event, "event", "#[outbox(event = \"…\")]", &mut errors);
        if let Some(aggregate) = &aggregate {
            name(aggregate, "an aggregate", &mut errors);
        }
        if let Some(event) = &event {
            name(event, "an event", &mut errors);
            if event.value() == "current" {
                errors.push(
                    event,
                    "`current` re-emits an entity's state and never reaches handlers; choose another name",
                );
            }
        }
        if read.container.key.is_none() {
            read.missing("key", "#[outbox(key = field)]", &mut errors);
        }
        let key = match &read.container.key {
            Some(names) => read.key(Some(names), &mut errors),
            None => None,
        };
        let this = || {
            Some(Self {
                krate: read.krate(),
                ident: read.ident.clone(),
                generics: read.generics.clone(),
                aggregate: aggregate?,
                event: event?,
                key: key?,
            })
        };
        finish(this(), errors)
    }
}
