//! `#[derive(Config)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Result};

use crate::keys::Keys;
use crate::{schema, serde};

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    serde::required(&item)?;
    let name = &item.ident;
    let keys = Keys::of_attribute(&item.attrs, "config", &["id", "validate"], name, "id = \"example/greeter\"")?;
    let id = keys.id("example/greeter")?;
    let framework = keys.framework()?;
    let validate = keys.expression("validate")?.map(|validate| {
        quote! {
            fn validate(&self) -> #framework::Result<()> {
                #validate(self)
            }
        }
    });
    let schema = schema::implementation(&item, &framework)?;
    let (generics, types, bounds) = item.generics.split_for_impl();
    Ok(quote! {
        const _: () = {
            #schema
            #[automatically_derived]
            impl #generics #framework::Config for #name #types #bounds {
                const ID: &'static str = #id;
                const SCHEMA: &'static __Node = <Self as #framework::Schema>::NODE;
                #validate
            }
        };
    })
}
