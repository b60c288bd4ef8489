//! The daemon that a command asks.

use controllerbus_api::client::Client;
use controllerbus_api::{Connection, sockets};
use miette::{Report, Result};
use tonic::Status;

use crate::cli::Connect;
use crate::report::explain_api;

/// The daemon that the command line names; by default this user's only running one.
pub fn daemon(args: &Connect) -> Result<Connection> {
    connection(args).map_err(explain_api)
}

/// The same, with an error that is not a report yet.
pub fn connection(args: &Connect) -> controllerbus_api::Result<Connection> {
    let address = match &args.connect {
        None => sockets::only()?,
        Some(address) => address.clone(),
    };
    let mut to = Connection::to(address)?;
    if let Some(file) = &args.token_file {
        to = to.token_file(file);
    }
    if let Some(file) = &args.tls_ca {
        to = to.tls_ca(file);
    }
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        to = to.tls_identity(cert, key);
    }
    Ok(to)
}

/// Connects to a daemon.
pub async fn connect(to: &Connection) -> Result<Client> {
    to.connect().await.map_err(explain_api)
}

/// What a refused call means.
pub fn refused(to: &Connection) -> impl Fn(Status) -> Report + '_ {
    |status| explain_api(to.explain(&status))
}
