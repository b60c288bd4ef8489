//! `#[hot_plugin]` on an implementation of a trait of functions: the table that the framework's own controller serves them by.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprPath, Ident, Item, ItemImpl, LitStr, Path, Result};

use crate::hot_plugin::{Parts, Swap, checked_version, is_cfg, persist, plugin, unique};
use crate::keys::Keys;

/// The block, if it implements another trait than `Controller`.
pub fn block(item: &TokenStream) -> Option<ItemImpl> {
    let Ok(Item::Impl(block)) = syn::parse2::<Item>(item.clone()) else { return None };
    let (path, _) = block.trait_.as_ref()?;
    let is_controller = path.segments.last().is_none_or(|last| last.ident == "Controller");
    (!is_controller).then_some(block)
}

pub fn expand(arguments: TokenStream, block: &ItemImpl) -> Result<TokenStream> {
    let keys = Keys::parse(arguments, &["id", "version", "construct", "state", "swap", "persist"], Span::call_site())?;
    let framework = keys.framework()?;
    // The crate says both already.
    let id = match keys.expression("id")? {
        Some(_) => keys.id("greeter")?,
        None => LitStr::new(&package("CARGO_PKG_NAME").to_lowercase(), Span::call_site()),
    };
    let version = match keys.expression("version")? {
        Some(_) => checked_version(&keys)?,
        None => LitStr::new(&package("CARGO_PKG_VERSION"), Span::call_site()),
    };
    let swap = Swap::read(&keys)?;
    if !block.generics.params.is_empty() {
        let what = "a plugin's type cannot be generic: its id stands for one type";
        return Err(Error::new_spanned(&block.generics, what));
    }
    let Some((path, _)) = &block.trait_ else { return Err(Error::new_spanned(block, "it implements no trait")) };
    let ty = &block.self_ty;
    let make = match keys.expression("construct")? {
        None => quote_spanned! {ty.span()=>
            |_| ::std::boxed::Box::pin(async {
                let made: #ty = ::std::default::Default::default();
                ::std::result::Result::Ok(::std::sync::Arc::new(made) as __cbus::hot::Object)
            })
        },
        Some(construct) => {
            let construct = of_type(construct, ty)?;
            quote_spanned! {construct.span()=>
                |context| ::std::boxed::Box::pin(async move {
                    let made: #ty = #construct(&context).await?;
                    ::std::result::Result::Ok(::std::sync::Arc::new(made) as __cbus::hot::Object)
                })
            }
        }
    };
    let persist = persist(&keys)?;
    if persist > 0 && keys.named_or_flag("state")?.is_none() {
        let what = "`persist` keeps the state: name its field (`state = field`), or keep the whole value (`state`)";
        return Err(Error::new_spanned(keys.expression("persist")?, what));
    }
    let state = match keys.named_or_flag("state")? {
        None => quote!(::std::option::Option::None),
        Some(None) => quote_spanned!(ty.span()=> ::std::option::Option::Some(__cbus::hot::Kept::of::<#ty>())),
        Some(Some(field)) => {
            let cell = quote_spanned!(field.span()=> &__cbus::hot::as_a::<#ty>(object)?.#field);
            quote! {
                ::std::option::Option::Some(__cbus::hot::Kept {
                    save: |object| #framework::controller::StateCell::save(#cell),
                    restore: |object, state| {
                        #framework::controller::StateCell::restore(#cell, state)?;
                        ::std::result::Result::Ok(::std::option::Option::None)
                    },
                })
            }
        }
    };
    // Pointed at where the trait is named, if it is none of functions.
    let of = quote_spanned!(path.span()=> <dyn #path as #framework::hot::HotTrait>);
    let directive = format!("functions/{}", id.value());
    let parts = Parts {
        items: quote! {
            static __TABLE: __cbus::hot::Table = __cbus::hot::Table {
                id: #id,
                of: #of::NAME,
                methods: #of::METHODS,
                make: #make,
                call: __cbus::hot::call::<dyn #path, #ty>,
                state: #state,
            };
        },
        config: quote!(#directive),
        schema: quote!(&__cbus::schema::Node::Any),
        resolves: quote! {
            __cbus::manifest::Resolved::by_functions(#directive),
            __cbus::manifest::Resolved::of::<#framework::hot::ListFunctions>()
        },
        functions: quote!(::std::option::Option::Some(#of::NAME)),
        starts: true,
        persist,
        factory: quote!(|entry| __cbus::hot::factory(entry, &__TABLE)),
    };
    let plugin = plugin(block, &id, &version, swap, parts, &framework);
    let unique = unique(&id);
    let conditions: Vec<_> = block.attrs.iter().filter(|it| is_cfg(it)).collect();
    Ok(quote!(#block #(#conditions)* #plugin #(#conditions)* #unique))
}

fn package(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// A path to a function, where `Self` is the type.
fn of_type(construct: &Expr, ty: &syn::Type) -> Result<TokenStream> {
    let Expr::Path(ExprPath { qself: None, path, .. }) = construct else {
        let what = "`construct` is the path of an `async fn(&Context) -> Result<Self>`: `construct = Self::open`";
        return Err(Error::new_spanned(construct, what));
    };
    let Path { leading_colon: None, segments } = path else { return Ok(path.to_token_stream()) };
    if segments.first().is_none_or(|first| first.ident != Ident::new("Self", Span::call_site())) {
        return Ok(path.to_token_stream());
    }
    let rest = segments.iter().skip(1);
    Ok(quote_spanned!(path.span()=> <#ty> #(::#rest)*))
}
