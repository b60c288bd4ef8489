//! `#[derive(State)]`: fields that are saved and restored by their names.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Fields, Lit, LitStr, Meta, Result, Token, Type};

use crate::keys::{Keys, framework};

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let name = &item.ident;
    let fields = match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => &fields.named,
            _ => return Err(Error::new(name.span(), "state is kept by the names of its fields, and these have none")),
        },
        _ => return Err(Error::new(name.span(), "only a struct can be state; make an enum a field of one")),
    };
    if !item.generics.params.is_empty() {
        return Err(Error::new(item.generics.span(), "state cannot be generic: what was saved is of one type"));
    }
    let Whole { framework, removed } = Whole::read(&item.attrs)?;
    let fields = fields.iter().map(Field::read).collect::<Result<Vec<_>>>()?;
    unlike(&fields, &removed)?;
    let kept = || fields.iter().filter(|field| !field.skip);
    let private = quote!(#framework::__private::state);

    let slots = kept().map(|field| {
        let (slots, kind) = (field.slots(), &field.kind);
        quote!(#(#slots: ::std::option::Option<#kind>,)*)
    });
    let none = kept().map(|field| {
        let slots = field.slots();
        quote!(#(#slots: ::std::option::Option::None,)*)
    });
    let saved = kept().map(|field| {
        let (names, ident) = (field.names(), &field.ident);
        quote!(#((#names, #private::FieldBytes::of(&self.#ident)),)*)
    });
    let of_before = removed.iter().map(|Removed { name, value }| {
        let name = name.unraw().to_string();
        quote!((#name, #private::FieldBytes::of(&{ #value })),)
    });
    let read = kept().map(|field| {
        let (names, slots) = (field.names(), field.slots());
        quote!(#(#names => value.read(&mut restored.#slots),)*)
    });
    let made = fields.iter().map(|field| {
        let (ident, slots) = (&field.ident, field.slots());
        let missing = match &field.default {
            Some(value) => quote_spanned!(value.span()=> || #value),
            None => quote_spanned!(field.kind.span()=> ::std::default::Default::default),
        };
        if field.skip {
            quote!(#ident: (#missing)(),)
        } else {
            let (first, others) = (&slots[0], &slots[1..]);
            quote!(#ident: restored.#first #(.or(restored.#others))* .unwrap_or_else(#missing),)
        }
    });
    Ok(quote! {
        const _: () = {
            #[doc(hidden)]
            pub struct __Restored { #(#slots)* }

            impl ::std::default::Default for __Restored {
                fn default() -> Self {
                    Self { #(#none)* }
                }
            }

            #[automatically_derived]
            impl #framework::Stateful for #name {
                type Restored = __Restored;

                fn fields(&self) -> ::std::vec::Vec<(&'static str, #private::FieldBytes)> {
                    ::std::vec![#(#saved)* #(#of_before)*]
                }

                fn field(
                    restored: &mut __Restored,
                    name: &str,
                    value: #private::FieldValue<'_, '_>,
                ) -> ::std::result::Result<(), #private::FieldError> {
                    match name {
                        #(#read)*
                        _ => ::std::result::Result::Ok(()),
                    }
                }

                fn restored(restored: __Restored) -> Self {
                    Self { #(#made)* }
                }
            }
        };
    })
}

/// What `#[state(..)]` says of the struct.
struct Whole {
    framework: TokenStream,
    removed: Vec<Removed>,
}

/// A field that older versions had, and what they are to find in it.
struct Removed {
    name: Ident,
    value: Expr,
}

impl Parse for Removed {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = Ident::parse_any(input)?;
        input.parse::<Token![=]>()?;
        Ok(Self { name, value: input.parse()? })
    }
}

impl Whole {
    fn read(attributes: &[Attribute]) -> Result<Self> {
        const WANTED: &str = "a struct's `#[state(..)]` has `removed(name = expression, ..)` and `crate = path`";
        let mut whole = Self { framework: framework(), removed: Vec::new() };
        for part in parts(attributes)? {
            match &part {
                Meta::List(list) if list.path.is_ident("removed") => {
                    let removed = list.parse_args_with(Punctuated::<Removed, Token![,]>::parse_terminated)?;
                    whole.removed.extend(removed);
                }
                Meta::NameValue(pair) if pair.path.is_ident("crate") => {
                    let tokens = quote!(#pair);
                    whole.framework = Keys::parse(tokens, &[], pair.span())?.framework()?;
                }
                other => return Err(Error::new_spanned(other, WANTED)),
            }
        }
        Ok(whole)
    }
}

struct Field {
    ident: Ident,
    kind: Type,
    /// The names that it had before, the latest first.
    was: Vec<LitStr>,
    default: Option<Expr>,
    skip: bool,
}

impl Field {
    fn read(field: &syn::Field) -> Result<Self> {
        const WANTED: &str =
            "a field's `#[state(..)]` has `default = expression`, `was = \"its name before\"` and `skip`";
        let Some(ident) = field.ident.clone() else { return Err(Error::new(field.span(), "this field has no name")) };
        let mut read = Self { ident, kind: field.ty.clone(), was: Vec::new(), default: None, skip: false };
        for part in parts(&field.attrs)? {
            match &part {
                Meta::Path(path) if path.is_ident("skip") => read.skip = true,
                Meta::NameValue(pair) if pair.path.is_ident("default") => read.default = Some(pair.value.clone()),
                Meta::NameValue(pair) if pair.path.is_ident("was") => match &pair.value {
                    Expr::Lit(literal) if matches!(literal.lit, Lit::Str(_)) => {
                        let Lit::Str(text) = &literal.lit else { unreachable!("it was matched") };
                        read.was.push(text.clone());
                    }
                    other => return Err(Error::new_spanned(other, WANTED)),
                },
                other => return Err(Error::new_spanned(other, WANTED)),
            }
        }
        if read.skip && !read.was.is_empty() {
            return Err(Error::new(read.ident.span(), "a field that is skipped is not saved, so it has no other name"));
        }
        Ok(read)
    }

    /// The names under which it is saved and found.
    fn names(&self) -> Vec<LitStr> {
        let own = LitStr::new(&self.ident.unraw().to_string(), self.ident.span());
        std::iter::once(own).chain(self.was.iter().cloned()).collect()
    }

    /// Where what was found under each name is kept.
    fn slots(&self) -> Vec<Ident> {
        (0..=self.was.len()).map(|at| format_ident!("{}_{at}", self.ident.unraw())).collect()
    }
}

/// Refuses two fields of one name, whichever version they are of.
fn unlike(fields: &[Field], removed: &[Removed]) -> Result<()> {
    let mut known = std::collections::BTreeSet::new();
    let kept = fields.iter().filter(|field| !field.skip).flat_map(Field::names);
    let of_before = removed.iter().map(|it| LitStr::new(&it.name.unraw().to_string(), it.name.span()));
    for name in kept.chain(of_before) {
        if !known.insert(name.value()) {
            return Err(Error::new(name.span(), format!("there are two fields `{}`, now or before", name.value())));
        }
    }
    Ok(())
}

/// The parts of all `#[state(..)]`.
fn parts(attributes: &[Attribute]) -> Result<Vec<Meta>> {
    let of_state = attributes.iter().filter(|attribute| attribute.path().is_ident("state"));
    let parsed = of_state.map(|it| it.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated));
    Ok(parsed.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
