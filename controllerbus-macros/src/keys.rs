//! Reads `key = value` lists and checks ids: what the macros' attributes have in common.

use proc_macro2::{Ident, Span, TokenStream};
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, Lit, LitStr, Meta, Result, Token};

/// A `key = value` list, each key at most once and known.
pub struct Keys {
    pairs: Vec<(Ident, Option<Expr>)>,
    span: Span,
}

struct Pair(Ident, Option<Expr>);

impl Parse for Pair {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let key: Ident = input.parse()?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Some(input.parse()?)
        } else {
            None
        };
        Ok(Self(key, value))
    }
}

impl Keys {
    /// Reads a list; `known` are the keys that it may have.
    pub fn parse(tokens: TokenStream, known: &[&str], span: Span) -> Result<Self> {
        let pairs = Punctuated::<Pair, Token![,]>::parse_terminated.parse2(tokens)?;
        let mut keys = Self { pairs: Vec::new(), span };
        for Pair(key, value) in pairs {
            if !known.contains(&key.to_string().as_str()) {
                let known = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
                return Err(Error::new(key.span(), format!("unknown key `{key}`; the keys are {known}")));
            }
            if keys.pairs.iter().any(|(other, _)| *other == key) {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
            keys.pairs.push((key, value));
        }
        Ok(keys)
    }

    /// Reads the helper attribute of a derive, which must be there.
    pub fn of_attribute(
        attributes: &[Attribute],
        name: &str,
        known: &[&str],
        item: &Ident,
        example: &str,
    ) -> Result<Self> {
        let found = attributes.iter().find(|attribute| attribute.path().is_ident(name));
        match found.map(|attribute| &attribute.meta) {
            Some(Meta::List(list)) => Self::parse(list.tokens.clone(), known, list.path.segments[0].ident.span()),
            _ => Err(Error::new(item.span(), format!("`{item}` needs `#[{name}({example})]`"))),
        }
    }

    fn get(&self, key: &str) -> Option<&(Ident, Option<Expr>)> {
        self.pairs.iter().find(|(other, _)| other == key)
    }

    /// A value as an expression.
    pub fn expression(&self, key: &str) -> Result<Option<&Expr>> {
        match self.get(key) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((key, None)) => Err(Error::new(key.span(), format!("`{key}` needs a value: `{key} = ...`"))),
        }
    }

    /// Whether a key without a value is there.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            Some((key, Some(_))) => Err(Error::new(key.span(), format!("`{key}` takes no value"))),
            found => Ok(found.is_some()),
        }
    }

    /// A text that must be there and not be empty.
    pub fn text(&self, key: &str, example: &str) -> Result<LitStr> {
        let Some(value) = self.expression(key)? else {
            return Err(Error::new(self.span, format!("`{key}` is missing: `{key} = \"{example}\"`")));
        };
        let Expr::Lit(literal) = value else {
            return Err(Error::new_spanned(value, format!("`{key}` must be a text: `{key} = \"{example}\"`")));
        };
        match &literal.lit {
            Lit::Str(text) if text.value().is_empty() => {
                Err(Error::new(text.span(), format!("`{key}` is empty: `{key} = \"{example}\"`")))
            }
            Lit::Str(text) => Ok(text.clone()),
            other => Err(Error::new(other.span(), format!("`{key}` must be a text: `{key} = \"{example}\"`"))),
        }
    }

    /// An id: lower-case words with `/`, `_`, `.` and `-` between.
    pub fn id(&self, example: &str) -> Result<LitStr> {
        let id = self.text("id", example)?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/_.-".contains(c);
        match id.value().chars().find(|c| !fits(*c)) {
            Some(wrong) => Err(Error::new(
                id.span(),
                format!("an id is made of a-z, 0-9, `/`, `_`, `.` and `-`; this one has {wrong:?}"),
            )),
            None => Ok(id),
        }
    }
}

/// The lines of a doc comment, each without the blanks around it.
pub fn doc_lines(attributes: &[Attribute]) -> impl Iterator<Item = String> + '_ {
    attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}
