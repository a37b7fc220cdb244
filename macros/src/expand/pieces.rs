//! The pieces of SQL of an entity and its insertables on one backend, of which `outbox-core` makes statements.
//!
//! As few of Diesel's types as can be: what is written here, the compiler checks for each entity.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, Path};

use super::paths::{Paths, Server, at};
use crate::ast::{Field, ReadBack};

/// What the pieces of one type on one backend are about.
pub(super) struct Pieces<'a> {
    pub(super) paths: &'a Paths,
    pub(super) server: Server,
    pub(super) backend: &'a TokenStream,
    pub(super) table: &'a Path,
}

impl Pieces<'_> {
    fn fragment(&self, lifetime: &TokenStream) -> TokenStream {
        let (private, backend) = (&self.paths.private, self.backend);
        quote!(#private::Fragment<#lifetime, #backend>)
    }

    fn boxed(piece: &TokenStream) -> TokenStream {
        quote!(::std::boxed::Box::new(#piece))
    }

    /// `impl FromRow` and `impl EntitySql`.
    pub(super) fn entity(&self, ident: &Ident, id: &[Field]) -> TokenStream {
        let Self { paths: Paths { diesel, private, .. }, backend, table, .. } = self;
        let (fragment, fixed) = (self.fragment(&quote!('_)), self.fragment(&quote!('static)));
        let metadata = quote!(<#backend as #diesel::sql_types::TypeMetadata>);
        let row_metadata = (self.server == Server::Mysql).then(|| {
            quote! {
                fn row_metadata(
                    __lookup: &mut #metadata::MetadataLookup,
                    __out: &mut ::std::vec::Vec<::core::option::Option<#metadata::TypeMetadata>>,
                ) {
                    #private::row_metadata::<Self, #backend>(__lookup, __out);
                }
            }
        });
        let key = |id: &TokenStream| {
            let key = quote!(#diesel::Table::primary_key(&#table::table));
            Self::boxed(&quote!(#diesel::expression_methods::EqAll::eq_all(#key, #id)))
        };
        let parts = (0..id.len()).map(syn::Index::from);
        // A single value is no tuple.
        let is_after = self.is_after(id);
        let is_row = key(&if id.len() == 1 { quote!(__id) } else { quote!((#(&__id.#parts),*)) });
        let is_self = key(&quote!(#diesel::Identifiable::id(self)));
        let are_rows = self.are_rows(id);
        quote! {
            #[automatically_derived]
            impl #private::FromRow<#backend> for #ident {
                #row_metadata
                fn from_row<'__r>(
                    __row: &impl #diesel::row::Row<'__r, #backend>,
                ) -> #diesel::deserialize::Result<Self> {
                    #private::from_row::<Self, #backend>(__row)
                }
            }
            #[automatically_derived]
            impl #private::EntitySql<#backend> for #ident {
                fn table() -> #fixed {
                    ::std::boxed::Box::new(#table::table)
                }
                fn selection() -> #fixed {
                    #private::selection::<#table::table, Self, #backend>()
                }
                fn is_row(__id: &<Self as #private::EntityTable>::Id) -> #fragment {
                    #is_row
                }
                fn is_after(__id: &<Self as #private::EntityTable>::Id) -> #fragment {
                    #is_after
                }
                fn is_self(&self) -> #fragment {
                    #is_self
                }
                fn are_rows(__rows: &[Self]) -> #fragment {
                    #are_rows
                }
                fn changes(&self) -> #fragment {
                    #private::changes::<#table::table, _, #backend>(self)
                }
            }
        }
    }

    /// Column by column, and the first one besides: by it alone every database finds the place in the index.
    fn is_after(&self, id: &[Field]) -> TokenStream {
        let Self { paths: Paths { diesel, .. }, table, .. } = self;
        let compare = |method: &str, part: usize, Field { column, .. }: &Field| {
            let (method, index) = (format_ident!("{method}"), syn::Index::from(part));
            let value = if id.len() == 1 { quote!(__id) } else { quote!(&__id.#index) };
            quote!(#diesel::ExpressionMethods::#method(#table::#column, #value))
        };
        let both = |method: &str, left: &TokenStream, right: &TokenStream| {
            let method = format_ident!("{method}");
            quote!(#diesel::BoolExpressionMethods::#method(#left, #right))
        };
        let after = id.iter().enumerate().rev().fold(None, |later: Option<TokenStream>, (part, field)| {
            let greater = compare("gt", part, field);
            Some(match later {
                None => greater,
                Some(later) => both("or", &greater, &both("and", &compare("eq", part, field), &later)),
            })
        });
        let Some(after) = after else { return quote!(::core::unreachable!()) };
        Self::boxed(&match id {
            [first, _, ..] => both("and", &compare("ge", 0, first), &after),
            _ => after,
        })
    }

    fn are_rows(&self, id: &[Field]) -> TokenStream {
        let Self { paths: Paths { diesel, private, .. }, backend, table, .. } = self;
        let [Field { ident, column, .. }] = id else {
            return quote!(#private::any_of(
                __rows.iter().map(<Self as #private::EntitySql<#backend>>::is_self)
            ));
        };
        let ids = quote!(__rows.iter().map(|__row| &__row.#ident).collect::<::std::vec::Vec<_>>());
        Self::boxed(&quote!(#diesel::ExpressionMethods::eq_any(#table::#column, #ids)))
    }

    /// The methods of `NewRowSql`.
    pub(super) fn new_row(&self, read_back: &ReadBack) -> TokenStream {
        let Self { paths: Paths { diesel, private, .. }, server, backend, table } = self;
        let fragment = self.fragment(&quote!('_));
        let values =
            |rows: &TokenStream| Self::boxed(&quote!(#diesel::Insertable::<#table::table>::values(#rows)));
        let (one, many) = (values(&quote!(self)), values(&quote!(__rows)));
        let goes_one_by_one = match server {
            Server::Sqlite => true,
            // Some keys are given and some are generated.
            Server::Mysql => matches!(read_back, ReadBack::Either(_)),
            Server::Postgres => false,
        };
        let all_values = (!goes_one_by_one).then(|| {
            quote! {
                fn all_values(__rows: &[Self]) -> ::core::option::Option<#fragment> {
                    ::core::option::Option::Some(#many)
                }
            }
        });
        let read_back = (*server == Server::Mysql).then(|| {
            let read_back = self.read_back(read_back);
            quote! {
                fn read_back(&self) -> #private::ReadBack<'_, #backend> {
                    #read_back
                }
            }
        });
        quote! {
            fn values(&self) -> #fragment {
                #one
            }
            #all_values
            #read_back
        }
    }

    fn read_back(&self, read_back: &ReadBack) -> TokenStream {
        let Self { paths, backend, table, .. } = self;
        let private = &paths.private;
        let by = |condition: &TokenStream| {
            let condition = Self::boxed(condition);
            quote!(#private::ReadBack::By(#condition))
        };
        match read_back {
            ReadBack::Identified => {
                quote!(#private::ReadBack::By(<Self as #private::EntitySql<#backend>>::is_self(self)))
            }
            ReadBack::PrimaryKey(fields) | ReadBack::Columns(fields) => {
                let diesel = &paths.diesel;
                let equal = fields.iter().map(|field| paths.eq_field(table, field));
                let and = |left, right| quote!(#diesel::BoolExpressionMethods::and(#left, #right));
                equal.reduce(and).map_or_else(TokenStream::new, |all| by(&all))
            }
            ReadBack::Generated(column) => self.generated(column),
            ReadBack::Either(field) => {
                let Field { ident, column, .. } = field.as_ref();
                let by_field = by(&paths.eq(table, column, &quote!(__key)));
                let by_generated = self.generated(column);
                quote! {
                    match &self.#ident {
                        ::core::option::Option::Some(__key) => #by_field,
                        ::core::option::Option::None => #by_generated,
                    }
                }
            }
            // A row that this server cannot give back: an error where, and only where, it is in use.
            ReadBack::Impossible(error) => {
                let error = error.to_compile_error();
                quote! { #error ::core::unreachable!() }
            }
        }
    }

    /// The column of the generated key, told at its name where AUTO_INCREMENT cannot be that.
    fn generated(&self, column: &Ident) -> TokenStream {
        let (private, table) = (&self.paths.private, self.table);
        let column = quote_spanned!(at(column.span())=> #private::generated(#table::#column));
        quote!(#private::ReadBack::Generated(|| #column))
    }
}
