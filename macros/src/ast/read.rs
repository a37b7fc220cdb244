//! The struct as it is written, and what all derives ask of it.

use quote::format_ident;
use syn::ext::IdentExt;
use syn::{Data, DataStruct, DeriveInput, Fields, GenericParam, Generics, Ident, LitStr, Path, Type};

use crate::attr::{self, Container, Derive, Errors, OnField};

/// The longest name, as `outbox-core` has it: with both names and a bucket a routing key stays under 255
/// bytes.
pub(super) const NAME_BYTES_MAX: usize = 100;

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

/// The struct as it is written, attributes read and nothing checked across them.
pub(super) struct Read<'a> {
    pub(super) derive: Derive,
    pub(super) ident: &'a Ident,
    pub(super) generics: &'a Generics,
    pub(super) container: Container,
    pub(super) fields: Vec<(Field, OnField)>,
    /// It is a struct with named fields; else that is the mistake, not what its fields lack.
    pub(super) has_names: bool,
    /// An attribute of the struct was not understood: what looks missing may be meant by it.
    pub(super) is_unclear: bool,
}

impl<'a> Read<'a> {
    pub(super) fn new(input: &'a DeriveInput, derive: Derive, errors: &mut Errors) -> Self {
        let read = Self::without_fields(input, derive, errors);
        read.with_fields(fields(input, errors), errors)
    }

    /// The type and its own attributes alone.
    pub(super) fn without_fields(input: &'a DeriveInput, derive: Derive, errors: &mut Errors) -> Self {
        let container = attr::container(&input.attrs, derive, errors);
        Self {
            derive,
            ident: &input.ident,
            generics: &input.generics,
            container,
            fields: Vec::new(),
            has_names: matches!(&input.data, Data::Struct(DataStruct { fields: Fields::Named(_), .. })),
            is_unclear: errors.unclear,
        }
    }

    /// The same with fields, of a struct or of a variant.
    pub(super) fn with_fields(
        self,
        fields: impl Iterator<Item = (&'a Ident, &'a syn::Field)>,
        errors: &mut Errors,
    ) -> Self {
        let derive = self.derive;
        let fields = fields
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
        Self { fields, ..self }
    }

    pub(super) fn krate(&self) -> Path {
        krate(&self.container)
    }

    /// The table; says how to name it when it is not.
    pub(super) fn table(&self, errors: &mut Errors) -> Option<Path> {
        let (own, diesel) = (&self.container.table, &self.container.diesel_table);
        let table = own.as_ref().or(diesel.as_ref()).cloned();
        let may_be_meant = self.container.diesel_unclear || self.derive == Derive::Replica && self.is_unclear;
        if table.is_none() && !may_be_meant {
            let form = "#[diesel(table_name = products)]";
            errors.push(self.ident, format!("`{}` names no table; add `{form}` to it", self.ident));
        }
        table
    }

    pub(super) fn required(
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
    pub(super) fn missing(&self, what: &str, form: &str, errors: &mut Errors) {
        if !self.is_unclear {
            errors.push(self.ident, format!("`{}` names no {what}; add `{form}` to it", self.ident));
        }
    }

    pub(super) fn find_field(&self, name: &Ident) -> Option<&(Field, OnField)> {
        self.fields.iter().find(|(field, _)| field.ident.unraw() == name.unraw())
    }

    pub(super) fn find_column(&self, name: &Ident) -> Option<&(Field, OnField)> {
        self.fields.iter().find(|(field, _)| field.column.unraw() == name.unraw())
    }

    /// The field of a name in a key. Our keys name fields and Diesel's name columns; either may be meant.
    pub(super) fn find(&self, name: &Ident) -> Option<&(Field, OnField)> {
        match self.container.key {
            Some(_) => self.find_field(name).or_else(|| self.find_column(name)),
            None => self.find_column(name).or_else(|| self.find_field(name)),
        }
    }

    /// The column of a name in a key, which need not have a field.
    pub(super) fn column(&self, name: &Ident) -> Ident {
        self.find(name).map_or_else(|| name.clone(), |(field, _)| field.column.clone())
    }

    /// The fields of the key; by default `id`.
    pub(super) fn key(&self, names: Option<&[Ident]>, errors: &mut Errors) -> Option<Vec<Field>> {
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

    /// What is skipped has no name.
    pub(super) fn check_skipped(&self, key: &[Field], errors: &mut Errors) {
        for (field, on) in &self.fields {
            let (Some(skip), Some(_)) = (&on.skip, &on.rename) else { continue };
            // Of a skipped key field another error tells.
            if !key.iter().any(|key| key.ident == field.ident) {
                errors.push(skip, "a skipped field has no name in the message; remove `skip` or `rename`");
            }
        }
    }

    pub(super) fn refuse_generics(
        &self,
        message: &str,
        is_refused: impl Fn(&GenericParam) -> bool,
        errors: &mut Errors,
    ) {
        for parameter in self.generics.params.iter().filter(|parameter| is_refused(parameter)) {
            errors.push(parameter, message);
        }
    }

    pub(super) fn refuse_embed(&self, errors: &mut Errors) {
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
pub(super) fn fields<'a>(
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
pub(super) fn name(text: &LitStr, what: &str, errors: &mut Errors) {
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

pub(super) fn twice(names: &[Ident], errors: &mut Errors) {
    for (index, name) in names.iter().enumerate() {
        if names.iter().take(index).any(|earlier| earlier.unraw() == name.unraw()) {
            errors.push(name, format!("`{name}` is in the key already"));
        }
    }
}

/// As far as a macro can see it: by its name.
pub(super) fn is_option(ty: &Type) -> bool {
    match ty {
        Type::Group(group) => is_option(&group.elem),
        Type::Paren(paren) => is_option(&paren.elem),
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == "Option"),
        _ => false,
    }
}

pub(super) fn finish<T>(this: Option<T>, errors: Errors) -> syn::Result<T> {
    errors.finish()?;
    // Nothing is missing without a mistake that says so.
    this.ok_or_else(|| {
        syn::Error::new(proc_macro2::Span::call_site(), "outbox: the derive could not read this type")
    })
}
