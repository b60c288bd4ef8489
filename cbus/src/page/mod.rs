//! The page: one document, its style and script in the binary, and what they read.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::Sender;

use crate::api::proto::{Config, Controller, Directive, Info, Plugin};
use crate::api::{Service, stream};

/// How often the page is told of the state at most.
const PAUSE: Duration = Duration::from_millis(100);

/// How many remembered log lines a page begins with.
const TAIL: usize = 500;

/// The page and what it reads, and what Prometheus reads.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(|| asset(include_str!("../../page/index.html"), "text/html; charset=utf-8")))
        .route("/page.css", get(|| asset(include_str!("../../page/page.css"), "text/css; charset=utf-8")))
        .route("/page.js", get(|| asset(include_str!("../../page/page.js"), "text/javascript; charset=utf-8")))
        .route("/api/state", get(|State(service): State<Service>| async move { axum::Json(state(&service)) }))
        .route("/api/events", get(events))
        .route("/api/plugins/reload", post(reload))
        .route("/api/plugins/unload", post(unload))
        .route("/metrics", get(metrics))
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

/// Everything that the page shows but events and log lines.
#[derive(Serialize, PartialEq)]
struct Shown {
    info: Info,
    plugins: Vec<Plugin>,
    controllers: Vec<Controller>,
    directives: Vec<Directive>,
    configs: Vec<Config>,
}

fn state(service: &Service) -> Shown {
    Shown {
        info: service.info(),
        plugins: service.host.plugins(),
        controllers: service.host.controllers(),
        directives: service.host.directives(),
        configs: service.host.configs(),
    }
}

/// The state whenever it changes, and every event and log line, as server-sent events.
async fn events(State(service): State<Service>) -> Response {
    let end = service.end.clone();
    let told = stream(&end, |sender: Sender<Result<Event, Infallible>>| async move {
        let (known_events, mut coming_events) = service.host.journal.events();
        let (known_lines, mut coming_lines) = service.host.journal.lines();
        let mut changes = service.host.bus.changes();
        let mut clock = tokio::time::interval(Duration::from_secs(2));
        let (mut last_event, mut last_line) =
            (known_events.last().map_or(0, |event| event.number), known_lines.last().map_or(0, |line| line.number));
        let tell = async |kind: &'static str, value: serde_json::Result<String>| -> bool {
            let Ok(text) = value else { return true };
            sender.send(Ok(Event::default().event(kind).data(text))).await.is_ok()
        };
        if !tell("events", serde_json::to_string(&known_events)).await {
            return;
        }
        let tail = &known_lines[known_lines.len().saturating_sub(TAIL)..];
        if !tell("logs", serde_json::to_string(tail)).await {
            return;
        }
        loop {
            tokio::select! {
                // Events and lines are told one by one; the state is told below.
                event = coming_events.recv() => match event {
                    Ok(event) if event.number > last_event => {
                        last_event = event.number;
                        if !tell("events", serde_json::to_string(&[event])).await { return }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                line = coming_lines.recv() => {
                    match line {
                        Ok(line) if line.number > last_line => {
                            last_line = line.number;
                            if !tell("logs", serde_json::to_string(&[line])).await { return }
                        }
                        Ok(_) | Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    }
                    continue;
                }
                changed = changes.changed() => if changed.is_err() { return },
                // Leases, values and memory change without being told.
                _ = clock.tick() => {}
            }
            if !tell("state", serde_json::to_string(&state(&service))).await {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    Sse::new(told).keep_alive(KeepAlive::default()).into_response()
}

#[derive(Deserialize)]
struct Which {
    id: String,
}

/// A page of another site cannot send this header without being allowed to, and it is not.
fn from_the_page(headers: &HeaderMap) -> bool {
    headers.get("x-cbus") == Some(&HeaderValue::from_static("page"))
}

const NOT_FROM_THE_PAGE: (StatusCode, &str) = (StatusCode::FORBIDDEN, "only the page may ask for this");

async fn reload(State(service): State<Service>, headers: HeaderMap, Query(which): Query<Which>) -> Response {
    if !from_the_page(&headers) {
        return NOT_FROM_THE_PAGE.into_response();
    }
    match service.reload(&which.id).await {
        Ok(reloaded) => axum::Json(reloaded).into_response(),
        Err(status) => refused(&status),
    }
}

async fn unload(State(service): State<Service>, headers: HeaderMap, Query(which): Query<Which>) -> Response {
    if !from_the_page(&headers) {
        return NOT_FROM_THE_PAGE.into_response();
    }
    match service.unload(&which.id).await {
        Ok(unloaded) => axum::Json(unloaded).into_response(),
        Err(status) => refused(&status),
    }
}

fn refused(status: &tonic::Status) -> Response {
    let code = match status.code() {
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    };
    (code, status.message().to_owned()).into_response()
}

async fn metrics(State(service): State<Service>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], service.host.metrics()).into_response()
}
