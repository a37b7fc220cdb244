//! The tokens. Little code out: what can be a call into `outbox-core` is one.
//!
//! Every path is absolute and Diesel's extension methods are called by their trait's name, so nothing in the
//! user's scope is in the way. Parameters are called `__…`: a scope with `products::dsl::*` in it has unit
//! structs of all the columns' names, which a pattern of the same name would mean.

use std::collections::BTreeMap;

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, Path};

use crate::ast::{Entity, Event, Field, Insertable, Outbox, ReadBack, Replica};

/// Diesel's tuples end at 32 elements (here: 31 groups of fields and the version): groups of 8 take the
/// widest tables of Diesel.
const GROUP: usize = 8;

pub(crate) fn outbox(outbox: &Outbox) -> TokenStream {
    match outbox {
        Outbox::Entity(entity) => self::entity(entity),
        Outbox::Insertable(insertable) => self::insertable(insertable),
    }
}

/// The paths that generated code begins with.
struct Paths {
    krate: Path,
    private: TokenStream,
    diesel: TokenStream,
    query_result: TokenStream,
}

impl Paths {
    fn new(krate: &Path) -> Self {
        let private = quote!(#krate::__private);
        let diesel = quote!(#private::diesel);
        let query_result = quote!(#diesel::QueryResult);
        Self { krate: krate.clone(), private, diesel, query_result }
    }

    /// One piece of code for each database, of which `outbox-core` keeps those that it is built with.
    fn per_database(&self, code: impl Fn(&Database) -> TokenStream) -> TokenStream {
        let Self { krate, diesel, .. } = self;
        let databases = [
            ("sqlite", quote!(#diesel::sqlite::SqliteConnection), quote!(#diesel::sqlite::Sqlite), true),
            ("mysql", quote!(#diesel::mysql::MysqlConnection), quote!(#diesel::mysql::Mysql), false),
            ("postgres", quote!(#diesel::pg::PgConnection), quote!(#diesel::pg::Pg), true),
        ];
        databases
            .into_iter()
            .map(|(feature, connection, backend, has_returning)| {
                let wrapper = format_ident!("__with_{feature}");
                let code = code(&Database { connection, backend, has_returning });
                quote!(#krate::#wrapper! { #code })
            })
            .collect()
    }

    /// Runs a statement on the connection that every method is given.
    fn run(&self, method: &str, statement: &TokenStream) -> TokenStream {
        let diesel = &self.diesel;
        let method = format_ident!("{method}");
        quote!(#diesel::RunQueryDsl::#method(#statement, __connection))
    }

    /// `table.column = value`.
    fn eq(&self, table: &Path, column: &Ident, value: &TokenStream) -> TokenStream {
        let diesel = &self.diesel;
        quote!(#diesel::ExpressionMethods::eq(#table::#column, #value))
    }

    /// `table.column = self.field`, told at the field's type where the two do not fit.
    fn eq_field(&self, table: &Path, field: &Field) -> TokenStream {
        let Self { diesel, .. } = self;
        let Field { ident, column, .. } = field;
        quote_spanned!(at(field.ty.span())=> #diesel::ExpressionMethods::eq(#table::#column, &self.#ident))
    }

    /// The table's rows of a key.
    fn rows(&self, table: &Path, key: &[Field]) -> TokenStream {
        let diesel = &self.diesel;
        key.iter().fold(quote!(#table::table), |rows, field| {
            let is_equal = self.eq_field(table, field);
            quote!(#diesel::QueryDsl::filter(#rows, #is_equal))
        })
    }
}

struct Database {
    connection: TokenStream,
    backend: TokenStream,
    has_returning: bool,
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

pub(crate) fn event(event: &Event) -> TokenStream {
    let Event { krate, ident, generics, aggregate, event, key } = event;
    let key = key_fn(&Paths::new(krate), key);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    in_const(&quote! {
        #[automatically_derived]
        impl #impl_generics #krate::Event for #ident #type_generics #where_clause {
            const AGGREGATE: &'static ::core::primitive::str = #aggregate;
            const EVENT: &'static ::core::primitive::str = #event;
            #key
        }
    })
}

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

fn key_fn(paths: &Paths, key: &[Field]) -> TokenStream {
    let private = &paths.private;
    let fields = key.iter().map(|Field { ident, ty, .. }| quote_spanned!(at(ty.span())=> &self.#ident));
    quote! {
        fn key(&self) -> ::std::string::String {
            #private::join_key(&[#(#fields),*])
        }
    }
}

/// FNV-1a 64 over `name:type;` of the fields in the order of their names, as 16 hex digits.
fn fingerprint(recorded: &[Field]) -> String {
    let by_name: BTreeMap<_, _> = recorded.iter().map(|field| (field.name.as_str(), &field.ty)).collect();
    let hash = by_name.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, (name, ty)| {
        let ty = quote!(#ty).to_string().replace(char::is_whitespace, "");
        format!("{name}:{ty};")
            .bytes()
            .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    });
    format!("{hash:016x}")
}

/// Tokens that are underlined there and mean what they mean here, in a struct made by `macro_rules!` too.
fn at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

fn in_const(code: &TokenStream) -> TokenStream {
    quote! {
        const _: () = {
            #code
        };
    }
}

#[cfg(test)]
mod tests {
    use syn::{DeriveInput, parse_quote};

    use super::*;

    fn recorded(ty: &str, name: &str) -> Field {
        let ident = format_ident!("x");
        Field { column: ident.clone(), ident, ty: syn::parse_str(ty).unwrap(), name: name.to_owned() }
    }

    #[test]
    fn fingerprint_is_pinned() {
        // A change here would make every service report a new schema. Of `a:Option<Vec<u8>>;b:i64;`.
        let fields = [recorded("i64", "b"), recorded("Option < Vec<u8> >", "a")];
        assert_eq!(fingerprint(&fields), "607de5ddb58c5491");
        let [first, second] = fields;
        assert_eq!(fingerprint(&[second, first]), "607de5ddb58c5491");
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
    }

    #[test]
    fn a_key_that_mysql_cannot_read_back_is_refused_on_mysql_only() {
        let input: DeriveInput = parse_quote! {
            #[diesel(table_name = lines)]
            #[outbox(entity = Line, key(order_id, number))]
            struct NewLine { order_id: i64 }
        };
        let tokens = crate::outbox(&input).to_string();
        let (before, after) = tokens.split_once("__with_mysql").unwrap();
        let (mysql, after) = after.split_once("__with_postgres").unwrap();
        assert!(mysql.contains("compile_error") && mysql.contains("`NewLine` gives no value for `number`"));
        assert!(!before.contains("compile_error") && !after.contains("compile_error"));
    }

    #[test]
    fn a_copy_writes_its_version_last_and_never_assigns_its_key() {
        let names: Vec<_> = (0..100).map(|number| format_ident!("c{number}")).collect();
        let input: DeriveInput = parse_quote! {
            #[replica(of = "wide", table = wides)]
            struct Wide { id: i64, #(#names: i64,)* }
        };
        let tokens = crate::replica(&input).to_string();
        let (_, set) = tokens.split_once(". set (").unwrap();
        let (set, _) = set.split_once("__connection").unwrap();
        assert!(!set.contains("wides :: id ,"), "{set}");
        assert!(set.find("wides :: c99").unwrap() < set.find("wides :: outbox_generation").unwrap());
        // 13 groups and the version.
        assert_eq!(set.matches(",) ,").count() + set.matches(", ) ,").count(), 13, "{set}");
    }

    #[test]
    fn a_refused_type_still_gets_its_impls() {
        let input: DeriveInput = parse_quote! {
            #[outbox(aggregate = "", crate = my::core)]
            enum Product { A }
        };
        let tokens = crate::outbox(&input).to_string();
        assert!(tokens.contains("compile_error"));
        for stub in [
            "my :: core :: Entity for Product",
            "InsertOn < __C > for Product",
            "EntityOn < __C > for Product",
        ] {
            assert!(tokens.contains(stub), "{stub}");
        }
    }
}
