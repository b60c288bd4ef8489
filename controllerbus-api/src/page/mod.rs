//! The page: one document with its style and script, built into the binary, and the data for it.

mod feed;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::Sender;

use crate::auth::{Caller, KEY};
use crate::proto::{AskRequest, AskResponse};
use crate::server::Service;
use crate::streams::stream;
use feed::Feed;

/// How many buffered log lines a page starts with.
const TAIL: usize = 500;

/// The page, its data, health checks and metrics.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(|| asset(include_str!("../../page/index.html"), "text/html; charset=utf-8")))
        .route("/page.css", get(|| asset(include_str!("../../page/page.css"), "text/css; charset=utf-8")))
        .route("/page.js", get(|| asset(include_str!("../../page/page.js"), "text/javascript; charset=utf-8")))
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/directives", get(directives))
        .route("/api/ask", post(ask))
        .route("/api/plugins/reload", post(reload))
        .route("/api/plugins/unload", post(unload))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .layer(Extension(Arc::<Feed>::default()))
        .with_state(service)
}

async fn asset(text: &'static str, kind: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

async fn state(State(service): State<Service>, Extension(feed): Extension<Arc<Feed>>) -> Response {
    let state = feed.watch(&service).borrow().whole();
    ([(header::CONTENT_TYPE, "application/json")], state).into_response()
}

/// Whether the daemon has loaded its plugins.
async fn ready(State(service): State<Service>) -> Response {
    match service.host.runtime() {
        Some(_) => "ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "building and loading plugins\n").into_response(),
    }
}

/// Changes of the state, events and log lines, as server-sent events.
async fn events(
    State(service): State<Service>,
    Extension(feed): Extension<Arc<Feed>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let ends = [service.end.clone(), caller.revoked];
    let told = stream(ends, |sender: Sender<Result<Event, Infallible>>| async move {
        let (known_events, mut coming_events) = service.host.journal.events();
        let (known_lines, mut coming_lines) = service.host.journal.lines();
        let mut states = feed.watch(&service);
        let mut seen = Default::default();
        let (mut last_event, mut last_line) =
            (known_events.last().map_or(0, |event| event.number), known_lines.last().map_or(0, |line| line.number));
        let tell = async |kind: &'static str, text: serde_json::Result<String>| -> bool {
            let Ok(text) = text else { return true };
            sender.send(Ok(Event::default().event(kind).data(text))).await.is_ok()
        };
        if !tell("events", serde_json::to_string(&known_events)).await {
            return;
        }
        let tail = &known_lines[known_lines.len().saturating_sub(TAIL)..];
        if !tell("logs", serde_json::to_string(tail)).await {
            return;
        }
        states.mark_changed();
        loop {
            tokio::select! {
                event = coming_events.recv() => match event {
                    Ok(event) if event.number > last_event => {
                        last_event = event.number;
                        if !tell("events", serde_json::to_string(&[event])).await { return }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                line = coming_lines.recv() => match line {
                    Ok(line) if line.number > last_line => {
                        last_line = line.number;
                        if !tell("logs", serde_json::to_string(&[line])).await { return }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                changed = states.changed() => {
                    if changed.is_err() { return }
                    let news = states.borrow_and_update().since(&mut seen);
                    if let Some(news) = news && !tell("state", Ok(news)).await { return }
                }
            }
        }
    });
    Sse::new(told).keep_alive(KeepAlive::default()).into_response()
}

#[derive(Deserialize)]
struct Which {
    id: String,
}

async fn reload(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Response {
    from_the_page(&headers, service.reload(&which.id, &caller)).await
}

async fn unload(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Response {
    from_the_page(&headers, service.unload(&which.id, &caller)).await
}

/// What can be asked, with the schemas from which the page makes its form.
async fn directives(State(service): State<Service>) -> Response {
    match service.askable() {
        Ok(known) => axum::Json(known).into_response(),
        Err(status) => refused(&status),
    }
}

/// A directive, and its fields as JSON.
#[derive(Deserialize)]
struct Question {
    directive: String,
    json: String,
}

/// Asks a directive; what comes of it, as server-sent events, until the page goes.
async fn ask(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    axum::Json(Question { directive, json }): axum::Json<Question>,
) -> Response {
    if !headers.contains_key(KEY) {
        return NOT_FROM_THE_PAGE.into_response();
    }
    let told = |event: AskResponse| -> Result<Event, Infallible> {
        let text = serde_json::to_string(&event).unwrap_or_else(|_| "null".to_owned());
        Ok(Event::default().event("answer").data(text))
    };
    match service.asked(&AskRequest { directive, json, once: false }, &caller, told) {
        Ok(answers) => Sse::new(answers).keep_alive(KeepAlive::default()).into_response(),
        Err(status) => refused(&status),
    }
}

/// Does what a request asks for and answers with the outcome, if the page sent it: other sites' pages are not allowed to send
/// its header, and browsers do not add that by themselves.
async fn from_the_page<T: Serialize>(
    headers: &HeaderMap,
    work: impl Future<Output = Result<T, tonic::Status>>,
) -> Response {
    if !headers.contains_key(KEY) {
        return NOT_FROM_THE_PAGE.into_response();
    }
    match work.await {
        Ok(done) => axum::Json(done).into_response(),
        Err(status) => refused(&status),
    }
}

const NOT_FROM_THE_PAGE: (StatusCode, &str) = (StatusCode::FORBIDDEN, "only the page may request this");

fn refused(status: &tonic::Status) -> Response {
    let code = match status.code() {
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    };
    (code, status.message().to_owned()).into_response()
}

async fn metrics(State(service): State<Service>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], service.host.metrics()).into_response()
}
