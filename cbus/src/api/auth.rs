//! Who may use an API: whoever has the token, where there is one; and no page of another site.

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::address::names_loopback;

/// What a request must show.
#[derive(Clone)]
pub struct Guard {
    /// The hash of the token, if one is needed.
    token: Option<blake3::Hash>,
    /// Whether the request must name this machine as its host, as it does at a loopback address.
    loopback: bool,
}

impl Guard {
    pub fn new(token: Option<&str>, loopback: bool) -> Self {
        Self { token: token.map(|token| blake3::hash(token.as_bytes())), loopback }
    }

    /// Why a request is refused; none if it is not.
    fn refusal(&self, request: &Request) -> Option<(StatusCode, &'static str)> {
        let headers = request.headers();
        if self.loopback {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
            if host.is_some_and(|host| !names_loopback(host)) {
                return Some((StatusCode::FORBIDDEN, "this address is for this machine only"));
            }
        }
        let token = self.token?;
        let query = request.uri().query().unwrap_or_default();
        let shown = bearer(headers).or_else(|| cookie(headers)).or_else(|| parameter(query))?;
        // The comparison of hashes takes as long whatever they are.
        if blake3::hash(shown.as_bytes()) == token {
            return None;
        }
        Some((StatusCode::UNAUTHORIZED, "the token is not the daemon's"))
    }
}

/// Lets a request through, or answers it.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let shown_none = guard.token.is_some()
        && bearer(request.headers()).is_none()
        && cookie(request.headers()).is_none()
        && parameter(request.uri().query().unwrap_or_default()).is_none();
    let refusal = if shown_none {
        Some((StatusCode::UNAUTHORIZED, "a token is needed; give it with --token-file, or to the page as ?token=TOKEN"))
    } else {
        guard.refusal(&request)
    };
    let Some((status, why)) = refusal else {
        let parameter = parameter(request.uri().query().unwrap_or_default()).map(str::to_owned);
        let mut response = next.run(request).await;
        // A page that was opened with the token goes on with a cookie that scripts cannot read.
        if let (Some(token), true) = (parameter, guard.token.is_some())
            && let Ok(cookie) = format!("cbus-token={token}; HttpOnly; SameSite=Strict; Path=/").parse()
        {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        return response;
    };
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/grpc") {
        return match status {
            StatusCode::FORBIDDEN => tonic::Status::permission_denied(why),
            _ => tonic::Status::unauthenticated(why),
        }
        .into_http::<axum::body::Body>();
    }
    (status, why).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get(header::COOKIE)?.to_str().ok()?;
    all.split(';').find_map(|cookie| cookie.trim().strip_prefix("cbus-token="))
}

fn parameter(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("token="))
}
