//! `fingerprint_of!`: a hash of some source files' tokens, which comments, spaces and what compiles to nothing do not change.

use std::path::Path;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Error, Ident, LitStr, Result, Token};

/// Attributes that change nothing of what is laid out, called or sent.
const NOTHING: [&str; 9] =
    ["allow", "derive", "diagnostic", "doc", "expect", "inline", "must_use", "non_exhaustive", "track_caller"];

/// A file below the package's folder, and the names of the items of it that count; all of it without any.
struct Source {
    path: LitStr,
    items: Vec<Ident>,
}

impl syn::parse::Parse for Source {
    fn parse(input: syn::parse::ParseStream<'_>) -> Result<Self> {
        let path = input.parse()?;
        let mut items = Vec::new();
        while input.peek(Token![:]) || input.peek(Token![+]) {
            input.parse::<TokenTree>()?;
            items.push(input.parse()?);
        }
        Ok(Self { path, items })
    }
}

/// Expands to the hash, a `u64`.
pub fn expand(input: TokenStream) -> Result<TokenStream> {
    let sources = Punctuated::<Source, Token![,]>::parse_terminated.parse2(input)?;
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let mut hash = Hash::new();
    for Source { path, items } in &sources {
        let file = Path::new(&folder).join(path.value());
        let text = std::fs::read_to_string(&file)
            .map_err(|error| Error::new(path.span(), format!("reading {}: {error}", file.display())))?;
        hash.source(&text, items).map_err(|error| Error::new(path.span(), error))?;
    }
    let hash = hash.0;
    Ok(quote!(#hash))
}

/// FNV-1a. Each token is hashed by itself, in a form that no compiler chooses.
pub struct Hash(pub u64);

impl Hash {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn source(&mut self, text: &str, items: &[Ident]) -> Result<()> {
        if items.is_empty() {
            self.tokens(text.parse()?, None);
            return Ok(());
        }
        let file = syn::parse_str::<syn::File>(text)?;
        for name in items {
            let mut found = file.items.iter().filter(|item| declared(item).is_some_and(|it| it == name)).peekable();
            if found.peek().is_none() {
                return Err(Error::new(Span::call_site(), format!("it has no item `{name}`")));
            }
            found.for_each(|item| self.tokens(item.to_token_stream(), None));
        }
        Ok(())
    }

    fn tokens(&mut self, tokens: TokenStream, within: Option<Delimiter>) {
        let mut tokens = tokens.into_iter().peekable();
        let mut commas = 0;
        while let Some(token) = tokens.next() {
            match token {
                // A formatter adds the last comma of a list and takes it away, but not that of a tuple of one.
                TokenTree::Punct(punct) if punct.as_char() == ',' => {
                    commas += 1;
                    let only = within == Some(Delimiter::Parenthesis) && commas == 1;
                    if only || tokens.peek().is_some() {
                        self.token('p', ",");
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let inner = tokens.next_if(|next| matches!(next, TokenTree::Punct(next) if next.as_char() == '!'));
                    match tokens.next_if(is_nothing) {
                        Some(_) => {}
                        None => {
                            self.token('p', "#");
                            inner.iter().for_each(|_| self.token('p', "!"));
                        }
                    }
                }
                TokenTree::Punct(punct) => self.token('p', punct.as_char().encode_utf8(&mut [0; 4])),
                TokenTree::Ident(ident) => self.token('i', &ident.to_string()),
                TokenTree::Literal(literal) => self.token('l', &literal.to_string()),
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::None => ("", ""),
                    };
                    self.token('g', open);
                    self.tokens(group.stream(), Some(group.delimiter()));
                    self.token('g', close);
                }
            }
        }
    }

    fn token(&mut self, kind: char, text: &str) {
        self.word(kind.encode_utf8(&mut [0; 4]));
        self.word(text);
    }

    /// A text, and that it ends.
    pub fn word(&mut self, text: &str) {
        for byte in text.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Whether this is what stands after the `#` of an attribute that does not count.
fn is_nothing(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else { return false };
    matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(name)) if NOTHING.iter().any(|it| name == it))
}

/// What an item is called.
fn declared(item: &syn::Item) -> Option<&Ident> {
    match item {
        syn::Item::Const(item) => Some(&item.ident),
        syn::Item::Enum(item) => Some(&item.ident),
        syn::Item::Fn(item) => Some(&item.sig.ident),
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Trait(item) => Some(&item.ident),
        syn::Item::Type(item) => Some(&item.ident),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> u64 {
        let mut hash = Hash::new();
        hash.source(text, &[]).expect("source text");
        hash.0
    }

    const SOURCE: &str = "
        /// What is told.
        #[derive(Clone)]
        #[repr(C)]
        pub struct Told { pub kind: u8, pub text: Text }
        pub enum Kind { One, Two }
        pub const ONE: u8 = 1;
        pub const WORD: &str = \"a  // b\";
        pub trait Side { extern \"C\" fn tell<'a>(&'a self, told: Told) -> Result<u64, Failure>; }
    ";

    #[test]
    fn comments_spaces_and_what_compiles_to_nothing_do_not_count() {
        let same = "//! A head.
            #[derive(Clone, Debug)] #[repr(C)] #[non_exhaustive] /* told */
            pub struct Told{pub kind:u8,/// a text
                pub text:Text,}
            #[must_use]
            pub enum Kind{One,
                Two} // two of them
            pub const ONE:u8=1;pub const WORD:&str=\"a  // b\";
            pub trait Side{#[doc(hidden)] extern \"C\" fn tell<'a>(&'a self,told:Told,)->Result<u64,Failure>;}";
        assert_eq!(hash(SOURCE), hash(same));
    }

    #[test]
    fn orders_types_names_values_and_layouts_count() {
        let mut hashes = std::collections::HashSet::from([hash(SOURCE)]);
        for (from, to) in [
            ("pub kind: u8, pub text: Text", "pub text: Text, pub kind: u8"),
            ("One, Two", "Two, One"),
            ("kind: u8", "kind: u16"),
            ("ONE: u8 = 1", "ONE: u8 = 2"),
            ("ONE: u8", "UNO: u8"),
            ("a  // b", "a // b"),
            ("repr(C)", "repr(u8)"),
            ("-> Result<u64, Failure>", ""),
            ("told: Told", "told: &Told"),
        ] {
            let changed = SOURCE.replace(from, to);
            assert!(changed != SOURCE && hashes.insert(hash(&changed)), "{from} -> {to}");
        }
    }

    #[test]
    fn only_the_items_that_are_named_count() {
        let of = |text: &str, item: &str| {
            let mut hash = Hash::new();
            let name = Ident::new(item, Span::call_site());
            hash.source(text, &[name]).map(|()| hash.0).map_err(|error| error.to_string())
        };
        let changed = SOURCE.replace("One, Two", "Two, One");
        assert_eq!(of(SOURCE, "Told"), of(&changed, "Told"));
        assert_ne!(of(SOURCE, "Kind"), of(&changed, "Kind"));
        assert!(of(SOURCE, "Gone").is_err_and(|error| error.contains("`Gone`")));
    }
}
