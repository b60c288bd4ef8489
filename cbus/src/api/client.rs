//! The connection to a daemon, and its errors for people.

use std::path::PathBuf;
use std::time::Duration;

use miette::{Report, Result};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::proto::bus_api_client::BusApiClient;
use super::{Address, sockets};
use crate::cli::Connect;
use crate::report::{io, report};

/// A client of the bus API.
pub type Client = BusApiClient<InterceptedService<Channel, Token>>;

/// Adds the token to each call.
#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A daemon, and the credentials to show it.
pub struct To {
    pub address: Address,
    token_file: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

impl To {
    /// The daemon that the command line names; by default this user's only running one.
    pub fn of(args: &Connect) -> Result<Self> {
        let address = match &args.connect {
            None => sockets::only()?,
            Some(Address::Named(name)) => sockets::of(name)?,
            Some(address) => address.clone(),
        };
        let Connect { token_file, tls_ca, tls_cert, tls_key, .. } = args;
        let [token_file, tls_ca, tls_cert, tls_key] = [token_file, tls_ca, tls_cert, tls_key].map(Clone::clone);
        Ok(Self { address, token_file, tls_ca, tls_cert, tls_key })
    }

    /// Whether the connection is TLS.
    pub fn tls(&self) -> bool {
        self.tls_ca.is_some() || self.tls_cert.is_some()
    }
}

/// Connects to a daemon.
pub async fn connect(to: &To) -> Result<Client> {
    let token = match &to.token_file {
        None => None,
        Some(file) => {
            let token = std::fs::read_to_string(file).map_err(io("reading the token", file))?;
            let value = format!("Bearer {}", token.trim());
            Some(value.parse().map_err(|_| {
                report(
                    format!("{} is not a valid token: it contains characters that are not allowed", file.display()),
                    "",
                )
            })?)
        }
    };
    let channel = endpoint(to)?.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|error| {
        let cause = causes(&error);
        if let Some(refusal) = tls_refusal(to, &cause) {
            return refusal;
        }
        let help = if cause.contains("ermission denied") {
            "the socket belongs to another user; run this as the daemon's user"
        } else {
            "start one with `cbus run` or `cbus dev`, or pass its address with --connect"
        };
        report(format!("no daemon answers at {}: {cause}", to.address), help)
    })?;
    Ok(BusApiClient::with_interceptor(channel, Token(token)).max_decoding_message_size(64 << 20))
}

fn endpoint(to: &To) -> Result<Endpoint> {
    let wrong = |error: tonic::transport::Error| report(format!("{}: {}", to.address, causes(&error)), "");
    let bad_keys = |error: tonic::transport::Error| {
        report(
            format!("the certificates cannot be used: {}", causes(&error)),
            "--tls-ca and --tls-cert must be certificates and --tls-key the certificate's key, in PEM format",
        )
    };
    let tls = to.tls();
    let uri = match &to.address {
        Address::Unix(path) => format!("unix:{}", crate::pipeline::absolute(path).display()),
        Address::Named(name) => return Err(report(format!("there is no daemon `{name}`"), "")),
        tcp if tls => format!("https://{tcp}"),
        tcp => format!("http://{tcp}"),
    };
    let mut endpoint = Endpoint::from_shared(uri).map_err(wrong)?;
    if tls {
        let mut config = ClientTlsConfig::new();
        if let Some(file) = &to.tls_ca {
            config = config.ca_certificate(Certificate::from_pem(
                std::fs::read(file).map_err(io("reading the authority's certificate", file))?,
            ));
        }
        if let (Some(cert), Some(key)) = (&to.tls_cert, &to.tls_key) {
            config = config.identity(Identity::from_pem(
                std::fs::read(cert).map_err(io("reading the certificate", cert))?,
                std::fs::read(key).map_err(io("reading the certificate's key", key))?,
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
fn tls_refusal(to: &To, cause: &str) -> Option<Report> {
    let at = &to.address;
    let tls = to.tls();
    let own = "pass --tls-cert and --tls-key, signed by the authority of the daemon's --tls-client-ca";
    if cause.contains("alert: CertificateRequired") {
        Some(report(format!("the daemon at {at} requires a client certificate"), own))
    } else if cause.contains("fatal alert") {
        Some(report(format!("the daemon at {at} does not accept this client's certificate: {cause}"), own))
    } else if cause.contains("invalid peer certificate") {
        let help = "--tls-ca is the authority that signed it; the certificate must be for the host in --connect";
        Some(report(format!("the certificate of the daemon at {at} is not accepted: {cause}"), help))
    } else if tls && (cause.contains("corrupt message") || cause.contains("InvalidContentType")) {
        Some(report(format!("the server at {at} does not speak TLS: {cause}"), "omit --tls-ca and --tls-cert"))
    } else if tls && ["reset by peer", "roken pipe", "was canceled"].iter().any(|known| cause.contains(known)) {
        // The daemon's reason can get lost if it closes the connection immediately.
        Some(report(format!("the daemon at {at} closed the connection; it may require a client certificate"), own))
    } else {
        None
    }
}

/// What a refused call means.
pub fn refused(to: &To) -> impl Fn(Status) -> Report + '_ {
    move |status| {
        let said = status.message().to_owned();
        if let Some(refusal) = tls_refusal(to, &causes(&status)).or_else(|| tls_refusal(to, &said)) {
            return refusal;
        }
        match status.code() {
            Code::Unauthenticated => {
                report(said, "ask the daemon's operator for the token, and pass its file with --token-file")
            }
            Code::Unimplemented => {
                report(format!("{} is not a bus API, or an older version of it", to.address), "check the address")
            }
            Code::Unavailable if status.metadata().is_empty() && said.is_empty() => {
                report(format!("the daemon at {} went away", to.address), "")
            }
            Code::NotFound | Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument => {
                report(said, "")
            }
            Code::Unknown | Code::Internal | Code::Cancelled
                if ["h2 protocol", "transport error", "was canceled"].iter().any(|known| said.contains(known)) =>
            {
                let help = if to.tls() {
                    "check the address"
                } else {
                    "check the address; a daemon that was started with --tls-cert needs --tls-ca here"
                };
                report(format!("the server at {} is not a bus API: {said}", to.address), help)
            }
            _ => report(format!("the daemon at {}: {said}", to.address), ""),
        }
    }
}
