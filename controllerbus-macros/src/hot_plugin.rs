//! `#[hot_plugin]`: checks the block, takes the resolvers out of it, and emits what makes the crate a plugin.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, FnArg, Ident, ImplItem, ImplItemFn, Item, ItemImpl, LitStr, Meta, Path, Result, ReturnType,
    Token, Type, parse_quote,
};

use crate::functions;
use crate::keys::{Keys, doc_lines};
use crate::schema::json_escaped;
use crate::tokens::Hash;

pub fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if let Some(block) = functions::block(&item) {
        return functions::expand(arguments, &block);
    }
    let keys = Keys::parse(arguments, &["id", "version", "swap", "state", "persist"], Span::call_site())?;
    let id = keys.id("example/greeter")?;
    let framework = keys.framework()?;
    let version = checked_version(&keys)?;
    let swap = Swap::read(&keys)?;
    let mut block = controller_block(item)?;
    let persist = persist(&keys)?;
    if persist > 0 && keys.expression("state")?.is_none() && !has_method(&block, "save") {
        let what = "`persist` keeps what is saved: name the field (`state = field`), or write `save` and `restore`";
        return Err(Error::new_spanned(keys.expression("persist")?, what));
    }
    let state = state(&keys, &block, &framework)?;
    let resolvers = take_resolvers(&mut block)?;
    refuse_strangers(&block)?;
    let routes = routes(&block, &resolvers, &framework)?;
    let own_id = defaults(&mut block, &id, &framework);
    let controller = &block.self_ty;
    let resolves = resolvers.iter().map(|resolver| {
        let (directive, conditions) = (&resolver.directive, &resolver.conditions);
        // Each by itself, so that a type that is no directive is one error, and here.
        let of = quote!(<#directive as #framework::Directive>);
        quote! {
            #(#conditions)*
            __cbus::manifest::Resolved::new(#of::ID, #of::SCHEMA, #of::LOCAL, #of::ONCE, #of::DECLARATION)
        }
    });
    let parts = Parts {
        items: quote!(type __Config = <#controller as #framework::Controller>::Config;),
        config: quote!(<__Config as #framework::Config>::ID),
        schema: quote!(<__Config as #framework::Config>::SCHEMA),
        resolves: quote!(#(#resolves),*),
        functions: quote!(::std::option::Option::None),
        starts: false,
        persist,
        factory: quote!(__cbus::factory_of::<#controller>),
    };
    let plugin = plugin(&block, &id, &version, swap, parts, &framework);
    let unique = unique(&id);
    let methods = resolvers.iter().map(|resolver| &resolver.method);
    // What is said of the block holds for all that comes of it.
    let (conditions, lints): (Vec<_>, Vec<_>) = block.attrs.iter().filter(|it| !is_doc(it)).partition(|it| is_cfg(it));
    let inherent =
        (!resolvers.is_empty()).then(|| quote!(#(#conditions)* #(#lints)* impl #controller { #(#methods)* }));
    let tokens = {
        block.items.extend(routes);
        block.items.extend(state);
        quote!(#block #inherent #(#conditions)* #own_id #(#conditions)* #plugin #(#conditions)* #unique)
    };
    Ok(tokens)
}

/// The version, which must be there.
pub fn checked_version(keys: &Keys) -> Result<LitStr> {
    let version = keys.text("version", "1.0.0")?;
    match semver::Version::parse(&version.value()) {
        Ok(_) => Ok(version),
        Err(error) => {
            let what = format!("`version` is not a semantic version such as \"1.0.0\": {error}");
            Err(Error::new(version.span(), what))
        }
    }
}

fn is_doc(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc")
}

pub fn is_cfg(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
}

/// How a new controller comes in the place of an old one.
#[derive(Clone, Copy)]
pub enum Swap {
    Beside,
    StopFirst,
}

impl Swap {
    pub fn read(keys: &Keys) -> Result<Self> {
        if keys.expression("swap")?.is_none() {
            return Ok(Self::Beside);
        }
        let text = keys.text("swap", Self::StopFirst.name())?;
        let known = [Self::Beside, Self::StopFirst].into_iter().find(|swap| swap.name() == text.value());
        known.ok_or_else(|| {
            let what = "`swap` must be \"beside\" (the new controller is made ready beside the old one: the default) or \
                        \"stop-first\" (it is made when the old one has gone: for what only one can own)";
            Error::new(text.span(), what)
        })
    }

    /// As the manifest has it.
    fn name(self) -> &'static str {
        match self {
            Self::Beside => "beside",
            Self::StopFirst => "stop-first",
        }
    }
}

/// The item, if it is an `impl Controller for T` that a plugin can be made of.
fn controller_block(item: TokenStream) -> Result<ItemImpl> {
    const WANTED: &str = "#[hot_plugin] goes on an `impl Controller for ...` block, or on that of a trait with #[hot]";
    let block = match syn::parse2::<Item>(item)? {
        Item::Impl(block) => block,
        other => return Err(Error::new_spanned(other, WANTED)),
    };
    if block.trait_.is_none() {
        return Err(Error::new_spanned(&block.self_ty, format!("{WANTED}; not on an inherent impl")));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &block.generics,
            "a plugin's controller cannot be generic: its id stands for one type",
        ));
    }
    Ok(block)
}

/// The `save` and `restore` of a controller that names a field as its state.
fn state(keys: &Keys, block: &ItemImpl, framework: &TokenStream) -> Result<Vec<ImplItem>> {
    let Some(field) = keys.expression("state")? else { return Ok(Vec::new()) };
    let field = match field {
        Expr::Path(path) => path.path.require_ident()?,
        other => return Err(Error::new_spanned(other, "`state` is the name of a field: `state = count`")),
    };
    let by_hand = block.items.iter().find_map(|item| match item {
        ImplItem::Fn(method) if method.sig.ident == "save" || method.sig.ident == "restore" => Some(&method.sig.ident),
        _ => None,
    });
    if let Some(method) = by_hand {
        let message = format!("either write `{method}` by hand or name the state, not both");
        return Err(Error::new(method.span(), message));
    }
    let cell = quote_spanned!(field.span()=> &self.#field);
    Ok(vec![
        parse_quote! {
            fn save(&self) -> #framework::Result<::std::option::Option<#framework::State>> {
                #framework::controller::StateCell::save(#cell).map(::std::option::Option::Some)
            }
        },
        parse_quote! {
            async fn restore(&self, state: #framework::State) -> #framework::Result<()> {
                #framework::controller::StateCell::restore(#cell, &state)
            }
        },
    ])
}

fn has_method(block: &ItemImpl, name: &str) -> bool {
    block.items.iter().any(|item| matches!(item, ImplItem::Fn(method) if method.sig.ident == name))
}

/// How often the state is kept, in milliseconds; 0 if it is not.
pub fn persist(keys: &Keys) -> Result<u64> {
    let millis = keys.millis("persist", "1s", 10..=86_400_000, "a time from 10 milliseconds to 24 hours")?;
    Ok(millis.unwrap_or_default())
}

/// Completes a block that names no config: its controller is made by `Default`, unless it says how. Returns what gives it an id.
fn defaults(block: &mut ItemImpl, id: &LitStr, framework: &TokenStream) -> Option<TokenStream> {
    let has_config = block.items.iter().any(|item| matches!(item, ImplItem::Type(of) if of.ident == "Config"));
    if has_config {
        return None;
    }
    let controller = block.self_ty.clone();
    block.items.push(parse_quote!(type Config = #framework::config::NoConfig<Self>;));
    if !has_method(block, "construct") {
        // What is wrong with the type is shown at the type.
        let made = quote_spanned!(controller.span()=> <#controller as ::std::default::Default>::default());
        block.items.push(parse_quote! {
            async fn construct(_: Self::Config, _: &#framework::Context) -> #framework::Result<Self> {
                ::std::result::Result::Ok(#made)
            }
        });
    }
    Some(quote! {
        impl #framework::controller::PluginId for #controller {
            const ID: &'static str = #id;
        }
    })
}

/// The methods of `Controller`.
const METHODS: [&str; 7] = ["construct", "execute", "close", "health", "save", "restore", "routes"];

/// Refuses methods that are neither the trait's nor resolvers.
fn refuse_strangers(block: &ItemImpl) -> Result<()> {
    let strangers = block.items.iter().filter_map(|item| match item {
        ImplItem::Fn(method) if !METHODS.iter().any(|known| method.sig.ident == known) => Some(&method.sig.ident),
        _ => None,
    });
    let errors = strangers.map(|name| {
        let message = format!(
            "`{name}` is not a method of `Controller`, whose methods are `{}`; if it answers a directive, put `#[resolves]` on \
             it, and otherwise move it into an `impl` block without a trait",
            METHODS.join("`, `")
        );
        Error::new(name.span(), message)
    });
    errors
        .reduce(|mut all, error| {
            all.combine(error);
            all
        })
        .map_or(Ok(()), Err)
}

/// A method marked `#[resolves]`.
struct Resolver {
    method: ImplItemFn,
    /// When it is one.
    conditions: Vec<Attribute>,
    directive: Type,
    by_reference: bool,
    /// Where its `Values` are named, if it takes them.
    values: Option<Span>,
    /// How often it is tried again.
    retry: Option<Expr>,
}

fn take_resolvers(block: &mut ItemImpl) -> Result<Vec<Resolver>> {
    let mut resolvers = Vec::new();
    let mut kept = Vec::new();
    for item in std::mem::take(&mut block.items) {
        match item {
            ImplItem::Fn(mut method) if method.attrs.iter().any(marks) => {
                let mut conditions: Vec<_> = method.attrs.iter().filter(|it| is_cfg(it)).cloned().collect();
                conditions.extend(method.attrs.iter().filter_map(marked_if));
                let retry = method.attrs.iter().filter(|it| marks(it)).map(retry).collect::<Result<Vec<_>>>()?;
                method.attrs.retain(|attribute| !marks(attribute));
                resolvers.push(Resolver { retry: retry.into_iter().flatten().next(), ..resolver(method, conditions)? });
            }
            other => kept.push(other),
        }
    }
    block.items = kept;
    Ok(resolvers)
}

/// Whether an attribute makes a method a resolver, always or sometimes.
fn marks(attribute: &Attribute) -> bool {
    is_resolves(attribute.path()) || marked_if(attribute).is_some()
}

/// The value of `#[resolves(retry = ...)]`, or of `#[cfg_attr(condition, resolves(retry = ...))]`.
fn retry(attribute: &Attribute) -> Result<Option<Expr>> {
    let parts = conditional(attribute).map_or_else(|| vec![attribute.meta.clone()], |(_, parts)| parts);
    let list = parts.iter().find_map(|part| match part {
        Meta::List(list) if is_resolves(&list.path) => Some(list),
        _ => None,
    });
    let Some(list) = list else { return Ok(None) };
    let keys = Keys::parse(list.tokens.clone(), &["retry"], list.path.span())?;
    Ok(keys.expression("retry")?.cloned())
}

fn is_resolves(path: &Path) -> bool {
    path.segments.last().is_some_and(|segment| segment.ident == "resolves")
}

/// The condition of `#[cfg_attr(condition, resolves)]`.
fn marked_if(attribute: &Attribute) -> Option<Attribute> {
    let (condition, parts) = conditional(attribute)?;
    parts.iter().any(|part| is_resolves(part.path())).then(|| parse_quote!(#[cfg(#condition)]))
}

/// The condition of a `#[cfg_attr(...)]`, and what stands under it.
fn conditional(attribute: &Attribute) -> Option<(Meta, Vec<Meta>)> {
    if !attribute.path().is_ident("cfg_attr") {
        return None;
    }
    let parts = attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
    let mut parts = parts.into_iter();
    Some((parts.next()?, parts.collect()))
}

fn resolver(method: ImplItemFn, conditions: Vec<Attribute>) -> Result<Resolver> {
    let signature = &method.sig;
    let name = &signature.ident;
    let wrong = |span: Span, what: &str| {
        Error::new(
            span,
            format!(
                "{what}; a resolver is `async fn {name}(&self, request: Directive, values: Values<Value>) -> Result<()>`, \
                 or `async fn {name}(&self, request: Directive) -> Result<Value>`"
            ),
        )
    };
    if signature.asyncness.is_none() {
        return Err(wrong(signature.fn_token.span(), "it must be async"));
    }
    if !signature.generics.params.is_empty() {
        return Err(wrong(signature.generics.span(), "it cannot be generic"));
    }
    let mut inputs = signature.inputs.iter();
    match inputs.next() {
        Some(FnArg::Receiver(receiver)) if matches!(receiver.kind, syn::ReceiverKind::Reference(_, _, None)) => {}
        Some(other) => return Err(wrong(other.span(), "its first parameter must be `&self`")),
        None => return Err(wrong(signature.paren_token.span.join(), "it has no parameters")),
    }
    let Some(FnArg::Typed(request)) = inputs.next() else {
        return Err(wrong(signature.paren_token.span.join(), "it must take the directive"));
    };
    let (directive, by_reference) = match &*request.ty {
        Type::Reference(reference) => ((*reference.elem).clone(), true),
        other => (other.clone(), false),
    };
    let values = inputs.next().map(|values| match values {
        FnArg::Typed(values) => values.ty.span(),
        FnArg::Receiver(receiver) => receiver.span(),
    });
    if let Some(extra) = inputs.next() {
        return Err(wrong(extra.span(), "it takes too many parameters"));
    }
    if matches!(signature.output, ReturnType::Default) {
        return Err(wrong(name.span(), "it returns nothing"));
    }
    Ok(Resolver { directive, by_reference, values, method, conditions, retry: None })
}

/// The `routes` function over the resolvers; none if there are none, so that one can be written by hand.
fn routes(block: &ItemImpl, resolvers: &[Resolver], framework: &TokenStream) -> Result<Option<ImplItem>> {
    if resolvers.is_empty() {
        return Ok(None);
    }
    let by_hand = block.items.iter().find_map(|item| match item {
        ImplItem::Fn(method) if method.sig.ident == "routes" => Some(method),
        _ => None,
    });
    if let Some(method) = by_hand {
        return Err(Error::new(
            method.sig.ident.span(),
            "either write `routes` by hand or use `#[resolves]`, not both",
        ));
    }
    let adds = resolvers.iter().map(|resolver| {
        let (name, directive) = (&resolver.method.sig.ident, &resolver.directive);
        // What has the wrong type is pointed at where that is written.
        let returned = match &resolver.method.sig.output {
            ReturnType::Type(_, output) => output.span(),
            ReturnType::Default => name.span(),
        };
        let values = Ident::new("values", resolver.values.unwrap_or_else(Span::call_site));
        let (this, request) = (Ident::new("this", returned), quote!(request));
        let argument = if resolver.by_reference { quote!(&#request) } else { request.clone() };
        let answer = respanned(quote!(#framework::__private::Answer::answer), returned);
        let body = if resolver.values.is_some() {
            let call = quote_spanned!(returned=> #this.#name(#argument, #values).await);
            quote_spanned!(returned=> #answer(#call))
        } else {
            quote_spanned! {returned=>
                let value = #answer(#this.#name(#argument).await)?;
                #values.add(value);
                ::std::result::Result::Ok(())
            }
        };
        let conditions = &resolver.conditions;
        let retry = resolver.retry.as_ref().map(|retry| quote!(.retry(#retry)));
        quote_spanned! {directive.span()=>
            #(#conditions)*
            routes.add::<#directive>(|#this, #request, #values| ::std::boxed::Box::pin(async move { #body })) #retry;
        }
    });
    syn::parse2(quote! {
        #[allow(unused_variables)]
        fn routes(routes: &mut #framework::Routes<Self>) {
            #(#adds)*
        }
    })
    .map(Some)
}

/// Tokens that the compiler points at elsewhere.
fn respanned(tokens: TokenStream, span: Span) -> TokenStream {
    let moved = tokens.into_iter().map(|mut token| {
        token.set_span(span);
        token
    });
    moved.collect()
}

/// What differs between kinds of plugins.
pub struct Parts {
    /// What the rest refers to.
    pub items: TokenStream,
    /// The config's id.
    pub config: TokenStream,
    /// The config's schema.
    pub schema: TokenStream,
    /// The directives that are resolved.
    pub resolves: TokenStream,
    /// The trait whose functions it has.
    pub functions: TokenStream,
    /// Whether it runs without a config set that says so.
    pub starts: bool,
    /// How often its state is kept, in milliseconds; 0 if it is not.
    pub persist: u64,
    /// Makes the factory of an entry.
    pub factory: TokenStream,
}

/// The manifest record, the factory's entry in the slice, and the crate's entry symbol. No name in it is one that a type
/// of the crate's may have.
pub fn plugin(
    block: &ItemImpl,
    id: &LitStr,
    version: &LitStr,
    swap: Swap,
    parts: Parts,
    framework: &TokenStream,
) -> TokenStream {
    let Parts { items, config, schema, resolves, functions, starts, persist, factory } = parts;
    let description = description(&block.attrs);
    let package = |name: &str| std::env::var(name).unwrap_or_default();
    let (name, package_version) = (package("CARGO_PKG_NAME"), package("CARGO_PKG_VERSION"));
    let entry = format!("controllerbus_plugin_{:016x}", fingerprint(&[&name, &package_version, &id.value()]));
    let head = format!(
        "{{\"record\":\"factory\",\"plugin\":\"{}\",\"version\":\"{}\",\"crate\":\"{name}\",\"crate_version\":\"{package_version}\",\
         \"description\":\"{}\",\"swap\":\"{}\",\"entry\":\"{entry}\",\"config\":\"",
        id.value(),
        version.value(),
        json_escaped(&description),
        swap.name(),
    );
    let mode = match swap {
        Swap::Beside => quote!(Beside),
        Swap::StopFirst => quote!(StopFirst),
    };
    // No fingerprint of the boundary here: a constant of another crate is worked out anew in each crate that reads it,
    // and that one takes 700 ms. The bundle's record has it.
    quote! {
        const _: () = {
            use #framework::__private::{self as __cbus, linkme as __linkme};

            #items
            const __CONFIG: &str = #config;
            const __FACTORY: __cbus::manifest::Factory = __cbus::manifest::Factory {
                head: #head,
                config: __CONFIG,
                resolves: &[#resolves],
                schema: #schema,
                functions: #functions,
            };
            const __LENGTH: usize = __FACTORY.length();
            #framework::__manifest_record!(__RECORD: __LENGTH, __FACTORY.record());

            #[__linkme::distributed_slice(__cbus::FACTORIES)]
            #[linkme(crate = __linkme)]
            static __ENTRY: __cbus::FactoryEntry = __cbus::FactoryEntry {
                id: #id,
                version: #version,
                description: #description,
                config_id: __CONFIG,
                swap: __cbus::SwapMode::#mode,
                starts: #starts,
                persist_ms: #persist,
                record: &__RECORD,
                factory: #factory,
            };

            #[unsafe(export_name = #entry)]
            extern "C" fn __entry(call: &mut __cbus::guest::EntryCall) {
                __cbus::guest::enter(call, ::std::option::Option::Some(#id));
            }
        };
    }
}

/// A name that stands once at the crate's root, so that two plugins of one id do not compile.
pub fn unique(id: &LitStr) -> TokenStream {
    // No two ids have the same: what is no letter and no digit is written as its code.
    let plain = id.value().bytes().fold(String::new(), |name, byte| match byte {
        b'_' => name + "__",
        byte if byte.is_ascii_alphanumeric() => name + &char::from(byte).to_string(),
        byte => name + &format!("_{byte:02x}"),
    });
    let name = format_ident!("two_plugins_have_the_id_{plain}", span = id.span());
    quote! {
        #[doc(hidden)]
        #[macro_export]
        macro_rules! #name {
            () => {};
        }
    }
}

/// The first line of the block's doc comment.
fn description(attributes: &[Attribute]) -> String {
    doc_lines(attributes).next().unwrap_or_default()
}

/// The same for the same crate and id on every machine.
fn fingerprint(parts: &[&str]) -> u64 {
    let mut hash = Hash::new();
    parts.iter().for_each(|part| hash.word(part));
    hash.0
}
