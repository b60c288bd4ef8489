//! Serves a router on a socket that belongs to the host, and shuts down gracefully, in the way of HTTP, once another
//! generation serves.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::map_response;
use axum::response::Response;
use controllerbus::Result;
use controllerbus::listen::{Connection, Listener, Service};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;

/// How long connections last once another generation serves.
#[derive(Clone, Copy)]
pub struct Patience {
    /// Idle connections.
    pub idle: Duration,
    /// All connections, including WebSockets; `None` for no limit.
    pub drain: Option<Duration>,
}

/// Returns once another generation serves; the remaining connections end on their own.
pub async fn serve(mut listener: Listener, router: Router, patience: Patience) -> Result<()> {
    let service = listener.service();
    let router = router.layer(map_response(last_answers(service.clone())));
    while let Some((connection, _)) = listener.accept().await? {
        tokio::spawn(serve_one(connection, router.clone(), service.clone(), patience.idle));
    }
    // If no generation takes its place, do not keep anyone waiting for long.
    let removed = (listener.ended().await == Service::Removed).then_some(patience.idle);
    if let Some(drain) = patience.drain.or(removed) {
        let connections = listener.connections();
        tokio::spawn(async move {
            tokio::time::sleep(drain).await;
            connections.cut();
        });
    }
    Ok(())
}

/// Once another generation serves, ends each connection with its next response. The client then connects to that
/// generation.
fn last_answers(
    service: watch::Receiver<Service>,
) -> impl Fn(Response) -> std::future::Ready<Response> + Clone + Send + Sync + 'static {
    move |mut answer: Response| {
        if service.borrow().has_ended() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        std::future::ready(answer)
    }
}

async fn serve_one(connection: Connection, router: Router, mut service: watch::Receiver<Service>, idle: Duration) {
    let serving = http1::Builder::new()
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router))
        .with_upgrades();
    let mut serving = pin!(serving);
    let replaced = async {
        let _ = service.wait_for(|service| service.has_ended()).await;
        tokio::time::sleep(idle).await;
    };
    tokio::select! {
        // An error means that the client has hung up.
        _ = serving.as_mut() => return,
        () = replaced => {}
    }
    // Ends at once if it is idle, otherwise with the current response.
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}
