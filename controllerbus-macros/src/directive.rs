//! `#[derive(Directive)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Expr, Fields, Result};

use crate::keys::Keys;
use crate::{schema, serde};

const KNOWN: [&str; 15] = [
    "id",
    "value",
    "key",
    "max_values",
    "hard_cap",
    "keep_for_ms",
    "drop_if_empty",
    "supersede",
    "unmerged",
    "once",
    "pin",
    "local",
    "validate",
    "name",
    "debug_values",
];

const MONTH: u64 = 30 * 24 * 3_600_000;

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    serde::required(&item)?;
    let name = &item.ident;
    let example = "id = \"example/greet\", value = Greeting";
    let keys = Keys::of_attribute(&item.attrs, "directive", &KNOWN, name, example)?;
    let id = keys.id("example/greet")?;
    let framework = keys.framework()?;
    let Some(value) = keys.expression("value")? else {
        return Err(Error::new(name.span(), "`value` is missing: `value = Greeting`, the type of its values"));
    };
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &item.generics,
            "a directive cannot be generic: its id stands for one type in every process and plugin",
        ));
    }
    let validate = keys.expression("validate")?.map(|validate| {
        quote! {
            fn validate(&self) -> #framework::Result<()> {
                #validate(self)
            }
        }
    });
    let options = options(&keys, &framework)?;
    let key = keys.expression("key")?.map(|key| self::key(key, &item.data, &framework)).transpose()?;
    let called = keys.expression("name")?.map(|called| {
        quote! {
            fn name(&self) -> ::std::string::String {
                #called(self)
            }
        }
    });
    let debug_values = keys.expression("debug_values")?.map(|debug_values| {
        quote! {
            fn debug_values(&self) -> ::std::vec::Vec<(::std::string::String, ::std::string::String)> {
                #debug_values(self)
            }
        }
    });
    let duplicate = duplicate(&item.data)?;
    let schema = schema::constant(&item, &framework)?;
    let once = keys.flag("once")?.then(|| {
        quote!(
            const ONCE: bool = true;
        )
    });
    let declaration = declaration(&item, value, &framework);
    // A value that does not serialize is pointed at where it is named.
    let any = quote!(#framework::directive::AnyValue);
    let (local, pack, unpack) = if keys.flag("local")? {
        (
            Some(quote!(
                const LOCAL: bool = true;
            )),
            quote_spanned!(value.span()=> #any::local::<#value>(value)),
            quote_spanned!(value.span()=> value.get_local::<#value>()?),
        )
    } else {
        (
            None,
            quote_spanned!(value.span()=> #any::native::<#value>(value)),
            quote_spanned!(value.span()=> value.get::<#value>()?),
        )
    };
    Ok(quote! {
        #[automatically_derived]
        impl #framework::Directive for #name {
            type Value = #value;
            const ID: &'static str = #id;
            const SCHEMA: &'static #framework::config::schema::Node = #schema;
            #declaration
            #once
            #local
            fn pack(value: Self::Value) -> #any {
                #pack
            }
            fn unpack(value: &#any) -> #framework::Result<::std::sync::Arc<Self::Value>> {
                ::std::result::Result::Ok(#unpack)
            }
            fn duplicate(&self) -> Self {
                #duplicate
            }
            #validate
            #options
            #key
            #called
            #debug_values
        }
        const _: () = {
            use #framework::__private::linkme as __linkme;
            #[__linkme::distributed_slice(#framework::__private::DIRECTIVE_TYPES)]
            #[linkme(crate = __linkme)]
            static __TYPE: &'static #framework::__private::DirectiveType =
                #framework::__private::DirectiveType::of::<#name>();
        };
    })
}

/// What the type and its values are called here, and what the values look like, as far as that is known.
fn declaration(item: &DeriveInput, value: &Expr, framework: &TokenStream) -> TokenStream {
    let name = item.ident.unraw().to_string();
    let value_name: String = value.to_token_stream().to_string().chars().filter(|c| !c.is_whitespace()).collect();
    quote! {
        const DECLARATION: #framework::directive::Declaration = {
            #[allow(unused_imports)]
            use #framework::__private::schema::{Probe as __Probe, Unknown as _};
            #framework::directive::Declaration {
                name: ::core::concat!(::core::module_path!(), "::", #name),
                value_name: #value_name,
                value: <__Probe<#value>>::NODE,
            }
        };
    }
}

fn options(keys: &Keys, framework: &TokenStream) -> Result<Option<TokenStream>> {
    let (max, keep) = (keys.expression("max_values")?, keys.expression("keep_for_ms")?);
    let (hard_cap, drop_if_empty) = (keys.flag("hard_cap")?, keys.flag("drop_if_empty")?);
    let (supersede, unmerged, once) = (keys.expression("supersede")?, keys.flag("unmerged")?, keys.flag("once")?);
    let pin = keys.millis("pin", "10m", 1..=MONTH, "a time from 1 millisecond to 720 hours")?;
    let has_none = max.is_none() && keep.is_none() && supersede.is_none() && pin.is_none();
    if has_none && !hard_cap && !drop_if_empty && !unmerged && !once {
        return Ok(None);
    }
    let max = max.map(|max| quote!(.with_max_values(#max)));
    let hard_cap = hard_cap.then(|| quote!(.with_hard_cap()));
    let keep = keep.map(|keep| quote!(.with_keep_for(::std::time::Duration::from_millis(#keep))));
    let drop_if_empty = drop_if_empty.then(|| quote!(.with_drop_if_empty()));
    let supersede = supersede.map(|supersede| quote!(.with_supersede((#supersede)(self))));
    let unmerged = unmerged.then(|| quote!(.with_unmerged()));
    let once = once.then(|| quote!(.with_once()));
    let pin = pin.map(|pin| quote!(.with_pin(::std::time::Duration::from_millis(#pin))));
    Ok(Some(quote! {
        fn options(&self) -> #framework::directive::Options {
            <#framework::directive::Options as ::std::default::Default>::default()
                #max #hard_cap #keep #drop_if_empty #supersede #unmerged #once #pin
        }
    }))
}

/// Equivalence by some fields: `key = name` or `key = (name, realm)`.
fn key(key: &Expr, data: &Data, framework: &TokenStream) -> Result<TokenStream> {
    let named = match key {
        Expr::Tuple(tuple) => tuple.elems.iter().collect(),
        one => vec![one],
    };
    let Data::Struct(data) = data else {
        return Err(Error::new_spanned(key, "`key` is for structs: enums are compared by their own `Hash` and `Eq`"));
    };
    let mut fields = Vec::new();
    for field in named {
        let ident = match field {
            Expr::Path(path) => path.path.get_ident(),
            _ => None,
        };
        match ident {
            Some(ident) if data.fields.iter().any(|field| field.ident.as_ref() == Some(ident)) => fields.push(ident),
            _ => return Err(Error::new_spanned(field, "`key` names fields: `key = name`, or `key = (name, realm)`")),
        }
    }
    Ok(quote! {
        fn key_hash(&self, mut hasher: &mut dyn ::std::hash::Hasher) {
            #(::std::hash::Hash::hash(&self.#fields, &mut hasher);)*
        }
        fn key_eq(&self, other: &Self) -> bool {
            #(self.#fields == other.#fields)&&*
        }
        fn encode_key(&self) -> ::std::option::Option<::std::vec::Vec<u8>> {
            #framework::directive::wire::encode(&(#(&self.#fields,)*)).ok()
        }
    })
}

/// A copy made field by field, so that the type need not be `Clone`.
fn duplicate(data: &Data) -> Result<TokenStream> {
    match data {
        Data::Struct(data) => {
            let (pattern, copy) = fields(&data.fields);
            Ok(quote!(let Self #pattern = self; Self #copy))
        }
        Data::Enum(data) => {
            let arms = data.variants.iter().map(|variant| {
                let name = &variant.ident;
                let (pattern, copy) = fields(&variant.fields);
                quote!(Self::#name #pattern => Self::#name #copy)
            });
            Ok(quote!(match self { #(#arms,)* }))
        }
        Data::Union(data) => Err(Error::new(data.union_token.span, "a directive cannot be a union")),
    }
}

fn fields(fields: &Fields) -> (TokenStream, TokenStream) {
    let names: Vec<_> = (0..fields.len()).map(|n| quote::format_ident!("field_{n}")).collect();
    let copies: Vec<_> = names.iter().map(|name| quote!(::std::clone::Clone::clone(#name))).collect();
    match fields {
        Fields::Named(named) => {
            let idents: Vec<_> = named.named.iter().map(|field| &field.ident).collect();
            (quote!({ #(#idents: #names),* }), quote!({ #(#idents: #copies),* }))
        }
        Fields::Unnamed(_) => (quote!(( #(#names),* )), quote!(( #(#copies),* ))),
        Fields::Unit => (quote!(), quote!()),
    }
}
