//! The types that a method of an interface takes and gives, as they are written.

use proc_macro2::{Delimiter, Group, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Error, Ident, Result, Type};

/// The type of a parameter or a result.
pub struct Crossing {
    pub span: Span,
    /// With `'static` for every lifetime, so that it can be named outside its function.
    pub tokens: TokenStream,
    /// Whether it has a lifetime.
    pub borrows: bool,
}

impl Crossing {
    /// Refuses what can be seen to outlive the library that it needs; the types themselves are looked at by `crosses`.
    pub fn of(ty: &Type) -> Result<Self> {
        let tokens = ty.to_token_stream();
        let mut borrows = false;
        refuse(&tokens, &mut borrows)?;
        let tokens = with_lifetimes(tokens, |_| Ident::new("static", Span::call_site()));
        Ok(Self { span: ty.span(), tokens, borrows })
    }
}

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
                        "what a method passes cannot be `'static`: nothing keeps the plugin it belongs to loaded. Borrow it from \
                         `&self`, or pass a `controllerbus::plugin::interface::Text` or `List`",
                    ),
                    _ => continue,
                }
            }
            TokenTree::Ident(name) if *name == "fn" => {
                (Some(token), "a function pointer cannot be passed: nothing keeps the library it points into loaded")
            }
            TokenTree::Ident(name) if *name == "dynptr" || *name == "dyn" || *name == "impl" => (
                Some(token),
                "an object or a closure cannot be passed through a method: nothing keeps its library loaded. Make it an \
                 `Interface` in a directive's value",
            ),
            _ => continue,
        };
        return Err(Error::new_spanned(token, why));
    }
    Ok(())
}

/// The same type with other lifetimes: `choose` is given the name of each, and nothing for a reference without one.
pub fn with_lifetimes(tokens: TokenStream, choose: impl Fn(Option<&Ident>) -> Ident + Copy) -> TokenStream {
    let lifetime =
        |given: Option<&Ident>| -> [TokenTree; 2] { [Punct::new('\'', Spacing::Joint).into(), choose(given).into()] };
    let mut out: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                out.extend(with_lifetimes(group.stream(), choose));
            }
            TokenTree::Group(group) => {
                out.push(Group::new(group.delimiter(), with_lifetimes(group.stream(), choose)).into());
            }
            TokenTree::Punct(punct) if punct.as_char() == '\'' => match tokens.next() {
                Some(TokenTree::Ident(name)) => out.extend(lifetime(Some(&name))),
                other => out.extend([TokenTree::from(punct)].into_iter().chain(other)),
            },
            TokenTree::Punct(punct) if punct.as_char() == '&' => {
                out.push(punct.into());
                let named =
                    tokens.peek().is_some_and(|next| matches!(next, TokenTree::Punct(next) if next.as_char() == '\''));
                if !named {
                    out.extend(lifetime(None));
                }
            }
            other => out.push(other),
        }
    }
    out.into_iter().collect()
}
