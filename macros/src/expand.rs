//! The tokens. Little code out: what can be a call into `outbox-core` is one.
//!
//! Every path is absolute and Diesel's extension methods are called by their trait's name, so nothing in the
//! user's scope is in the way. Parameters are called `__…`: a scope with `products::dsl::*` in it has unit
//! structs of all the columns' names, which a pattern of the same name would mean.

mod event;
mod outbox;
mod paths;
mod pieces;
mod replica;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;

pub(crate) use event::event;
pub(crate) use outbox::outbox;
pub(crate) use replica::replica;

/// Tokens that mean what they mean where they come from and are underlined there: an expression whose parts
/// stand at several places is underlined from the first to the last.
fn told_at(tokens: impl ToTokens, span: Span) -> TokenStream {
    let moved = |mut token: TokenTree| {
        token.set_span(token.span().located_at(span));
        token
    };
    tokens.into_token_stream().into_iter().map(moved).collect()
}

#[cfg(test)]
mod tests {
    use quote::format_ident;
    use syn::{DeriveInput, parse_quote};

    #[test]
    fn a_key_that_mysql_cannot_read_back_is_refused_on_mysql_only() {
        let input: DeriveInput = parse_quote! {
            #[diesel(table_name = lines)]
            #[outbox(entity = Line, key(order_id, number))]
            struct NewLine { order_id: i64 }
        };
        let tokens = crate::outbox(&input).to_string();
        let parts: Vec<_> = tokens.split("outbox_core :: __with_").collect();
        // What stands before the first, and three databases.
        assert_eq!(parts.len(), 4);
        for part in parts {
            assert_eq!(part.contains("compile_error"), part.contains("mysql_backend !"), "{part}");
            let told = part.contains("`NewLine` gives no value for `number`");
            assert_eq!(told, part.contains("mysql_backend !"), "{part}");
        }
    }

    #[test]
    fn a_copy_names_each_column_once_and_its_key_apart() {
        let names: Vec<_> = (0..100).map(|number| format_ident!("c{number}")).collect();
        let input: DeriveInput = parse_quote! {
            #[replica(of = "wide", table = wides)]
            struct Wide { id: i64, #(#names: i64,)* }
        };
        let tokens = crate::replica(&input).to_string();
        let between = |from: &str, to: &str| {
            let (_, rest) = tokens.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_owned()
        };
        let columns = between("fn columns ()", "fn values");
        assert_eq!(columns.matches("column_name").count(), 101, "{columns}");
        let key = between("fn key_columns ()", "fn key_values");
        assert_eq!(key.matches("column_name").count(), 1, "{key}");
        assert!(key.contains("wides :: id"), "{key}");
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
            "my :: core :: __private :: NewRowSql < __DB > for Product",
            "my :: core :: __private :: EntitySql < __DB > for Product",
            "my :: core :: __private :: UpsertKey for Product",
        ] {
            assert!(tokens.contains(stub), "{stub}");
        }
    }
}
