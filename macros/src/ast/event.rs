//! `#[derive(OutboxEvent)]`: a struct is one kind of event, an enum one for each variant.

use syn::ext::IdentExt;
use syn::{
    Data, DataEnum, DeriveInput, Fields, FieldsNamed, GenericParam, Generics, Ident, LitStr, Path, Type,
    Variant,
};

use super::payload::{self, PayloadField, Serde};
use super::read::{Field, Read, finish, name, twice};
use crate::attr::{self, Container, Derive, Errors};

/// `#[derive(OutboxEvent)]`.
pub(crate) struct Event {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) aggregate: LitStr,
    pub(crate) version: u32,
    pub(crate) is_strict: bool,
    /// At least one.
    pub(crate) kinds: Vec<Kind>,
}

/// One kind of event.
pub(crate) struct Kind {
    /// The variant that it is; none for a struct.
    pub(crate) variant: Option<Ident>,
    pub(crate) event: LitStr,
    pub(crate) content: Content,
}

/// What a kind of event is made of.
pub(crate) enum Content {
    /// Named fields: those of the key, and those of the payload.
    Fields { key: Vec<Field>, payload: Vec<PayloadField> },
    /// One unnamed field, an event itself, whose key it is.
    Event { inner: Type, is_seen: bool },
}

impl Event {
    pub(crate) fn new(input: &DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let read = match &input.data {
            Data::Enum(_) => Read::without_fields(input, Derive::Event, &mut errors),
            _ => Read::new(input, Derive::Event, &mut errors),
        };
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
        if let Some(aggregate) = &aggregate {
            name(aggregate, "an aggregate", &mut errors);
        }
        let kinds = match &input.data {
            Data::Enum(data) => variants(&read, data, &Serde::of_type(&input.attrs), &mut errors),
            data => of_struct(&read, data, &Serde::of_type(&input.attrs), &mut errors).map(|kind| vec![kind]),
        };
        let this = || {
            Some(Self {
                krate: read.krate(),
                ident: read.ident.clone(),
                generics: read.generics.clone(),
                aggregate: aggregate?,
                version: read.container.version.unwrap_or(1),
                is_strict: read.container.strict.is_some(),
                kinds: kinds?,
            })
        };
        finish(this(), errors)
    }
}

fn of_struct(read: &Read<'_>, data: &Data, serde: &Serde, errors: &mut Errors) -> Option<Kind> {
    let event = read.required(&read.container.event, "event", "#[outbox(event = \"…\")]", errors);
    if let Some(event) = &event {
        event_name(event, errors);
    }
    if read.container.key.is_none() {
        read.missing("key", "#[outbox(key = field)]", errors);
    }
    let key = match &read.container.key {
        Some(names) => read.key(Some(names), errors),
        None => None,
    };
    let payload = match data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(named) => Some(payload::fields(named, serde.case(), serde.is_replaced)),
            _ => None,
        },
        _ => None,
    };
    Some(Kind { variant: None, event: event?, content: Content::Fields { key: key?, payload: payload? } })
}

fn variants(read: &Read<'_>, data: &DataEnum, serde: &Serde, errors: &mut Errors) -> Option<Vec<Kind>> {
    if let Some(event) = &read.container.event {
        errors.push(event, "in an enum each variant is an event; move `event` to the variant that it names");
    }
    if data.variants.is_empty() {
        errors.push(read.ident, format!("`{}` has no variants and so is no event; add one", read.ident));
    }
    let variants: Vec<_> =
        data.variants.iter().map(|variant| (variant, attr::on_variant(&variant.attrs, errors))).collect();
    check_keys(read, &variants, errors);
    let mut names: Vec<String> = Vec::new();
    let mut kinds = Vec::new();
    for (variant, on) in variants {
        let snake = payload::snake(&variant.ident.unraw().to_string());
        let event = on.event.clone().unwrap_or_else(|| LitStr::new(&snake, variant.ident.span()));
        if on.event.is_none() && !snake.is_ascii() {
            errors.push(
                &event,
                format!("`{snake}` is no event name; give one of [A-Za-z0-9_-]: `#[outbox(event = \"…\")]`"),
            );
        } else {
            event_name(&event, errors);
        }
        if names.contains(&event.value()) {
            errors.push(
                &event,
                format!(
                    "another variant is the event `{}`; name this one with `#[outbox(event = \"…\")]`",
                    event.value()
                ),
            );
        }
        names.push(event.value());
        let content = content(read, variant, on, serde, errors);
        kinds.push(content.map(|content| Kind { variant: Some(variant.ident.clone()), event, content }));
    }
    kinds.into_iter().collect()
}

/// Each variant with named fields has a key, its own or the enum's.
fn check_keys(read: &Read<'_>, variants: &[(&Variant, Container)], errors: &mut Errors) {
    let with_fields = || variants.iter().filter(|(variant, _)| matches!(variant.fields, Fields::Named(_)));
    let without: Vec<_> =
        with_fields().filter(|(_, on)| on.key.is_none()).map(|(variant, _)| &variant.ident).collect();
    match read.container.key.as_deref() {
        Some(names) => {
            twice(names, errors);
            if let (Some(first), true) = (names.first(), without.is_empty() && !variants.is_empty()) {
                errors.push(first, "no variant takes this key, each has one of its own; remove it");
            }
        }
        // An attribute that was not understood may be the key.
        None if errors.unclear => {}
        None if without.len() == with_fields().count() && !without.is_empty() => {
            read.missing("key", "#[outbox(key = field)]", errors);
        }
        None => {
            for variant in without {
                errors.push(
                    variant,
                    format!("`{variant}` names no key; add `#[outbox(key = field)]` to it, or to the enum"),
                );
            }
        }
    }
}

fn content(
    read: &Read<'_>,
    variant: &Variant,
    on: Container,
    serde: &Serde,
    errors: &mut Errors,
) -> Option<Content> {
    let ident = &variant.ident;
    let on_variant = Serde::of_variant(&variant.attrs);
    if let Some(skip) = &on_variant.skip {
        errors.push(
            skip,
            format!(
                "serde refuses to write `{ident}`, so it cannot be recorded; remove this attribute, or the variant"
            ),
        );
    }
    let is_replaced = serde.is_replaced || on_variant.is_replaced;
    match &variant.fields {
        Fields::Named(named) => {
            let key = key(read, variant, named, on, errors)?;
            let payload = payload::fields(named, serde.case_in(&on_variant), is_replaced);
            Some(Content::Fields { key, payload })
        }
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
            if let Some(name) = on.key.iter().flatten().next() {
                errors.push(
                    name,
                    format!(
                        "`{ident}` has the key of the event that it holds; remove `key`, or name its fields"
                    ),
                );
            }
            let inner = fields.unnamed.first()?.ty.clone();
            Some(Content::Event { inner, is_seen: !is_replaced })
        }
        fields => {
            let what =
                if fields.is_empty() { "no fields and so no key" } else { "several fields without names" };
            errors.push(
                ident,
                format!(
                    "`{ident}` has {what}; give it named fields, the key among them, or one struct that derives \
                     `OutboxEvent`: `{ident}(…)`"
                ),
            );
            None
        }
    }
}

/// The key of a variant with named fields.
fn key<'a>(
    read: &Read<'a>,
    variant: &'a Variant,
    named: &'a FieldsNamed,
    on: Container,
    errors: &mut Errors,
) -> Option<Vec<Field>> {
    let ident = &variant.ident;
    let of_variant = Read {
        derive: Derive::Event,
        ident,
        generics: read.generics,
        container: on,
        fields: Vec::new(),
        has_names: true,
        is_unclear: errors.unclear,
    };
    let fields = named.named.iter().filter_map(|field| Some((field.ident.as_ref()?, field)));
    let of_variant = of_variant.with_fields(fields, errors);
    if let Some(own) = &of_variant.container.key {
        return of_variant.key(Some(own), errors);
    }
    let mut names = read.container.key.clone()?;
    // Named twice is told once, at the enum.
    let mut seen = Vec::new();
    names.retain(|name| {
        !seen.contains(&name.unraw()) && {
            seen.push(name.unraw());
            true
        }
    });
    let missing = names.iter().find(|name| of_variant.find_field(name).is_none());
    if let Some(missing) = missing {
        if errors.unclear {
            // The variant's own key may be meant by what was not understood.
            return None;
        }
        errors.push(
            ident,
            format!(
                "`{ident}` has no field `{missing}`, the key of the enum; add it, or name the variant's own key: \
                 `#[outbox(key = field)]`"
            ),
        );
        return None;
    }
    of_variant.key(Some(&names), errors)
}

/// Checks the name of an event, at the place that gives it.
fn event_name(event: &LitStr, errors: &mut Errors) {
    name(event, "an event", errors);
    if event.value() == "current" {
        errors.push(
            event,
            "`current` re-emits an entity's state and never reaches handlers; choose another name: \
             `#[outbox(event = \"…\")]`",
        );
    }
}
