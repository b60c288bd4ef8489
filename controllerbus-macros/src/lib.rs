//! The macros of `controllerbus`. Use them through that crate, which re-exports them.

mod config;
mod crossing;
mod directive;
mod functions;
mod hot;
mod hot_plugin;
mod interface;
mod keys;
mod schema;
mod serde;
mod state;
mod tokens;

use proc_macro::TokenStream;

#[doc = include_str!("../docs/hot_plugin.md")]
#[proc_macro_attribute]
pub fn hot_plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    hot_plugin::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Marks a method that answers a directive, in a block with [`macro@hot_plugin`], which reads it; see there. Anywhere else it is an
/// error that says what is missing.
#[proc_macro_attribute]
pub fn resolves(_: TokenStream, _: TokenStream) -> TokenStream {
    let what = "`#[resolves]` is for methods of an `impl Controller for ..` block with #[hot_plugin]: put \
                `#[hot_plugin(id = \"example/greeter\", version = \"0.1.0\")]` on the block";
    syn::Error::new(proc_macro2::Span::call_site(), what).into_compile_error().into()
}

#[doc = include_str!("../docs/hot.md")]
#[proc_macro_attribute]
pub fn hot(arguments: TokenStream, item: TokenStream) -> TokenStream {
    hot::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[doc = include_str!("../docs/config.md")]
#[proc_macro_derive(Config, attributes(config, serde))]
pub fn derive_config(item: TokenStream) -> TokenStream {
    config::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[doc = include_str!("../docs/schema.md")]
#[proc_macro_derive(Schema, attributes(config, serde))]
pub fn derive_schema(item: TokenStream) -> TokenStream {
    schema::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[doc = include_str!("../docs/directive.md")]
#[proc_macro_derive(Directive, attributes(directive))]
pub fn derive_directive(item: TokenStream) -> TokenStream {
    directive::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[doc = include_str!("../docs/state.md")]
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(item: TokenStream) -> TokenStream {
    state::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[doc = include_str!("../docs/interface.md")]
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
