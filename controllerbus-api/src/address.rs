//! The address of an API: a daemon's name, a Unix socket, or a TCP address.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use controllerbus::error::Code;

use crate::Error;

/// `NAME`, `unix:PATH`, or `HOST:PORT`.
///
/// ```
/// use controllerbus_api::Address;
///
/// let named: Address = "mine".parse().unwrap();
/// assert_eq!(named, Address::Named("mine".to_owned()));
/// let tcp: Address = "[::1]:7411".parse().unwrap();
/// assert_eq!(tcp, Address::Tcp { host: "::1".to_owned(), port: 7411 });
/// assert!("no/where".parse::<Address>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The socket of one of this user's daemons, by name.
    Named(String),
    /// A host, by name or number, and a port.
    Tcp {
        /// The host, without brackets around an IPv6 address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(Error::new(Code::NOT_AN_ADDRESS, "a Unix socket is written as unix:PATH", ""));
            }
            if cfg!(not(unix)) {
                return Err(Error::new(Code::NOT_AN_ADDRESS, "this system has no Unix sockets; use HOST:PORT", ""));
            }
            return Ok(Self::Unix(path.into()));
        }
        if is_name(text) {
            return Ok(Self::Named(text.to_owned()));
        }
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let rest = rest.trim_end_matches('/');
        let wrong = || {
            Error::new(
                Code::NOT_AN_ADDRESS,
                format!("`{text}` is not an address; use HOST:PORT, such as 127.0.0.1:7411, unix:PATH, or a name"),
                "",
            )
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains('/') {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether a text is a daemon's name: letters, digits, `-` and `_`, short enough for a socket's path.
pub fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

impl Address {
    /// The addresses to listen on. Blocks to look up a name.
    pub(crate) fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        (host, port).to_socket_addrs().map(Iterator::collect)
    }
}

/// Whether an address can be reached from this machine only.
pub fn is_loopback(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

/// Whether the host of a request's URL is this machine and this port. Another site's page cannot forge that.
pub fn names_loopback(host: &str, port: u16) -> bool {
    let (name, named) = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => (name, port.parse().ok()),
        _ => (host, None),
    };
    if named.unwrap_or(80) != port {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
