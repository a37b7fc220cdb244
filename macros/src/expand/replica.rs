//! `#[derive(Replica)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::Ident;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::paths::{Paths, at, in_const};
use super::told_at;
use crate::ast::{Field, Followed, Replica};

pub(crate) fn replica(replica: &Replica) -> TokenStream {
    let Replica { krate, ident, table, aggregate, fields, local, events, .. } = replica;
    let paths = Paths::new(krate);
    let copy = table.segments.last().map(|segment| segment.ident.unraw().to_string());
    let [created, updated, deleted] = events;
    let reads = fields.iter().map(|followed| read(&paths, followed));
    let defaults = local.iter().map(|Field { ident, ty, .. }| {
        quote_spanned!(at(ty.span())=> #ident: <#ty as ::core::default::Default>::default())
    });
    let marks = marks(&paths, replica);
    let pieces = Pieces::new(&paths, replica);
    let by_backend = paths.per_backend(|_, backend| pieces.on(&paths, ident, backend));
    in_const(&quote! {
        #[automatically_derived]
        impl #krate::Replica for #ident {
            const AGGREGATE: &'static ::core::primitive::str = #aggregate;
            const COPY: &'static ::core::primitive::str = #copy;
            const EVENTS: #krate::EventNames = #krate::EventNames {
                created: #created,
                updated: #updated,
                deleted: #deleted,
            };
            fn from_image(__image: &#krate::Image) -> #krate::Result<Self> {
                ::core::result::Result::Ok(Self { #(#reads,)* #(#defaults,)* })
            }
        }
        #marks
        #by_backend
    })
}

/// What a copy's statements are put together from, the same on all databases.
struct Pieces {
    table: TokenStream,
    columns: Vec<TokenStream>,
    values: Vec<TokenStream>,
    key_columns: Vec<TokenStream>,
    key_values: Vec<TokenStream>,
    mark: Option<TokenStream>,
}

impl Pieces {
    fn new(paths: &Paths, replica: &Replica) -> Self {
        let Replica { table, key, fields, .. } = replica;
        let private = &paths.private;
        // Missing columns are told at the table's name.
        let table_span = at(table.span());
        let version =
            ["outbox_generation", "outbox_id", "outbox_bucket"].map(|column| Ident::new(column, table_span));
        let name = |Field { column, .. }: &Field| quote!(#private::column_name(#table::#column));
        let value = |Field { ident, column, ty, .. }: &Field| quote_spanned!(at(ty.span())=> #private::column_value(#table::#column, &self.#ident));
        let columns = || fields.iter().map(|followed| &followed.field);
        Self {
            table: quote! {
                #private::version_columns(#(#table::#version),*);
                #private::table_name(#table::table)
            },
            columns: columns().map(name).collect(),
            values: columns().map(value).collect(),
            key_columns: key.iter().map(name).collect(),
            key_values: key.iter().map(value).collect(),
            mark: mark(paths, replica),
        }
    }

    fn on(&self, paths: &Paths, ident: &Ident, backend: &TokenStream) -> TokenStream {
        let private = &paths.private;
        let Self { table, columns, values, key_columns, key_values, mark } = self;
        let names = quote!(::std::vec::Vec<&'static ::core::primitive::str>);
        let binds = quote!(::std::vec::Vec<#private::Fragment<'_, #backend>>);
        quote! {
            #[automatically_derived]
            impl #private::ReplicaSql<#backend> for #ident {
                fn table() -> #private::Fragment<'static, #backend> {
                    #table
                }
                fn columns() -> #names {
                    ::std::vec![#(#columns),*]
                }
                fn values(&self) -> #binds {
                    ::std::vec![#(#values),*]
                }
                fn key_columns() -> #names {
                    ::std::vec![#(#key_columns),*]
                }
                fn key_values(&self) -> #binds {
                    ::std::vec![#(#key_values),*]
                }
                #mark
            }
        }
    }
}

/// What marks a deleted row. The column's type is asked for once, in a constant, so that a wrong one is told once.
fn mark(paths: &Paths, replica: &Replica) -> Option<TokenStream> {
    let column = replica.soft_delete.as_ref()?;
    let table = &replica.table;
    let private = &paths.private;
    Some(quote! {
        fn mark() -> ::core::option::Option<(&'static ::core::primitive::str, #private::Marks)> {
            ::core::option::Option::Some((#private::column_name(#table::#column), __MARKS))
        }
    })
}

/// See [`mark`].
fn marks(paths: &Paths, replica: &Replica) -> Option<TokenStream> {
    let column = replica.soft_delete.as_ref()?;
    let (private, table) = (told_at(&paths.private, column.span()), told_at(&replica.table, column.span()));
    Some(quote_spanned! {at(column.span())=>
        const __MARKS: #private::Marks = #private::marks(#table::#column);
    })
}

/// A field from the message's image.
fn read(paths: &Paths, followed: &Followed) -> TokenStream {
    let private = &paths.private;
    let Followed { field: Field { ident, ty, name, .. }, with } = followed;
    match with {
        None => quote_spanned!(at(ty.span())=> #ident: #private::field::<#ty>(__image, #name)?),
        Some(with) => {
            let private = told_at(private, with.span());
            quote_spanned!(at(with.span())=> #ident: #private::field_with::<_, #ty, _>(__image, #name, #with)?)
        }
    }
}
