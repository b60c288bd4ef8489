//! A connection to a daemon, and what its refusals mean to a person.

use std::time::Duration;

use miette::{Report, Result};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::Address;
use super::proto::bus_api_client::BusApiClient;
use crate::cli::Connect;
use crate::report::{io, report};

/// The calls of the bus API.
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

/// Connects to the daemon that the command line names.
pub async fn connect(to: &Connect) -> Result<Client> {
    let token =
        match &to.token_file {
            None => None,
            Some(file) => {
                let token = std::fs::read_to_string(file).map_err(io("reading the token", file))?;
                let value = format!("Bearer {}", token.trim());
                Some(value.parse().map_err(|_| {
                    report(format!("{} is no token: it has characters that none has", file.display()), "")
                })?)
            }
        };
    let channel = endpoint(to)?.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|error| {
        let cause = causes(&error);
        let help = if cause.contains("ermission denied") {
            "the socket belongs to somebody else; run this as the daemon's user"
        } else {
            "start one with `cbus run`, or name its address with --connect"
        };
        report(format!("no daemon answers at {}: {cause}", to.connect), help)
    })?;
    Ok(BusApiClient::with_interceptor(channel, Token(token)).max_decoding_message_size(64 << 20))
}

fn endpoint(to: &Connect) -> Result<Endpoint> {
    let wrong = |error: tonic::transport::Error| report(format!("{}: {}", to.connect, causes(&error)), "");
    let tls = to.tls_ca.is_some() || to.tls_cert.is_some();
    let uri = match &to.connect {
        Address::Unix(path) => format!("unix:{}", crate::pipeline::absolute(path).display()),
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
        endpoint = endpoint.tls_config(config).map_err(wrong)?;
    }
    Ok(endpoint)
}

/// The last cause of an error, which says what happened.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// What a refused call means.
pub fn refused(to: &Connect) -> impl Fn(Status) -> Report + '_ {
    move |status| {
        let said = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated => {
                report(said, "the daemon's operator has the token; give its file with --token-file")
            }
            Code::Unimplemented => {
                report(format!("{} is no bus API, or an older one", to.connect), "check the address")
            }
            Code::Unavailable if status.metadata().is_empty() && said.is_empty() => {
                report(format!("the daemon at {} went away", to.connect), "")
            }
            Code::NotFound | Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument => {
                report(said, "")
            }
            Code::Unknown | Code::Internal if said.contains("h2 protocol") || said.contains("transport error") => {
                report(format!("what answers at {} is no bus API: {said}", to.connect), "check the address")
            }
            _ => report(format!("the daemon at {}: {said}", to.connect), ""),
        }
    }
}
