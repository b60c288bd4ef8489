//! The page: one document with its style and scripts, built into the binary, and the data for it.

mod feed;
mod parts;
mod tail;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use crate::auth::{Caller, Door, KEY, Kept, Ticket, rules};
use crate::proto::{AskRequest, AskResponse};
use crate::server::Service;
use crate::streams::stream_of;
use feed::Feed;
use tail::Tail;

/// How many buffered log lines a page starts with.
const TAIL: usize = 500;

/// How many messages wait for a page that does not read. Some are of megabytes.
const ROOM: usize = 2;

/// How often the secret of an open page is renewed.
const RENEWED: Duration = Duration::from_secs(3600);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// The page's files, in the order of [`rules::ASSETS`].
const FILES: [(&str, &str); rules::ASSETS.len()] = [
    (HTML, include_str!("../../page/index.html")),
    (CSS, include_str!("../../page/page.css")),
    (JS, include_str!("../../page/page.js")),
    (JS, include_str!("../../page/ask.js")),
    (JS, include_str!("../../page/bus.js")),
    (JS, include_str!("../../page/dom.js")),
    (JS, include_str!("../../page/fleet.js")),
    (JS, include_str!("../../page/keys.js")),
    (JS, include_str!("../../page/link.js")),
    (JS, include_str!("../../page/logs.js")),
    (JS, include_str!("../../page/plugins.js")),
    (JS, include_str!("../../page/rollouts.js")),
    (JS, include_str!("../../page/state.js")),
    (JS, include_str!("../../page/view.js")),
];

/// The page, its data, health checks and metrics.
pub fn router(service: Service) -> Router {
    let files = rules::ASSETS
        .into_iter()
        .zip(FILES)
        .fold(Router::new(), |router, (path, (kind, text))| router.route(path, get(move || asset(text, kind))));
    files
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/directives", get(directives))
        .route("/api/ask", post(ask))
        .route("/api/plugins/reload", post(reload))
        .route("/api/plugins/rollback", post(roll_back))
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
    let watching = feed.watch(&service).await;
    let state = feed.whole();
    drop(watching);
    ([(header::CONTENT_TYPE, "application/json")], state).into_response()
}

/// Whether the daemon does what it was asked to do. What it does is told only to who is known.
async fn ready(State(service): State<Service>, Extension(caller): Extension<Caller>) -> Response {
    let no = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if !caller.is_known {
        return if service.host.is_ready() { "ready\n".into_response() } else { no("not ready\n".to_owned()) };
    }
    match &service.host.not_ready()[..] {
        [] => "ready\n".into_response(),
        missing => no(missing.join("\n") + "\n"),
    }
}

/// Changes of the state, events and log lines, as server-sent events.
async fn events(
    State(service): State<Service>,
    Extension(feed): Extension<Arc<Feed>>,
    Extension(door): Extension<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let Secret { kept, proof, ticket } = match secret_of(&door, &caller, &headers) {
        Ok(secret) => secret,
        Err(refusal) => return refusal.into_response(),
    };
    let ends = [service.end.clone(), caller.revoked];
    let told = stream_of(ROOM, ends, |sender: Sender<Result<Event, Infallible>>| async move {
        let tell = async |kind: &'static str, text: serde_json::Result<String>| -> bool {
            let Ok(text) = text else { return true };
            sender.send(Ok(Event::default().event(kind).data(text))).await.is_ok()
        };
        // Which daemon it is: another one counts its events from 1.
        let daemon = serde_json::json!({
            "process_id": std::process::id(), "started_ms": service.host.started_ms(), "proof": proof, "ticket": ticket,
        });
        let mut hours = tokio::time::interval(RENEWED);
        let journal = &service.host.journal;
        let (known_events, mut events) = Tail::of(|| journal.events());
        let (known_lines, mut lines) = Tail::of(|| journal.lines());
        let tail = &known_lines[known_lines.len().saturating_sub(TAIL)..];
        let mut changed = feed.watch(&service).await;
        let mut seen = 0;
        changed.mark_changed();
        if !tell("daemon", Ok(daemon.to_string())).await
            || !tell("events", serde_json::to_string(&known_events)).await
            || !tell("logs", serde_json::to_string(tail)).await
        {
            return;
        }
        drop((known_events, known_lines));
        loop {
            tokio::select! {
                news = events.next(|| journal.events()) => {
                    let Some(news) = news else { return };
                    if !news.is_empty() && !tell("events", serde_json::to_string(&news)).await { return }
                }
                news = lines.next(|| journal.lines()) => {
                    let Some(news) = news else { return };
                    if !news.is_empty() && !tell("logs", serde_json::to_string(&news)).await { return }
                }
                news = changed.changed() => {
                    if news.is_err() { return }
                    if let Some(news) = feed.since(&mut seen) && !tell("state", Ok(news)).await { return }
                }
                _ = hours.tick(), if kept.is_some() => {
                    if let Some((kept, id)) = &kept { kept.renew(id) }
                }
            }
        }
    });
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(told).keep_alive(KeepAlive::default())).into_response()
}

/// What a page and the daemon know of each other.
#[derive(Default)]
struct Secret {
    /// Where the page's secret is, by its id.
    kept: Option<(Arc<Kept>, String)>,
    /// What shows the page that this is the daemon that gave it its secret, or the next one.
    proof: Option<String>,
    /// The secret, if the page has none yet.
    ticket: Option<Ticket>,
}

/// Proves to a page that this is its daemon, over a random number of the page's, or gives it a secret for that, if it asks for one and
/// may come back after a restart.
fn secret_of(door: &Door, caller: &Caller, headers: &HeaderMap) -> Result<Secret, (StatusCode, String)> {
    let of = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kept = door.kept();
    match (of("x-cbus-ticket"), kept) {
        ("", _) => Ok(Secret::default()),
        ("none", Some((kept, port))) if caller.own => {
            let failed = |error: std::io::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            let ticket = kept.issue(port).map_err(failed)?;
            let kept = Some((Arc::clone(kept), ticket.id.clone()));
            Ok(Secret { kept, proof: None, ticket: Some(ticket) })
        }
        ("none", _) => Ok(Secret::default()),
        (id, kept) => {
            let proof = kept.and_then(|(kept, port)| Some((kept, kept.prove(id, port, of("x-cbus-nonce"))?)));
            let unknown = || (StatusCode::UNAUTHORIZED, "open a new page with `cbus page`".to_owned());
            let (kept, proof) = proof.ok_or_else(unknown)?;
            Ok(Secret { kept: Some((Arc::clone(kept), id.to_owned())), proof: Some(proof), ticket: None })
        }
    }
}

#[derive(Deserialize)]
struct Which {
    id: String,
    /// The first characters of a build's hash.
    #[serde(default)]
    build: String,
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

async fn roll_back(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Response {
    from_the_page(&headers, service.roll_back(&which.id, &which.build, &caller)).await
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
    match service.asked(&AskRequest { directive, json, once: false }, &caller, told).await {
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
    match service.host.scrape().await {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
