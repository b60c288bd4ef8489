//! `#[hot]`: makes a plain trait one whose methods can be called in a plugin: a client with the same methods, and the function that
//! decodes a call where it is answered.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::{
    Attribute, Error, FnArg, Item, ItemTrait, Pat, Result, ReturnType, Signature, TraitItem, TraitItemFn, Type,
    WherePredicate, parse_quote,
};

use crate::keys::Keys;

pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let keys = Keys::parse(arguments, &["id"], Span::call_site())?;
    let framework = keys.framework()?;
    let mut item = match syn::parse2::<Item>(item)? {
        Item::Trait(item) => item,
        other => return Err(Error::new_spanned(other, "#[hot] goes on a trait")),
    };
    if !item.generics.params.is_empty() {
        let what = "a trait of functions cannot be generic: the plugin and its callers must mean the same trait";
        return Err(Error::new_spanned(&item.generics, what));
    }
    let full = match keys.expression("id")? {
        Some(_) => keys.id("example/greeter")?.value(),
        None => format!("{}::{}", std::env::var("CARGO_CRATE_NAME").unwrap_or_default(), item.ident),
    };
    let methods = item.items.iter().map(Method::of).collect::<Result<Vec<_>>>()?;
    let client = client(&item, &methods, &framework);
    let served = served(&item, &full, &methods, &framework);
    item.items.iter_mut().for_each(without_async);
    Ok(quote! {
        #item
        #client
        #served
    })
}

/// How an argument crosses.
enum Crossing {
    /// As it is.
    Owned(Type),
    /// Borrowed from what was decoded, which is of this type.
    Borrowed(Type),
    /// Borrowed bytes, which are encoded as such.
    Bytes,
}

/// A method that can be called in a plugin.
struct Method {
    docs: Vec<Attribute>,
    name: Ident,
    is_async: bool,
    arguments: Vec<(Ident, Type, Crossing)>,
    output: Type,
}

impl Method {
    fn of(item: &TraitItem) -> Result<Self> {
        let TraitItem::Fn(TraitItemFn { attrs, sig, .. }) = item else {
            let what = "a trait of functions can only have methods: there is nothing else that a caller could use";
            return Err(Error::new_spanned(item, what));
        };
        let wrong = |tokens: &dyn ToTokens, what: &str| Err(Error::new_spanned(tokens.to_token_stream(), what));
        if let Some(condition) = attrs.iter().find(|it| it.path().is_ident("cfg") || it.path().is_ident("cfg_attr")) {
            return wrong(
                condition,
                "a function cannot be conditional: the plugin and its callers must mean the same trait",
            );
        }
        if sig.abi.is_some() || sig.constness.is_some() {
            return wrong(sig, "a function is a plain `fn` or `async fn`");
        }
        match sig.inputs.first() {
            Some(FnArg::Receiver(receiver)) => match &receiver.kind {
                syn::ReceiverKind::Reference(_, None, None) => {}
                syn::ReceiverKind::Reference(_, Some(_), None) => {
                    return wrong(
                        receiver,
                        "a function takes `&self`, without a lifetime: it cannot return what it borrows",
                    );
                }
                _ => {
                    return wrong(
                        receiver,
                        "a function takes `&self`, because one value serves all calls; keep what changes in a `Mutex` or an atomic",
                    );
                }
            },
            _ => return wrong(sig, "a function takes `&self`: it is called on the plugin's value"),
        }
        if !sig.generics.params.is_empty() {
            return wrong(
                &sig.generics,
                "a function cannot be generic: its arguments are encoded, so both sides must know their types",
            );
        }
        if let Some(clause) = &sig.generics.where_clause {
            return wrong(clause, "a function cannot have a `where` clause");
        }
        let mut arguments = Vec::new();
        for (at, input) in sig.inputs.iter().enumerate() {
            let FnArg::Typed(input) = input else { continue };
            let name = match &*input.pat {
                Pat::Ident(name) if !name.ident.to_string().starts_with('_') => name.ident.clone(),
                _ => format_ident!("argument_{at}"),
            };
            arguments.push((name, (*input.ty).clone(), crossing(&input.ty)?));
        }
        let output = match &sig.output {
            ReturnType::Default => parse_quote!(()),
            ReturnType::Type(_, output) => {
                if let Type::Reference(_) = &**output {
                    let what = "a function cannot return a reference: what it returns is sent to the caller, so return it owned, \
                                such as a `String`";
                    return wrong(output, what);
                }
                refuse(&output.to_token_stream(), "return")?;
                (**output).clone()
            }
        };
        let docs = attrs.iter().filter(|it| it.path().is_ident("doc")).cloned().collect();
        Ok(Self { docs, name: sig.ident.clone(), is_async: sig.asyncness.is_some(), arguments, output })
    }

    /// The types of the arguments and of the result, in a form that no compiler and no formatter chooses.
    fn signature(&self) -> String {
        let text = |tokens: TokenStream| {
            let plain: String = tokens.to_string().chars().filter(|c| !c.is_whitespace()).collect();
            plain.replace(',', ", ").replace(';', "; ")
        };
        let arguments: Vec<_> = self.arguments.iter().map(|(_, ty, _)| text(ty.to_token_stream())).collect();
        format!("({}) -> {}", arguments.join(", "), text(self.output.to_token_stream()))
    }
}

/// How an argument of a type crosses, if it can.
fn crossing(ty: &Type) -> Result<Crossing> {
    let Type::Reference(reference) = ty else {
        refuse(&ty.to_token_stream(), "take")?;
        return Ok(Crossing::Owned(ty.clone()));
    };
    if reference.mutability.is_some() {
        let what = "a function cannot take `&mut`: the caller's value is not there, so return what is new";
        return Err(Error::new_spanned(ty, what));
    }
    if let Some(lifetime) = &reference.lifetime {
        let what = "an argument is borrowed for the call only: leave the lifetime out";
        return Err(Error::new_spanned(lifetime, what));
    }
    let inner = &*reference.elem;
    refuse(&inner.to_token_stream(), "take")?;
    Ok(match inner {
        Type::Slice(slice) if slice.elem.to_token_stream().to_string() == "u8" => Crossing::Bytes,
        Type::Slice(slice) => {
            let element = &slice.elem;
            Crossing::Borrowed(parse_quote!(::std::vec::Vec<#element>))
        }
        Type::Path(path) if path.path.is_ident("str") => Crossing::Borrowed(parse_quote!(::std::string::String)),
        Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Path") => {
            Crossing::Borrowed(parse_quote!(::std::path::PathBuf))
        }
        other => Crossing::Borrowed(other.clone()),
    })
}

/// Refuses what cannot be encoded, or would be another type on each side.
fn refuse(tokens: &TokenStream, does: &str) -> Result<()> {
    for token in tokens.clone() {
        let what = match &token {
            TokenTree::Group(group) => {
                refuse(&group.stream(), does)?;
                continue;
            }
            TokenTree::Punct(punct) if matches!(punct.as_char(), '&' | '\'') => {
                "a reference inside of a type: it is encoded and decoded, so it must own what it has".to_owned()
            }
            TokenTree::Punct(punct) if punct.as_char() == '*' => {
                "a pointer: it means nothing on the other side".to_owned()
            }
            TokenTree::Ident(name) if ["impl", "dyn", "fn"].iter().any(|word| name == word) => {
                format!("`{name}`: it is encoded, so both sides must know its type; name a type that serde can encode")
            }
            TokenTree::Ident(name) if name == "Self" => {
                "`Self`: callers do not know the plugin's type; name a type that both sides have".to_owned()
            }
            _ => continue,
        };
        return Err(Error::new_spanned(token, format!("a function cannot {does} {what}")));
    }
    Ok(())
}

/// Makes an `async fn` one that says that its future is `Send`, and with which the trait is still a type.
fn without_async(item: &mut TraitItem) {
    let TraitItem::Fn(TraitItemFn { sig, default, .. }) = item else { return };
    if sig.asyncness.take().is_none() {
        return;
    }
    let output = match &sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, output) => output.to_token_stream(),
    };
    sig.output = parse_quote!(-> impl ::core::future::Future<Output = #output> + ::core::marker::Send);
    let mut sized: WherePredicate = parse_quote!(Self: ::core::marker::Sized);
    if let Some(body) = default {
        sized = parse_quote!(Self: ::core::marker::Sized + ::core::marker::Sync);
        *body = parse_quote!({ async move #body });
    }
    add_where(sig, sized);
}

fn add_where(signature: &mut Signature, predicate: WherePredicate) {
    signature.generics.make_where_clause().predicates.push(predicate);
}

fn client_name(item: &ItemTrait) -> Ident {
    format_ident!("{}Client", item.ident)
}

/// What has the methods for callers.
fn client(item: &ItemTrait, methods: &[Method], framework: &TokenStream) -> TokenStream {
    let (visibility, name, client) = (&item.vis, &item.ident, client_name(item));
    let doc = format!(
        "The methods of [`{name}`] for callers: each gives a call, to be awaited. A `Hot<dyn {name}>` derefs to it."
    );
    let calls = methods.iter().enumerate().map(|(at, method)| {
        let Method { docs, name: called, arguments, output, .. } = method;
        let doc = docs.is_empty().then(|| {
            let text = format!("Calls [`{name}::{called}`].");
            quote!(#[doc = #text])
        });
        let parameters = arguments.iter().map(|(name, ty, _)| quote!(#name: #ty));
        let encoded = arguments.iter().map(|(name, _, crossing)| match crossing {
            Crossing::Bytes => quote!(&#framework::__private::hot::Bytes(#name)),
            _ => quote!(&#name),
        });
        quote! {
            #doc
            #(#docs)*
            pub fn #called(&self, #(#parameters),*) -> #framework::hot::Call<#output> {
                let __encoded = #framework::directive::wire::encode(&(#(#encoded,)*));
                let __method = &<dyn #name as #framework::hot::HotTrait>::METHODS[#at];
                self.caller.call(<dyn #name as #framework::hot::HotTrait>::NAME, __method, __encoded)
            }
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(Clone, Debug)]
        #visibility struct #client {
            caller: #framework::hot::Caller,
        }

        #[allow(clippy::needless_pass_by_value, clippy::ptr_arg, clippy::trivially_copy_pass_by_ref)]
        impl #client {
            #(#calls)*
        }
    }
}

/// What makes the trait callable, and what decodes a call for a type that implements it.
fn served(item: &ItemTrait, full: &str, methods: &[Method], framework: &TokenStream) -> TokenStream {
    let (name, client) = (&item.ident, client_name(item));
    let described = methods.iter().map(|method| {
        let (name, signature) = (method.name.to_string(), method.signature());
        quote!(#framework::hot::Method { name: #name, signature: #signature })
    });
    let hot = quote!(#framework::__private::hot);
    let wire = quote!(#framework::directive::wire);
    let arms = methods.iter().enumerate().map(|(at, method)| {
        let Method { name: called, is_async, arguments, .. } = method;
        let names: Vec<_> = arguments.iter().map(|(name, ..)| name).collect();
        let types = arguments.iter().map(|(.., crossing)| match crossing {
            Crossing::Owned(ty) | Crossing::Borrowed(ty) => ty.to_token_stream(),
            Crossing::Bytes => quote!(#hot::Bytes<::std::vec::Vec<u8>>),
        });
        let passed = arguments.iter().map(|(name, _, crossing)| match crossing {
            Crossing::Owned(_) => quote!(#name),
            Crossing::Borrowed(_) => quote!(&#name),
            Crossing::Bytes => quote!(&#name.0),
        });
        let waits = is_async.then(|| quote!(.await));
        let answer = quote! {
            ::std::boxed::Box::pin(async move {
                #wire::encode(&<__Type as #name>::#called(&*__object, #(#passed),*) #waits)
            })
        };
        if names.is_empty() {
            return quote!(#at => #answer,);
        }
        quote! {
            #at => match #wire::decode::<(#(#types,)*)>(__arguments) {
                ::std::result::Result::Ok((#(#names,)*)) => #answer,
                ::std::result::Result::Err(__error) => #hot::failed(__error),
            },
        }
    });
    quote! {
        const _: () = {
            #[automatically_derived]
            impl ::std::convert::From<#framework::hot::Caller> for #client {
                fn from(caller: #framework::hot::Caller) -> Self {
                    Self { caller }
                }
            }

            #[automatically_derived]
            impl #framework::hot::HotTrait for dyn #name {
                type Client = #client;
                const NAME: &'static str = #full;
                const METHODS: &'static [#framework::hot::Method] = &[#(#described),*];
            }

            #[automatically_derived]
            impl<__Type: #name + ::core::marker::Send + ::core::marker::Sync + 'static> #framework::hot::Serves<__Type>
                for dyn #name
            {
                fn call(
                    __object: ::std::sync::Arc<__Type>,
                    __method: usize,
                    __arguments: &[u8],
                ) -> #framework::controller::BoxFuture<'static, #framework::Result<::std::vec::Vec<u8>>> {
                    match __method {
                        #(#arms)*
                        _ => #hot::failed(#framework::Error::msg("no such method")),
                    }
                }
            }
        };
    }
}
