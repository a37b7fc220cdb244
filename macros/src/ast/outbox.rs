//! `#[derive(Outbox)]`: an entity, or an insertable of one.

use quote::{ToTokens, format_ident};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, GenericParam, Generics, Ident, LitStr, Path};

use super::payload::Serde;
use super::read::{Field, Read, finish, is_option, name, twice};
use crate::attr::{Container, Derive, Errors};

/// What an embedded struct is taken for, whose columns cannot be seen.
const EMBEDDED_COLUMNS_MAX: usize = 32;

/// `#[derive(Outbox)]`.
pub(crate) enum Outbox {
    Entity(Box<Entity>),
    Insertable(Box<Insertable>),
}

/// A model whose writes are recorded.
pub(crate) struct Entity {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) table: Path,
    pub(crate) aggregate: LitStr,
    pub(crate) key: Vec<Field>,
    /// The fields of the table's primary key; empty where Diesel's `Identifiable` will say what is wrong.
    pub(crate) id: Vec<Field>,
    /// The fields that are recorded.
    pub(crate) recorded: Vec<Recorded>,
    pub(crate) events: [String; 3],
    pub(crate) is_strict: bool,
    pub(crate) version: Option<Field>,
    pub(crate) read_back: ReadBack,
    pub(crate) columns: usize,
}

impl Entity {
    /// Whether the primary key is the writer's to give.
    pub(crate) fn has_own_id(&self) -> bool {
        matches!(self.read_back, ReadBack::Identified)
    }
}

/// A field that is recorded, and in what form.
pub(crate) struct Recorded {
    pub(crate) field: Field,
    pub(crate) form: Form,
    /// The function that writes it instead of its own `Serialize`.
    pub(crate) serialize_with: Option<Path>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it serializes.
    Plain,
    /// A fixed mark instead of the value.
    Redacted,
    /// A keyed hash of the value.
    Hashed,
}

/// A struct to insert rows of an entity with.
pub(crate) struct Insertable {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) table: Path,
    pub(crate) entity: Path,
    /// The columns that the user names as the key: they must exist.
    pub(crate) named_columns: Vec<Ident>,
    pub(crate) read_back: ReadBack,
    /// As many as fields; more where one is embedded.
    pub(crate) columns: usize,
}

/// How an inserted row is found where the database has no RETURNING.
pub(crate) enum ReadBack {
    /// By Diesel's `Identifiable` of the struct.
    Identified,
    /// By the table's primary key, in these fields.
    PrimaryKey(Vec<Field>),
    /// By columns that the user vouches for.
    Columns(Vec<Field>),
    /// By the generated key.
    Generated(Ident),
    /// By the key's field, or the generated key when it is `None`.
    Either(Box<Field>),
    /// Not at all: why, and what to do about it.
    Impossible(syn::Error),
}

impl Outbox {
    pub(crate) fn new(input: &DeriveInput) -> syn::Result<Self> {
        let mut errors = Errors::default();
        let read = Read::new(input, Derive::Outbox, &mut errors);
        let container = &read.container;
        let this = match &container.entity {
            Some(entity) => {
                if let Some(aggregate) = &container.aggregate {
                    errors.push(
                        aggregate,
                        "an insertable takes the aggregate of its entity; remove `aggregate`",
                    );
                }
                insertable(&read, entity, &mut errors).map(Box::new).map(Self::Insertable)
            }
            None => entity(&read, input, &mut errors).map(Box::new).map(Self::Entity),
        };
        finish(this, errors)
    }
}

fn entity(read: &Read<'_>, input: &DeriveInput, errors: &mut Errors) -> Option<Entity> {
    let container = &read.container;
    match &container.aggregate {
        Some(aggregate) => {
            name(aggregate, "an aggregate", errors);
            read.refuse_generics(
                "an entity has neither generics nor lifetimes: its row is read back from the database; \
                 use owned types",
                |_| true,
                errors,
            );
            read.refuse_embed(errors);
        }
        None if read.is_unclear => {}
        None => errors.push(
            read.ident,
            format!(
                "`{}` does not say what it is; add `#[outbox(aggregate = \"…\")]` to an entity, \
                 `#[outbox(entity = …)]` to an insertable of one",
                read.ident
            ),
        ),
    }
    let table = read.table(errors);
    let names = container.key.as_deref().or(container.diesel_key.as_deref());
    // Of what does not say what it is, no `id` is asked for: insertables need none.
    let key = match (names, &container.aggregate) {
        (None, None) => None,
        _ => read.key(names, errors),
    };
    let recorded = recorded(read, input, key.as_deref().unwrap_or_default(), errors);
    read.check_skipped(key.as_deref().unwrap_or_default(), errors);
    check_forms(read, key.as_deref().unwrap_or_default(), errors);
    let events = event_names(container, errors);
    let version = version(read, errors);
    Some(Entity {
        krate: read.krate(),
        ident: read.ident.clone(),
        table: table?,
        aggregate: container.aggregate.clone()?,
        key: key?,
        id: identity(read, &recorded),
        recorded,
        events,
        is_strict: container.strict.is_some(),
        version,
        read_back: entity_read_back(read),
        columns: read.fields.len(),
    })
}

/// The fields that are recorded, as serde's attributes would have them written where ours say nothing else: who
/// keeps a field out of an API does not want it in a message.
fn recorded(read: &Read<'_>, input: &DeriveInput, key: &[Field], errors: &mut Errors) -> Vec<Recorded> {
    let case = Serde::of_type(&input.attrs).case();
    let Data::Struct(data) = &input.data else { return Vec::new() };
    let mut recorded = Vec::new();
    let mut names: Vec<(String, &Ident, Option<&LitStr>)> = Vec::new();
    for ((field, on), written) in read.fields.iter().zip(&data.fields) {
        let ident = &field.ident;
        let serde = Serde::of_field(&written.attrs);
        let form = match (&on.redact, &on.hash) {
            (Some(_), _) => Form::Redacted,
            (_, Some(_)) => Form::Hashed,
            _ => Form::Plain,
        };
        if on.skip.is_some() {
            continue;
        }
        if let (Some(skip), Form::Plain) = (&serde.skip, form) {
            if key.iter().any(|key| key.ident == field.ident) {
                errors.push(
                    skip,
                    format!(
                        "`{}` is a key field and has to be written: copies find their row by it",
                        field.ident
                    ),
                );
            }
            continue;
        }
        if let Some(flatten) = &serde.flatten {
            errors.push(flatten, "each field of an entity is one field of the message; remove `flatten`");
        }
        let mut field = field.clone();
        if on.rename.is_none() {
            field.name = serde.name(&field.ident.unraw().to_string(), case);
        }
        names.push((field.name.clone(), ident, on.rename.as_ref()));
        recorded.push(Recorded { field, form, serialize_with: serde.serialize_with });
    }
    check_names(&names, errors);
    recorded
}

/// The names in the message are distinct. Of two fields the one that is renamed is the mistake, or else the second.
fn check_names(names: &[(String, &Ident, Option<&LitStr>)], errors: &mut Errors) {
    for (at, (name, ident, rename)) in names.iter().enumerate() {
        let Some((_, _, earlier)) = names[..at].iter().find(|(other, ..)| other == name) else { continue };
        let text = format!("the message has a field `{name}` already; choose another name");
        match rename.or(*earlier) {
            Some(rename) => errors.push(rename, text),
            None => errors.push(ident, text),
        }
    }
}

/// A field has one form, and a key field is recorded as it is.
fn check_forms(read: &Read<'_>, key: &[Field], errors: &mut Errors) {
    for (field, on) in &read.fields {
        let forms: Vec<_> = [&on.skip, &on.redact, &on.hash].into_iter().flatten().collect();
        if let [_, second, ..] = forms.as_slice() {
            errors.push(second, "a field is skipped, redacted or hashed; choose one");
        }
        let Some(hidden) = on.redact.as_ref().or(on.hash.as_ref()) else { continue };
        if key.iter().any(|key| key.ident == field.ident) {
            let what = if on.redact.is_some() { "redacted" } else { "hashed" };
            errors.push(
                hidden,
                format!(
                    "`{}` is a key field and cannot be {what}: the key itself travels with each message; \
                     choose other fields with `#[outbox(key(…))]`",
                    field.ident
                ),
            );
        }
    }
}

/// What its events are called, all different.
fn event_names(container: &Container, errors: &mut Errors) -> [String; 3] {
    let given = [&container.created, &container.updated, &container.deleted];
    let default = ["created", "updated", "deleted"];
    let names: [String; 3] =
        std::array::from_fn(|at| given[at].as_ref().map_or_else(|| default[at].to_owned(), LitStr::value));
    for (at, given) in given.into_iter().enumerate() {
        let Some(given) = given else { continue };
        name(given, "an event", errors);
        if names[at] == "current" {
            errors.push(given, "`current` re-emits an entity's state; choose another name");
        }
        let is_taken = names.iter().enumerate().any(|(other, name)| other != at && *name == names[at]);
        if is_taken {
            errors.push(given, format!("`{}` names another operation too; choose another name", names[at]));
        }
    }
    names
}

fn version(read: &Read<'_>, errors: &mut Errors) -> Option<Field> {
    let mut marked = read.fields.iter().filter_map(|(field, on)| Some((field, on.version.as_ref()?)));
    let first = marked.next();
    for (_, again) in marked {
        errors.push(again, "an entity has one version; another field is marked already");
    }
    first.map(|(field, _)| field.clone())
}

/// The primary key as Diesel has it, with the names that its fields have in the message.
fn identity(read: &Read<'_>, recorded: &[Recorded]) -> Vec<Field> {
    let default = [format_ident!("id")];
    let names = read.container.diesel_key.as_deref().unwrap_or(&default);
    let field = |name| {
        let (field, _) = read.find_column(name)?;
        let written = recorded.iter().find(|recorded| recorded.field.ident == field.ident);
        Some(written.map_or(field, |recorded| &recorded.field).clone())
    };
    let fields: Option<Vec<_>> = names.iter().map(field).collect();
    fields.unwrap_or_default()
}

/// An entity is found by Diesel's primary key, unless the database generates it.
fn entity_read_back(read: &Read<'_>) -> ReadBack {
    let default = [format_ident!("id")];
    let names = read.container.diesel_key.as_deref().unwrap_or(&default);
    let generated = names.iter().find(|name| read.find_column(name).is_some_and(|(_, on)| on.skip_insertion));
    match (generated, names) {
        (None, _) => ReadBack::Identified,
        (Some(_), [only]) => ReadBack::Generated(read.column(only)),
        (Some(generated), _) => ReadBack::Impossible(composite(read.ident, generated)),
    }
}

fn insertable(read: &Read<'_>, entity: &Path, errors: &mut Errors) -> Option<Insertable> {
    read.refuse_generics(
        "an insertable may have lifetimes, not type or const parameters; name the types",
        |parameter| !matches!(parameter, GenericParam::Lifetime(_)),
        errors,
    );
    for (_, on) in &read.fields {
        let skip = on.skip.as_ref().map(ToTokens::to_token_stream);
        let rename = on.rename.as_ref().map(ToTokens::to_token_stream);
        let flags = [&on.redact, &on.hash, &on.version].into_iter().flatten().map(ToTokens::to_token_stream);
        for misplaced in skip.into_iter().chain(rename).chain(flags) {
            errors.push(
                misplaced,
                "`skip`, `rename`, `redact`, `hash` and `version` go on the fields of the entity: its row is \
                 what is recorded",
            );
        }
    }
    let table = read.table(errors);
    let container = &read.container;
    let of_entity = [&container.created, &container.updated, &container.deleted].into_iter().flatten();
    for misplaced in
        of_entity.map(ToTokens::to_token_stream).chain(container.strict.iter().map(ToTokens::to_token_stream))
    {
        errors
            .push(misplaced, "event names and `strict` go on the entity: its messages are what is recorded");
    }
    if let Some(names) = &container.key {
        twice(names, errors);
    }
    let named_columns = container.key.iter().flatten().map(|name| read.column(name)).collect();
    Some(Insertable {
        krate: read.krate(),
        ident: read.ident.clone(),
        generics: read.generics.clone(),
        table: table?,
        entity: entity.clone(),
        named_columns,
        read_back: insertable_read_back(read),
        columns: read
            .fields
            .iter()
            .map(|(_, on)| if on.embed.is_some() { EMBEDDED_COLUMNS_MAX } else { 1 })
            .sum(),
    })
}

fn insertable_read_back(read: &Read<'_>) -> ReadBack {
    let default = [format_ident!("id", span = read.ident.span())];
    let explicit = read.container.key.as_deref();
    let names = explicit.or(read.container.diesel_key.as_deref()).unwrap_or(&default);
    let present = |name: &Ident| {
        let (field, on) = read.find(name)?;
        let written = !on.skip_insertion && on.embed.is_none();
        written.then(|| field.clone())
    };
    let fields: Vec<_> = names.iter().filter_map(present).collect();
    match names {
        [only] => match fields.into_iter().next() {
            Some(field) if is_option(&field.ty) => ReadBack::Either(Box::new(field)),
            Some(field) if explicit.is_some() => ReadBack::Columns(vec![field]),
            Some(field) => ReadBack::PrimaryKey(vec![field]),
            None => ReadBack::Generated(read.column(only)),
        },
        _ => match names.iter().find(|name| present(name).is_none_or(|field| is_option(&field.ty))) {
            Some(missing) => ReadBack::Impossible(composite(read.ident, missing)),
            None if explicit.is_some() => ReadBack::Columns(fields),
            None => ReadBack::PrimaryKey(fields),
        },
    }
}

fn composite(ident: &Ident, missing: &Ident) -> syn::Error {
    syn::Error::new_spanned(
        missing,
        format!(
            "on MySQL and MariaDB an inserted row is read back by its key, and `{ident}` gives no value for \
             `{missing}` of a key of several columns; give it one, or name columns that find the row: \
             `#[outbox(key(…))]`"
        ),
    )
}
