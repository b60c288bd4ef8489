//! `#[interface]`: makes a trait an interface that values can be of: a table of its methods, a shape that covers their
//! signatures, and a trait by which they are called on what may come from another library.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{
    Attribute, Error, FnArg, GenericParam, Item, ItemTrait, Lifetime, Result, ReturnType, Signature, TraitItem,
    TraitItemFn, parse_quote,
};

use crate::crossing::{Crossing, with_lifetimes};
use crate::keys::Keys;

/// How functions of a table are called. Raised when that changes, so that no shape is one of before.
const CALLS: u32 = 1;

pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let framework = Keys::parse(arguments, &[], Span::call_site())?.framework()?;
    let item = match syn::parse2::<Item>(item)? {
        Item::Trait(item) => item,
        other => return Err(Error::new_spanned(other, "#[interface] goes on a trait")),
    };
    if !item.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &item.generics,
            "an interface cannot be generic: both sides must mean the same trait",
        ));
    }
    let methods = item.items.iter().map(Method::of).collect::<Result<Vec<_>>>()?;
    let interface = quote!(#framework::plugin::interface);
    let checks = methods.iter().flat_map(|method| &method.types).map(|Crossing { span, tokens, borrows }| {
        // All of it at the type, which is what the compiler points at.
        let interface = interface.clone().into_iter().map(|mut token| {
            token.set_span(*span);
            token
        });
        let interface: TokenStream = interface.collect();
        quote_spanned! {*span=>
            const _: () = #interface::crosses(<#tokens as #interface::stabby::IStable>::REPORT, #borrows);
        }
    });
    let checks: TokenStream = checks.collect();
    let caller = caller(&item, &methods);
    let table = table(&item, &methods, &interface);
    Ok(quote! {
        #item
        #caller
        #table
        #checks
    })
}

/// A method that can be called across.
struct Method<'a> {
    attributes: &'a [Attribute],
    /// With a name for each parameter.
    signature: Signature,
    /// The lifetime of `&self`.
    receiver: Lifetime,
    /// All lifetimes that it is generic over.
    lifetimes: Vec<Lifetime>,
    arguments: Vec<syn::Ident>,
    /// Of its parameters and its result.
    types: Vec<Crossing>,
}

impl<'a> Method<'a> {
    fn of(item: &'a TraitItem) -> Result<Self> {
        let TraitItem::Fn(TraitItemFn { attrs, sig, .. }) = item else {
            return Err(Error::new_spanned(item, "an interface can only have methods"));
        };
        let wrong = |tokens: &dyn ToTokens, what: &str| Err(Error::new_spanned(tokens.to_token_stream(), what));
        let abi = sig.abi.as_ref().map(|abi| abi.name.as_ref().map_or_else(|| "C".to_owned(), syn::LitStr::value));
        if !abi.is_some_and(|abi| ["C", "C-unwind", "system", "system-unwind"].contains(&abi.as_str())) {
            let wanted =
                format!("write `extern \"C\" fn {}`: only such methods can be called across libraries", sig.ident);
            return Err(Error::new(sig.fn_token.span, wanted));
        }
        let given = match sig.inputs.first() {
            Some(FnArg::Receiver(receiver)) => match &receiver.kind {
                syn::ReceiverKind::Reference(_, Some(lifetime), None) if lifetime.ident == "static" => {
                    return wrong(receiver, "a method of an interface can only borrow `&self` for the call");
                }
                syn::ReceiverKind::Reference(_, lifetime, None) => lifetime.clone(),
                _ => return wrong(receiver, "a method of an interface takes `&self`: its object is shared"),
            },
            _ => return wrong(sig, "a method of an interface takes `&self`"),
        };
        if let Some(condition) = attrs.iter().find(|it| it.path().is_ident("cfg") || it.path().is_ident("cfg_attr")) {
            return wrong(
                condition,
                "a method of an interface cannot be conditional: both sides must mean the same trait",
            );
        }
        let mut lifetimes = Vec::new();
        for generic in &sig.generics.params {
            match generic {
                GenericParam::Lifetime(lifetime) if lifetime.bounds.is_empty() => {
                    lifetimes.push(lifetime.lifetime.clone());
                }
                other => {
                    return wrong(other, "a method of an interface can only be generic over lifetimes without bounds");
                }
            }
        }
        if let Some(clause) = &sig.generics.where_clause {
            return wrong(clause, "a method of an interface cannot have a `where` clause");
        }
        let mut signature = sig.clone();
        let (mut types, mut arguments) = (Vec::new(), Vec::new());
        for (at, input) in signature.inputs.iter_mut().enumerate() {
            if let FnArg::Typed(input) = input {
                let name = format_ident!("argument_{at}");
                types.push(Crossing::of(&input.ty)?);
                *input.pat = parse_quote!(#name);
                input.attrs.clear();
                arguments.push(name);
            }
        }
        if let ReturnType::Type(_, output) = &signature.output {
            types.push(Crossing::of(output)?);
        }
        let receiver =
            given.filter(|given| given.ident != "_").unwrap_or_else(|| Lifetime::new("'__self", Span::call_site()));
        if !lifetimes.contains(&receiver) {
            lifetimes.push(receiver.clone());
        }
        Ok(Self { attributes: attrs, signature, receiver, lifetimes, arguments, types })
    }

    /// Its parameters' types, and its result with the lifetime that a method's may leave out.
    fn inputs_and_output(&self) -> (Vec<&syn::Type>, TokenStream) {
        let inputs = self.signature.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(input) => Some(&*input.ty),
            FnArg::Receiver(_) => None,
        });
        let output = match &self.signature.output {
            ReturnType::Default => TokenStream::new(),
            ReturnType::Type(arrow, output) => {
                let output = with_lifetimes(output.to_token_stream(), |given| match given {
                    Some(name) if *name != "_" => name.clone(),
                    _ => self.receiver.ident.clone(),
                });
                quote!(#arrow #output)
            }
        };
        (inputs.collect(), output)
    }

    /// The text of its declaration, but for what a formatter or another compiler's rendering may change.
    fn text(&self) -> String {
        self.signature.to_token_stream().to_string().chars().filter(|c| !c.is_whitespace()).collect()
    }
}

/// The trait by which the methods are called on an interface value.
fn caller(item: &ItemTrait, methods: &[Method<'_>]) -> TokenStream {
    let (visibility, name) = (&item.vis, caller_name(item));
    let doc = format!("The methods of [`{}`], on an interface value.", item.ident);
    let methods = methods.iter().map(|Method { attributes, signature, .. }| quote!(#(#attributes)* #signature;));
    quote! {
        #[doc = #doc]
        #visibility trait #name {
            #(#methods)*
        }
    }
}

fn caller_name(item: &ItemTrait) -> syn::Ident {
    format_ident!("{}Dyn", item.ident)
}

/// The table of the trait's functions, and what it makes of the trait. All spans are of this expansion, so that a crate which
/// forbids unsafe code may have it.
fn table(item: &ItemTrait, methods: &[Method<'_>], interface: &TokenStream) -> TokenStream {
    let (name, caller) = (&item.ident, caller_name(item));
    let text = methods.iter().map(Method::text).collect::<Vec<_>>().join(";");
    let (before, after) = (format!("{CALLS}:"), format!("::{name}{{{text}}}"));
    let types = methods.iter().flat_map(|method| &method.types).map(|crossing| &crossing.tokens);
    let (mut fields, mut functions, mut entries, mut calls) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for method in methods {
        let Method { signature, receiver, lifetimes, arguments, .. } = method;
        let (of, abi) = (&signature.ident, &signature.abi);
        let (inputs, output) = method.inputs_and_output();
        let function = format_ident!("__call_{}", of.unraw());
        fields.push(quote! {
            #of: for<#(#lifetimes),*> unsafe #abi fn(#interface::Receiver<#receiver>, #(#inputs),*) #output
        });
        functions.push(quote! {
            unsafe #abi fn #function<#(#lifetimes,)* __Type: #name + 'static>(
                __receiver: #interface::Receiver<#receiver>,
                #(#arguments: #inputs),*
            ) #output {
                #[allow(unused_unsafe)]
                unsafe { <__Type as #name>::#of(__receiver.object::<__Type>(), #(#arguments),*) }
            }
        });
        entries.push(quote!(#of: #function::<__Type>));
        calls.push(quote! {
            #signature {
                let (__receiver, __table) = #interface::Pointer::parts(self);
                unsafe { (__table.#of)(__receiver, #(#arguments),*) }
            }
        });
    }
    quote! {
        const _: () = {
            #[derive(::core::clone::Clone, ::core::marker::Copy)]
            #[repr(C)]
            pub struct __Table {
                #(#fields,)*
            }

            #(#functions)*

            unsafe impl #interface::InterfaceType for dyn #name {
                type Table = __Table;
                const SHAPE: u64 = #interface::shape(
                    ::core::concat!(#before, ::core::module_path!(), #after),
                    &[#(<#types as #interface::stabby::IStable>::ID),*],
                );
            }

            unsafe impl<__Type: #name + 'static> #interface::TableOf<__Type> for dyn #name {
                const TABLE: &'static __Table = &__Table { #(#entries,)* };
            }

            impl #caller for #interface::Pointer<dyn #name> {
                #(#calls)*
            }
        };
    }
}
