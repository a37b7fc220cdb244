//! `#[derive(Outbox)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Path};

use super::paths::{Database, Paths, at, fingerprint, in_const, key_fn};
use crate::ast::{Entity, Field, Insertable, Outbox, ReadBack};

pub(crate) fn outbox(outbox: &Outbox) -> TokenStream {
    match outbox {
        Outbox::Entity(entity) => self::entity(entity),
        Outbox::Insertable(insertable) => self::insertable(insertable),
    }
}

fn entity(entity: &Entity) -> TokenStream {
    let Entity { krate, ident, table, aggregate, key, recorded, .. } = entity;
    let paths = Paths::new(krate);
    let Paths { private, diesel, query_result, .. } = &paths;
    let schema = fingerprint(recorded);
    let key = key_fn(&paths, key);
    let puts = recorded.iter().map(|Field { ident, ty, name, .. }| {
        quote_spanned!(at(ty.span())=> #private::put::<#ty>(&mut __image, #name, &self.#ident)?;)
    });

    let by_database = paths.per_database(|database| {
        let Database { connection, backend, .. } = database;
        let returning = quote!(<Self as #diesel::SelectableHelper<#backend>>::as_returning());
        let insert = insert(&paths, database, table, &quote!(Self), &entity.read_back);
        let update = if database.has_returning {
            paths.run("get_result", &quote!(#diesel::update(self).set(self).returning(#returning)))
        } else {
            let update = paths.run("execute", &quote!(#diesel::update(self).set(self)));
            let locked = identified_for_update(&paths, database, table);
            // A row that did not change counts as none: the read tells whether there is one. It locks, to see
            // the row that the update saw and not an older one of the transaction's snapshot.
            quote! {
                #update?;
                #locked
            }
        };
        let delete = if database.has_returning {
            paths.run("get_result", &quote!(#diesel::delete(self).returning(#returning)))
        } else {
            let delete = paths.run("execute", &quote!(#diesel::delete(self)));
            let locked = identified_for_update(&paths, database, table);
            quote! {
                let __last: Self = #locked?;
                #delete?;
                ::core::result::Result::Ok(__last)
            }
        };
        let last_insert_id = last_insert_id_fn(&paths, database, &entity.read_back);
        quote! {
            #last_insert_id
            #[automatically_derived]
            impl #krate::InsertOn<#connection> for #ident {
                type Entity = Self;
                fn insert_on(&self, __connection: &mut #connection) -> #query_result<Self> {
                    #insert
                }
            }
            #[automatically_derived]
            impl #krate::EntityOn<#connection> for #ident {
                fn update_on(&self, __connection: &mut #connection) -> #query_result<Self> {
                    #update
                }
                fn delete_on(&self, __connection: &mut #connection) -> #query_result<Self> {
                    #delete
                }
            }
        }
    });

    in_const(&quote! {
        #[automatically_derived]
        impl #krate::Entity for #ident {
            const AGGREGATE: &'static ::core::primitive::str = #aggregate;
            const SCHEMA: &'static ::core::primitive::str = #schema;
            #key
            fn image(&self) -> #private::serde_json::Result<#krate::Image> {
                let mut __image = #krate::Image::new();
                #(#puts)*
                ::core::result::Result::Ok(__image)
            }
        }
        #by_database
    })
}

fn insertable(insertable: &Insertable) -> TokenStream {
    let Insertable { krate, ident, generics, table, entity, named_columns, read_back } = insertable;
    let paths = Paths::new(krate);
    let query_result = &paths.query_result;
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let by_database = paths.per_database(|database| {
        let connection = &database.connection;
        let insert = insert(&paths, database, table, &quote!(#entity), read_back);
        let last_insert_id = last_insert_id_fn(&paths, database, read_back);
        quote! {
            #last_insert_id
            #[automatically_derived]
            impl #impl_generics #krate::InsertOn<#connection> for #ident #type_generics #where_clause {
                type Entity = #entity;
                fn insert_on(&self, __connection: &mut #connection) -> #query_result<#entity> {
                    #insert
                }
            }
        }
    });
    in_const(&quote! {
        #(const _: () = { let _ = #table::#named_columns; };)*
        #by_database
    })
}

/// The body of `insert_on`.
fn insert(
    paths: &Paths,
    database: &Database,
    table: &Path,
    entity: &TokenStream,
    read_back: &ReadBack,
) -> TokenStream {
    let diesel = &paths.diesel;
    let backend = &database.backend;
    let insert = quote!(#diesel::insert_into(#table::table).values(self));
    if database.has_returning {
        let returning = quote!(<#entity as #diesel::SelectableHelper<#backend>>::as_returning());
        return paths.run("get_result", &quote!(#insert.returning(#returning)));
    }
    let select = |rows: TokenStream| {
        let row = quote!(<#entity as #diesel::SelectableHelper<#backend>>::as_select());
        paths.run("get_result", &quote!(#diesel::QueryDsl::select(#rows, #row)))
    };
    let by_generated = |column: &Ident| {
        let is_equal = paths.eq(table, column, &quote!(__last_insert_id(#table::#column)));
        select(quote!(#diesel::QueryDsl::filter(#table::table, #is_equal)))
    };
    let read = match read_back {
        ReadBack::Identified => select(identified(paths, table)),
        ReadBack::PrimaryKey(fields) => {
            let values = fields.iter().map(|Field { ident, .. }| quote!(&self.#ident));
            // A single value is no tuple.
            let values =
                if let [_] = fields.as_slice() { quote!(#(#values)*) } else { quote!((#(#values),*)) };
            select(quote!(#diesel::QueryDsl::find(#table::table, #values)))
        }
        ReadBack::Columns(fields) => select(paths.rows(table, fields)),
        ReadBack::Generated(column) => by_generated(column),
        ReadBack::Either(field) => {
            let Field { ident, column, .. } = field.as_ref();
            let is_equal = paths.eq(table, column, &quote!(__key));
            let by_field = select(quote!(#diesel::QueryDsl::filter(#table::table, #is_equal)));
            let by_generated = by_generated(column);
            quote! {
                match &self.#ident {
                    ::core::option::Option::Some(__key) => #by_field,
                    ::core::option::Option::None => #by_generated,
                }
            }
        }
        ReadBack::Impossible(error) => {
            let error = error.to_compile_error();
            return quote! { #error ::core::unreachable!() };
        }
    };
    let insert = paths.run("execute", &insert);
    quote! {
        #insert?;
        #read
    }
}

/// `LAST_INSERT_ID()` in the type of a column, which must be one that AUTO_INCREMENT can be: compared with a
/// text, it would find some other row.
fn last_insert_id_fn(paths: &Paths, database: &Database, read_back: &ReadBack) -> Option<TokenStream> {
    let column = match read_back {
        _ if database.has_returning => return None,
        ReadBack::Generated(column) => column,
        ReadBack::Either(field) => &field.column,
        _ => return None,
    };
    let diesel = &paths.diesel;
    let types = quote!(#diesel::sql_types);
    let message = format!(
        "`{column}` cannot be an AUTO_INCREMENT column, so MySQL and MariaDB cannot tell the inserted row"
    );
    Some(quote! {
        #[diagnostic::on_unimplemented(
            message = #message,
            note = "give the key a field, or name columns that find the row: `#[outbox(key(…))]`"
        )]
        trait __AutoIncrement {}
        impl __AutoIncrement for #types::TinyInt {}
        impl __AutoIncrement for #types::SmallInt {}
        impl __AutoIncrement for #types::Integer {}
        impl __AutoIncrement for #types::BigInt {}
        impl<__T: __AutoIncrement> __AutoIncrement for #types::Unsigned<__T> {}
        fn __last_insert_id<__C: #diesel::Expression>(
            _: __C,
        ) -> #diesel::expression::SqlLiteral<__C::SqlType>
        where
            __C::SqlType: __AutoIncrement + #diesel::expression::TypedExpressionType,
        {
            #diesel::dsl::sql("LAST_INSERT_ID()")
        }
    })
}

/// The row of Diesel's `Identifiable` of the struct.
fn identified(paths: &Paths, table: &Path) -> TokenStream {
    let diesel = &paths.diesel;
    quote!(#diesel::QueryDsl::find(#table::table, #diesel::Identifiable::id(self)))
}

fn identified_for_update(paths: &Paths, database: &Database, table: &Path) -> TokenStream {
    let diesel = &paths.diesel;
    let backend = &database.backend;
    let rows = identified(paths, table);
    let row = quote!(<Self as #diesel::SelectableHelper<#backend>>::as_select());
    paths.run("get_result", &quote!(#diesel::QueryDsl::for_update(#diesel::QueryDsl::select(#rows, #row))))
}
