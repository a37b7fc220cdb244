//! Stub impls for a type whose derive failed: the mistake is then the only error, not the first of many
//! about missing traits.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_quote};

use crate::ast;
use crate::attr::{self, Container, Derive, Errors};

pub(crate) fn outbox(input: &DeriveInput, error: &syn::Error) -> TokenStream {
    let container = container(input, Derive::Outbox);
    let krate = ast::krate(&container);
    let private = quote!(#krate::__private);
    let diesel = quote!(#private::diesel);
    let fragment = |lifetime: TokenStream| quote!(#private::Fragment<#lifetime, __DB>);
    let (fragment, fixed) = (fragment(quote!('_)), fragment(quote!('static)));
    let no_table = quote!(#private::no_table::table);
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let generics = with_parameter(input, quote!(__DB: #diesel::backend::Backend));
    let (on_generics, _, _) = generics.split_for_impl();
    let (inserted, table) = match &container.entity {
        None => (quote!(Self), no_table.clone()),
        Some(entity) => (quote!(#entity), quote!(<#entity as #private::EntityTable>::Table)),
    };
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
            impl #impl_generics #private::EntityTable for #ident #type_generics #where_clause {
                type Table = #no_table;
                type Id = ();
                fn pair(
                    _: ::std::vec::Vec<Self>,
                    _: ::std::vec::Vec<Self>,
                ) -> #diesel::QueryResult<::std::vec::Vec<(Self, Self)>> { ::core::unreachable!() }
            }
            impl #impl_generics #private::UpsertKey for #ident #type_generics #where_clause {
                const KEY_COLUMNS: &'static [&'static ::core::primitive::str] = &[];
            }
            impl #on_generics #private::FromRow<__DB> for #ident #type_generics #where_clause {
                fn from_row<'__r>(
                    _: &impl #diesel::row::Row<'__r, __DB>,
                ) -> #diesel::deserialize::Result<Self> { ::core::unreachable!() }
            }
            impl #on_generics #private::EntitySql<__DB> for #ident #type_generics #where_clause {
                fn table() -> #fixed { ::core::unreachable!() }
                fn selection() -> #fixed { ::core::unreachable!() }
                fn is_row(_: &()) -> #fragment { ::core::unreachable!() }
                fn is_self(&self) -> #fragment { ::core::unreachable!() }
                fn are_rows(_: &[Self]) -> #fragment { ::core::unreachable!() }
                fn changes(&self) -> #fragment { ::core::unreachable!() }
            }
        }
    });
    with_stub(
        error,
        quote! {
            #as_entity
            impl #impl_generics #private::NewRow for #ident #type_generics #where_clause {
                type Table = #table;
                type Entity = #inserted;
                const COLUMNS: ::core::primitive::usize = 0;
            }
            impl #on_generics #private::NewRowSql<__DB> for #ident #type_generics #where_clause {
                fn values(&self) -> #fragment { ::core::unreachable!() }
            }
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
    let fragment = quote!(#krate::__private::Fragment);
    let names = quote!(::std::vec::Vec<&'static ::core::primitive::str>);
    let ident = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let on_generics = with_parameter(input, quote!(__DB: #krate::__private::diesel::backend::Backend));
    let (on_generics, _, _) = on_generics.split_for_impl();
    with_stub(
        error,
        quote! {
            impl #impl_generics #krate::Replica for #ident #type_generics #where_clause {
                const AGGREGATE: &'static ::core::primitive::str = "";
                const COPY: &'static ::core::primitive::str = "";
                fn from_image(_: &#krate::Image) -> #krate::Result<Self> { ::core::unreachable!() }
            }
            impl #on_generics #krate::__private::ReplicaSql<__DB> for #ident #type_generics #where_clause {
                fn table() -> #fragment<'static, __DB> { ::core::unreachable!() }
                fn columns() -> #names { ::core::unreachable!() }
                fn values(&self) -> ::std::vec::Vec<#fragment<'_, __DB>> { ::core::unreachable!() }
                fn key_columns() -> #names { ::core::unreachable!() }
                fn key_values(&self) -> ::std::vec::Vec<#fragment<'_, __DB>> { ::core::unreachable!() }
            }
        },
    )
}

/// What can be read of the attributes; their mistakes are reported already.
fn container(input: &DeriveInput, derive: Derive) -> Container {
    attr::container(&input.attrs, derive, &mut Errors::default())
}

fn with_parameter(input: &DeriveInput, parameter: TokenStream) -> syn::Generics {
    let mut generics = input.generics.clone();
    generics.params.push(parse_quote!(#parameter));
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
