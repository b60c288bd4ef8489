//! Where to listen.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::ErrorKind;
use crate::{BusError, Error};

/// Where a controller listens: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, `unix:/run/web.sock` (or a path that begins
/// with `/` or `./`), or `systemd:web` for the socket that the host got under this name from its service manager.
///
/// Port 0 is any free port, the same one for every generation.
///
/// ```
/// use controllerbus::listen::Address;
///
/// assert_eq!("127.0.0.1:8080".parse::<Address>()?, Address::Tcp("127.0.0.1:8080".to_owned()));
/// assert_eq!("/run/web.sock".parse::<Address>()?, Address::Unix("/run/web.sock".into()));
/// assert!("8080".parse::<Address>().is_err());
/// # Ok::<(), controllerbus::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Address {
    /// A host name or an IP address, and a port.
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A socket that the host got from its service manager, by name.
    Inherited(String),
}

impl FromStr for Address {
    type Err = BusError;

    fn from_str(text: &str) -> Result<Self, BusError> {
        let wrong = |what: &str| {
            let text = text.escape_debug();
            let what = format!(
                "cannot listen at `{text}`: {what}; an address is like `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/web.sock` \
                 or `systemd:web`"
            );
            BusError::from(Error::new(ErrorKind::Invalid, what))
        };
        if let Some(name) = text.strip_prefix("systemd:") {
            return if name.is_empty() { Err(wrong("it has no name")) } else { Ok(Self::Inherited(name.to_owned())) };
        }
        let path = text.strip_prefix("unix:").or_else(|| Some(text).filter(|text| text.starts_with(['/', '.'])));
        if let Some(path) = path {
            let is_path = !path.is_empty() && !path.contains('\0');
            return if is_path { Ok(Self::Unix(path.into())) } else { Err(wrong("it has no path")) };
        }
        // Each address has one spelling.
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address.to_string()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains([':', '/']) => match port.parse::<u16>() {
                Ok(port) => Ok(Self::Tcp(format!("{}:{port}", host.to_ascii_lowercase()))),
                Err(_) => Err(wrong("its port is not a number from 0 to 65535")),
            },
            _ => Err(wrong("it has no host and port")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = BusError;

    fn try_from(text: String) -> Result<Self, BusError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling_and_an_error_says_what_one_is_like() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
            ("LocalHost:080", "localhost:80"),
            ("unix:relative.sock", "unix:relative.sock"),
            ("/run/web.sock", "unix:/run/web.sock"),
            ("./web.sock", "unix:./web.sock"),
            ("systemd:web", "systemd:web"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), shown);
        }
        for text in
            ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "host:70000", "::1:80:x", "http://host:80", "unix:"]
        {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains("an address is like `127.0.0.1:8080`"), "{text}: {error}");
        }
    }
}
