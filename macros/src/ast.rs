//! What is derived, as a tree of our own, and the checks across its parts: one room per derive, and `read`,
//! what they share.

mod event;
mod outbox;
mod payload;
mod read;
mod replica;

pub(crate) use event::{Content, Event, Kind};
pub(crate) use outbox::{Entity, Form, Insertable, Outbox, ReadBack, Recorded};
pub(crate) use payload::PayloadField;
pub(crate) use read::{Field, krate};
pub(crate) use replica::{Followed, Replica};

#[cfg(test)]
mod tests {
    use syn::ext::IdentExt;
    use syn::{LitStr, parse_quote};

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
    fn a_variant_takes_the_key_of_its_enum_unless_it_has_its_own() {
        let Ok(event) = Event::new(&parse_quote! {
            #[outbox(aggregate = "product", key(shop, r#type), version = 3)]
            enum E {
                PriceRaised { r#type: String, shop: i64 },
                #[outbox(event = "off", key = id)]
                TakenOff { id: i64 },
                Held(Held<'static>),
            }
        }) else {
            panic!("refused")
        };
        let shown: Vec<_> = event
            .kinds
            .iter()
            .map(|kind| match &kind.content {
                Content::Fields { key, .. } => {
                    let key: Vec<_> = key.iter().map(|field| field.ident.unraw().to_string()).collect();
                    format!("{} by {}", kind.event.value(), key.join(", "))
                }
                Content::Event { inner, .. } => {
                    format!("{} in {}", kind.event.value(), quote::quote!(#inner))
                }
            })
            .collect();
        assert_eq!(shown, ["price_raised by shop, type", "off by id", "held in Held < 'static >"]);
        assert_eq!((event.version, event.is_strict), (3, false));
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
