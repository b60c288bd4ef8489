//! `#[interface]`: makes a trait an interface that values can be of, with a shape that covers its methods' signatures.

use proc_macro2::{Delimiter, Group, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Error, FnArg, Item, ItemTrait, Result, ReturnType, TraitItem};

pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[interface] takes no arguments"));
    }
    let item = match syn::parse2::<Item>(item)? {
        Item::Trait(item) => item,
        other => return Err(Error::new_spanned(other, "#[interface] goes on a trait")),
    };
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &item.generics,
            "an interface cannot be generic: both sides must mean the same",
        ));
    }
    let types = types_that_cross(&item)?;
    // What a formatter or another compiler's rendering may change does not count.
    let mut text = String::new();
    for inner in &item.items {
        text.extend(inner.to_token_stream().to_string().chars().filter(|c| !c.is_whitespace()));
    }
    let name = &item.ident;
    Ok(quote! {
        #[::stabby::stabby]
        #item

        impl ::controllerbus::plugin::interface::InterfaceType for dyn #name {
            type Table = <dyn #name as ::stabby::abi::vtable::CompoundVt<'static>>::Vt<::stabby::abi::vtable::VtDrop>;
            const SHAPE: u64 = ::controllerbus::plugin::interface::shape(
                <Self::Table as ::stabby::IStable>::ID,
                #text,
                &[#(<#types as ::stabby::IStable>::ID),*],
            );
        }
    })
}

/// The types of all parameters and results, without lifetimes of their own.
fn types_that_cross(item: &ItemTrait) -> Result<Vec<TokenStream>> {
    let mut types = Vec::new();
    for inner in &item.items {
        let TraitItem::Fn(method) = inner else {
            return Err(Error::new_spanned(inner, "an interface has methods only"));
        };
        let signature = &method.sig;
        if signature.abi.is_none() {
            let wanted = format!("write `extern \"C\" fn {}`: only such methods can cross", signature.ident);
            return Err(Error::new(signature.fn_token.span, wanted));
        }
        if !matches!(signature.inputs.first(), Some(FnArg::Receiver(_))) {
            return Err(Error::new_spanned(signature, "a method of an interface begins with `&self`"));
        }
        for input in &signature.inputs {
            if let FnArg::Typed(input) = input {
                types.push(with_static_lifetimes(input.ty.to_token_stream()));
            }
        }
        if let ReturnType::Type(_, output) = &signature.output {
            types.push(with_static_lifetimes(output.to_token_stream()));
        }
    }
    Ok(types)
}

/// The same type with every lifetime `'static`, so that it can be named outside its function.
fn with_static_lifetimes(tokens: TokenStream) -> TokenStream {
    let mut out = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                out.extend(with_static_lifetimes(group.stream()));
            }
            TokenTree::Group(group) => {
                out.push(Group::new(group.delimiter(), with_static_lifetimes(group.stream())).into());
            }
            TokenTree::Punct(punct) if punct.as_char() == '\'' => {
                tokens.next();
                out.extend(static_lifetime());
            }
            TokenTree::Punct(punct) if punct.as_char() == '&' => {
                out.push(punct.into());
                let named =
                    tokens.peek().is_some_and(|next| matches!(next, TokenTree::Punct(next) if next.as_char() == '\''));
                if !named {
                    out.extend(static_lifetime());
                }
            }
            other => out.push(other),
        }
    }
    out.into_iter().collect()
}

fn static_lifetime() -> [TokenTree; 2] {
    let name = proc_macro2::Ident::new("static", Span::call_site());
    [Punct::new('\'', Spacing::Joint).into(), name.into()]
}
