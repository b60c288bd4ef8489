//! The connection to a daemon, and its errors for people.

use std::path::PathBuf;
use std::time::Duration;

use controllerbus::error::Code;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code as StatusCode, Request, Status};

use crate::proto::bus_api_client::BusApiClient;
use crate::server::CODE_HEADER;
use crate::{Address, Error, Result, sockets};

/// A client of the bus API.
pub type Client = BusApiClient<InterceptedService<Channel, Token>>;

/// Adds the token to each call.
#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Token").finish_non_exhaustive()
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// How to reach a daemon: its address, and the credentials to show it.
#[derive(Clone, Debug)]
pub struct Connection {
    address: Address,
    token_file: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_identity: Option<(PathBuf, PathBuf)>,
}

impl Connection {
    /// A daemon with a name or an address.
    ///
    /// # Errors
    /// It is a name, and the directory of this user's sockets cannot be used.
    pub fn to(address: Address) -> Result<Self> {
        let address = match address {
            Address::Named(name) => sockets::of(&name)?,
            address => address,
        };
        Ok(Self { address, token_file: None, tls_ca: None, tls_identity: None })
    }

    /// This user's only running daemon.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn to_only() -> Result<Self> {
        Self::to(sockets::only()?)
    }

    /// Shows the token in a file.
    #[must_use]
    pub fn token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// Uses TLS, with a daemon whose certificate the authority in a file (PEM) has signed.
    #[must_use]
    pub fn tls_ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls_ca = Some(file.into());
        self
    }

    /// Uses TLS, and shows the certificate chain in a file, with its key (PEM).
    #[must_use]
    pub fn tls_identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls_identity = Some((cert.into(), key.into()));
        self
    }

    /// The daemon's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether the connection is TLS.
    pub fn is_tls(&self) -> bool {
        self.tls_ca.is_some() || self.tls_identity.is_some()
    }

    /// Connects.
    ///
    /// # Errors
    /// The daemon does not answer, or its files cannot be read.
    pub async fn connect(&self) -> Result<Client> {
        let token = match &self.token_file {
            None => None,
            Some(file) => {
                let token = std::fs::read_to_string(file).map_err(Error::io("reading the token", file))?;
                let value = format!("Bearer {}", token.trim());
                Some(value.parse().map_err(|_| {
                    let what = "is not a valid token: it contains characters that are not allowed";
                    Error::new(Code::UNAUTHENTICATED, format!("{} {what}", file.display()), "")
                })?)
            }
        };
        let channel = endpoint(self)?.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|error| {
            let cause = causes(&error);
            if let Some(refusal) = tls_refusal(self, &cause) {
                return refusal;
            }
            let help = if cause.contains("ermission denied") {
                "the socket belongs to another user; run this as the daemon's user"
            } else {
                "start one with `cbus run` or `cbus dev`, or pass its address with --connect"
            };
            Error::new(Code::NO_DAEMON, format!("no daemon answers at {}: {cause}", self.address), help)
        })?;
        Ok(BusApiClient::with_interceptor(channel, Token(token)).max_decoding_message_size(64 << 20))
    }

    /// What the status of a refused call means.
    pub fn explain(&self, status: &Status) -> Error {
        explain(self, status)
    }
}

fn endpoint(to: &Connection) -> Result<Endpoint> {
    let wrong = |error: tonic::transport::Error| {
        Error::new(Code::NOT_AN_ADDRESS, format!("{}: {}", to.address, causes(&error)), "")
    };
    let bad_keys = |error: tonic::transport::Error| {
        Error::new(
            Code::TLS,
            format!("the certificates cannot be used: {}", causes(&error)),
            "--tls-ca and --tls-cert must be certificates and --tls-key the certificate's key, in PEM format",
        )
    };
    let tls = to.is_tls();
    let uri = match &to.address {
        Address::Unix(path) => format!("unix:{}", std::path::absolute(path).unwrap_or_else(|_| path.clone()).display()),
        Address::Named(name) => return Err(Error::new(Code::NO_DAEMON, format!("there is no daemon `{name}`"), "")),
        tcp if tls => format!("https://{tcp}"),
        tcp => format!("http://{tcp}"),
    };
    let mut endpoint = Endpoint::from_shared(uri).map_err(wrong)?;
    if tls {
        let mut config = ClientTlsConfig::new();
        if let Some(file) = &to.tls_ca {
            config = config.ca_certificate(Certificate::from_pem(
                std::fs::read(file).map_err(Error::io("reading the authority's certificate", file))?,
            ));
        }
        if let Some((cert, key)) = &to.tls_identity {
            config = config.identity(Identity::from_pem(
                std::fs::read(cert).map_err(Error::io("reading the certificate", cert))?,
                std::fs::read(key).map_err(Error::io("reading the certificate's key", key))?,
            ));
        }
        endpoint = endpoint.tls_config(config).map_err(bad_keys)?;
    }
    Ok(endpoint)
}

/// The root cause of an error, which says what happened.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// What a failed TLS handshake means; none if that is not what happened.
fn tls_refusal(to: &Connection, cause: &str) -> Option<Error> {
    let at = &to.address;
    let tls = to.is_tls();
    let own = "pass --tls-cert and --tls-key, signed by the authority of the daemon's --tls-client-ca";
    if cause.contains("alert: CertificateRequired") {
        Some(Error::new(Code::TLS, format!("the daemon at {at} requires a client certificate"), own))
    } else if cause.contains("fatal alert") {
        Some(Error::new(
            Code::TLS,
            format!("the daemon at {at} does not accept this client's certificate: {cause}"),
            own,
        ))
    } else if cause.contains("invalid peer certificate") {
        let help = "--tls-ca is the authority that signed it; the certificate must be for the host in --connect";
        Some(Error::new(Code::TLS, format!("the certificate of the daemon at {at} is not accepted: {cause}"), help))
    } else if tls && (cause.contains("corrupt message") || cause.contains("InvalidContentType")) {
        Some(Error::new(
            Code::TLS,
            format!("the server at {at} does not speak TLS: {cause}"),
            "omit --tls-ca and --tls-cert",
        ))
    } else if tls && ["reset by peer", "roken pipe", "was canceled"].iter().any(|known| cause.contains(known)) {
        // The daemon's reason can get lost if it closes the connection immediately.
        Some(Error::new(
            Code::TLS,
            format!("the daemon at {at} closed the connection; it may require a client certificate"),
            own,
        ))
    } else {
        None
    }
}

/// What a refused call means.
fn explain(to: &Connection, status: &Status) -> Error {
    let said = status.message().to_owned();
    if let Some(refusal) = tls_refusal(to, &causes(status)).or_else(|| tls_refusal(to, &said)) {
        return refusal;
    }
    let told = status.metadata().get(CODE_HEADER).and_then(|code| code.to_str().ok()?.parse().ok());
    match status.code() {
        StatusCode::Unauthenticated => Error::new(
            Code::UNAUTHENTICATED,
            said,
            "ask the daemon's operator for the token, and pass its file with --token-file",
        ),
        StatusCode::Unimplemented => Error::new(
            Code::NOT_A_BUS_API,
            format!("{} is not a bus API, or an older version of it", to.address),
            "check the address",
        ),
        StatusCode::Unavailable if status.metadata().is_empty() && said.is_empty() => {
            Error::new(Code::WENT_AWAY, format!("the daemon at {} went away", to.address), "")
        }
        StatusCode::NotFound
        | StatusCode::PermissionDenied
        | StatusCode::FailedPrecondition
        | StatusCode::InvalidArgument => {
            let code = if status.code() == StatusCode::PermissionDenied { Code::NOT_PERMITTED } else { Code::NOT_DONE };
            Error::new(told.unwrap_or(code), said, "")
        }
        StatusCode::Unknown | StatusCode::Internal | StatusCode::Cancelled
            if ["h2 protocol", "transport error", "was canceled"].iter().any(|known| said.contains(known)) =>
        {
            let help = if to.is_tls() {
                "check the address"
            } else {
                "check the address; a daemon that was started with --tls-cert needs --tls-ca here"
            };
            Error::new(Code::NOT_A_BUS_API, format!("the server at {} is not a bus API: {said}", to.address), help)
        }
        _ => Error::new(told.unwrap_or(Code::NOT_DONE), format!("the daemon at {}: {said}", to.address), ""),
    }
}
