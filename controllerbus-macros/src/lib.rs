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

/// Makes an `impl Controller for T` block a hot plugin.
///
/// ```
/// use controllerbus::prelude::*;
///
/// # #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// # #[directive(id = "example/greet", value = String)]
/// # struct Greet { name: String }
/// # #[derive(Config, Serialize, Deserialize, PartialEq)]
/// # #[config(id = "example/greeter")]
/// # struct GreeterConfig {}
/// struct Greeter;
///
/// /// Greets: the first line here is the description that tools show.
/// #[hot_plugin(id = "example/greeter", version = "1.0.0")]
/// impl Controller for Greeter {
///     type Config = GreeterConfig;
///
///     async fn construct(_: GreeterConfig, _: &Context) -> Result<Self> {
///         Ok(Self)
///     }
///
///     #[resolves]
///     async fn greet(&self, request: Greet) -> Result<String> {
///         Ok(format!("Hello, {}!", request.name))
///     }
/// }
/// # fn main() {}
/// ```
///
/// Methods marked `#[resolves]` become resolvers: `async fn name(&self, request: D, values: Values<V>) -> Result<()>`,
/// or, without `values`, `async fn name(&self, request: D) -> Result<V>`. With `#[resolves(retry = Retry::never())]` one is tried
/// again as often as its `Retry` says; otherwise the controller's config says it.
///
/// With `state = field` the next generation continues with that field's contents: a `Mutex`, an `RwLock` or a
/// `watch::Sender` of a `#[derive(State)]` struct.
///
/// With `persist = "1s"` (or `"500ms"`, `"5m"`) that state, or what `save` returns, is also written to the host's work directory: when it
/// has changed, at most once in that time, and when the controller ends. A process that has crashed and a host that is started anew go
/// on with it. See `Bus::keep_states_in`.
///
/// On an implementation of a trait that has `#[hot]`, it makes the trait's methods callable: see `controllerbus::hot`. There, `id` and
/// `version` are those of the crate unless they are given, and a value is made with `Default`, or by `construct = Self::open`, an
/// `async fn open(context: &Context) -> Result<Self>`. There, `state` may stand without a field: then the value itself is handed over,
/// encoded with serde.
///
/// With `swap = "stop-first"` a new controller is made when the old one has ended and been dropped, not beside it: for one
/// that owns what only one can own, such as a database.
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

/// Makes a plain trait one whose methods can be called in a plugin: see `controllerbus::hot`.
///
/// The trait is unchanged, except that the futures of its `async` methods are `Send`; implementations still write `async fn`.
/// `TraitClient`, which is declared beside `Trait`, has its methods for callers.
///
/// Methods take `&self`. Arguments are serde types, or borrow one: `u64`, `Item`, `&Item`, `&str`, `&[u8]`, `&[Item]`, `&Path`. Results
/// are serde types that own what they have, a `Result` among them.
///
/// The plugin and its callers know the trait by its crate and its name. Where they do not share a crate, each declares it with the
/// same `#[hot(id = "example/words")]`.
///
/// ```
/// use controllerbus::hot::{Hot, HotTrait};
/// use controllerbus::prelude::*;
///
/// #[controllerbus::hot]
/// pub trait Words {
///     fn count(&self, text: &str) -> usize;
///     async fn longest(&self, words: &[String]) -> Option<String>;
/// }
///
/// assert_eq!(<dyn Words>::METHODS[0].signature, "(&str) -> usize");
///
/// async fn use_it(words: Hot<dyn Words>) -> Result<(), BusError> {
///     let count: usize = words.count("to be or not to be").await?;
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn hot(arguments: TokenStream, item: TokenStream) -> TokenStream {
    hot::expand(arguments.into(), item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Config`: `#[config(id = "example/greeter")]`, and optionally `validate = path::to::function`. What a field with
/// `#[config(secret)]` holds is never shown: no error quotes it, and tools hide it.
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[derive(Config, Serialize, Deserialize, PartialEq)]
/// #[config(id = "example/door", validate = DoorConfig::check)]
/// struct DoorConfig {
///     /// In centimetres.
///     width: u32,
///     #[config(secret)]
///     code: String,
/// }
///
/// impl DoorConfig {
///     fn check(&self) -> Result<()> {
///         if self.width == 0 { Err(Error::msg("nobody gets through")) } else { Ok(()) }
///     }
/// }
///
/// assert!(DoorConfig { width: 0, code: "1234".into() }.validate().is_err());
/// assert!(DoorConfig::SCHEMA.to_json().contains("In centimetres."));
/// ```
#[proc_macro_derive(Config, attributes(config, serde))]
pub fn derive_config(item: TokenStream) -> TokenStream {
    config::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Schema` for a struct or an enum that a config consists of, from its fields, its doc comments and serde's
/// attributes. `#[config(secret)]` marks a field whose value is never shown, and `#[config(schema = u64)]` sets the schema type of
/// a field with `#[serde(with = ...)]`.
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[derive(Schema, Serialize, Deserialize)]
/// #[serde(rename_all = "lowercase")]
/// enum Colour { Red, Green }
///
/// assert!(Colour::NODE.to_json().contains("\"green\""));
/// ```
#[proc_macro_derive(Schema, attributes(config, serde))]
pub fn derive_schema(item: TokenStream) -> TokenStream {
    schema::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Directive`: `#[directive(id = "example/greet", value = Greeting)]`, and optionally
/// `key = field` or `key = (field, field)` (what makes directives equivalent; all of it otherwise), `max_values = 1`,
/// `hard_cap`, `keep_for_ms = 100`, `drop_if_empty`, `unmerged` (each request stands by itself), `once` (a call, which one controller
/// answers, and only once), `pin = "10m"` (in a swap it stays with the controller that answers it, for as long as that),
/// `local` (its values are live objects of one library: see `Directive::LOCAL`), and functions of `&self`: `supersede = path` (gives a `Supersede`),
/// `validate = path`, `name = path` and `debug_values = path` (for people).
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
/// #[directive(id = "shop/price", value = u64, key = article, max_values = 1, hard_cap)]
/// struct GetPrice { article: String, for_customer: u64 }
///
/// let directive = |for_customer| GetPrice { article: "tea".into(), for_customer };
/// assert!(directive(1).key_eq(&directive(2)));
/// ```
#[proc_macro_derive(Directive, attributes(directive))]
pub fn derive_directive(item: TokenStream) -> TokenStream {
    directive::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `Stateful` for a struct: its fields are saved and restored by their names, so that each version of the code goes on
/// with what another one has saved, older ones included, as in a roll-back. `#[hot_plugin(.., state = field)]` hands it over.
///
/// A field that was not saved gets its `Default`, or what `#[state(default = ...)]` says. One with `#[state(was = "name")]` had
/// that name before: it is found under both, and saved under both. `#[state(skip)]` leaves one out. For a field that was removed,
/// `#[state(removed(name = expression))]` on the struct says what an older version is to find. A field whose type differs
/// in a way that serde cannot read is refused by its name, and the swap is rolled back.
///
/// ```
/// use controllerbus::State;
///
/// #[derive(State)]
/// struct Before { hits: u64, total: u64 }
///
/// #[derive(State)]
/// #[state(removed(total = self.visits * 2))]
/// struct Now {
///     #[state(was = "hits")]
///     visits: u64,
///     #[state(default = 1)]
///     runs: u32,
/// }
///
/// # fn main() -> controllerbus::Result<()> {
/// let now: Now = State::of(&Before { hits: 41, total: 90 })?.restore()?;
/// assert_eq!((now.visits, now.runs), (41, 1));
/// let before: Before = State::of(&now)?.restore()?;
/// assert_eq!((before.hits, before.total), (41, 82));
/// # Ok(())
/// # }
/// ```
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(item: TokenStream) -> TokenStream {
    state::expand(item.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes a trait an interface: something that a value of a directive can be, and whose methods are called directly.
///
/// Its methods are `extern "C"`, of types that `stabby` knows, and are called on an interface value by the trait `TraitDyn`, which
/// is declared beside `Trait`. See `controllerbus::Interface`.
///
/// ```
/// use controllerbus::prelude::*;
///
/// #[controllerbus::interface]
/// pub trait Double {
///     extern "C" fn double(&self, number: u64) -> u64;
/// }
///
/// struct Plain;
/// impl Double for Plain {
///     extern "C" fn double(&self, number: u64) -> u64 { number * 2 }
/// }
///
/// assert_eq!(Interface::<dyn Double>::new(Plain).double(21), 42);
/// ```
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
