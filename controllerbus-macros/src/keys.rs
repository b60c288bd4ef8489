//! Reads `key = value` lists and checks ids: what the macros' attributes have in common.

use std::ops::RangeInclusive;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Attribute, Error, Expr, Lit, LitStr, Meta, Result, Token};

/// A `key = value` list, each key at most once and known.
pub struct Keys {
    pairs: Vec<(Ident, Option<Expr>)>,
    span: Span,
}

struct Pair(Ident, Option<Expr>);

/// An expression without the invisible brackets that a macro's variable has around it.
fn plain(mut value: Expr) -> Expr {
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    value
}

impl Parse for Pair {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let key = Ident::parse_any(input)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            // What a directive's values are is a type, which need not look like an expression: `Vec<String>`.
            Some(if key == "value" {
                Expr::Verbatim(input.parse::<syn::Type>()?.to_token_stream())
            } else {
                plain(input.parse()?)
            })
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
            if key != "crate" && !known.contains(&key.to_string().as_str()) {
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

    /// How the item's crate calls `controllerbus`: as `crate` says, or else as its manifest does.
    pub fn framework(&self) -> Result<TokenStream> {
        match self.expression("crate")? {
            None => Ok(framework()),
            Some(Expr::Path(path)) => Ok(path.to_token_stream()),
            Some(Expr::Lit(literal)) if matches!(literal.lit, Lit::Str(_)) => {
                let Lit::Str(text) = &literal.lit else { unreachable!("it was matched") };
                Ok(text.parse::<syn::Path>()?.to_token_stream())
            }
            Some(other) => Err(Error::new_spanned(other, "`crate` is a path: `crate = sdk::controllerbus`")),
        }
    }

    /// A key that may stand by itself, or have the name of a field as its value.
    pub fn named_or_flag(&self, key: &str) -> Result<Option<Option<&Ident>>> {
        match self.get(key) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(None)),
            Some((_, Some(Expr::Path(path)))) => Ok(Some(Some(path.path.require_ident()?))),
            Some((_, Some(other))) => {
                Err(Error::new_spanned(other, format!("`{key}` is the name of a field: `{key} = count`")))
            }
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
            return Err(Error::new_spanned(
                value,
                format!("`{key}` must be a string literal: `{key} = \"{example}\"`"),
            ));
        };
        match &literal.lit {
            Lit::Str(text) if text.value().is_empty() => {
                Err(Error::new(text.span(), format!("`{key}` is empty: `{key} = \"{example}\"`")))
            }
            Lit::Str(text) => Ok(text.clone()),
            other => {
                Err(Error::new(other.span(), format!("`{key}` must be a string literal: `{key} = \"{example}\"`")))
            }
        }
    }

    /// A time such as `"500ms"`, in milliseconds; `range` is what it may be, `said` is that in words.
    pub fn millis(&self, key: &str, example: &str, range: RangeInclusive<u64>, said: &str) -> Result<Option<u64>> {
        if self.expression(key)?.is_none() {
            return Ok(None);
        }
        let text = self.text(key, example)?;
        let wrong = |what: &str| {
            Err(Error::new(text.span(), format!("`{key}` is {what}, such as \"1s\", \"500ms\" or \"5m\"")))
        };
        let value = text.value();
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = value.split_at(digits);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return wrong("a number and `ms`, `s`, `m` or `h`"),
        };
        match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
            Some(millis) if range.contains(&millis) => Ok(Some(millis)),
            Some(_) => wrong(said),
            None => wrong("a number and `ms`, `s`, `m` or `h`"),
        }
    }

    /// An id: lower-case words with `/`, `_`, `.` and `-` between.
    pub fn id(&self, example: &str) -> Result<LitStr> {
        let id = self.text("id", example)?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/_.-".contains(c);
        match id.value().chars().find(|c| !fits(*c)) {
            Some(wrong) => Err(Error::new(
                id.span(),
                format!("an id can only contain a-z, 0-9, `/`, `_`, `.` and `-`; this one has {wrong:?}"),
            )),
            None => Ok(id),
        }
    }
}

/// How the crate that is compiled calls `controllerbus`: by its own name, unless its manifest gives it another one.
pub fn framework() -> TokenStream {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map(|folder| std::path::Path::new(&folder).join("Cargo.toml"));
    let text = manifest.and_then(|manifest| std::fs::read_to_string(manifest).ok()).unwrap_or_default();
    match renamed(&text) {
        Some(name) => {
            let name = Ident::new(&name, Span::call_site());
            quote!(::#name)
        }
        None => quote!(::controllerbus),
    }
}

/// The name by which a manifest has the package `controllerbus`, if that is another one.
fn renamed(manifest: &str) -> Option<String> {
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            continue;
        }
        let plain: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if line.starts_with('#') || !plain.contains("package=\"controllerbus\"") {
            continue;
        }
        // `name = { package = .. }` and `name.package = ..`, or in a section of its own.
        let name = match plain.split_once(['=', '.']) {
            Some(("package", _)) | None => section.rsplit('.').next()?.to_owned(),
            Some((name, _)) => name.to_owned(),
        };
        let name = name.trim_matches('"').replace('-', "_");
        return syn::parse_str::<Ident>(&name).is_ok().then_some(name);
    }
    None
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_dependency_by_another_name_is_found_in_each_form() {
        let name = |text: &str| super::renamed(text);
        assert_eq!(
            name("[dependencies]\ncb = { package = \"controllerbus\", version = \"1\" }").as_deref(),
            Some("cb")
        );
        assert_eq!(name("[dependencies]\nmy-bus.package = \"controllerbus\"").as_deref(), Some("my_bus"));
        assert_eq!(name("[dependencies.bus]\nversion = \"1\"\npackage=\"controllerbus\"").as_deref(), Some("bus"));
        assert_eq!(name("[package]\nname = \"controllerbus\"\n# x = { package = \"controllerbus\" }"), None);
        assert_eq!(name("[dependencies]\ncontrollerbus = \"1\""), None);
    }
}
