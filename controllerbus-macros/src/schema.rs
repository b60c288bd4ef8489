//! `#[derive(Schema)]`, and the schema that `#[derive(Config)]` gives: a constant made from fields, serde's attributes
//! and doc comments.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Expr, Field, Fields, Lit, LitStr, Result, Type, Variant};

use crate::keys::{Keys, doc_lines, framework};

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let item: DeriveInput = syn::parse2(item)?;
    let framework = match item.attrs.iter().find(|attribute| attribute.path().is_ident("config")) {
        Some(_) => Keys::of_attribute(&item.attrs, "config", &["id", "validate"], &item.ident, "")?.framework()?,
        None => framework(),
    };
    let implementation = implementation(&item, &framework)?;
    Ok(quote!(const _: () = { #implementation };))
}

/// The `impl Schema` of a type. It stands in a block of its own.
pub fn implementation(item: &DeriveInput, framework: &TokenStream) -> Result<TokenStream> {
    let name = &item.ident;
    let node = node(item)?;
    let (generics, types, bounds) = item.generics.split_for_impl();
    Ok(quote! {
        #[allow(unused_imports)]
        // Names that no type of the crate's has.
        use #framework::__private::schema::{Field as __Field, Node as __Node, Probe as __Probe, Unknown as _};
        #[automatically_derived]
        impl #generics #framework::Schema for #name #types #bounds {
            const NODE: &'static __Node = #node;
        }
    })
}

/// The schema of a type as a constant expression, for a derive that implements a trait of its own with it.
pub fn constant(item: &DeriveInput, framework: &TokenStream) -> Result<TokenStream> {
    let node = node(item)?;
    Ok(quote! {{
        #[allow(unused_imports)]
        use #framework::__private::schema::{Field as __Field, Node as __Node, Probe as __Probe, Unknown as _};
        #node
    }})
}

/// What serde's attributes of a container, a variant or a field say.
#[derive(Default)]
struct Serde {
    rename: Option<String>,
    /// Other names by which it is read.
    aliases: Vec<String>,
    rename_all: Option<String>,
    rename_all_fields: Option<String>,
    tag: Option<String>,
    content: Option<String>,
    default: bool,
    skip: bool,
    flatten: bool,
    closed: bool,
    transparent: bool,
    untagged: bool,
    /// Another type, or code, says how it is read.
    foreign: bool,
}

impl Serde {
    fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut found = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            attribute.parse_nested_meta(|meta| {
                let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                let mut text = None;
                if meta.input.peek(syn::Token![=]) {
                    text = match meta.value()?.parse::<Expr>()? {
                        Expr::Lit(literal) => match literal.lit {
                            Lit::Str(text) => Some(text.value()),
                            _ => None,
                        },
                        _ => None,
                    };
                } else if meta.input.peek(syn::token::Paren) {
                    // `rename(deserialize = "...")`: what is read counts.
                    meta.parse_nested_meta(|inner| {
                        let value = inner.value()?.parse::<LitStr>()?.value();
                        if inner.path.is_ident("deserialize") {
                            text = Some(value);
                        }
                        Ok(())
                    })?;
                }
                match key.as_str() {
                    "rename" => found.rename = text,
                    "alias" => found.aliases.extend(text),
                    "rename_all" => found.rename_all = text,
                    "rename_all_fields" => found.rename_all_fields = text,
                    "tag" => found.tag = text,
                    "content" => found.content = text,
                    "default" => found.default = true,
                    "skip" | "skip_deserializing" => found.skip = true,
                    "flatten" => found.flatten = true,
                    "deny_unknown_fields" => found.closed = true,
                    "transparent" => found.transparent = true,
                    "untagged" => found.untagged = true,
                    "with" | "deserialize_with" | "from" | "try_from" | "remote" => found.foreign = true,
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}

fn node(item: &DeriveInput) -> Result<TokenStream> {
    let serde = Serde::of(&item.attrs)?;
    let own = item.ident.to_string();
    if serde.foreign {
        return Ok(quote!(&__Node::Any));
    }
    let title = serde.rename.clone().unwrap_or_else(|| own.clone());
    let (title, description) = (json_escaped(&title), json_escaped(&doc(&item.attrs)));
    match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(named) if serde.transparent => {
                let read = |field: &&Field| Serde::of(&field.attrs).is_ok_and(|serde| !serde.skip);
                let field = named.named.iter().find(read);
                Ok(field.map_or(quote!(&__Node::Any), |field| value(&own, &field.ty)))
            }
            Fields::Named(_) => {
                let fields = object_fields(&own, &data.fields, &serde, None)?;
                let closed = serde.closed;
                Ok(
                    quote!(&__Node::Object { title: #title, description: #description, fields: &[#fields], closed: #closed }),
                )
            }
            fields => tuple(&own, fields),
        },
        Data::Enum(data) => {
            let variants = data.variants.iter().collect::<Vec<_>>();
            enumeration(&own, &title, &description, &variants, &serde)
        }
        Data::Union(data) => Err(syn::Error::new(data.union_token.span, "serde cannot read a union")),
    }
}

/// The schema of a type, if it has one. A type that contains itself has none there: it would never end.
fn value(own: &str, of: &Type) -> TokenStream {
    if mentions(of.to_token_stream(), own) {
        return quote!(&__Node::Any);
    }
    quote!(<__Probe<#of>>::NODE)
}

fn is_option(of: &Type) -> bool {
    matches!(of, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Option"))
}

fn mentions(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => ident == name || ident == "Self",
        proc_macro2::TokenTree::Group(group) => mentions(group.stream(), name),
        _ => false,
    })
}

fn tuple(own: &str, fields: &Fields) -> Result<TokenStream> {
    let mut nodes = Vec::new();
    for field in fields {
        let serde = Serde::of(&field.attrs)?;
        if !serde.skip {
            nodes.push(if serde.foreign { quote!(&__Node::Any) } else { value(own, &field.ty) });
        }
    }
    Ok(match nodes.as_slice() {
        [] if matches!(fields, Fields::Unit) => quote!(&__Node::Written("\"type\":\"null\"")),
        [one] => quote!(#one),
        all => quote!(&__Node::Tuple(&[#(#all),*])),
    })
}

/// The fields of a struct or a variant, after an optional first one that is a tag.
fn object_fields(own: &str, fields: &Fields, serde: &Serde, rename_all: Option<&str>) -> Result<TokenStream> {
    let rename_all = rename_all.or(serde.rename_all.as_deref());
    let mut out = TokenStream::new();
    for field in fields {
        out.extend(object_field(own, field, rename_all, serde.default)?);
    }
    Ok(out)
}

fn object_field(own: &str, field: &Field, rename_all: Option<&str>, all_default: bool) -> Result<TokenStream> {
    let serde = Serde::of(&field.attrs)?;
    if serde.skip {
        return Ok(TokenStream::new());
    }
    let ident = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
    let ident = ident.trim_start_matches("r#");
    let name = match (&serde.rename, rename_all) {
        _ if serde.flatten => String::new(),
        (Some(name), _) => name.clone(),
        (None, Some(rule)) => rename_field(ident, rule),
        (None, None) => ident.to_owned(),
    };
    let (name, description) = (json_escaped(&name), json_escaped(&doc(&field.attrs)));
    // One of several names is enough, which a list of what is required cannot say.
    let optional = serde.default || all_default || is_option(&field.ty) || !serde.aliases.is_empty();
    let keys = keys_of(field)?;
    let written = keys.as_ref().map(|keys| keys.expression("schema")).transpose()?.flatten();
    let node = match written {
        Some(of) => value(own, &syn::parse2(of.to_token_stream())?),
        None if serde.foreign => quote!(&__Node::Any),
        None => value(own, &field.ty),
    };
    let is_secret = keys.map(|keys| keys.flag("secret")).transpose()?.unwrap_or_default();
    let node = if is_secret { quote!(&__Node::Secret(#node)) } else { node };
    let names = std::iter::once(name).chain(serde.aliases.iter().map(|alias| json_escaped(alias)));
    Ok(quote!(#(__Field { name: #names, description: #description, optional: #optional, node: #node },)*))
}

/// A field's `#[config(...)]`.
fn keys_of(field: &Field) -> Result<Option<Keys>> {
    let attribute = field.attrs.iter().find(|attribute| attribute.path().is_ident("config"));
    let Some(attribute) = attribute else { return Ok(None) };
    let list = attribute.meta.require_list()?;
    Keys::parse(list.tokens.clone(), &["secret", "schema"], list.path.segments[0].ident.span()).map(Some)
}

fn enumeration(own: &str, title: &str, description: &str, variants: &[&Variant], serde: &Serde) -> Result<TokenStream> {
    let mut nodes = Vec::new();
    let mut names = Vec::new();
    let mut plain = true;
    for variant in variants {
        let of = Serde::of(&variant.attrs)?;
        if of.skip {
            continue;
        }
        let ident = variant.ident.to_string();
        let name = match (&of.rename, &serde.rename_all) {
            (Some(name), _) => name.clone(),
            (None, Some(rule)) => rename_variant(&ident, rule),
            (None, None) => ident,
        };
        let name = json_escaped(&name);
        let words = json_escaped(&doc(&variant.attrs));
        plain &= matches!(variant.fields, Fields::Unit) && words.is_empty();
        let node = variant_node(own, variant, &name, &of, serde)?;
        nodes.push(if words.is_empty() { node } else { quote!(&__Node::Described(#words, #node)) });
        names.push(format!("\"{name}\""));
    }
    if plain && serde.tag.is_none() && !serde.untagged {
        let heading =
            if description.is_empty() { String::new() } else { format!(",\"description\":\"{description}\"") };
        let members = format!("\"title\":\"{title}\"{heading},\"enum\":[{}]", names.join(","));
        return Ok(quote!(&__Node::Written(#members)));
    }
    Ok(quote!(&__Node::OneOf { title: #title, description: #description, variants: &[#(#nodes),*] }))
}

fn variant_node(own: &str, variant: &Variant, name: &str, of: &Serde, serde: &Serde) -> Result<TokenStream> {
    let constant = format!("\"const\":\"{name}\"");
    let constant = quote!(&__Node::Written(#constant));
    let rename_all = of.rename_all.as_deref().or(serde.rename_all_fields.as_deref());
    let none = Serde::default();
    let closed = serde.closed;
    let content = || -> Result<TokenStream> {
        match &variant.fields {
            Fields::Named(_) => {
                let fields = object_fields(own, &variant.fields, &none, rename_all)?;
                Ok(quote!(&__Node::Object { title: "", description: "", fields: &[#fields], closed: #closed }))
            }
            fields => tuple(own, fields),
        }
    };
    let object = |fields: TokenStream, closed: bool| quote!(&__Node::Object { title: "", description: "", fields: &[#fields], closed: #closed });
    let field = |name: &str, node: TokenStream| {
        let name = json_escaped(name);
        quote!(__Field { name: #name, description: "", optional: false, node: #node },)
    };
    if of.untagged || serde.untagged {
        return content();
    }
    let unit = matches!(variant.fields, Fields::Unit);
    match (&serde.tag, &serde.content) {
        (None, _) if unit => Ok(constant),
        (None, _) => Ok(object(field(name, content()?), true)),
        (Some(tag), _) if unit => Ok(object(field(tag, constant), closed)),
        (Some(tag), Some(inner)) => {
            let (tag, inner) = (field(tag, constant), field(inner, content()?));
            Ok(object(quote!(#tag #inner), closed))
        }
        (Some(tag), None) => {
            let tag = field(tag, constant);
            let rest = match &variant.fields {
                Fields::Named(_) => object_fields(own, &variant.fields, &none, rename_all)?,
                // A newtype's own keys stand beside the tag.
                _ => field("", content()?),
            };
            Ok(object(quote!(#tag #rest), closed))
        }
    }
}

/// A doc comment as one paragraph.
fn doc(attributes: &[Attribute]) -> String {
    doc_lines(attributes).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A text as it stands between the quotes of a JSON text.
pub fn json_escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// serde's rules for a variant, which is written `LikeThis`.
fn rename_variant(name: &str, rule: &str) -> String {
    let mut snake = String::new();
    for (at, c) in name.char_indices() {
        if at > 0 && c.is_uppercase() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    match rule {
        "lowercase" => name.to_lowercase(),
        "UPPERCASE" => name.to_uppercase(),
        "camelCase" => lower_first(name),
        "snake_case" => snake,
        "SCREAMING_SNAKE_CASE" => snake.to_uppercase(),
        "kebab-case" => snake.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => snake.to_uppercase().replace('_', "-"),
        _ => name.to_owned(),
    }
}

/// serde's rules for a field, which is written `like_this`.
fn rename_field(name: &str, rule: &str) -> String {
    let pascal = || {
        let words = name.split('_').map(|word| {
            let mut letters = word.chars();
            letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
        });
        words.collect::<String>()
    };
    match rule {
        "UPPERCASE" | "SCREAMING_SNAKE_CASE" => name.to_uppercase(),
        "PascalCase" => pascal(),
        "camelCase" => lower_first(&pascal()),
        "kebab-case" => name.replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => name.to_uppercase().replace('_', "-"),
        _ => name.to_owned(),
    }
}

fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}
