//! What is derived, as a tree of our own, and the checks across its parts.

use quote::{ToTokens, format_ident};
use syn::ext::IdentExt;
use syn::{Data, DataStruct, DeriveInput, Fields, GenericParam, Generics, Ident, LitStr, Path, Type};

use crate::attr::{self, Container, Derive, Errors, OnField};

/// The longest name, as `outbox-core` has it: with both names and a bucket a routing key stays under 255
/// bytes.
const NAME_BYTES_MAX: usize = 100;
/// The columns of a copy that are not the user's to write.
const VERSION_COLUMNS: [&str; 3] = ["outbox_generation", "outbox_id", "outbox_bucket"];

/// A field of the struct.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    /// Its column in the table.
    pub(crate) column: Ident,
    /// Its name in the message.
    pub(crate) name: String,
}

/// `#[derive(Outbox)]`.
pub(crate) enum Outbox {
    Entity(Entity),
    Insertable(Insertable),
}

/// A model whose writes are recorded.
pub(crate) struct Entity {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) table: Path,
    pub(crate) aggregate: LitStr,
    pub(crate) key: Vec<Field>,
    /// The fields that are recorded.
    pub(crate) recorded: Vec<Field>,
    pub(crate) read_back: ReadBack,
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

/// `#[derive(OutboxEvent)]`.
pub(crate) struct Event {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    pub(crate) aggregate: LitStr,
    pub(crate) event: LitStr,
    pub(crate) key: Vec<Field>,
}

/// `#[derive(Replica)]`.
pub(crate) struct Replica {
    pub(crate) krate: Path,
    pub(crate) ident: Ident,
    pub(crate) table: Path,
    pub(crate) aggregate: LitStr,
    pub(crate) key: Vec<Field>,
    pub(crate) fields: Vec<Field>,
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
                insertable(&read, entity, &mut errors).map(Self::Insertable)
            }
            None => entity(&read, &mut errors).map(Self::Entity),
        };
        finish(this, errors)
    }
}

fn entity(read: &Read<'_>, errors: &mut Errors) -> Option<Entity> {
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
    read.check_recorded(key.as_deref().unwrap_or_default(), errors);
    Some(Entity {
        krate: read.krate(),
        ident: read.ident.clone(),
        table: table?,
        aggregate: container.aggregate.clone()?,
        key: key?,
        recorded: read
            .fields
            .iter()
            .filter(|(_, on)| on.skip.is_none())
            .map(|(field, _)| field.clone())
            .collect(),
        read_back: entity_read_back(read),
    })
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
        for misplaced in skip.into_iter().chain(rename) {
            errors.push(
                misplaced,
                "`skip` and `rename` go on the fields of the entity: its row is what is recorded",
            );
        }
    }
    let table = read.table(errors);
    let container = &read.container;
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

/// The struct as it is written, attributes read and nothing checked across them.
struct Read<'a> {
    derive: Derive,
    ident: &'a Ident,
    generics: &'a Generics,
    container: Container,
    fields: Vec<(Field, OnField)>,
    /// It is a struct with named fields; else that is the mistake, not what its fields lack.
    has_names: bool,
    /// An attribute of the struct was not understood: what looks missing may be meant by it.
    is_unclear: bool,
}

impl<'a> Read<'a> {
    fn new(input: &'a DeriveInput, derive: Derive, errors: &mut Errors) -> Self {
        let container = attr::container(&input.attrs, derive, errors);
        let is_unclear = errors.unclear;
        let has_names = matches!(&input.data, Data::Struct(DataStruct { fields: Fields::Named(_), .. }));
        let fields = fields(input, errors)
            .map(|(ident, field)| {
                let on = attr::on_field(&field.attrs, derive, errors);
                let text = on.rename.as_ref().or(on.from.as_ref());
                let name = text.map_or_else(|| ident.unraw().to_string(), LitStr::value);
                if let Some(text) = text.filter(|text| text.value().is_empty()) {
                    errors.push(text, "a field's name in the message cannot be empty");
                }
                if let Some(what) = on.serialize_as.as_ref().filter(|_| derive != Derive::Event) {
                    errors.push(
                        what,
                        "with `serialize_as` Diesel writes the struct by value only, and the outbox writes it by \
                         reference; give the field a type that has `AsExpression` itself",
                    );
                }
                let column = on.column.clone().unwrap_or_else(|| ident.clone());
                (Field { ident: ident.clone(), ty: field.ty.clone(), column, name }, on)
            })
            .collect();
        Self {
            derive,
            ident: &input.ident,
            generics: &input.generics,
            container,
            fields,
            has_names,
            is_unclear,
        }
    }

    fn krate(&self) -> Path {
        krate(&self.container)
    }

    /// The table; says how to name it when it is not.
    fn table(&self, errors: &mut Errors) -> Option<Path> {
        let (own, diesel) = (&self.container.table, &self.container.diesel_table);
        let table = own.as_ref().or(diesel.as_ref()).cloned();
        let may_be_meant = self.container.diesel_unclear || self.derive == Derive::Replica && self.is_unclear;
        if table.is_none() && !may_be_meant {
            let form = "#[diesel(table_name = products)]";
            errors.push(self.ident, format!("`{}` names no table; add `{form}` to it", self.ident));
        }
        table
    }

    fn required(
        &self,
        value: &Option<LitStr>,
        what: &str,
        form: &str,
        errors: &mut Errors,
    ) -> Option<LitStr> {
        if value.is_none() {
            self.missing(what, form, errors);
        }
        value.clone()
    }

    /// Silent where an attribute did not parse: what is missing may stand in it.
    fn missing(&self, what: &str, form: &str, errors: &mut Errors) {
        if !self.is_unclear {
            errors.push(self.ident, format!("`{}` names no {what}; add `{form}` to it", self.ident));
        }
    }

    fn find_field(&self, name: &Ident) -> Option<&(Field, OnField)> {
        self.fields.iter().find(|(field, _)| field.ident.unraw() == name.unraw())
    }

    fn find_column(&self, name: &Ident) -> Option<&(Field, OnField)> {
        self.fields.iter().find(|(field, _)| field.column.unraw() == name.unraw())
    }

    /// The field of a name in a key. Our keys name fields and Diesel's name columns; either may be meant.
    fn find(&self, name: &Ident) -> Option<&(Field, OnField)> {
        match self.container.key {
            Some(_) => self.find_field(name).or_else(|| self.find_column(name)),
            None => self.find_column(name).or_else(|| self.find_field(name)),
        }
    }

    /// The column of a name in a key, which need not have a field.
    fn column(&self, name: &Ident) -> Ident {
        self.find(name).map_or_else(|| name.clone(), |(field, _)| field.column.clone())
    }

    /// The fields of the key; by default `id`.
    fn key(&self, names: Option<&[Ident]>, errors: &mut Errors) -> Option<Vec<Field>> {
        let namespace = self.derive.namespace();
        let default = [format_ident!("id")];
        twice(names.unwrap_or_default(), errors);
        let mut key = Vec::new();
        for name in names.unwrap_or(&default) {
            match self.find(name) {
                Some((field, on)) => {
                    if is_option(&field.ty) {
                        errors.push(
                            &field.ty,
                            format!(
                                "`{}` is a key field and cannot be `Option`: a message without a key has no \
                                 place in the order; choose other fields with `#[{namespace}(key(…))]`",
                                field.ident
                            ),
                        );
                    }
                    if let Some(skip) = &on.skip {
                        errors.push(skip, format!(
                            "`{}` is a key field and cannot be skipped: copies find their row by it; remove `skip`, \
                             or choose other fields with `#[outbox(key(…))]`",
                            field.ident
                        ));
                    }
                    key.push(field.clone());
                }
                None if !self.has_names => {}
                None if names.is_some() => {
                    let fields: Vec<_> =
                        self.fields.iter().map(|(field, _)| format!("`{}`", field.ident)).collect();
                    let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
                    errors.push(
                        name,
                        format!("`{}` has no field `{name}` to be its key; it has {fields}", self.ident),
                    );
                }
                None => errors.push(
                    self.ident,
                    format!(
                        "`{}` has no field `id` to be its key; name the fields with \
                         `#[diesel(primary_key(…))]` or `#[{namespace}(key(…))]`",
                        self.ident
                    ),
                ),
            }
        }
        Some(key)
    }

    /// The names in the message are distinct.
    fn check_recorded(&self, key: &[Field], errors: &mut Errors) {
        for (index, (field, on)) in self.fields.iter().enumerate() {
            if let (Some(skip), Some(_)) = (&on.skip, &on.rename) {
                let is_key = key.iter().any(|key| key.ident == field.ident);
                if !is_key {
                    errors
                        .push(skip, "a skipped field has no name in the message; remove `skip` or `rename`");
                }
                continue;
            }
            let Some(rename) = &on.rename else { continue };
            let collides = self.fields.iter().enumerate().any(|(at, (other, other_on))| {
                at != index
                    && other_on.skip.is_none()
                    && other.name == field.name
                    // Of two renames the second is the mistake.
                    && (other_on.rename.is_none() || at < index)
            });
            if collides {
                errors.push(
                    rename,
                    format!("the message has a field `{}` already; choose another name", field.name),
                );
            }
        }
    }

    fn refuse_generics(
        &self,
        message: &str,
        is_refused: impl Fn(&GenericParam) -> bool,
        errors: &mut Errors,
    ) {
        for parameter in self.generics.params.iter().filter(|parameter| is_refused(parameter)) {
            errors.push(parameter, message);
        }
    }

    fn refuse_embed(&self, errors: &mut Errors) {
        for embed in self.fields.iter().filter_map(|(_, on)| on.embed.as_ref()) {
            errors.push(
                embed,
                "embedded structs are not supported here: their columns cannot be seen; \
                 write their fields into this struct",
            );
        }
    }
}

/// The crate that generated code reaches everything through.
pub(crate) fn krate(container: &Container) -> Path {
    container.krate.clone().unwrap_or_else(|| syn::parse_quote!(::outbox_core))
}

/// The named fields of a struct; all else is refused.
fn fields<'a>(
    input: &'a DeriveInput,
    errors: &mut Errors,
) -> impl Iterator<Item = (&'a Ident, &'a syn::Field)> + use<'a> {
    let (fields, refused) = match &input.data {
        Data::Struct(DataStruct { fields: Fields::Named(fields), .. }) => (Some(&fields.named), None),
        Data::Struct(_) => (None, Some("a struct without named fields")),
        Data::Enum(_) => (None, Some("an enum")),
        Data::Union(_) => (None, Some("a union")),
    };
    if let Some(what) = refused {
        errors.push(&input.ident, format!("`{}` is {what}; use a struct with named fields", input.ident));
    }
    fields.into_iter().flatten().filter_map(|field| Some((field.ident.as_ref()?, field)))
}

/// Checks a name as `outbox-core` does at run time.
fn name(text: &LitStr, what: &str, errors: &mut Errors) {
    let value = text.value();
    let well_formed = (1..=NAME_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !well_formed {
        errors.push(
            text,
            format!(
                "{what} name is 1 to {NAME_BYTES_MAX} of [A-Za-z0-9_-]: it becomes a word of the AMQP routing key"
            ),
        );
    }
}

fn twice(names: &[Ident], errors: &mut Errors) {
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier.unraw() == name.unraw()) {
            errors.push(name, format!("`{name}` is in the key already"));
        }
    }
}

/// As far as a macro can see it: by its name.
fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Group(group) => is_option(&group.elem),
        Type::Paren(paren) => is_option(&paren.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == "Option"),
        _ => false,
    }
}

fn finish<T>(this: Option<T>, errors: Errors) -> syn::Result<T> {
    errors.finish()?;
    // Nothing is missing without a mistake that says so.
    this.ok_or_else(|| {
        syn::Error::new(proc_macro2::Span::call_site(), "outbox: the derive could not read this type")
    })
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn mistakes<T>(result: syn::Result<T>) -> Vec<String> {
        result.err().into_iter().flatten().map(|error| error.to_string()).collect()
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let told = mistakes(Outbox::new(&parse_quote! {
            #[outbox(aggregate = "pro duct", tpoic = "x", key(nope, id))]
            #[outbox(aggregate = "product")]
            struct Product<T> {
                id: Option<i64>,
                #[outbox(rename = "id")]
                name: String,
                #[diesel(embed)]
                rest: T,
            }
        }));
        let expected = [
            "unknown attribute `tpoic`",
            "given twice",
            "an aggregate name is 1 to 100",
            "neither generics nor lifetimes",
            "embedded structs",
            "names no table",
            "no field `nope`",
            "cannot be `Option`",
            "has a field `id` already",
        ];
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{told} does not say {expected}");
        }
    }

    #[test]
    fn what_may_be_meant_by_an_unclear_attribute_is_not_called_missing() {
        let told = mistakes(Outbox::new(&parse_quote! {
            #[diesel(table_name = products)]
            #[outbox(entiyt = Product)]
            struct NewProduct<'a> { name: &'a str }
        }));
        assert_eq!(told.len(), 1, "{told:#?}");
        let told = mistakes(Event::new(&parse_quote! {
            #[outbox(aggregate = "a", event = "b", kee = c)]
            struct E { c: i64 }
        }));
        assert_eq!(told.len(), 1, "{told:#?}");
    }

    #[test]
    fn names_are_bounded_as_in_core() {
        let named = |name: &str| {
            let name = LitStr::new(name, proc_macro2::Span::call_site());
            mistakes(Replica::new(&parse_quote! {
                #[replica(of = #name, table = t)]
                struct R { id: i64 }
            }))
        };
        assert!(named(&"a".repeat(100)).is_empty());
        assert!(named("Az_-09").is_empty());
        for name in [&"a".repeat(101), "", "a.b", "ä"] {
            assert_eq!(named(name).len(), 1, "{name}");
        }
    }

    #[test]
    fn diesel_attributes_that_are_not_ours_are_passed_over() {
        let input = parse_quote! {
            #[diesel(belongs_to(Shop, foreign_key = shop), treat_none_as_null = true)]
            #[diesel(check_for_backend(diesel::pg::Pg, diesel::mysql::Mysql), table_name = a::products)]
            #[diesel(primary_key(shop, r#type))]
            #[outbox(aggregate = "product")]
            struct Product {
                shop: i64,
                #[diesel(deserialize_as = std::collections::BTreeMap<String, i64>, column_name = "type")]
                kind: String,
            }
        };
        let Ok(Outbox::Entity(entity)) = Outbox::new(&input) else { panic!("refused") };
        let columns: Vec<_> = entity.key.iter().map(|field| field.column.unraw().to_string()).collect();
        assert_eq!(columns, ["shop", "type"]);
        let table = &entity.table;
        assert_eq!(quote::quote!(#table).to_string(), "a :: products");
    }

    #[test]
    fn an_inserted_row_is_found_by_what_the_insertable_has() {
        let read_back = |insertable: syn::DeriveInput| match Outbox::new(&insertable) {
            Ok(Outbox::Insertable(insertable)) => match insertable.read_back {
                ReadBack::Identified => "identified".to_owned(),
                ReadBack::PrimaryKey(fields) => format!("primary key of {}", fields.len()),
                ReadBack::Columns(fields) => format!("{} columns", fields.len()),
                ReadBack::Generated(column) => format!("generated {column}"),
                ReadBack::Either(field) => format!("{} or generated", field.ident),
                ReadBack::Impossible(error) => error.to_string(),
            },
            Ok(Outbox::Entity(_)) => "entity".to_owned(),
            Err(error) => panic!("{error}"),
        };
        let of = |key: proc_macro2::TokenStream, fields: proc_macro2::TokenStream| {
            read_back(parse_quote!(#[diesel(table_name = t)] #[outbox(entity = E)] #key struct N { #fields }))
        };
        use quote::quote;
        assert_eq!(of(quote!(), quote!(name: String)), "generated id");
        assert_eq!(of(quote!(), quote!(#[diesel(skip_insertion)] id: i64)), "generated id");
        assert_eq!(of(quote!(), quote!(id: i64)), "primary key of 1");
        assert_eq!(of(quote!(), quote!(id: Option<i64>)), "id or generated");
        assert_eq!(of(quote!(#[outbox(key(name))]), quote!(name: String)), "1 columns");
        assert_eq!(of(quote!(#[diesel(primary_key(a, b))]), quote!(a: i64, b: i64)), "primary key of 2");
        let refused = of(quote!(#[outbox(key(a, b))]), quote!(a: i64));
        assert!(refused.contains("gives no value for `b`"), "{refused}");
    }
}
