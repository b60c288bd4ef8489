//! The spans in which controllers' code runs: they say whose it is, and what for, in every line that it logs.
//!
//! ```text
//! controller{controller="example/greeter" config_key="hello"}:resolver{directive="example/greet"}
//! ```
//!
//! A span costs more than a resolver that answers at once. So there is one for each controller and one for each directive id
//! that it resolves, made once, and a call only enters it. Without a subscriber, that is a branch.
//!
//! A plugin's code runs in a span of its own, made while the host calls it: in the host's process it is a child of the
//! span of that call, and out of it its fields say the same, as far as the plugin knows.

use tracing::{Span, error_span};

/// The target of these spans. They have the level of errors, so that a filter that lets any event pass lets them pass as well.
pub const RUN: &str = "controllerbus::run";

/// The span of a controller, with the keys of its config, if it has any.
pub(crate) fn controller(id: &str, config_key: &str) -> Span {
    if config_key.is_empty() {
        return error_span!(target: RUN, "controller", controller = id);
    }
    error_span!(target: RUN, "controller", controller = id, config_key)
}

/// The span of a controller's resolver.
pub(crate) fn resolver(controller: &Span, directive: &str) -> Span {
    error_span!(target: RUN, parent: controller, "resolver", directive)
}

/// The span of a call of a plugin's controller.
pub(crate) fn call(controller: &str, directive: Option<&str>) -> Span {
    match directive {
        Some(directive) => error_span!(target: RUN, "call", controller, directive),
        None => error_span!(target: RUN, "call", controller),
    }
}
