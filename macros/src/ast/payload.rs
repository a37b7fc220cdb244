//! What serde makes of fields: the names and types in a payload, as far as a macro can see.

use quote::quote;
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, FieldsNamed, Lit, Meta, Path, Token, Type};

use super::read::is_option;

/// The type of a field whose form in the payload cannot be seen from here.
const UNSEEN: &str = "?";

/// A field as it stands in the payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PayloadField {
    pub(crate) name: String,
    /// The Rust type without spaces, or `?`.
    pub(crate) ty: String,
}

/// The attributes `#[serde(…)]` of one place. What does not parse is serde's to report.
#[derive(Default)]
pub(super) struct Serde {
    rename: Option<String>,
    rename_all: Option<Case>,
    rename_all_fields: Option<Case>,
    /// Never serialized.
    pub(super) skip: Option<Path>,
    pub(super) flatten: Option<Path>,
    /// The function that writes it instead of its own `Serialize`.
    pub(super) serialize_with: Option<Path>,
    may_be_missing: bool,
    /// Something else is serialized in the place of its fields.
    pub(super) is_replaced: bool,
}

impl Serde {
    pub(super) fn of_type(attributes: &[Attribute]) -> Self {
        Self::read(attributes, &["into", "transparent"])
    }

    pub(super) fn of_variant(attributes: &[Attribute]) -> Self {
        Self::read(attributes, &["with", "serialize_with"])
    }

    fn read(attributes: &[Attribute], replacing: &[&str]) -> Self {
        let mut found = Self::default();
        let items = attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("serde"))
            .filter_map(|attribute| {
                attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()
            })
            .flatten();
        for item in items {
            let Some(name) = item.path().get_ident().map(ToString::to_string) else { continue };
            found.is_replaced |= replacing.contains(&name.as_str());
            match name.as_str() {
                "rename" => found.rename = found.rename.or(on_write(&item)),
                "rename_all" => found.rename_all = on_write(&item).and_then(|case| Case::named(&case)),
                "rename_all_fields" => {
                    found.rename_all_fields = on_write(&item).and_then(|case| Case::named(&case));
                }
                "skip" | "skip_serializing" => found.skip = Some(item.path().clone()),
                "skip_serializing_if" => found.may_be_missing = true,
                "flatten" => found.flatten = Some(item.path().clone()),
                "serialize_with" => found.serialize_with = function(&item, ""),
                "with" => found.serialize_with = function(&item, "::serialize"),
                _ => {}
            }
        }
        found
    }

    pub(super) fn of_field(attributes: &[Attribute]) -> Self {
        Self::read(attributes, &[])
    }

    /// The type under which a field is written, as far as it can be told. What may be left out is an `Option`.
    fn type_text(&self, ty: &Type, is_replaced: bool) -> String {
        if is_replaced || self.flatten.is_some() || self.serialize_with.is_some() {
            return UNSEEN.to_owned();
        }
        let text = quote!(#ty).to_string().replace(char::is_whitespace, "");
        if self.may_be_missing && !is_option(ty) { format!("Option<{text}>") } else { text }
    }

    /// The name under which a field is written.
    pub(super) fn name(&self, ident: &str, case: Option<Case>) -> String {
        let in_case = || case.map_or_else(|| ident.to_owned(), |case| case.of_field(ident));
        self.rename.clone().unwrap_or_else(in_case)
    }

    /// The case of the fields' names in a variant of this enum.
    pub(super) fn case_in(&self, variant: &Self) -> Option<Case> {
        variant.rename_all.or(self.rename_all_fields)
    }

    /// The case of the fields' names in this struct.
    pub(super) fn case(&self) -> Option<Case> {
        self.rename_all
    }
}

/// The fields in the payload, those left out that serde does not write.
pub(super) fn fields(fields: &FieldsNamed, case: Option<Case>, is_replaced: bool) -> Vec<PayloadField> {
    let field = |field: &syn::Field| {
        let serde = Serde::of_field(&field.attrs);
        if serde.skip.is_some() {
            return None;
        }
        let ident = field.ident.as_ref()?.unraw().to_string();
        let ty = &field.ty;
        Some(PayloadField { name: serde.name(&ident, case), ty: serde.type_text(ty, is_replaced) })
    };
    fields.named.iter().filter_map(field).collect()
}

/// The function in `with = "module"` or `serialize_with = "function"`.
fn function(item: &Meta, end: &str) -> Option<Path> {
    let Meta::NameValue(pair) = item else { return None };
    syn::parse_str(&format!("{}{end}", text(&pair.value)?)).ok()
}

/// `name = "text"` or `name(serialize = "text", …)`.
fn on_write(item: &Meta) -> Option<String> {
    match item {
        Meta::NameValue(pair) => text(&pair.value),
        Meta::List(list) => {
            let items = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
            items.iter().find_map(|item| match item {
                Meta::NameValue(pair) if pair.path.is_ident("serialize") => text(&pair.value),
                _ => None,
            })
        }
        Meta::Path(_) => None,
    }
}

fn text(value: &Expr) -> Option<String> {
    match value {
        Expr::Group(group) => text(&group.expr),
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// The cases of serde's `rename_all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    AsIs,
    Upper,
    Pascal,
    Camel,
    Kebab,
    UpperKebab,
}

impl Case {
    /// `None` for what serde refuses.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            // As serde has it, a field is in snake case to begin with.
            "lowercase" | "snake_case" => Self::AsIs,
            "UPPERCASE" | "SCREAMING_SNAKE_CASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::UpperKebab,
            _ => return None,
        })
    }

    /// A field's name in this case, letter by letter as serde does it.
    fn of_field(self, name: &str) -> String {
        match self {
            Self::AsIs => name.to_owned(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Pascal => pascal(name),
            Self::Camel => {
                let pascal = pascal(name);
                let first = pascal.chars().next().map(|first| first.to_ascii_lowercase());
                first.into_iter().chain(pascal.chars().skip(1)).collect()
            }
            Self::Kebab => name.replace('_', "-"),
            Self::UpperKebab => name.to_ascii_uppercase().replace('_', "-"),
        }
    }
}

fn pascal(name: &str) -> String {
    let mut starts = true;
    let letters = name.chars().filter_map(|letter| {
        if letter == '_' {
            starts = true;
            return None;
        }
        Some(if std::mem::take(&mut starts) { letter.to_ascii_uppercase() } else { letter })
    });
    letters.collect()
}

/// A variant's name in snake case, as serde's `rename_all = "snake_case"` has it.
pub(super) fn snake(variant: &str) -> String {
    let mut snake = String::new();
    for (index, letter) in variant.char_indices() {
        if index > 0 && letter.is_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use syn::{DeriveInput, parse_quote};

    use super::*;

    fn seen(input: &DeriveInput) -> Vec<String> {
        let serde = Serde::of_type(&input.attrs);
        let syn::Data::Struct(data) = &input.data else { panic!("no struct") };
        let syn::Fields::Named(named) = &data.fields else { panic!("no names") };
        fields(named, serde.case(), serde.is_replaced)
            .into_iter()
            .map(|PayloadField { name, ty }| format!("{name}:{ty}"))
            .collect()
    }

    #[test]
    fn names_are_those_that_serde_writes() {
        let input = parse_quote! {
            #[serde(rename_all(serialize = "camelCase", deserialize = "UPPERCASE"), bound = "")]
            struct E<'a> {
                product_id: i64,
                r#type: Option < Vec<u8> >,
                #[serde(rename = "n")]
                name: &'a str,
                #[serde(default, rename(deserialize = "x"))]
                not_renamed: i64,
                #[serde(rename(deserialize = "x", serialize = "y"), with = "hex")]
                renamed: i64,
                #[serde(skip_serializing_if = "Option::is_none")]
                some_times: Option<i64>,
                #[serde(skip_serializing_if = "Vec::is_empty")]
                now_and_then: Vec<i64>,
                #[serde(skip_deserializing)]
                written: i64,
                #[serde(skip)]
                never: i64,
                #[serde(skip_serializing)]
                unwritten: i64,
                #[serde(flatten)]
                rest: Rest,
            }
        };
        assert_eq!(
            seen(&input),
            [
                "productId:i64",
                "type:Option<Vec<u8>>",
                "n:&'astr",
                "notRenamed:i64",
                "y:?",
                "someTimes:Option<i64>",
                "nowAndThen:Option<Vec<i64>>",
                "written:i64",
                "rest:?"
            ]
        );
    }

    #[test]
    fn a_payload_that_is_something_else_has_unseen_types() {
        for attribute in [quote!(into = "Other"), quote!(transparent)] {
            assert_eq!(
                seen(&parse_quote!(
                    #[serde(#attribute)]
                    struct E {
                        id: i64,
                    }
                )),
                ["id:?"]
            );
        }
        assert_eq!(
            seen(&parse_quote!(
                #[serde(from = "Other")]
                struct E {
                    id: i64,
                }
            )),
            ["id:i64"]
        );
    }

    #[test]
    fn cases_are_as_serde_has_them() {
        let cases = [
            ("lowercase", "by_cents_2"),
            ("snake_case", "by_cents_2"),
            ("UPPERCASE", "BY_CENTS_2"),
            ("SCREAMING_SNAKE_CASE", "BY_CENTS_2"),
            ("PascalCase", "ByCents2"),
            ("camelCase", "byCents2"),
            ("kebab-case", "by-cents-2"),
            ("SCREAMING-KEBAB-CASE", "BY-CENTS-2"),
        ];
        for (name, expected) in cases {
            assert_eq!(Case::named(name).unwrap().of_field("by_cents_2"), expected, "{name}");
        }
        assert_eq!(Case::named("sponge"), None);
        assert_eq!((snake("PriceRaised"), snake("HTTPDone")), ("price_raised".into(), "h_t_t_p_done".into()));
    }
}
