//! `#[derive(Outbox)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::paths::{Paths, at, fingerprint, in_const, key_fn, type_text};
use super::statements::Statements;
use crate::ast::{Entity, Field, Form, Insertable, Outbox, Recorded};

pub(crate) fn outbox(outbox: &Outbox) -> TokenStream {
    match outbox {
        Outbox::Entity(entity) => self::entity(entity),
        Outbox::Insertable(insertable) => self::insertable(insertable),
    }
}

fn entity(entity: &Entity) -> TokenStream {
    let Entity { krate, ident, table, id, read_back, .. } = entity;
    let paths = Paths::new(krate);
    let Paths { diesel, query_result, .. } = &paths;
    let names = names(&paths, entity);
    let id_types = id.iter().map(|field| &field.ty);
    // A single column is no tuple.
    let id_type = if let [only] = id.as_slice() {
        let ty = &only.ty;
        quote!(#ty)
    } else {
        quote!((#(#id_types),*))
    };

    let by_connection = paths.per_connection(|database| {
        let statements = Statements { paths: &paths, database, table, entity: &quote!(Self), read_back, columns: entity.columns };
        let connection = &database.connection;
        let backend = &database.backend;
        let (asyncness, send, insert_on, entity_on, upsert_on) = if database.is_async {
            (quote!(async), quote!(+ ::core::marker::Send), quote!(AsyncInsertOn), quote!(AsyncEntityOn), quote!(AsyncUpsertOn))
        } else {
            (quote!(), quote!(), quote!(InsertOn), quote!(EntityOn), quote!(UpsertOn))
        };
        let changes = quote! {
            __X: #diesel::query_builder::AsChangeset<Target = #table::table> #send,
            __X::Changeset: #diesel::query_builder::QueryFragment<#backend> #send
        };
        let condition = quote!(__P: #krate::Condition<#table::table, #backend> #send);
        let insert = statements.insert();
        let insert_all = statements.insert_all(id);
        let lock = statements.lock(id);
        let update = statements.update();
        let update_with = statements.update_with();
        let update_where = statements.update_where(id);
        let delete = statements.delete();
        let delete_id = statements.delete_id(id);
        let delete_where = statements.delete_where(id);
        let upsert = entity.has_own_id().then(|| {
            let upsert = statements.upsert();
            quote! {
                #[automatically_derived]
                impl #krate::#upsert_on<#connection> for #ident {
                    #asyncness fn upsert_on(
                        &self,
                        __connection: &mut #connection,
                    ) -> #query_result<(Self, #krate::Operation)> {
                        #upsert
                    }
                }
            }
        });
        quote! {
            #[automatically_derived]
            impl #krate::#insert_on<#connection> for #ident {
                type Entity = Self;
                #asyncness fn insert_on(&self, __connection: &mut #connection) -> #query_result<Self> {
                    #insert
                }
                #asyncness fn insert_all_on(
                    __rows: &[Self],
                    __connection: &mut #connection,
                ) -> #query_result<::std::vec::Vec<Self>> {
                    #insert_all
                }
            }
            #[automatically_derived]
            impl #krate::#entity_on<#connection> for #ident {
                type Table = #table::table;
                type Id = #id_type;
                #asyncness fn lock_on(__id: &#id_type, __connection: &mut #connection) -> #query_result<Self> {
                    #lock
                }
                #asyncness fn update_on(&self, __connection: &mut #connection) -> #query_result<Self> {
                    #update
                }
                #asyncness fn update_with_on<__X>(
                    &self,
                    __changes: __X,
                    __connection: &mut #connection,
                ) -> #query_result<Self>
                where
                    #changes
                {
                    #update_with
                }
                #asyncness fn update_where_on<__P, __X>(
                    __condition: __P,
                    __changes: __X,
                    __connection: &mut #connection,
                ) -> #query_result<::std::vec::Vec<(Self, Self)>>
                where
                    #condition,
                    #changes
                {
                    #update_where
                }
                #asyncness fn delete_on(&self, __connection: &mut #connection) -> #query_result<Self> {
                    #delete
                }
                #asyncness fn delete_id_on(
                    __id: &#id_type,
                    __connection: &mut #connection,
                ) -> #query_result<Self> {
                    #delete_id
                }
                #asyncness fn delete_where_on<__P>(
                    __condition: __P,
                    __connection: &mut #connection,
                ) -> #query_result<::std::vec::Vec<Self>>
                where
                    #condition
                {
                    #delete_where
                }
            }
            #upsert
        }
    });
    in_const(&quote! {
        #names
        #by_connection
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
    let query_result = &paths.query_result;
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let by_connection = paths.per_connection(|database| {
        let connection = &database.connection;
        let statements = Statements {
            paths: &paths,
            database,
            table,
            entity: &quote!(#entity),
            read_back,
            columns: *columns,
        };
        let insert = statements.insert();
        let insert_all = statements.insert_all(&[]);
        let (asyncness, insert_on) = if database.is_async {
            (quote!(async), quote!(AsyncInsertOn))
        } else {
            (quote!(), quote!(InsertOn))
        };
        quote! {
            #[automatically_derived]
            impl #impl_generics #krate::#insert_on<#connection> for #ident #type_generics #where_clause {
                type Entity = #entity;
                #asyncness fn insert_on(&self, __connection: &mut #connection) -> #query_result<#entity> {
                    #insert
                }
                #asyncness fn insert_all_on(
                    __rows: &[Self],
                    __connection: &mut #connection,
                ) -> #query_result<::std::vec::Vec<#entity>> {
                    #insert_all
                }
            }
        }
    });
    in_const(&quote! {
        #(const _: () = { let _ = #table::#named_columns; };)*
        #by_connection
    })
}
