//! `#[interface]`: makes a trait an interface that values can be of, with a shape that covers its methods' signatures.

use proc_macro2::{Delimiter, Group, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, Item, ItemTrait, Result, ReturnType, TraitItem, Type};

use crate::keys::Keys;

pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let framework = Keys::parse(arguments, &[], Span::call_site())?.framework()?;
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
    let checks = types.iter().map(|Crossing { span, tokens, borrows }| {
        quote_spanned! {*span=>
            const _: () = ::controllerbus::plugin::interface::crosses(<#tokens as ::stabby::IStable>::REPORT, #borrows);
        }
    });
    let checks: TokenStream = checks.collect();
    let types = types.iter().map(|crossing| &crossing.tokens);
    Ok(quote! {
        #[::stabby::stabby]
        #item

        // Its span is of this expansion, so that a crate which forbids unsafe code may have it.
        unsafe impl #framework::plugin::interface::InterfaceType for dyn #name {
            type Table = <dyn #name as ::stabby::abi::vtable::CompoundVt<'static>>::Vt<::stabby::abi::vtable::VtDrop>;
            const SHAPE: u64 = #framework::plugin::interface::shape(
                <Self::Table as ::stabby::IStable>::ID,
                #text,
                &[#(<#types as ::stabby::IStable>::ID),*],
            );
        }

        #checks
    })
}

/// The type of a parameter or a result.
struct Crossing {
    span: Span,
    /// Without lifetimes of its own.
    tokens: TokenStream,
    /// Whether it has any.
    borrows: bool,
}

impl Crossing {
    fn of(ty: &Type) -> Result<Self> {
        let tokens = ty.to_token_stream();
        let mut borrows = false;
        refuse(&tokens, &mut borrows)?;
        Ok(Self { span: ty.span(), tokens: with_static_lifetimes(tokens), borrows })
    }
}

/// Refuses what can be seen to outlive the library that it needs; the types themselves are looked at by `crosses`.
fn refuse(tokens: &TokenStream, borrows: &mut bool) -> Result<()> {
    let mut tokens = tokens.clone().into_iter().peekable();
    while let Some(token) = tokens.next() {
        let (token, why) = match &token {
            TokenTree::Group(group) => {
                refuse(&group.stream(), borrows)?;
                continue;
            }
            TokenTree::Punct(punct) => {
                *borrows |= matches!(punct.as_char(), '&' | '\'');
                match tokens.peek() {
                    Some(TokenTree::Ident(name)) if punct.as_char() == '\'' && *name == "static" => (
                        tokens.next(),
                        "what a method hands over must not be `'static`: nothing keeps the plugin loaded that it is in. \
                         Borrow it from `&self`, or hand over a `controllerbus::plugin::interface::Text` or `List`",
                    ),
                    _ => continue,
                }
            }
            TokenTree::Ident(name) if *name == "fn" => {
                (Some(token), "a function cannot be handed over: nothing keeps the library loaded that it is in")
            }
            TokenTree::Ident(name) if *name == "dynptr" || *name == "dyn" || *name == "impl" => (
                Some(token),
                "an object, or a closure, cannot be handed over by a method: nothing keeps its library loaded. Make it an \
                 `Interface` in a directive's value",
            ),
            _ => continue,
        };
        return Err(Error::new_spanned(token, why));
    }
    Ok(())
}

/// The types of all parameters and results.
fn types_that_cross(item: &ItemTrait) -> Result<Vec<Crossing>> {
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
                types.push(Crossing::of(&input.ty)?);
            }
        }
        if let ReturnType::Type(_, output) = &signature.output {
            types.push(Crossing::of(output)?);
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
