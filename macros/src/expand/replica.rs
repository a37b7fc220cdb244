//! `#[derive(Replica)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, Path};

use super::paths::{Paths, at, in_const};
use super::told_at;
use crate::ast::{Field, Followed, Replica};

/// Diesel's tuples end at 32 elements (here: 31 groups of fields and the version): groups of 8 take the
/// widest tables of Diesel.
const GROUP: usize = 8;

pub(crate) fn replica(replica: &Replica) -> TokenStream {
    let Replica { krate, ident, table, aggregate, key, fields, local, soft_delete, events } = replica;
    let paths = Paths::new(krate);
    let Paths { private, diesel, query_result, .. } = &paths;
    let copy = table.segments.last().map(|segment| segment.ident.unraw().to_string());
    let reads = fields.iter().map(|followed| read(&paths, followed));
    let defaults = local.iter().map(|Field { ident, ty, .. }| {
        quote_spanned!(at(ty.span())=> #ident: <#ty as ::core::default::Default>::default())
    });
    let [created, updated, deleted] = events;

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
    let columns = || fields.iter().map(|followed| &followed.field);
    let to_insert = groups(&paths, table, columns());
    let to_update = groups(&paths, table, columns().filter(|field| !is_key(field)));
    let mark = |is_deleted: bool| {
        soft_delete.as_ref().map(|column| {
            let value = quote!(#private::mark::<_, #is_deleted>(#table::#column, __MARKS));
            paths.eq(table, column, &value)
        })
    };
    // The one place that asks for the column's type, so that a wrong one is told once.
    let marks = soft_delete.as_ref().map(|column| {
        let (private, table) = (told_at(private, column.span()), told_at(table, column.span()));
        quote_spanned! {at(column.span())=>
            const __MARKS: #private::Marks = #private::marks(#table::#column);
        }
    });
    let live = mark(false).into_iter();
    // MySQL assigns from left to right; the version stays last, so that an assignment may read the old one.
    let last = quote!((#(#live,)* #(#version),*));
    let set = quote!((#(#to_update,)* #last));
    let values = quote!((#(#to_insert,)* #last));

    let update_older = paths.run("execute", &quote!(#diesel::update(#rows).filter(#is_older).set(#set)));
    let exists = paths.run("get_result", &quote!(#diesel::select(#diesel::dsl::exists(#rows))));
    let insert = paths.run("execute", &quote!(#diesel::insert_into(#table::table).values(#values)));
    let delete_older = match mark(true) {
        None => quote!(#diesel::delete(#rows).filter(#is_older)),
        Some(mark) => {
            let [generation, id, _] = &version;
            quote!(#diesel::update(#rows).filter(#is_older).set((#mark, #generation, #id)))
        }
    };
    let delete_older = paths.run("execute", &delete_older);

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
        #by_database
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

/// Assignments of the fields, in tuples that Diesel can nest.
fn groups<'f>(paths: &Paths, table: &Path, fields: impl Iterator<Item = &'f Field>) -> Vec<TokenStream> {
    let assignments: Vec<_> = fields.map(|field| paths.eq_field(table, field)).collect();
    assignments.chunks(GROUP).map(|group| quote!((#(#group,)*))).collect()
}
