//! Addresses of hubs: `HOST:PORT` and `unix:PATH`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};

/// Where a hub listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// Reads an address of a config's field.
    pub(crate) fn read(field: &str, text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            let text = text.escape_debug();
            let what = format!(
                "`{field}: {text}`: {what}; an address is like `hub-1.shop:7447`, `[::1]:7447` or `unix:/run/cbus/hub.sock`"
            );
            Error::new(ErrorKind::Invalid, what).permanent()
        };
        // They begin the engine's own settings of an address.
        if text.contains(['#', '?', '\0']) {
            return Err(wrong("it has `#`, `?` or a character that is not printed"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong("it has no path")) } else { Ok(Self::Unix(path.into())) };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp { host: address.ip().to_string(), port: address.port() });
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains([':', '/', '[', ']']) => match port.parse() {
                Ok(port) => Ok(Self::Tcp { host: host.to_owned(), port }),
                Err(_) => Err(wrong("its port is not a number from 0 to 65535")),
            },
            _ => Err(wrong("it has no host and port")),
        }
    }

    /// As the engine writes it.
    pub(crate) fn endpoint(&self, tls: bool) -> String {
        match self {
            Self::Unix(path) => format!("unixsock-stream/{}", path.display()),
            Self::Tcp { host, port } => {
                let protocol = if tls { "tls" } else { "tcp" };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                format!("{protocol}/{host}:{port}")
            }
        }
    }

    /// Whether only this machine reaches it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|host: IpAddr| host.is_loopback())
            }
        }
    }

    /// Its path, if it is a socket in the file system.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_engines_endpoints() {
        for (text, plain, with_tls, local) in [
            ("127.0.0.1:7447", "tcp/127.0.0.1:7447", "tls/127.0.0.1:7447", true),
            ("[::1]:7447", "tcp/[::1]:7447", "tls/[::1]:7447", true),
            ("LocalHost:1", "tcp/LocalHost:1", "tls/LocalHost:1", true),
            ("[::]:7447", "tcp/[::]:7447", "tls/[::]:7447", false),
            ("0.0.0.0:0", "tcp/0.0.0.0:0", "tls/0.0.0.0:0", false),
            ("hub-1.shop:7447", "tcp/hub-1.shop:7447", "tls/hub-1.shop:7447", false),
            ("unix:/run/hub.sock", "unixsock-stream//run/hub.sock", "unixsock-stream//run/hub.sock", true),
        ] {
            let address = Address::read("listen", text).expect(text);
            assert_eq!((address.endpoint(false), address.endpoint(true)), (plain.to_owned(), with_tls.to_owned()));
            assert_eq!(address.is_local(), local, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_field_and_what_one_is_like() {
        for text in
            ["", "7447", ":7447", "hub", "hub:", "hub:70000", "tcp/hub:1", "::1:7447", "unix:", "hub:1#so=2", "hub:1?a"]
        {
            let error = Address::read("connect", text).expect_err(text).to_string();
            assert!(error.starts_with("`connect: ") && error.contains("is like `hub-1.shop:7447`"), "{text}: {error}");
        }
    }
}
