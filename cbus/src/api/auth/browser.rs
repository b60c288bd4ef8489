//! What a browser says of where a request comes from: no page of another site or port gets through.

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};

use super::{Door, Refusal, Way, refuse, rules};
use crate::api::address::names_loopback;

/// Refuses what a page of another origin has a browser ask for. What is not a browser says nothing of it, and has to
/// show who it is like everybody.
pub(super) fn check(door: &Door, request: &Parts) -> Result<(), Refusal> {
    let headers = &request.headers;
    let elsewhere = |why: &str| Err(refuse(StatusCode::FORBIDDEN, why));
    let host = text(headers, header::HOST.as_str());
    let host = host.or_else(|| request.uri.authority().map(Authority::as_str));
    if let Way::Tcp { port, loopback: true, .. } = door.way
        && !host.is_some_and(|host| names_loopback(host, port))
    {
        // A name of somebody's that resolves to 127.0.0.1.
        return elsewhere("this address is for this machine only");
    }
    let site = text(headers, "sec-fetch-site");
    let origin = text(headers, header::ORIGIN.as_str());
    if rules::is_grpc(request.uri.path()) {
        let browsers = site.is_some() || origin.is_some() || headers.contains_key(header::COOKIE);
        return if browsers { elsewhere("no browser may call this") } else { Ok(()) };
    }
    let opened = request.uri.path() == "/login" && request.method == Method::GET;
    match site {
        None | Some("same-origin") => {}
        // Typed, or opened by another program: a page is shown, nothing is changed.
        Some("none") if request.method == Method::GET => {}
        // `cbus page` has a file of its own lead there; it takes a code that nobody else has.
        Some(_) if opened && text(headers, "sec-fetch-mode") == Some("navigate") => {}
        Some(_) => return elsewhere("a page from elsewhere may not ask for this"),
    }
    if let Some(origin) = origin {
        let scheme = if matches!(door.way, Way::Tcp { tls: true, .. }) { "https" } else { "http" };
        if host.is_none_or(|host| origin != format!("{scheme}://{host}")) {
            return elsewhere("a page from elsewhere may not ask for this");
        }
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // What is not text is not what it should be either.
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}
