//! Asks a directive whose type may be known in a plugin only.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;

use controllerbus::__private::nearest;
use controllerbus::Bus;
use controllerbus::directive::{
    ANY_DIRECTIVE, AnyDirective, DirectiveType, OpaqueDirective, Options, RawEvent, RawRequest, wire,
};
use hot_runtime::text::escaped;
use hot_runtime::{GenerationInfo, GenerationState};
use tonic::Status;

use crate::proto::{AskRequest, AskResponse};

/// Asks a directive that a controller resolves; it stands until the request is dropped.
pub(crate) fn ask(bus: &Bus, request: &AskRequest) -> Result<Box<dyn RawRequest>, Status> {
    if !request.directive.starts_with(controllerbus::hot::PREFIX) {
        resolved(bus, &request.directive)?;
    }
    ask_anybody(bus, request)
}

/// The same, also where no controller resolves it yet.
pub fn ask_anybody(bus: &Bus, request: &AskRequest) -> Result<Box<dyn RawRequest>, Status> {
    let AskRequest { directive: id, json, once } = request;
    let wrong = |error: String| Status::invalid_argument(format!("`{}`: {error}", escaped(id)));
    if id.starts_with(controllerbus::hot::PREFIX) {
        return Err(wrong("functions are called by their trait, and not asked".to_owned()));
    }
    let fields = if json.is_empty() {
        // What a struct without fields, or with defaults for all of them, is read from.
        serde_json::Value::Array(Vec::new())
    } else {
        serde_json::from_str(json).map_err(|error| wrong(format!("the fields are not JSON: {error}")))?
    };
    let bytes = wire::encode(&fields).map_err(|error| wrong(error.to_string()))?;
    let directive: Arc<dyn AnyDirective> = if DirectiveType::find(id).is_none() && *once {
        Arc::new(OpaqueDirective::new(id.as_str(), bytes).with_options(Options::default().with_once()))
    } else {
        DirectiveType::decode(id, &bytes).map_err(|error| wrong(error.to_string()))?
    };
    bus.handle().raw(directive).map_err(|error| wrong(error.to_string()))
}

/// Whether a serving plugin resolves this directive as a call.
pub(crate) fn is_call(generations: &[GenerationInfo], id: &str) -> bool {
    let mut serving = generations.iter().filter(|found| found.state == GenerationState::Serving);
    serving.any(|found| found.directives.get(id).is_some_and(|directive| directive.once))
}

/// What can be asked now, with the JSON schemas of the fields: directives that a controller resolves, and that are not of one
/// library only.
pub(crate) fn askable(bus: &Bus, generations: &[GenerationInfo]) -> BTreeMap<String, serde_json::Value> {
    let serving = generations.iter().filter(|found| found.state == GenerationState::Serving);
    let known: BTreeMap<_, _> = serving.flat_map(|found| found.directives.iter()).collect();
    let resolved = bus.controllers().into_iter().filter(|found| !found.staged).flat_map(|found| found.resolves);
    let schema = |id: String| {
        let schema = match DirectiveType::find(&id) {
            Some(linked) if linked.local => return None,
            Some(linked) => serde_json::from_str(&linked.schema.to_json()).ok()?,
            None => known.get(&id)?.schema.clone(),
        };
        Some((id, schema))
    };
    resolved.filter_map(schema).collect()
}

/// Whether a controller resolves this directive.
pub(crate) fn is_resolved(bus: &Bus, id: &str) -> bool {
    resolved(bus, id).is_ok()
}

/// Checks that a controller resolves this directive.
fn resolved(bus: &Bus, id: &str) -> Result<(), Status> {
    let controllers = bus.controllers();
    let mut known = controllers.iter().flat_map(|controller| &controller.resolves).map(String::as_str);
    // Those that the bus itself resolves are linked into this program.
    if DirectiveType::find(id).is_some() || known.clone().any(|known| known == id || known == ANY_DIRECTIVE) {
        return Ok(());
    }
    let help = match nearest(id, known.by_ref()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`cbus controllers` shows what they resolve".to_owned(),
    };
    Err(Status::not_found(format!("no controller resolves `{}`; {help}", escaped(id))))
}

/// The next thing that happens to it; `None` at its end.
pub async fn next(request: &mut Box<dyn RawRequest>) -> Option<AskResponse> {
    let event = poll_fn(|context| request.poll_event(context)).await?;
    let kind = |kind: &str| AskResponse { kind: kind.to_owned(), ..AskResponse::default() };
    Some(match event {
        RawEvent::Added(id, value) => match value.encode() {
            Ok(_) => AskResponse { value: id.0, json: value.to_json().to_string(), ..kind("added") },
            Err(error) => AskResponse { value: id.0, error: error.to_string(), ..kind("added") },
        },
        RawEvent::Removed(id) => AskResponse { value: id.0, ..kind("removed") },
        RawEvent::Idle => kind("idle"),
        RawEvent::Busy => kind("busy"),
        RawEvent::Failed(error) => AskResponse { error: error.to_string(), ..kind("failed") },
    })
}
