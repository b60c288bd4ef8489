//! Certificates as files: whether they can be used, before the engine says less about them.

use std::path::Path;

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use controllerbus_fleet::config::Tls;
use x509_parser::pem::{Pem, parse_x509_pem};

/// Checks a host's certificates.
///
/// # Errors
/// Which file cannot be used, and what to do.
pub(crate) fn check(tls: &Tls, host: &str) -> Result<()> {
    certificate("ca", &tls.ca)?;
    let own = certificate("cert", &tls.cert)?;
    let refused = |what: String| Err(wrong("cert", &tls.cert, &what));
    let parsed = own.parse_x509().map_err(|error| wrong("cert", &tls.cert, &error.to_string()))?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if name != Some(host) {
        let name = name.map_or_else(|| "has no common name".to_owned(), |name| format!("is `{name}`'s"));
        return refused(format!(
            "it {name}, and this host is `{host}`; use a certificate with this common name, or set `host`"
        ));
    }
    let validity = parsed.validity();
    if !validity.is_valid() {
        let (from, to) = (validity.not_before, validity.not_after);
        return refused(format!(
            "it is valid from {from} to {to}, which is not now; make a new one (`cbus fleet cert {host}`)"
        ));
    }
    let key = read("key", &tls.key)?;
    match parse_x509_pem(&key) {
        Ok((_, pem)) if pem.label.ends_with("PRIVATE KEY") => Ok(()),
        _ => Err(wrong("key", &tls.key, "it is not a private key in PEM")),
    }
}

fn certificate(field: &str, path: &Path) -> Result<Pem> {
    match parse_x509_pem(&read(field, path)?) {
        Ok((_, pem)) if pem.label == "CERTIFICATE" => Ok(pem),
        _ => Err(wrong(field, path, "it is not a certificate in PEM")),
    }
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| wrong(field, path, &format!("it cannot be read: {error}")))
}

/// Not permanent: a file may be mended, and then the next try works.
fn wrong(field: &str, path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("`tls: {field}: {}`: {what}", path.display()))
}
