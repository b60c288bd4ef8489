//! Starts a browser's session: with a code from `cbus page`, or with a token.

use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::failures::Busy;
use super::kept::Kept;
use super::{Caller, Door, Way, peer_ip, refuse};

/// Answers requests to `/login`.
pub(super) async fn answer(door: &Door, request: &Parts, body: Body) -> Response {
    match request.method {
        Method::GET => match parameter(request.uri.query().unwrap_or_default(), "code") {
            None => form(door, StatusCode::OK, ""),
            Some(code) => {
                let found = door.failures.check(peer_ip(request), || door.sessions.redeem(&code)).await;
                enter(door, &request_origin(request), found, "this code has been used, or is older than a minute")
            }
        },
        Method::POST => {
            let (origin, ip) = (request_origin(request), peer_ip(request));
            let kind = request.headers.get(header::CONTENT_TYPE);
            if kind.is_none_or(|kind| kind != "application/x-www-form-urlencoded") {
                return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this needs the page's form").into_response();
            }
            let Ok(body) = to_bytes(body, 4096).await else {
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the token is too long").into_response();
            };
            let shown = parameter(&String::from_utf8_lossy(&body), "token").unwrap_or_default();
            let find = || door.tokens.as_ref().and_then(|tokens| tokens.find(shown.trim()));
            let found = door.failures.check(ip, find).await;
            enter(door, &origin, found, "the token is not valid")
        }
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST").into_response(),
    }
}

/// Adds the request's address to a caller, after the request itself is gone.
fn request_origin(request: &Parts) -> impl Fn(Caller) -> Caller + use<> {
    let ip = peer_ip(request);
    move |caller| match ip {
        Some(ip) if !caller.who.contains(" from ") => Caller { who: format!("{} from {ip}", caller.who), ..caller },
        _ => caller,
    }
}

fn enter(door: &Door, place: &impl Fn(Caller) -> Caller, found: Result<Option<Caller>, Busy>, wrong: &str) -> Response {
    match found {
        Ok(Some(caller)) => begin(door, place(caller)),
        Ok(None) => form(door, StatusCode::UNAUTHORIZED, wrong),
        Err(Busy) => form(door, StatusCode::TOO_MANY_REQUESTS, "too many failed logins from here; try again later"),
    }
}

/// Starts a session. A script keeps the key where only this port's pages can read it; the browser sends the cookie.
fn begin(door: &Door, caller: Caller) -> Response {
    let Way::Tcp { tls, .. } = door.way else {
        return refuse(StatusCode::NOT_FOUND, "browsers cannot connect here").into_response();
    };
    caller.audit(format_args!("opened the page"));
    let (Ok(ticket), Ok(nonce)) = (door.sessions.begin(caller), super::random()) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers are available").into_response();
    };
    let cookie = cookie(door, &ticket.cookie, tls);
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>ControllerBus</title>\
         <script nonce=\"{nonce}\">sessionStorage.setItem(\"cbus-key\", \"{}\"); location.replace(\"/\");</script>\
         <noscript>The page needs JavaScript.</noscript>",
        ticket.key
    );
    let policy = format!("default-src 'none'; script-src 'nonce-{nonce}'; frame-ancestors 'none'");
    (StatusCode::OK, [(header::SET_COOKIE, cookie)], headers(&policy), page).into_response()
}

fn cookie(door: &Door, value: &str, tls: bool) -> String {
    let secure = if tls { "; Secure" } else { "" };
    format!("{}={value}; HttpOnly; SameSite=Strict; Path=/{secure}", door.cookie_name())
}

/// Answers requests to `/resume`, of a page that was open when the daemon ended: first with what the page has to prove that it
/// knows its secret over, and then with a new session, and with what proves the same to the page. Only for a page that is unknown
/// it is `401 Unauthorized`: after anything else it may try again.
pub(super) async fn resume(door: &Door, kept: &Kept, port: u16, request: &Parts) -> Response {
    if request.method != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "POST").into_response();
    }
    let query = request.uri.query().unwrap_or_default();
    let of = |name: &str| parameter(query, name).unwrap_or_default();
    let (id, nonce, proof) = (of("id"), of("nonce"), of("proof"));
    let private =
        [(header::CACHE_CONTROL, "no-store".to_owned()), (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned())];
    let unable = || refuse(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers are available").into_response();
    let refused = |found: Result<Option<String>, Busy>| match found {
        Ok(Some(told)) => Ok(told),
        Ok(None) => Err(refuse(StatusCode::UNAUTHORIZED, "open a new page with `cbus page`")),
        Err(Busy) => {
            let why = "too many attempts from this machine; try again later";
            Err(refuse(StatusCode::TOO_MANY_REQUESTS, why))
        }
    };
    if proof.is_empty() {
        let Ok(number) = super::random() else { return unable() };
        let found = door.failures.check(peer_ip(request), || kept.challenge(&id, port, number)).await;
        return refused(found)
            .map_or_else(IntoResponse::into_response, |challenge| (private, challenge).into_response());
    }
    let found = door.failures.check(peer_ip(request), || kept.redeem(&id, port, &nonce, &proof)).await;
    let ours = match refused(found) {
        Ok(ours) => ours,
        Err(no) => return no.into_response(),
    };
    let caller = request_origin(request)(Caller::own("this user's page"));
    caller.audit(format_args!("came back to the page"));
    let Ok(ticket) = door.sessions.begin(caller) else { return unable() };
    // What the browser stores for a port that others may have had is not only the page's.
    let told = serde_json::json!({ "key": ticket.key, "proof": ours, "may_store": !door.is_for_returning });
    (private, [(header::SET_COOKIE, cookie(door, &ticket.cookie, false))], axum::Json(told)).into_response()
}

fn headers(policy: &str) -> [(header::HeaderName, String); 5] {
    [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy.to_owned()),
        // Not `no-referrer`: the browser would then hide that the form is this port's own.
        (header::REFERRER_POLICY, "same-origin".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ]
}

/// A form for a token if there are tokens, otherwise a hint how to open the page. `why` is our own text, without markup.
pub(super) fn form(door: &Door, status: StatusCode, why: &str) -> Response {
    let body = if door.tokens.is_some() {
        "<form method=\"post\" action=\"/login\"><label>Token <input name=\"token\" type=\"password\" \
         autocomplete=\"off\" autofocus required></label> <button>Open</button></form>"
    } else {
        "<p>Open this page with <code>cbus page</code>.</p>"
    };
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>ControllerBus</title><h1>ControllerBus</h1>\
         <p role=\"alert\">{why}</p>{body}"
    );
    let policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'";
    (status, headers(policy), page).into_response()
}

/// A value of a query or a form.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}
