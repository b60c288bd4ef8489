//! Access control: for each request, where it comes from, who the caller is, and what they may do.
//!
//! Requests of another site's or port's pages are refused, whatever credentials the browser adds. A Unix socket admits the
//! daemon's own user; TCP requires a token, a client certificate or a session of this port.

mod browser;
mod caller;
mod failures;
mod kept;
mod login;
pub mod rules;
mod sessions;
mod tokens;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

pub use caller::{Caller, Roles};
use failures::Failures;
pub use kept::{Kept, Ticket};
pub use sessions::{Sessions, random};
pub use tokens::Tokens;

/// The header with the session's key. Pages of another port can neither read the key nor send the header.
pub const KEY: &str = "x-cbus-key";

/// How clients reach a listener.
pub enum Way {
    /// A Unix socket: the peer is the daemon's own user or root; others are rejected when they connect.
    Socket,
    /// TCP.
    Tcp {
        /// The port, which a session is bound to.
        port: u16,
        /// Whether only this machine can reach it.
        loopback: bool,
        /// Whether it speaks TLS.
        tls: bool,
        /// Whether every client has shown a certificate before it can send a request.
        certificates: bool,
    },
}

impl Way {
    /// The page's, without TLS.
    fn page(port: u16) -> Self {
        Self::Tcp { port, loopback: true, tls: false, certificates: false }
    }
}

/// One listener's door.
pub struct Door {
    pub way: Way,
    /// The accepted tokens. If there are any, a socket requires one of them too.
    pub tokens: Option<Arc<Tokens>>,
    pub sessions: Sessions,
    failures: Failures,
    /// Whether the gRPC services are behind it, or only the page.
    pub grpc: bool,
    /// The pages that may come back after a restart.
    kept: Option<Arc<Kept>>,
    /// Whether only pages that come back get in: nobody logs in, and nothing that a browser runs is served.
    is_for_returning: bool,
}

/// Why a request is refused.
pub(super) struct Refusal {
    status: StatusCode,
    why: String,
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Refusal {
    Refusal { status, why: why.into() }
}

impl Door {
    pub fn new(way: Way, tokens: Option<Arc<Tokens>>, grpc: bool) -> Arc<Self> {
        Arc::new(Self::made(way, tokens, grpc, None))
    }

    /// The door to the page alone, on a port of this machine.
    pub fn to_page(port: u16, kept: Option<Arc<Kept>>) -> Arc<Self> {
        Arc::new(Self::made(Way::page(port), None, false, kept))
    }

    /// The door to the pages that an earlier daemon had on a port of this machine.
    pub fn to_returning_pages(port: u16, kept: Arc<Kept>) -> Arc<Self> {
        Arc::new(Self { is_for_returning: true, ..Self::made(Way::page(port), None, false, Some(kept)) })
    }

    fn made(way: Way, tokens: Option<Arc<Tokens>>, grpc: bool, kept: Option<Arc<Kept>>) -> Self {
        let (sessions, failures) = (Sessions::default(), Failures::default());
        Self { way, tokens, sessions, failures, grpc, kept, is_for_returning: false }
    }

    /// The pages that may come back after a restart, and the port of this door's.
    pub fn kept(&self) -> Option<(&Arc<Kept>, u16)> {
        match self.way {
            Way::Tcp { port, .. } => self.kept.as_ref().map(|kept| (kept, port)),
            Way::Socket => None,
        }
    }

    /// The session cookie's name. Browsers send cookies to every port of a host, so each port has its own name.
    fn cookie_name(&self) -> String {
        match self.way {
            Way::Tcp { port, tls: true, .. } => format!("__Host-cbus-{port}"),
            Way::Tcp { port, .. } => format!("cbus-{port}"),
            Way::Socket => "cbus".to_owned(),
        }
    }

    /// The caller of a request.
    async fn caller(&self, request: &Parts) -> Result<Caller, Refusal> {
        let headers = &request.headers;
        if let Some(shown) = bearer(headers) {
            let Some(tokens) = &self.tokens else {
                return Err(refuse(StatusCode::UNAUTHORIZED, "this daemon does not accept tokens here"));
            };
            return match self.failures.check(peer_ip(request), || tokens.find(shown)).await {
                Ok(Some(caller)) => Ok(from(&caller, request)),
                Ok(None) => Err(refuse(StatusCode::UNAUTHORIZED, "the token is not valid")),
                Err(failures::Busy) => {
                    let why = "too many wrong tokens from this address; try again later";
                    Err(refuse(StatusCode::TOO_MANY_REQUESTS, why))
                }
            };
        }
        match &self.way {
            Way::Socket if self.tokens.is_none() => return Ok(Caller::own(socket_peer(request))),
            // If there are tokens too, a certificate alone is not enough.
            Way::Tcp { certificates: true, .. } if self.tokens.is_none() => {
                return Ok(from(&Caller::new("a client with a certificate", Roles::ALL), request));
            }
            _ => {}
        }
        if !rules::is_grpc(request.uri.path())
            && let Some(cookie) = cookie(headers, &self.cookie_name())
        {
            // Navigations cannot carry our header; what they fetch says nothing about the daemon.
            let asset = rules::ASSETS.contains(&request.uri.path());
            let key = headers.get(KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
            if let Some(caller) = self.sessions.find(cookie, (!asset).then_some(key)) {
                return Ok(caller);
            }
            return Err(refuse(StatusCode::UNAUTHORIZED, "this session has expired; open a new one with `cbus page`"));
        }
        let why = match self.tokens {
            Some(_) => "a token is required; pass its file with --token-file",
            None => "open this page with `cbus page`",
        };
        Err(refuse(StatusCode::UNAUTHORIZED, why))
    }

    async fn admit(&self, request: &mut Parts) -> Result<(), Refusal> {
        let path = request.uri.path().to_owned();
        let method = request.method.as_str().to_owned();
        if rules::is_open(&method, &path) {
            // Who is known is told what is not ready, others only that something is not.
            let caller = match &self.way {
                Way::Socket if self.tokens.is_none() => Caller::own(socket_peer(request)),
                _ => Caller::anybody(),
            };
            request.extensions.insert(caller);
            return Ok(());
        }
        browser::check(self, request)?;
        if rules::is_grpc(&path) {
            let kind = request.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if !matches!(kind, Some("application/grpc" | "application/grpc+proto"))
                || request.version != Version::HTTP_2
            {
                return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this needs gRPC over HTTP/2"));
            }
            if !self.grpc {
                return Err(refuse(StatusCode::NOT_FOUND, "this port serves only the page"));
            }
        }
        let caller = self.caller(request).await?;
        let Some(need) = rules::need(&method, &path) else {
            return Err(refuse(StatusCode::NOT_FOUND, "there is no such call"));
        };
        if !caller.roles.allow(need) {
            let why = format!("{} may not do this: it requires the role `{need}`", caller.who);
            tracing::warn!(target: "cbus::audit", "{} was refused {path}: it requires the role `{need}`", caller.who);
            return Err(refuse(StatusCode::FORBIDDEN, why));
        }
        request.extensions.insert(caller);
        Ok(())
    }
}

/// Lets a request through, or refuses it.
pub async fn check(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let (mut request, body) = request.into_parts();
    let is_loaded = |path| path == "/login" || rules::ASSETS.contains(&path);
    if door.is_for_returning && is_loaded(request.uri.path()) {
        return match browser::check(&door, &request) {
            Ok(()) => login::form(&door, StatusCode::GONE, "This page's daemon has ended."),
            Err(refusal) => refusal.into_response(),
        };
    }
    if request.uri.path() == "/login" && matches!(door.way, Way::Tcp { .. }) {
        return match browser::check(&door, &request) {
            Ok(()) => login::answer(&door, &request, body).await,
            Err(refusal) => refusal.into_response(),
        };
    }
    if request.uri.path() == "/resume"
        && let Some((kept, port)) = door.kept()
    {
        return match browser::check(&door, &request) {
            Ok(()) => login::resume(&door, kept, port, &request).await,
            Err(refusal) => refusal.into_response(),
        };
    }
    let grpc = rules::is_grpc(request.uri.path());
    let Err(refusal) = door.admit(&mut request).await else {
        request.extensions.insert(door);
        return next.run(Request::from_parts(request, body)).await;
    };
    if grpc && request.version == Version::HTTP_2 {
        return match refusal.status {
            StatusCode::UNAUTHORIZED => tonic::Status::unauthenticated(refusal.why),
            StatusCode::TOO_MANY_REQUESTS => tonic::Status::resource_exhausted(refusal.why),
            StatusCode::NOT_FOUND => tonic::Status::unimplemented(refusal.why),
            _ => tonic::Status::permission_denied(refusal.why),
        }
        .into_http::<axum::body::Body>();
    }
    // Opening the page without a session leads to the login form.
    if refusal.status == StatusCode::UNAUTHORIZED && request.uri.path() == "/" && request.method == "GET" {
        return login::form(&door, StatusCode::UNAUTHORIZED, &refusal.why);
    }
    refusal.into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, [(header::CACHE_CONTROL, "no-store")], self.why).into_response()
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|cookies| cookies.to_str().ok());
    all.flat_map(|cookies| cookies.split(';')).find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The address that a request comes from, over TCP.
fn peer_ip(request: &Parts) -> Option<IpAddr> {
    let plain = request.extensions.get::<TcpConnectInfo>();
    let tls = || request.extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
    plain.or_else(tls).and_then(TcpConnectInfo::remote_addr).map(|address| address.ip().to_canonical())
}

/// A caller with the address they come from.
fn from(caller: &Caller, request: &Parts) -> Caller {
    let who = match peer_ip(request) {
        Some(ip) => format!("{} from {ip}", caller.who),
        None => caller.who.clone(),
    };
    Caller { who, ..caller.clone() }
}

/// The user at the other end of a Unix socket.
fn socket_peer(request: &Parts) -> String {
    #[cfg(unix)]
    if let Some(info) = request.extensions.get::<tonic::transport::server::UdsConnectInfo>()
        && let Some(peer) = info.peer_cred
    {
        return match peer.pid() {
            Some(process) => format!("user {} (process {process})", peer.uid()),
            None => format!("user {}", peer.uid()),
        };
    }
    let _ = request;
    "an unknown user at the socket".to_owned()
}
