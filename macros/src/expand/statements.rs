//! The statements of an entity and its insertables, as bodies of the methods of `InsertOn`, `EntityOn` and
//! `UpsertOn`, sync and async.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Ident, Path};

use super::paths::{Database, Paths, Server, at};
use crate::ast::{Field, ReadBack};

/// Rows of one multi-row INSERT, as far as their values fit the servers' limits of placeholders.
const INSERT_ROWS_MAX: usize = 1000;
const PLACEHOLDERS_MAX: usize = 30_000;
/// Rows that are read back by conditions on each: their order costs the square of it.
const READ_BACK_ROWS_MAX: usize = 100;

/// What the statements of one type on one connection are about.
pub(super) struct Statements<'a> {
    pub(super) paths: &'a Paths,
    pub(super) database: &'a Database,
    pub(super) table: &'a Path,
    /// The entity's type where the code stands.
    pub(super) entity: &'a TokenStream,
    pub(super) read_back: &'a ReadBack,
    /// How many columns a row that is inserted has at most.
    pub(super) columns: usize,
}

impl Statements<'_> {
    fn has_returning(&self) -> bool {
        self.database.server.has_returning()
    }

    fn run(&self, method: &str, statement: &TokenStream) -> TokenStream {
        self.paths.run_on(self.database, method, statement)
    }

    fn returning(&self) -> TokenStream {
        let (diesel, entity, backend) = (&self.paths.diesel, self.entity, &self.database.backend);
        quote!(<#entity as #diesel::SelectableHelper<#backend>>::as_returning())
    }

    fn select(&self, rows: &TokenStream) -> TokenStream {
        let (diesel, entity, backend) = (&self.paths.diesel, self.entity, &self.database.backend);
        quote!(#diesel::QueryDsl::select(#rows, <#entity as #diesel::SelectableHelper<#backend>>::as_select()))
    }

    /// The rows that meet the condition that the method is given, for a read that locks them.
    fn matching(&self) -> TokenStream {
        let Paths { diesel, private, .. } = self.paths;
        let table = self.table;
        let condition = match self.database.server {
            Server::Mysql => quote!(#private::NotKept(__condition)),
            Server::Sqlite | Server::Postgres => quote!(__condition),
        };
        quote!(#diesel::QueryDsl::filter(#table::table, #condition))
    }

    /// A read that holds the rows until the transaction ends; SQLite has one writer anyway.
    fn select_locked(&self, rows: &TokenStream) -> TokenStream {
        let diesel = &self.paths.diesel;
        let select = self.select(rows);
        match self.database.server {
            Server::Sqlite => select,
            Server::Mysql | Server::Postgres => quote!(#diesel::QueryDsl::for_update(#select)),
        }
    }

    /// The row of Diesel's `Identifiable` of the struct.
    fn identified(&self) -> TokenStream {
        let (diesel, table) = (&self.paths.diesel, self.table);
        quote!(#diesel::QueryDsl::find(#table::table, #diesel::Identifiable::id(self)))
    }

    /// The row of the primary key in `__id`.
    fn of_id(&self, id: &[Field]) -> TokenStream {
        let (diesel, table) = (&self.paths.diesel, self.table);
        let parts = (0..id.len()).map(syn::Index::from);
        // A single value is no tuple.
        let id = if id.len() == 1 { quote!(__id) } else { quote!((#(&__id.#parts),*)) };
        quote!(#diesel::QueryDsl::find(#table::table, #id))
    }

    /// The conditions that find each of the rows by these fields.
    fn conditions(&self, rows: &TokenStream, fields: &[Field]) -> TokenStream {
        let (diesel, table) = (&self.paths.diesel, self.table);
        let equal = fields.iter().map(|Field { ident, column, .. }| {
            quote!(#diesel::ExpressionMethods::eq(#table::#column, &__row.#ident))
        });
        let all = equal.reduce(|left, right| quote!(#diesel::BoolExpressionMethods::and(#left, #right)));
        quote!(#rows.iter().map(|__row| #all).collect::<::std::vec::Vec<_>>())
    }

    /// The table's rows of the primary keys of the rows in `__before`.
    fn of_before(&self, id: &[Field]) -> TokenStream {
        let Paths { diesel, private, .. } = self.paths;
        let table = self.table;
        let condition = if let [Field { ident, column, .. }] = id {
            let ids = quote!(__before.iter().map(|__row| &__row.#ident).collect::<::std::vec::Vec<_>>());
            quote!(#diesel::ExpressionMethods::eq_any(#table::#column, #ids))
        } else {
            let conditions = self.conditions(&quote!(__before), id);
            quote!(#private::AnyOf(#conditions))
        };
        quote!(#diesel::QueryDsl::filter(#table::table, #condition))
    }

    pub(super) fn insert(&self) -> TokenStream {
        let (diesel, table) = (&self.paths.diesel, self.table);
        let insert = quote!(#diesel::insert_into(#table::table).values(self));
        if self.has_returning() {
            let returning = self.returning();
            return self.run("get_result", &quote!(#insert.returning(#returning)));
        }
        let select = |rows: &TokenStream| self.run("get_result", &self.select(rows));
        let by_generated = |column: &Ident| {
            let generated = self.generated(column);
            let is_equal = self.paths.eq(table, column, &generated);
            select(&quote!(#diesel::QueryDsl::filter(#table::table, #is_equal)))
        };
        let read = match self.read_back {
            ReadBack::Identified => select(&self.identified()),
            ReadBack::PrimaryKey(fields) | ReadBack::Columns(fields) => {
                select(&self.paths.rows(table, fields))
            }
            ReadBack::Generated(column) => by_generated(column),
            ReadBack::Either(field) => {
                let Field { ident, column, .. } = field.as_ref();
                let is_equal = self.paths.eq(table, column, &quote!(__key));
                let by_field = select(&quote!(#diesel::QueryDsl::filter(#table::table, #is_equal)));
                let by_generated = by_generated(column);
                quote! {
                    match &self.#ident {
                        ::core::option::Option::Some(__key) => #by_field,
                        ::core::option::Option::None => #by_generated,
                    }
                }
            }
            ReadBack::Impossible(error) => return impossible(error),
        };
        let insert = self.run("execute", &insert);
        quote! {
            #insert?;
            #read
        }
    }

    /// As few statements as the server takes. `id` is the primary key of an entity that is inserted itself.
    pub(super) fn insert_all(&self, id: &[Field]) -> TokenStream {
        let (diesel, table) = (&self.paths.diesel, self.table);
        let insert = quote!(#diesel::insert_into(#table::table).values(__part));
        let fits = INSERT_ROWS_MAX.min(PLACEHOLDERS_MAX / self.columns.max(1));
        match (self.database.server, self.read_back) {
            // Diesel inserts rows with defaults one by one there anyway, and nothing crosses a network.
            (Server::Sqlite, _) => self.insert_each(),
            (Server::Postgres, _) => {
                let returning = self.returning();
                let rows = self.run("get_results", &quote!(#insert.returning(#returning)));
                self.by_parts(fits, &quote!(#rows?))
            }
            (Server::Mysql, ReadBack::Generated(column)) => {
                self.by_parts(fits, &self.insert_generated(&insert, column))
            }
            (Server::Mysql, ReadBack::Identified) => {
                self.by_parts(fits.min(READ_BACK_ROWS_MAX), &self.insert_known(&insert, id))
            }
            (Server::Mysql, ReadBack::PrimaryKey(fields) | ReadBack::Columns(fields)) => {
                self.by_parts(fits.min(READ_BACK_ROWS_MAX), &self.insert_known(&insert, fields))
            }
            (Server::Mysql, ReadBack::Either(_)) => self.insert_each(),
            (Server::Mysql, ReadBack::Impossible(error)) => impossible(error),
        }
    }

    /// `LAST_INSERT_ID()` in the type of the column, told at its name where AUTO_INCREMENT cannot be that.
    fn generated(&self, column: &Ident) -> TokenStream {
        let (private, table) = (&self.paths.private, self.table);
        quote_spanned!(at(column.span())=> #private::last_insert_id(#table::#column))
    }

    /// In a savepoint: a row that cannot be inserted must not leave those before it, which nobody recorded.
    fn insert_each(&self) -> TokenStream {
        let Paths { krate, diesel, private, .. } = self.paths;
        let (entity, connection) = (self.entity, &self.database.connection);
        let (insert_on, connection_trait, managers, wait) = if self.database.is_async {
            let on_async = quote!(#private::diesel_async);
            (quote!(AsyncInsertOn), quote!(#on_async::AsyncConnection), on_async, quote!(.await))
        } else {
            (quote!(InsertOn), quote!(#diesel::Connection), quote!(#diesel::connection), quote!())
        };
        let manager = quote!(
            <<#connection as #connection_trait>::TransactionManager as #managers::TransactionManager<#connection>>
        );
        quote! {
            let mut __all: ::std::vec::Vec<#entity> = ::std::vec::Vec::with_capacity(__rows.len());
            #manager::begin_transaction(__connection)#wait?;
            for __row in __rows {
                match <Self as #krate::#insert_on<#connection>>::insert_on(__row, __connection)#wait {
                    ::core::result::Result::Ok(__inserted) => __all.push(__inserted),
                    ::core::result::Result::Err(__error) => {
                        #manager::rollback_transaction(__connection)#wait?;
                        return ::core::result::Result::Err(__error);
                    }
                }
            }
            #manager::commit_transaction(__connection)#wait?;
            ::core::result::Result::Ok(__all)
        }
    }

    fn by_parts(&self, rows_max: usize, rows: &TokenStream) -> TokenStream {
        let entity = self.entity;
        quote! {
            let mut __all: ::std::vec::Vec<#entity> = ::std::vec::Vec::with_capacity(__rows.len());
            for __part in __rows.chunks(#rows_max) {
                let __inserted: ::std::vec::Vec<#entity> = #rows;
                __all.extend(__inserted);
            }
            ::core::result::Result::Ok(__all)
        }
    }

    /// An INSERT of many rows where there is no RETURNING.
    fn insert_many(&self, insert: &TokenStream) -> TokenStream {
        let private = &self.paths.private;
        if self.database.is_async {
            return self.run("execute", insert);
        }
        quote!(#private::insert_many(#insert, __connection))
    }

    /// InnoDB gives one INSERT of known length consecutive keys, of which `LAST_INSERT_ID()` is the first.
    fn insert_generated(&self, insert: &TokenStream, column: &Ident) -> TokenStream {
        let Paths { diesel, private, .. } = self.paths;
        let table = self.table;
        let generated = self.generated(column);
        let first = quote!(#diesel::ExpressionMethods::ge(#table::#column, #generated));
        let rows = quote!(#diesel::QueryDsl::filter(
            #diesel::QueryDsl::filter(#table::table, #first),
            #private::keys_are_consecutive()
        ));
        let select = self.select(&rows);
        let in_order = quote!(#diesel::QueryDsl::limit(
            #diesel::QueryDsl::order(#select, #diesel::ExpressionMethods::asc(#table::#column)),
            __part.len() as ::core::primitive::i64
        ));
        let insert = self.insert_many(insert);
        let load = self.run("get_results", &in_order);
        quote!({
            #insert?;
            #private::all_of(__part.len(), #load?)?
        })
    }

    fn insert_known(&self, insert: &TokenStream, fields: &[Field]) -> TokenStream {
        let Paths { diesel, private, .. } = self.paths;
        let table = self.table;
        let conditions = self.conditions(&quote!(__part), fields);
        let select =
            self.select(&quote!(#diesel::QueryDsl::filter(#table::table, #private::AnyOf(#conditions))));
        let in_order = quote!(#diesel::QueryDsl::order(#select, #private::FirstOf(#conditions)));
        let insert = self.insert_many(insert);
        let load = self.run("get_results", &in_order);
        quote!({
            #insert?;
            #private::all_of(__part.len(), #load?)?
        })
    }

    pub(super) fn upsert(&self) -> TokenStream {
        let Paths { diesel, krate, .. } = self.paths;
        let table = self.table;
        let insert = quote!(#diesel::insert_into(#table::table).values(self));
        let returning = self.returning();
        let on_key =
            quote!(#insert.on_conflict(#diesel::Table::primary_key(&#table::table)).do_update().set(self));
        let exists = self.identified();
        let exists = self.run("get_result", &quote!(#diesel::select(#diesel::dsl::exists(#exists))));
        match self.database.server {
            Server::Postgres => {
                // A row version that an UPDATE made carries the locker in xmax.
                let is_new = quote!(#diesel::dsl::sql::<#diesel::sql_types::Bool>("(xmax = 0)"));
                let row = self.run("get_result", &quote!(#on_key.returning((#returning, #is_new))));
                quote! {
                    let (__row, __is_new): (Self, ::core::primitive::bool) = #row?;
                    ::core::result::Result::Ok((__row, #krate::Operation::of_upsert(__is_new)))
                }
            }
            Server::Sqlite => {
                let row = self.run("get_result", &quote!(#on_key.returning(#returning)));
                quote! {
                    let __exists: ::core::primitive::bool = #exists?;
                    let __row: Self = #row?;
                    ::core::result::Result::Ok((__row, #krate::Operation::of_upsert(!__exists)))
                }
            }
            Server::Mysql => {
                let on_key = quote!(#insert.on_conflict(#diesel::dsl::DuplicatedKeys).do_update().set(self));
                let upsert = self.run("execute", &on_key);
                let row = self.run("get_result", &self.select_locked(&self.identified()));
                // A look that locks sees what is committed, not the transaction's snapshot.
                let found = self.run("get_results", &self.select_locked(&self.identified()));
                quote! {
                    let __found: ::std::vec::Vec<Self> = #found?;
                    let __exists = !__found.is_empty();
                    #upsert?;
                    let __row: Self = #row?;
                    ::core::result::Result::Ok((__row, #krate::Operation::of_upsert(!__exists)))
                }
            }
        }
    }

    pub(super) fn lock(&self, id: &[Field]) -> TokenStream {
        self.run("get_result", &self.select_locked(&self.of_id(id)))
    }

    pub(super) fn update(&self) -> TokenStream {
        let diesel = &self.paths.diesel;
        self.update_one(&quote!(#diesel::update(self).set(self)))
    }

    pub(super) fn update_with(&self) -> TokenStream {
        let diesel = &self.paths.diesel;
        let row = self.identified();
        self.update_one(&quote!(#diesel::update(#row).set(__changes)))
    }

    fn update_one(&self, update: &TokenStream) -> TokenStream {
        if self.has_returning() {
            let returning = self.returning();
            return self.run("get_result", &quote!(#update.returning(#returning)));
        }
        // Of async connections a row that did not change counts as none: the read tells whether there is one.
        // It locks, to see the row that the update saw and not an older one of the transaction's snapshot.
        let update = self.run("execute", update);
        let read = self.run("get_result", &self.select_locked(&self.identified()));
        quote! {
            #update?;
            #read
        }
    }

    pub(super) fn update_where(&self, id: &[Field]) -> TokenStream {
        let Paths { diesel, private, .. } = self.paths;
        let matching = self.matching();
        let before = self.run("get_results", &self.select_locked(&matching));
        let of_before = self.of_before(id);
        let update = quote!(#diesel::update(#of_before).set(__changes));
        let after = if self.has_returning() {
            let returning = self.returning();
            let update = self.run("get_results", &quote!(#update.returning(#returning)));
            quote!(#update?)
        } else {
            let update = self.run("execute", &update);
            // These are locked already.
            let read = self.run("get_results", &self.select_locked(&of_before));
            quote!({
                #update?;
                #read?
            })
        };
        quote! {
            let __before: ::std::vec::Vec<Self> = #before?;
            if __before.is_empty() {
                return ::core::result::Result::Ok(::std::vec::Vec::new());
            }
            let __after: ::std::vec::Vec<Self> = #after;
            #private::pair(__before, __after)
        }
    }

    pub(super) fn delete(&self) -> TokenStream {
        let diesel = &self.paths.diesel;
        self.delete_one(&quote!(#diesel::delete(self)), &self.identified())
    }

    pub(super) fn delete_id(&self, id: &[Field]) -> TokenStream {
        let diesel = &self.paths.diesel;
        let row = self.of_id(id);
        self.delete_one(&quote!(#diesel::delete(#row)), &row)
    }

    fn delete_one(&self, delete: &TokenStream, row: &TokenStream) -> TokenStream {
        if self.has_returning() {
            let returning = self.returning();
            return self.run("get_result", &quote!(#delete.returning(#returning)));
        }
        let last = self.run("get_result", &self.select_locked(row));
        let delete = self.run("execute", delete);
        quote! {
            let __last: Self = #last?;
            #delete?;
            ::core::result::Result::Ok(__last)
        }
    }

    pub(super) fn delete_where(&self, id: &[Field]) -> TokenStream {
        let diesel = &self.paths.diesel;
        let matching = self.matching();
        if self.has_returning() {
            let returning = self.returning();
            return self.run("get_results", &quote!(#diesel::delete(#matching).returning(#returning)));
        }
        let last = self.run("get_results", &self.select_locked(&matching));
        let of_before = self.of_before(id);
        let delete = self.run("execute", &quote!(#diesel::delete(#of_before)));
        quote! {
            let __before: ::std::vec::Vec<Self> = #last?;
            if !__before.is_empty() {
                #delete?;
            }
            ::core::result::Result::Ok(__before)
        }
    }
}

/// A row that this server cannot give back: an error where, and only where, it is in use.
fn impossible(error: &syn::Error) -> TokenStream {
    let error = error.to_compile_error();
    quote! { #error ::core::unreachable!() }
}
