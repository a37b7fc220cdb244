//! `#[derive(Outbox)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::paths::{Paths, at, fingerprint, in_const, key_fn, type_text};
use super::pieces::Pieces;
use crate::ast::{Entity, Field, Form, Insertable, Outbox, Recorded};

pub(crate) fn outbox(outbox: &Outbox) -> TokenStream {
    match outbox {
        Outbox::Entity(entity) => self::entity(entity),
        Outbox::Insertable(insertable) => self::insertable(insertable),
    }
}

fn entity(entity: &Entity) -> TokenStream {
    let Entity { krate, ident, table, key, id, read_back, columns, .. } = entity;
    let paths = Paths::new(krate);
    let Paths { diesel, private, query_result, .. } = &paths;
    let names = names(&paths, entity);
    let id_types = id.iter().map(|field| &field.ty);
    // A single column is no tuple.
    let id_type = if let [only] = id.as_slice() {
        let ty = &only.ty;
        quote!(#ty)
    } else {
        quote!((#(#id_types),*))
    };
    // Neither is one that the message has in another form than its key.
    let is_written_so = |field: &Field| {
        let written = entity.recorded.iter().find(|recorded| recorded.field.ident == field.ident);
        written.is_some_and(|recorded| recorded.serialize_with.is_none())
    };
    let is_key = !id.is_empty()
        && id.iter().map(|field| &field.ident).eq(key.iter().map(|field| &field.ident))
        && id.iter().all(is_written_so);
    let key_fields = is_key.then(|| {
        let names = id.iter().map(|field| &field.name);
        quote!(const KEY_FIELDS: &'static [&'static ::core::primitive::str] = &[#(#names),*];)
    });
    let upsert = entity.has_own_id().then(|| {
        let columns = id.iter().map(|field| &field.column);
        quote! {
            #[automatically_derived]
            impl #private::UpsertKey for #ident {
                const KEY_COLUMNS: &'static [&'static ::core::primitive::str] =
                    &[#(<#table::#columns as #diesel::Column>::NAME),*];
            }
        }
    });
    let by_backend = paths.per_backend(|server, backend| {
        let pieces = Pieces { paths: &paths, server, backend, table };
        let of_entity = pieces.entity(ident, id);
        let of_new_row = pieces.new_row(read_back);
        quote! {
            #of_entity
            #[automatically_derived]
            impl #private::NewRowSql<#backend> for #ident {
                #of_new_row
            }
        }
    });
    in_const(&quote! {
        #names
        #[automatically_derived]
        impl #private::EntityTable for #ident {
            type Table = #table::table;
            type Id = #id_type;
            #key_fields
            fn pair(
                __before: ::std::vec::Vec<Self>,
                __after: ::std::vec::Vec<Self>,
            ) -> #query_result<::std::vec::Vec<(Self, Self)>> {
                #private::pair(__before, __after)
            }
        }
        #[automatically_derived]
        impl #private::NewRow for #ident {
            type Table = #table::table;
            type Entity = Self;
            const COLUMNS: ::core::primitive::usize = #columns;
        }
        #upsert
        #by_backend
    })
}

/// `impl Entity`: names, key and image, which know no database.
fn names(paths: &Paths, entity: &Entity) -> TokenStream {
    let Entity { krate, ident, aggregate, key, recorded, events, is_strict, version, .. } = entity;
    let private = &paths.private;
    let typed: Vec<_> =
        recorded.iter().map(|recorded| (recorded.field.name.clone(), form_text(recorded))).collect();
    let schema = fingerprint(&typed);
    let fields = typed.iter().map(|(name, ty)| quote!(#krate::FieldSchema { name: #name, ty: #ty }));
    let key = key_fn(paths, key);
    let mut in_order: Vec<_> = recorded.iter().collect();
    in_order.sort_by(|a, b| a.field.name.cmp(&b.field.name));
    let puts = in_order.into_iter().map(|Recorded { field, form, serialize_with }| {
        let Field { ident, ty, name, .. } = field;
        match (form, serialize_with) {
            (Form::Plain, Some(function)) => quote_spanned! {at(function.span())=>
                #private::put(
                    __fields,
                    #name,
                    &#function(&self.#ident, #private::serde_json::value::Serializer)?,
                )?;
            },
            (Form::Plain, None) => {
                quote_spanned!(at(ty.span())=> #private::put::<#ty>(__fields, #name, &self.#ident)?;)
            }
            (Form::Hashed, _) => {
                quote_spanned!(at(ty.span())=> #private::put_hashed::<#ty>(__fields, #name, &self.#ident)?;)
            }
            (Form::Redacted, _) => quote!(#private::put_redacted(__fields, #name)?;),
        }
    });
    let [created, updated, deleted] = events;
    let version = version.as_ref().map(|Field { ident, ty, .. }| {
        let version = quote_spanned!(at(ty.span())=> #private::version(&self.#ident));
        quote! {
            fn version(&self) -> ::core::option::Option<::core::primitive::i64> {
                #version
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl #krate::Entity for #ident {
            const AGGREGATE: &'static ::core::primitive::str = #aggregate;
            const SCHEMA: &'static ::core::primitive::str = #schema;
            const FIELDS: &'static [#krate::FieldSchema] = &[#(#fields),*];
            const EVENTS: #krate::EventNames =
                #krate::EventNames { created: #created, updated: #updated, deleted: #deleted };
            const STRICT: ::core::primitive::bool = #is_strict;
            #key
            fn write_fields<__W: #krate::FieldWriter>(
                &self,
                __fields: &mut __W,
            ) -> #private::serde_json::Result<()> {
                #(#puts)*
                ::core::result::Result::Ok(())
            }
            #version
        }
    }
}

/// The type that the schema names for a field.
fn form_text(recorded: &Recorded) -> String {
    match recorded.form {
        Form::Plain if recorded.serialize_with.is_some() => "?".to_owned(),
        Form::Plain => type_text(&recorded.field.ty),
        Form::Redacted => "redacted".to_owned(),
        Form::Hashed => "hashed".to_owned(),
    }
}

fn insertable(insertable: &Insertable) -> TokenStream {
    let Insertable { krate, ident, generics, table, entity, named_columns, read_back, columns } = insertable;
    let paths = Paths::new(krate);
    let private = &paths.private;
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let by_backend = paths.per_backend(|server, backend| {
        let of_new_row = Pieces { paths: &paths, server, backend, table }.new_row(read_back);
        quote! {
            #[automatically_derived]
            impl #impl_generics #private::NewRowSql<#backend> for #ident #type_generics #where_clause {
                #of_new_row
            }
        }
    });
    in_const(&quote! {
        #(const _: () = { let _ = #table::#named_columns; };)*
        #[automatically_derived]
        impl #impl_generics #private::NewRow for #ident #type_generics #where_clause {
            type Table = #table::table;
            type Entity = #entity;
            const COLUMNS: ::core::primitive::usize = #columns;
        }
        #by_backend
    })
}
