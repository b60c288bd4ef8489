//! Refuses requests of other sites' and ports' pages, by what browsers say about their origin.

use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};

use super::{Door, Refusal, Way, refuse, rules};
use crate::address::names_loopback;

/// Refuses requests that a page of another origin has made a browser send. Clients that are not browsers send no such
/// headers; they have to authenticate like everybody.
pub(super) fn check(door: &Door, request: &Parts) -> Result<(), Refusal> {
    let headers = &request.headers;
    let elsewhere = |why: &str| Err(refuse(StatusCode::FORBIDDEN, why));
    let host = text(headers, header::HOST.as_str());
    let host = host.or_else(|| request.uri.authority().map(Authority::as_str));
    if let Way::Tcp { port, loopback: true, .. } = door.way
        && !host.is_some_and(|host| names_loopback(host, port))
    {
        // Somebody's domain that resolves to 127.0.0.1.
        return elsewhere("this address is only for this machine");
    }
    let site = text(headers, "sec-fetch-site");
    let origin = text(headers, header::ORIGIN.as_str());
    if rules::is_grpc(request.uri.path()) {
        let browsers = site.is_some() || origin.is_some() || headers.contains_key(header::COOKIE);
        return if browsers { elsewhere("browsers may not call this") } else { Ok(()) };
    }
    let opened = request.uri.path() == "/login" && request.method == Method::GET;
    match site {
        None | Some("same-origin") => {}
        // Typed, or opened by another program: this only shows a page.
        Some("none") if request.method == Method::GET => {}
        // The file that `cbus page` opens redirects here; that needs a code which nobody else has.
        Some(_) if opened && text(headers, "sec-fetch-mode") == Some("navigate") => {}
        Some(_) => return elsewhere("pages of other origins may not request this"),
    }
    if let Some(origin) = origin {
        let scheme = if matches!(door.way, Way::Tcp { tls: true, .. }) { "https" } else { "http" };
        if host.is_none_or(|host| origin != format!("{scheme}://{host}")) {
            return elsewhere("pages of other origins may not request this");
        }
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // A value that is not text is not a valid one.
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}
