//! Whether a hub can be reached, and lets this host in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use controllerbus_fleet::config::Tls;
use hot_runtime::doctor::Finding;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(3);

/// How long a hub has to refuse this host's certificate, which it looks at after this host has looked at its own.
const REFUSAL: Duration = Duration::from_millis(500);

/// Looks at the address of a hub.
pub async fn examine(address: &str, tls: Option<&Tls>) -> Finding {
    let what = "hub";
    if let Some(path) = address.strip_prefix("unix:") {
        return match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Finding::ok(what, format!("{address} answers")),
            Err(error) => Finding::fail(what, format!("{address}: {error}"), "start the hub, or correct `connect`"),
        };
    }
    let found = match tokio::time::timeout(LIMIT, TcpStream::connect(address)).await {
        Err(_) => {
            Err(("does not answer".to_owned(), "is a firewall between them? the hub's port must be open for TCP"))
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err((
            error.to_string(),
            "start the hub; its `listen` must have this port, and 0.0.0.0 or an address of its own",
        )),
        Ok(Err(error)) => {
            Err((error.to_string(), "correct `connect`: it is HOST:PORT, and the name must be known here"))
        }
        Ok(Ok(stream)) => match tls {
            None => {
                return Finding::warn(
                    what,
                    format!("{address} answers, without TLS"),
                    "what is sent can be read and changed on the way; set `tls` on both sides",
                );
            }
            Some(tls) => shake_hands(address, stream, tls).await,
        },
    };
    match found {
        Ok(()) => Finding::ok(what, format!("{address} answers, and each knows the other's certificate")),
        Err((why, remedy)) => Finding::fail(what, format!("{address}: {why}"), remedy),
    }
}

/// Shows the certificates to each other, as the engine does.
async fn shake_hands(address: &str, stream: TcpStream, tls: &Tls) -> Result<(), (String, &'static str)> {
    const OWN: &str = "see what is said of this host's certificate";
    const ITS: &str = "the hub's certificate must be of the same authority and have this name or address: on it, \
                       `cbus fleet cert HUB --force` where the authority is, with `--address` for each of its names";
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = match host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|error| (error.to_string(), "correct `connect`"))?,
    };
    let config = client(tls).map_err(|why| (why, OWN))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let mut stream = match tokio::time::timeout(LIMIT, connecting).await {
        Err(_) => return Err(("it does not speak TLS".to_owned(), "set `tls` in the hub's config too, or none here")),
        Ok(Err(error)) => return Err((error.to_string(), ITS)),
        Ok(Ok(stream)) => stream,
    };
    match tokio::time::timeout(REFUSAL, stream.read_u8()).await {
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err((format!("it refuses this host: {error}"), OWN))
        }
        // It waits for this host to begin.
        _ => Ok(()),
    }
}

fn client(tls: &Tls) -> Result<ClientConfig, String> {
    let read = |path: &std::path::Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates = |path: &std::path::Path| -> Result<Vec<CertificateDer<'static>>, String> {
        let found = CertificateDer::pem_file_iter(path).map_err(|error| read(path, &error))?;
        found.collect::<Result<_, _>>().map_err(|error| read(path, &error))
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&tls.ca)?);
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| read(&tls.key, &error))?;
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    builder.with_client_auth_cert(certificates(&tls.cert)?, key).map_err(|error| read(&tls.cert, &error))
}
