//! `#[derive(OutboxEvent)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;

use super::paths::{Paths, at, in_const, key_fn};
use super::told_at;
use crate::ast::{Content, Event, Field, Kind, PayloadField};

pub(crate) fn event(event: &Event) -> TokenStream {
    let Event { krate, ident, generics, aggregate, version, is_strict, kinds } = event;
    let paths = Paths::new(krate);
    let schemas = kinds.iter().map(|kind| schema(&paths, kind));
    let names = kinds.iter().map(|Kind { variant, event, .. }| match variant {
        Some(variant) => quote!(Self::#variant { .. } => #event),
        None => quote!(Self { .. } => #event),
    });
    let key = key(&paths, kinds);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    in_const(&quote! {
        #[automatically_derived]
        impl #impl_generics #krate::Event for #ident #type_generics #where_clause {
            const AGGREGATE: &'static ::core::primitive::str = #aggregate;
            const EVENTS: &'static [#krate::EventSchema] = &[#(#schemas),*];
            const SCHEMA_VERSION: ::core::primitive::u32 = #version;
            const STRICT: ::core::primitive::bool = #is_strict;
            fn event(&self) -> &'static ::core::primitive::str {
                match self { #(#names),* }
            }
            #key
        }
    })
}

fn schema(paths: &Paths, kind: &Kind) -> TokenStream {
    let Paths { krate, private, .. } = paths;
    let event = &kind.event;
    let fields = match &kind.content {
        Content::Fields { payload, .. } => {
            let fields = payload
                .iter()
                .map(|PayloadField { name, ty }| quote!(#krate::FieldSchema { name: #name, ty: #ty }));
            quote!(&[#(#fields),*])
        }
        Content::Event { inner, is_seen: true } => {
            let private = told_at(private, inner.span());
            let held = quote_spanned!(at(inner.span())=> <#inner as #krate::Event>);
            quote_spanned!(at(inner.span())=>
                #private::held_fields(#held::AGGREGATE, #held::EVENTS, Self::AGGREGATE))
        }
        Content::Event { is_seen: false, .. } => quote!(&[]),
    };
    quote!(#krate::EventSchema { event: #event, fields: #fields })
}

fn key(paths: &Paths, kinds: &[Kind]) -> TokenStream {
    if let [Kind { variant: None, content: Content::Fields { key, .. }, .. }] = kinds {
        return key_fn(paths, key);
    }
    let Paths { krate, private, .. } = paths;
    let arms = kinds.iter().filter_map(|Kind { variant, content, .. }| {
        let variant = variant.as_ref()?;
        Some(match content {
            Content::Fields { key, .. } => {
                let bound: Vec<_> = key
                    .iter()
                    .enumerate()
                    .map(|(index, Field { ty, .. })| format_ident!("__key_{index}", span = at(ty.span())))
                    .collect();
                let fields = key.iter().map(|field| &field.ident);
                quote!(Self::#variant { #(#fields: #bound,)* .. } => #private::join_key(&[#(#bound),*]))
            }
            Content::Event { inner, .. } => {
                let key = quote_spanned!(at(inner.span())=> <#inner as #krate::Event>::key);
                quote!(Self::#variant(__inner) => #key(__inner))
            }
        })
    });
    quote! {
        fn key(&self) -> ::std::string::String {
            match self { #(#arms),* }
        }
    }
}
