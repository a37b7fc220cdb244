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
    let Replica { krate, ident, table, aggregate, fields, local, events, .. } = replica;
    let paths = Paths::new(krate);
    let copy = table.segments.last().map(|segment| segment.ident.unraw().to_string());
    let [created, updated, deleted] = events;
    let reads = fields.iter().map(|followed| read(&paths, followed));
    let defaults = local.iter().map(|Field { ident, ty, .. }| {
        quote_spanned!(at(ty.span())=> #ident: <#ty as ::core::default::Default>::default())
    });
    let marks = marks(&paths, replica);
    let statements = Statements::new(&paths, replica);
    let by_connection = paths.per_connection(|connection| statements.on(&paths, ident, connection));
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
        #by_connection
    })
}

/// The statements of a copy, the same on all databases.
struct Statements {
    update_older: TokenStream,
    exists: TokenStream,
    insert: TokenStream,
    delete_older: TokenStream,
}

impl Statements {
    fn new(paths: &Paths, replica: &Replica) -> Self {
        let Replica { table, key, fields, .. } = replica;
        let diesel = &paths.diesel;
        // Missing columns are told at the table's name.
        let table_span = at(table.span());
        let [generation, id, bucket] =
            ["outbox_generation", "outbox_id", "outbox_bucket"].map(|column| Ident::new(column, table_span));
        let is_older = quote! {
            #diesel::BoolExpressionMethods::or(
                #diesel::ExpressionMethods::lt(#table::#generation, __version.generation),
                #diesel::BoolExpressionMethods::and(
                    #diesel::ExpressionMethods::eq(#table::#generation, __version.generation),
                    #diesel::ExpressionMethods::lt(#table::#id, __version.id),
                ),
            )
        };
        let generation = paths.eq(table, &generation, &quote!(__version.generation));
        let id = paths.eq(table, &id, &quote!(__version.id));
        // Below BUCKETS, so it fits.
        let bucket = paths.eq(table, &bucket, &quote!(__bucket as ::core::primitive::i16));

        let rows = paths.rows(table, key);
        let is_key = |field: &&Field| key.iter().any(|key| key.ident == field.ident);
        let columns = || fields.iter().map(|followed| &followed.field);
        let inserted = groups(paths, table, columns());
        let updated = groups(paths, table, columns().filter(|field| !is_key(field)));
        let live = mark(paths, replica, false).into_iter();
        // MySQL assigns from left to right; the version stays last, so that an assignment may read the old one.
        let last = quote!((#(#live,)* #generation, #id, #bucket));
        let set = quote!((#(#updated,)* #last));
        let values = quote!((#(#inserted,)* #last));
        let delete_older = match mark(paths, replica, true) {
            None => quote!(#diesel::delete(#rows).filter(#is_older)),
            Some(mark) => quote!(#diesel::update(#rows).filter(#is_older).set((#mark, #generation, #id))),
        };
        Self {
            update_older: paths.run("execute", &quote!(#diesel::update(#rows).filter(#is_older).set(#set))),
            exists: paths.run("get_result", &quote!(#diesel::select(#diesel::dsl::exists(#rows)))),
            insert: paths.run("execute", &quote!(#diesel::insert_into(#table::table).values(#values))),
            delete_older: paths.run("execute", &delete_older),
        }
    }

    fn on(&self, paths: &Paths, ident: &Ident, connection: &TokenStream) -> TokenStream {
        let Paths { krate, query_result, .. } = paths;
        let Self { update_older, exists, insert, delete_older } = self;
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
    }
}

/// What marks a row, as a constant: the one place that asks for the column's type, so that a wrong one is
/// told once.
fn marks(paths: &Paths, replica: &Replica) -> Option<TokenStream> {
    let column = replica.soft_delete.as_ref()?;
    let (private, table) = (told_at(&paths.private, column.span()), told_at(&replica.table, column.span()));
    Some(quote_spanned! {at(column.span())=>
        const __MARKS: #private::Marks = #private::marks(#table::#column);
    })
}

/// The assignment that marks a row as deleted, or as there.
fn mark(paths: &Paths, replica: &Replica, is_deleted: bool) -> Option<TokenStream> {
    let Paths { private, .. } = paths;
    let Replica { table, .. } = replica;
    let column = replica.soft_delete.as_ref()?;
    let value = quote!(#private::mark::<_, #is_deleted>(#table::#column, __MARKS));
    Some(paths.eq(table, column, &value))
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
