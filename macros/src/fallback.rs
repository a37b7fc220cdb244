//! Stub impls for a type whose derive failed: the mistake is then the only error, not the first of many
//! about missing traits.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{DeriveInput, parse_quote};

use crate::ast;
use crate::attr::{self, Container, Derive, Errors};

pub(crate) fn outbox(input: &DeriveInput, error: &syn::Error) -> TokenStream {
    let container = container(input, Derive::Outbox);
    let krate = ast::krate(&container);
    let private = quote!(#krate::__private);
    let query_result = quote!(#private::diesel::QueryResult);
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let diesel = quote!(#private::diesel);
    let inserted = container.entity.as_ref().map_or_else(|| quote!(Self), |entity| quote!(#entity));
    let as_entity = container.entity.is_none().then(|| {
        quote! {
            impl #impl_generics #krate::Entity for #ident #type_generics #where_clause {
                const AGGREGATE: &'static ::core::primitive::str = "";
                const SCHEMA: &'static ::core::primitive::str = "";
                const FIELDS: &'static [#krate::FieldSchema] = &[];
                fn key(&self) -> ::std::string::String { ::core::unreachable!() }
                fn write_fields<__W: #krate::FieldWriter>(
                    &self,
                    _: &mut __W,
                ) -> #private::serde_json::Result<()> {
                    ::core::unreachable!()
                }
            }
        }
    });
    let on = |is_async: bool| {
        let prefix = if is_async { "Async" } else { "" };
        let asyncness = is_async.then(|| quote!(async));
        let send = is_async.then(|| quote!(+ ::core::marker::Send));
        let [insert_on, entity_on, upsert_on] =
            ["InsertOn", "EntityOn", "UpsertOn"].map(|name| format_ident!("{prefix}{name}"));
        let connection = if is_async {
            quote!(#private::diesel_async::AsyncConnection)
        } else {
            quote!(#diesel::Connection)
        };
        let generics = on_any_connection(input, &connection);
        let (on_generics, _, _) = generics.split_for_impl();
        let backend = if is_async {
            quote!(<__C as #private::diesel_async::AsyncConnectionCore>::Backend)
        } else {
            quote!(<__C as #diesel::Connection>::Backend)
        };
        let changes = quote! {
            __X: #diesel::query_builder::AsChangeset<Target = #private::no_table::table> #send,
            __X::Changeset: #diesel::query_builder::QueryFragment<#backend> #send
        };
        let condition = quote!(__P: #krate::Condition<#private::no_table::table, #backend> #send);
        let written = container.entity.is_none().then(|| {
            quote! {
                impl #on_generics #krate::#entity_on<__C> for #ident #type_generics #where_clause {
                    type Table = #private::no_table::table;
                    type Id = ();
                    #asyncness fn lock_on(_: &(), _: &mut __C) -> #query_result<Self> { ::core::unreachable!() }
                    #asyncness fn update_on(&self, _: &mut __C) -> #query_result<Self> { ::core::unreachable!() }
                    #asyncness fn update_with_on<__X>(&self, _: __X, _: &mut __C) -> #query_result<Self>
                    where #changes { ::core::unreachable!() }
                    #asyncness fn update_where_on<__P, __X>(
                        _: __P, _: __X, _: &mut __C,
                    ) -> #query_result<::std::vec::Vec<(Self, Self)>>
                    where #condition, #changes { ::core::unreachable!() }
                    #asyncness fn delete_on(&self, _: &mut __C) -> #query_result<Self> { ::core::unreachable!() }
                    #asyncness fn delete_id_on(_: &(), _: &mut __C) -> #query_result<Self> { ::core::unreachable!() }
                    #asyncness fn delete_where_on<__P>(_: __P, _: &mut __C) -> #query_result<::std::vec::Vec<Self>>
                    where #condition { ::core::unreachable!() }
                }
                impl #on_generics #krate::#upsert_on<__C> for #ident #type_generics #where_clause {
                    #asyncness fn upsert_on(&self, _: &mut __C) -> #query_result<(Self, #krate::Operation)> {
                        ::core::unreachable!()
                    }
                }
            }
        });
        quote! {
            #written
            impl #on_generics #krate::#insert_on<__C> for #ident #type_generics #where_clause {
                type Entity = #inserted;
                #asyncness fn insert_on(&self, _: &mut __C) -> #query_result<#inserted> { ::core::unreachable!() }
                #asyncness fn insert_all_on(_: &[Self], _: &mut __C) -> #query_result<::std::vec::Vec<#inserted>> {
                    ::core::unreachable!()
                }
            }
        }
    };
    let (sync, on_async) = (on(false), on(true));
    with_stub(
        error,
        quote! {
            #as_entity
            #sync
            #krate::__with_async! { #on_async }
        },
    )
}

pub(crate) fn event(input: &DeriveInput, error: &syn::Error) -> TokenStream {
    let krate = ast::krate(&container(input, Derive::Event));
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    if input.generics.type_params().next().is_some() {
        // An event is `Serialize`, which the stub would ask of the parameter.
        return error.to_compile_error();
    }
    with_stub(
        error,
        quote! {
            impl #impl_generics #krate::Event for #ident #type_generics #where_clause {
                const AGGREGATE: &'static ::core::primitive::str = "";
                const EVENTS: &'static [#krate::EventSchema] = &[];
                fn event(&self) -> &'static ::core::primitive::str { ::core::unreachable!() }
                fn key(&self) -> ::std::string::String { ::core::unreachable!() }
            }
        },
    )
}

pub(crate) fn replica(input: &DeriveInput, error: &syn::Error) -> TokenStream {
    let krate = ast::krate(&container(input, Derive::Replica));
    let query_result = quote!(#krate::__private::diesel::QueryResult);
    let version = quote!(#krate::Version);
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let on_generics = on_any_connection(input, &quote!(::core::marker::Sized));
    let (on_generics, _, _) = on_generics.split_for_impl();
    with_stub(
        error,
        quote! {
            impl #impl_generics #krate::Replica for #ident #type_generics #where_clause {
                const AGGREGATE: &'static ::core::primitive::str = "";
                const COPY: &'static ::core::primitive::str = "";
                fn from_image(_: &#krate::Image) -> #krate::Result<Self> { ::core::unreachable!() }
            }
            impl #on_generics #krate::ReplicaOn<__C> for #ident #type_generics #where_clause {
                fn update_older(&self, _: &mut __C, _: #version, _: ::core::primitive::u16) -> #query_result<::core::primitive::usize> {
                    ::core::unreachable!()
                }
                fn exists(&self, _: &mut __C) -> #query_result<::core::primitive::bool> { ::core::unreachable!() }
                fn insert(&self, _: &mut __C, _: #version, _: ::core::primitive::u16) -> #query_result<()> {
                    ::core::unreachable!()
                }
                fn delete_older(&self, _: &mut __C, _: #version) -> #query_result<::core::primitive::usize> {
                    ::core::unreachable!()
                }
            }
        },
    )
}

/// What can be read of the attributes; their mistakes are reported already.
fn container(input: &DeriveInput, derive: Derive) -> Container {
    attr::container(&input.attrs, derive, &mut Errors::default())
}

fn on_any_connection(input: &DeriveInput, bound: &TokenStream) -> syn::Generics {
    let mut generics = input.generics.clone();
    generics.params.push(parse_quote!(__C: #bound));
    generics
}

fn with_stub(error: &syn::Error, stub: TokenStream) -> TokenStream {
    let error = error.to_compile_error();
    quote! {
        #error
        const _: () = {
            #stub
        };
    }
}
