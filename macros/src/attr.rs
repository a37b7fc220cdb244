//! Attributes as they are written: `#[outbox(…)]`, `#[replica(…)]` and the few of `#[diesel(…)]` that name
//! tables, columns and keys. Knows the valid names and forms; what fits together is checked in `ast`.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Token};

/// Mistakes, gathered so that one compile reports all of them.
#[derive(Default)]
pub(crate) struct Errors {
    all: Option<syn::Error>,
    /// An attribute of ours was not understood: what looks missing may be meant by it.
    pub(crate) unclear: bool,
}

impl Errors {
    /// Adds a mistake, underlined at the tokens that the user must change.
    pub(crate) fn push(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.add(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.all {
            Some(earlier) => earlier.combine(error),
            first => *first = Some(error),
        }
    }

    fn unclear(&mut self, error: syn::Error) {
        self.unclear = true;
        self.add(error);
    }

    pub(crate) fn finish(self) -> Result<(), syn::Error> {
        self.all.map_or(Ok(()), Err)
    }
}

/// Which of the derives reads the attributes: each has its own valid names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Derive {
    Outbox,
    Event,
    Replica,
}

impl Derive {
    /// The name of its attribute.
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Outbox | Self::Event => "outbox",
            Self::Replica => "replica",
        }
    }

    /// The valid names on the struct, each with its form.
    fn on_struct(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Outbox => &[
                ("aggregate", "aggregate = \"name\""),
                ("entity", "entity = Type"),
                ("key", "key(field, …)"),
                ("created", "created = \"event name\""),
                ("updated", "updated = \"event name\""),
                ("deleted", "deleted = \"event name\""),
                ("strict", "strict"),
                ("crate", "crate = path"),
            ],
            Self::Event => &[
                ("aggregate", "aggregate = \"name\""),
                ("event", "event = \"name\""),
                ("key", "key(field, …)"),
                ("version", "version = 2"),
                ("strict", "strict"),
                ("crate", "crate = path"),
            ],
            Self::Replica => &[
                ("of", "of = \"aggregate\""),
                ("table", "table = path"),
                ("key", "key(field, …)"),
                ("soft_delete", "soft_delete = column"),
                ("created", "created = \"event\""),
                ("updated", "updated = \"event\""),
                ("deleted", "deleted = \"event\""),
                ("crate", "crate = path"),
            ],
        }
    }

    /// The valid names on a field, each with its form.
    fn on_field(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Outbox => &[
                ("skip", "skip"),
                ("rename", "rename = \"name\""),
                ("redact", "redact"),
                ("hash", "hash"),
                ("version", "version"),
            ],
            Self::Event => &[],
            Self::Replica => {
                &[("from", "from = \"name in the image\""), ("with", "with = function"), ("local", "local")]
            }
        }
    }

    /// What the attributes of its types are said to stand on.
    fn place(self) -> &'static str {
        match self {
            Self::Event => "an event",
            Self::Outbox | Self::Replica => "a struct",
        }
    }
}

/// The attributes of the struct.
#[derive(Default)]
pub(crate) struct Container {
    pub(crate) krate: Option<Path>,
    pub(crate) aggregate: Option<LitStr>,
    pub(crate) event: Option<LitStr>,
    pub(crate) of: Option<LitStr>,
    pub(crate) entity: Option<Path>,
    pub(crate) table: Option<Path>,
    pub(crate) key: Option<Vec<Ident>>,
    /// The schema version of an event, at least 1.
    pub(crate) version: Option<u32>,
    pub(crate) strict: Option<Path>,
    pub(crate) soft_delete: Option<Ident>,
    pub(crate) created: Option<LitStr>,
    pub(crate) updated: Option<LitStr>,
    pub(crate) deleted: Option<LitStr>,
    /// `#[diesel(table_name = …)]`.
    pub(crate) diesel_table: Option<Path>,
    /// `#[diesel(primary_key(…))]`: columns, as with Diesel.
    pub(crate) diesel_key: Option<Vec<Ident>>,
    /// A `#[diesel(…)]` was not understood.
    pub(crate) diesel_unclear: bool,
}

/// The attributes of a field.
#[derive(Default)]
pub(crate) struct OnField {
    pub(crate) skip: Option<Path>,
    pub(crate) rename: Option<LitStr>,
    pub(crate) redact: Option<Path>,
    pub(crate) hash: Option<Path>,
    pub(crate) version: Option<Path>,
    pub(crate) from: Option<LitStr>,
    pub(crate) with: Option<Path>,
    pub(crate) local: Option<Path>,
    /// `#[diesel(column_name = …)]`.
    pub(crate) column: Option<Ident>,
    /// `#[diesel(embed)]`.
    pub(crate) embed: Option<Ident>,
    /// `#[diesel(serialize_as = …)]`.
    pub(crate) serialize_as: Option<Ident>,
    /// `#[diesel(skip_insertion)]`.
    pub(crate) skip_insertion: bool,
}

/// Reads the attributes of the struct.
pub(crate) fn container(attributes: &[Attribute], derive: Derive, errors: &mut Errors) -> Container {
    let mut found = Container::default();
    let namespace = derive.namespace();
    for item in items(attributes, namespace, derive.on_struct(), errors) {
        let Some((name, form)) = known(&item, derive.on_struct()) else {
            unknown(item.path(), namespace, derive.place(), derive.on_struct(), errors);
            continue;
        };
        match name {
            "aggregate" => set(&mut found.aggregate, text(&item, form), &item, errors),
            "event" => set(&mut found.event, text(&item, form), &item, errors),
            "of" => set(&mut found.of, text(&item, form), &item, errors),
            "entity" => set(&mut found.entity, path(&item, form), &item, errors),
            "table" => set(&mut found.table, path(&item, form), &item, errors),
            "crate" => set(&mut found.krate, path(&item, form), &item, errors),
            "version" => set(&mut found.version, positive(&item, form), &item, errors),
            "strict" => set(&mut found.strict, flag(&item, form), &item, errors),
            "soft_delete" => set(&mut found.soft_delete, ident(&item, form), &item, errors),
            "created" => set(&mut found.created, text(&item, form), &item, errors),
            "updated" => set(&mut found.updated, text(&item, form), &item, errors),
            "deleted" => set(&mut found.deleted, text(&item, form), &item, errors),
            _ => set(&mut found.key, fields(&item, form), &item, errors),
        }
    }
    found.diesel_unclear = diesel(attributes, errors, |name, input, errors| {
        match name.to_string().as_str() {
            "table_name" => {
                let table = eq(name, input, "table_name = path", Path::parse_mod_style)?;
                set(&mut found.diesel_table, Ok(table), name, errors);
            }
            "primary_key" => {
                let key = list(input).map_err(|_| diesel_form(name, "primary_key(a, b)"))?;
                set(&mut found.diesel_key, Ok(key), name, errors);
            }
            _ => {}
        }
        Ok(())
    });
    found
}

/// Reads the attributes of a variant of an event: its name and its key.
pub(crate) fn on_variant(attributes: &[Attribute], errors: &mut Errors) -> Container {
    const FORMS: &[(&str, &str)] = &[("event", "event = \"name\""), ("key", "key(field, …)")];
    let mut found = Container::default();
    for item in items(attributes, "outbox", FORMS, errors) {
        match known(&item, FORMS) {
            Some(("event", form)) => set(&mut found.event, text(&item, form), &item, errors),
            Some((_, form)) => set(&mut found.key, fields(&item, form), &item, errors),
            None => unknown(item.path(), "outbox", "a variant", FORMS, errors),
        }
    }
    found
}

/// Reads the attributes of a field.
pub(crate) fn on_field(attributes: &[Attribute], derive: Derive, errors: &mut Errors) -> OnField {
    let mut found = OnField::default();
    let namespace = derive.namespace();
    for item in items(attributes, namespace, derive.on_field(), errors) {
        let Some((name, form)) = known(&item, derive.on_field()) else {
            unknown(item.path(), namespace, "a field", derive.on_field(), errors);
            continue;
        };
        match name {
            "rename" => set(&mut found.rename, text(&item, form), &item, errors),
            "from" => set(&mut found.from, text(&item, form), &item, errors),
            "redact" => set(&mut found.redact, flag(&item, form), &item, errors),
            "hash" => set(&mut found.hash, flag(&item, form), &item, errors),
            "version" => set(&mut found.version, flag(&item, form), &item, errors),
            "with" => set(&mut found.with, path(&item, form), &item, errors),
            "local" => set(&mut found.local, flag(&item, form), &item, errors),
            _ => set(&mut found.skip, flag(&item, form), &item, errors),
        }
    }
    diesel(attributes, errors, |name, input, errors| {
        match name.to_string().as_str() {
            "column_name" => {
                let column = eq(name, input, "column_name = column", |input| {
                    if input.peek(LitStr) { quoted(&input.parse()?) } else { Ident::parse_any(input) }
                })?;
                set(&mut found.column, Ok(column), name, errors);
            }
            "embed" => found.embed = Some(name.clone()),
            "serialize_as" => found.serialize_as = Some(name.clone()),
            "skip_insertion" => found.skip_insertion = true,
            _ => {}
        }
        Ok(())
    });
    found
}

/// The items of all attributes of one namespace.
fn items(
    attributes: &[Attribute],
    namespace: &str,
    forms: &[(&str, &str)],
    errors: &mut Errors,
) -> Vec<Meta> {
    let mut items = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(namespace)) {
        match attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) {
            Ok(parsed) => items.extend(parsed),
            Err(error) => {
                let form = forms.iter().map(|(_, form)| *form).collect::<Vec<_>>().join(", ");
                errors.unclear(syn::Error::new(
                    error.span(),
                    format!("{error}; write `#[{namespace}(…)]` with any of: {form}"),
                ));
            }
        }
    }
    items
}

fn known(item: &Meta, forms: &[(&'static str, &'static str)]) -> Option<(&'static str, &'static str)> {
    forms.iter().find(|(name, _)| item.path().is_ident(name)).copied()
}

fn unknown(path: &Path, namespace: &str, place: &str, forms: &[(&str, &str)], errors: &mut Errors) {
    let name = path.to_token_stream();
    let valid = forms.iter().map(|(_, form)| format!("`{form}`")).collect::<Vec<_>>().join(", ");
    let takes = if forms.is_empty() {
        "does not stand on a field of an event".to_owned()
    } else {
        format!("on {place} takes {valid}")
    };
    let message = format!("unknown attribute `{name}`; `#[{namespace}(…)]` {takes}");
    errors.unclear(syn::Error::new_spanned(path, message));
}

/// Fills a slot once; the second attribute of a name is the mistake.
fn set<T>(slot: &mut Option<T>, value: Result<T, syn::Error>, item: impl ToTokens, errors: &mut Errors) {
    match value {
        Ok(_) if slot.is_some() => errors.push(item, "given twice; remove one of them"),
        Ok(value) => *slot = Some(value),
        Err(error) => errors.unclear(error),
    }
}

fn malformed<T>(item: &Meta, form: &str) -> Result<T, syn::Error> {
    Err(syn::Error::new_spanned(item, format!("write it as `{form}`")))
}

fn flag(item: &Meta, form: &str) -> Result<Path, syn::Error> {
    match item {
        Meta::Path(path) => Ok(path.clone()),
        _ => malformed(item, form),
    }
}

fn text(item: &Meta, form: &str) -> Result<LitStr, syn::Error> {
    match item {
        Meta::NameValue(pair) => match ungrouped(&pair.value) {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.clone()),
            _ => malformed(item, form),
        },
        _ => malformed(item, form),
    }
}

fn path(item: &Meta, form: &str) -> Result<Path, syn::Error> {
    match item {
        Meta::NameValue(pair) => match ungrouped(&pair.value) {
            Expr::Path(value) if value.qself.is_none() => Ok(value.path.clone()),
            Expr::Lit(_) => Err(syn::Error::new_spanned(item, format!("write it without quotes: `{form}`"))),
            _ => malformed(item, form),
        },
        _ => malformed(item, form),
    }
}

/// An integer of at least 1.
fn positive(item: &Meta, form: &str) -> Result<u32, syn::Error> {
    if let Meta::NameValue(pair) = item
        && let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = ungrouped(&pair.value)
        && let Ok(number @ 1..) = number.base10_parse::<u32>()
    {
        return Ok(number);
    }
    Err(syn::Error::new_spanned(item, format!("write it as `{form}`, an integer of at least 1")))
}

/// The name of a column.
fn ident(item: &Meta, form: &str) -> Result<Ident, syn::Error> {
    path(item, form)?.get_ident().cloned().map_or_else(|| malformed(item, form), Ok)
}

/// `key(a, b)` or `key = a`.
fn fields(item: &Meta, form: &str) -> Result<Vec<Ident>, syn::Error> {
    let names = match item {
        Meta::List(list) => list
            .parse_args_with(|input: ParseStream<'_>| {
                Punctuated::<Ident, Token![,]>::parse_terminated_with(input, Ident::parse_any)
            })
            .map(|names| names.into_iter().collect())
            .or_else(|_| malformed(item, form))?,
        Meta::NameValue(pair) => match ungrouped(&pair.value) {
            Expr::Path(value) => match value.path.get_ident() {
                Some(name) => vec![name.clone()],
                None => return malformed(item, form),
            },
            Expr::Lit(_) => {
                return Err(syn::Error::new_spanned(item, format!("write it without quotes: `{form}`")));
            }
            _ => return malformed(item, form),
        },
        Meta::Path(_) => return malformed(item, form),
    };
    if names.is_empty() { malformed(item, form) } else { Ok(names) }
}

/// The expression itself where a `macro_rules!` fragment wrapped it in an invisible group.
fn ungrouped(expression: &Expr) -> &Expr {
    match expression {
        Expr::Group(group) => ungrouped(&group.expr),
        other => other,
    }
}

/// Walks the items of `#[diesel(…)]`. Diesel owns their grammar: what is not asked for is skipped token by
/// token, types with commas in them included. True when something asked for was not understood.
fn diesel(
    attributes: &[Attribute],
    errors: &mut Errors,
    mut item: impl FnMut(&Ident, ParseStream<'_>, &mut Errors) -> syn::Result<()>,
) -> bool {
    let mut unclear = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("diesel")) {
        let Meta::List(list) = &attribute.meta else { continue };
        let walk = |input: ParseStream<'_>| -> syn::Result<()> {
            while !input.is_empty() {
                if let Ok(name) = Ident::parse_any(input) {
                    item(&name, input, errors)?;
                }
                while !input.is_empty() && !input.peek(Token![,]) {
                    input.parse::<proc_macro2::TokenTree>()?;
                }
                let _: Option<Token![,]> = input.parse()?;
            }
            Ok(())
        };
        if let Err(error) = walk.parse2(TokenStream::clone(&list.tokens)) {
            unclear = true;
            errors.add(error);
        }
    }
    unclear
}

fn eq<T>(
    name: &Ident,
    input: ParseStream<'_>,
    form: &str,
    value: impl FnOnce(ParseStream<'_>) -> syn::Result<T>,
) -> syn::Result<T> {
    input.parse::<Token![=]>().and_then(|_| value(input)).map_err(|_| diesel_form(name, form))
}

fn list(input: ParseStream<'_>) -> syn::Result<Vec<Ident>> {
    let content;
    syn::parenthesized!(content in input);
    let names = Punctuated::<Ident, Token![,]>::parse_terminated_with(&content, Ident::parse_any)?;
    Ok(names.into_iter().collect())
}

/// The column in quotes, which may be a keyword, as with Diesel.
fn quoted(text: &LitStr) -> syn::Result<Ident> {
    text.parse().or_else(|_| {
        let mut column = syn::parse_str::<Ident>(&format!("r#{}", text.value()))?;
        column.set_span(text.span());
        Ok(column)
    })
}

fn diesel_form(name: &Ident, form: &str) -> syn::Error {
    syn::Error::new_spanned(name, format!("write it as `#[diesel({form})]`"))
}
