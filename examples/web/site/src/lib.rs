//! A web server that is swapped while it serves: no connection is refused or cut off, and neither is a response.
//!
//! The socket belongs to the host, and each generation accepts from it while it serves. Connections stay with the
//! generation that accepted them, which stays loaded until they end: see `serve`.
#![forbid(unsafe_code)]

mod serve;

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use axum::routing::get;
use controllerbus::prelude::*;
use tower_http::set_header::SetResponseHeaderLayer;

/// The version of the code that answers. Edit it while the server runs.
static VERSION: &str = "version-0000001";

fn version() -> &'static str {
    // Kept from constant folding, so that the tests can make many versions from one build.
    std::hint::black_box(VERSION)
}

/// The config.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "example/site")]
pub struct SiteConfig {
    /// Where to listen: for example `127.0.0.1:8080`, `unix:/run/site.sock`, or `systemd:web`.
    pub listen: String,
    /// How many seconds a connection may be idle once another generation serves.
    #[serde(default = "idle_seconds")]
    pub idle_seconds: u64,
    /// How many seconds connections may last once another generation serves; without a limit unless set.
    #[serde(default)]
    pub drain_seconds: Option<u64>,
}

fn idle_seconds() -> u64 {
    10
}

/// The controller.
pub struct Site(SiteConfig);

/// Serves a page and a WebSocket.
#[hot_plugin(id = "example/site", version = "1.0.0")]
impl Controller for Site {
    type Config = SiteConfig;

    async fn construct(config: SiteConfig, _: &Context) -> Result<Self> {
        Ok(Self(config))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let listener = context.listen(&self.0.listen).await?;
        let patience = serve::Patience {
            idle: Duration::from_secs(self.0.idle_seconds),
            drain: self.0.drain_seconds.map(Duration::from_secs),
        };
        serve::serve(listener, router(), patience).await
    }
}

fn router() -> Router {
    let version =
        SetResponseHeaderLayer::overriding(HeaderName::from_static("x-version"), HeaderValue::from_static(version()));
    Router::new().route("/", get(page)).route("/echo", get(echo)).layer(version)
}

/// Long enough that it takes more than one write.
async fn page() -> String {
    format!("{}\n{}", version(), "All of this, or nothing.\n".repeat(4000))
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(answer_each)
}

async fn answer_each(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Text(text) = message else { continue };
        if socket.send(Message::text(format!("{} {text}", version()))).await.is_err() {
            return;
        }
    }
}
