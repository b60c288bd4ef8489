//! The book's pages, the README and what the macros say of themselves: their Rust is compiled as doctests, and run where it
//! does not say `no_run`.

macro_rules! pages {
    ($($name:ident = $page:literal)*) => {
        $(#[doc = include_str!($page)] struct $name;)*
    };
}

pages! {
    AskAnotherController = "../../docs/how-to/ask-another-controller.md"
    Block = "../../docs/how-to/block.md"
    FromGo = "../../docs/from-go.md"
    Functions = "../../docs/functions.md"
    Isolate = "../../docs/how-to/isolate.md"
    Isolation = "../../docs/isolation.md"
    KeepState = "../../docs/how-to/keep-state.md"
    Log = "../../docs/how-to/log.md"
    Owning = "../../docs/owning.md"
    OwnAPort = "../../docs/how-to/own-a-port.md"
    Readme = "../../README.md"
    Restrict = "../../docs/how-to/restrict.md"
    RollBack = "../../docs/how-to/roll-back.md"
    Safety = "../../docs/safety.md"
    ShareTypes = "../../docs/how-to/share-types.md"
    StopAController = "../../docs/how-to/stop-a-controller.md"
    Test = "../../docs/how-to/test.md"
    Tutorial = "../../docs/tutorial.md"
}

// They are here because a procedural macro's own doctests need the framework compiled once more: see `controllerbus-macros/tests`.
pages! {
    ConfigMacro = "../../controllerbus-macros/docs/config.md"
    DirectiveMacro = "../../controllerbus-macros/docs/directive.md"
    HotMacro = "../../controllerbus-macros/docs/hot.md"
    HotPluginMacro = "../../controllerbus-macros/docs/hot_plugin.md"
    InterfaceMacro = "../../controllerbus-macros/docs/interface.md"
    SchemaMacro = "../../controllerbus-macros/docs/schema.md"
    StateMacro = "../../controllerbus-macros/docs/state.md"
}
