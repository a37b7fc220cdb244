//! What generated code is put together from: paths, databases, and the pieces that all derives write.

use std::collections::BTreeMap;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Path, Type};

use crate::ast::Field;

/// The paths that generated code begins with.
pub(super) struct Paths {
    pub(super) krate: Path,
    pub(super) private: TokenStream,
    pub(super) diesel: TokenStream,
    pub(super) query_result: TokenStream,
}

impl Paths {
    pub(super) fn new(krate: &Path) -> Self {
        let private = quote!(#krate::__private);
        let diesel = quote!(#private::diesel);
        let query_result = quote!(#diesel::QueryResult);
        Self { krate: krate.clone(), private, diesel, query_result }
    }

    /// One piece of code for each backend, of which `outbox-core` keeps those that it is built with.
    pub(super) fn per_backend(&self, code: impl Fn(Server, &TokenStream) -> TokenStream) -> TokenStream {
        let Self { krate, diesel, .. } = self;
        let on = |server| {
            let (backend, wrapper) = match server {
                Server::Sqlite => (quote!(#diesel::sqlite::Sqlite), quote!(__with_sqlite)),
                Server::Mysql => (quote!(#diesel::mysql::Mysql), quote!(__with_mysql_backend)),
                Server::Postgres => (quote!(#diesel::pg::Pg), quote!(__with_postgres_backend)),
            };
            let code = code(server, &backend);
            quote!(#krate::#wrapper! { #code })
        };
        Server::ALL.into_iter().map(on).collect()
    }

    /// `table.column = value`.
    pub(super) fn eq(&self, table: &Path, column: &Ident, value: &TokenStream) -> TokenStream {
        let diesel = &self.diesel;
        quote!(#diesel::ExpressionMethods::eq(#table::#column, #value))
    }

    /// `table.column = self.field`, told at the field's type where the two do not fit.
    pub(super) fn eq_field(&self, table: &Path, field: &Field) -> TokenStream {
        let Self { diesel, .. } = self;
        let Field { ident, column, .. } = field;
        quote_spanned!(at(field.ty.span())=> #diesel::ExpressionMethods::eq(#table::#column, &self.#ident))
    }
}

/// A kind of server, as far as statements differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Sqlite,
    /// MariaDB too.
    Mysql,
    Postgres,
}

impl Server {
    const ALL: [Self; 3] = [Self::Sqlite, Self::Mysql, Self::Postgres];
}

pub(super) fn key_fn(paths: &Paths, key: &[Field]) -> TokenStream {
    let private = &paths.private;
    let fields = key.iter().map(|Field { ident, ty, .. }| quote_spanned!(at(ty.span())=> &self.#ident));
    quote! {
        fn key(&self) -> ::std::string::String {
            #private::join_key(&[#(#fields),*])
        }
    }
}

/// A type as it is written, without spaces.
pub(super) fn type_text(ty: &Type) -> String {
    quote!(#ty).to_string().replace(char::is_whitespace, "")
}

/// FNV-1a 64 over `name:type;` of the fields in the order of their names, as 16 hex digits.
pub(super) fn fingerprint(fields: &[(String, String)]) -> String {
    let by_name: BTreeMap<_, _> = fields.iter().map(|(name, ty)| (name, ty)).collect();
    let hash = by_name.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, (name, ty)| {
        format!("{name}:{ty};")
            .bytes()
            .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    });
    format!("{hash:016x}")
}

/// Tokens that are underlined there and mean what they mean here, in a struct made by `macro_rules!` too.
pub(super) fn at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

pub(super) fn in_const(code: &TokenStream) -> TokenStream {
    quote! {
        const _: () = {
            #code
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_pinned() {
        let field = |ty: &str, name: &str| (name.to_owned(), type_text(&syn::parse_str(ty).unwrap()));
        // A change here would make every service report a new schema. Of `a:Option<Vec<u8>>;b:i64;`.
        let fields = [field("i64", "b"), field("Option < Vec<u8> >", "a")];
        assert_eq!(fingerprint(&fields), "607de5ddb58c5491");
        let [first, second] = fields;
        assert_eq!(fingerprint(&[second, first]), "607de5ddb58c5491");
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
    }
}
