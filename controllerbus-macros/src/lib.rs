//! The macros of `controllerbus`. Use them through that crate, which re-exports them.

mod config;
mod crossing;
mod directive;
mod hot_plugin;
mod interface;
mod keys;
mod schema;
mod tokens;

use proc_macro::TokenStream;

/// Makes an `impl Controller for T` block a hot plugin.
///
/// ```text
/// #[hot_plugin(id = "example/greeter", version = "1.0.0")]
/// impl Controller for Greeter { ... }
/// ```
///
/// Methods marked `#[resolves]` become resolvers: `async fn name(&self, request: D, values: Values<V>) -> Result<()>`,
/// or, without `values`, `async fn name(&self, request: D) -> Result<V>`.
///
/// With `swap = "stop-first"` a new controller is made when the old one has ended and been dropped, not beside it: for one
/// that owns what only one can own, such as a database.
#[proc_macro_attribute]
pub fn hot_plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    hot_plugin::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Config`: `#[config(id = "example/greeter")]`, and optionally `validate = path::to::function`. What a field with
/// `#[config(secret)]` holds is never shown: no error quotes it, and tools hide it.
#[proc_macro_derive(Config, attributes(config, serde))]
pub fn derive_config(item: TokenStream) -> TokenStream {
    config::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Schema` for a struct or an enum that a config consists of, from its fields, its doc comments and serde's
/// attributes. `#[config(secret)]` marks a field whose value is never shown.
#[proc_macro_derive(Schema, attributes(config, serde))]
pub fn derive_schema(item: TokenStream) -> TokenStream {
    schema::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Directive`: `#[directive(id = "example/greet", value = Greeting)]`, and optionally
/// `key = field` or `key = (field, field)` (what makes directives equivalent; all of it otherwise), `max_values = 1`,
/// `hard_cap`, `keep_for_ms = 100`, `drop_if_empty`, and functions of `&self`: `supersede = path` (gives a `Supersede`),
/// `validate = path`, `name = path` and `debug_values = path` (for people).
#[proc_macro_derive(Directive, attributes(directive))]
pub fn derive_directive(item: TokenStream) -> TokenStream {
    directive::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a trait an interface: something that a value of a directive can be, and whose methods are called directly.
///
/// Its methods are `extern "C"`, of types that `stabby` knows, and are called on an interface value by the trait `TraitDyn`, which
/// is declared beside `Trait`. See `controllerbus::Interface`.
#[proc_macro_attribute]
pub fn interface(arguments: TokenStream, item: TokenStream) -> TokenStream {
    interface::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// The hash of the tokens of source files, given by their paths below the package's folder; with `: Item + Item` behind a path,
/// of these items of it. `controllerbus` makes its boundary's fingerprint of it.
#[doc(hidden)]
#[proc_macro]
pub fn fingerprint_of(input: TokenStream) -> TokenStream {
    tokens::expand(input.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
