//! `#[derive(Replica)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, Path};

use super::paths::{Paths, at, in_const};
use crate::ast::{Field, Replica};

/// Diesel's tuples end at 32 elements (here: 31 groups of fields and the version): groups of 8 take the
/// widest tables of Diesel.
const GROUP: usize = 8;

pub(crate) fn replica(replica: &Replica) -> TokenStream {
    let Replica { krate, ident, table, aggregate, key, fields } = replica;
    let paths = Paths::new(krate);
    let Paths { private, diesel, query_result, .. } = &paths;
    let copy = table.segments.last().map(|segment| segment.ident.unraw().to_string());
    let reads = fields.iter().map(|Field { ident, ty, name, .. }| {
        quote_spanned!(at(ty.span())=> #ident: #private::field::<#ty>(__image, #name)?)
    });

    // Missing columns are told at the table's name.
    let table_span = at(table.span());
    let [generation, id, bucket] =
        ["outbox_generation", "outbox_id", "outbox_bucket"].map(|column| Ident::new(column, table_span));
    let version = [
        paths.eq(table, &generation, &quote!(__version.generation)),
        paths.eq(table, &id, &quote!(__version.id)),
        // Below BUCKETS, so it fits.
        paths.eq(table, &bucket, &quote!(__bucket as ::core::primitive::i16)),
    ];
    let is_older = quote! {
        #diesel::BoolExpressionMethods::or(
            #diesel::ExpressionMethods::lt(#table::#generation, __version.generation),
            #diesel::BoolExpressionMethods::and(
                #diesel::ExpressionMethods::eq(#table::#generation, __version.generation),
                #diesel::ExpressionMethods::lt(#table::#id, __version.id),
            ),
        )
    };
    let rows = paths.rows(table, key);
    let is_key = |field: &&Field| key.iter().any(|key| key.ident == field.ident);
    let inserted = groups(&paths, table, fields.iter());
    let updated = groups(&paths, table, fields.iter().filter(|field| !is_key(field)));
    // MySQL assigns from left to right; the version stays last, so that an assignment may read the old one.
    let set = quote!((#(#updated,)* (#(#version),*)));
    let values = quote!((#(#inserted,)* (#(#version),*)));

    let update_older = paths.run("execute", &quote!(#diesel::update(#rows).filter(#is_older).set(#set)));
    let exists = paths.run("get_result", &quote!(#diesel::select(#diesel::dsl::exists(#rows))));
    let insert = paths.run("execute", &quote!(#diesel::insert_into(#table::table).values(#values)));
    let delete_older = paths.run("execute", &quote!(#diesel::delete(#rows).filter(#is_older)));

    let by_database = paths.per_database(|database| {
        let connection = &database.connection;
        quote! {
            #[automatically_derived]
            impl #krate::ReplicaOn<#connection> for #ident {
                fn update_older(
                    &self,
                    __connection: &mut #connection,
                    __version: #krate::Version,
                    __bucket: ::core::primitive::u16,
                ) -> #query_result<::core::primitive::usize> {
                    #update_older
                }
                fn exists(
                    &self,
                    __connection: &mut #connection,
                ) -> #query_result<::core::primitive::bool> {
                    #exists
                }
                fn insert(
                    &self,
                    __connection: &mut #connection,
                    __version: #krate::Version,
                    __bucket: ::core::primitive::u16,
                ) -> #query_result<()> {
                    #insert?;
                    ::core::result::Result::Ok(())
                }
                fn delete_older(
                    &self,
                    __connection: &mut #connection,
                    __version: #krate::Version,
                ) -> #query_result<::core::primitive::usize> {
                    #delete_older
                }
            }
        }
    });

    in_const(&quote! {
        #[automatically_derived]
        impl #krate::Replica for #ident {
            const AGGREGATE: &'static ::core::primitive::str = #aggregate;
            const COPY: &'static ::core::primitive::str = #copy;
            fn from_image(__image: &#krate::Image) -> #krate::Result<Self> {
                ::core::result::Result::Ok(Self { #(#reads),* })
            }
        }
        #by_database
    })
}

/// Assignments of the fields, in tuples that Diesel can nest.
fn groups<'f>(paths: &Paths, table: &Path, fields: impl Iterator<Item = &'f Field>) -> Vec<TokenStream> {
    let assignments: Vec<_> = fields.map(|field| paths.eq_field(table, field)).collect();
    assignments.chunks(GROUP).map(|group| quote!((#(#group,)*))).collect()
}
