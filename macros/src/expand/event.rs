//! `#[derive(OutboxEvent)]`.

use proc_macro2::TokenStream;
use quote::quote;

use super::paths::{Paths, in_const, key_fn};
use crate::ast::Event;

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
