//! Certificates, as far as a fleet depends on what is in them.

use std::path::Path;

use controllerbus_fleet::config::Tls;
use hot_runtime::doctor::Finding;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

/// How many days before its end a certificate is worth a warning.
const SOON: i64 = 30;

/// What is in a certificate.
pub struct Certificate {
    /// The common name.
    pub name: String,
    /// The names and addresses under which its host is reached.
    pub names: Vec<String>,
    pub is_authority: bool,
    /// From when until when it is valid, in seconds since 1970.
    valid: (i64, i64),
    der: Vec<u8>,
}

impl Certificate {
    /// Reads a PEM file, of which the first certificate counts.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let (_, pem) = parse_x509_pem(&text).map_err(|_| format!("{} is no PEM file", path.display()))?;
        let parsed = pem.parse_x509().map_err(|error| format!("{} is no certificate: {error}", path.display()))?;
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let validity = parsed.validity();
        Ok(Self {
            name: name.unwrap_or_default().to_owned(),
            names: names(&parsed),
            is_authority: parsed.is_ca(),
            valid: (validity.not_before.timestamp(), validity.not_after.timestamp()),
            der: pem.contents.clone(),
        })
    }

    /// Whether another one has signed it.
    fn is_signed_by(&self, authority: &Self) -> bool {
        let parsed = |der| x509_parser::parse_x509_certificate(der).ok().map(|(_, parsed)| parsed);
        let (Some(own), Some(authority)) = (parsed(&self.der), parsed(&authority.der)) else { return false };
        own.verify_signature(Some(authority.public_key())).is_ok()
    }

    /// Whether a private key is that of this certificate.
    fn has_key(&self, key: &KeyPair) -> bool {
        let parsed = x509_parser::parse_x509_certificate(&self.der).ok();
        parsed.is_some_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
    }

    /// Until when it is valid, and what to do about that.
    fn validity(&self, what: &str, renew: &str) -> Finding {
        let now = Timestamp::now().as_second();
        let day = |second: i64| {
            Timestamp::from_second(second).map(|at| at.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
        };
        let (from, until) = self.valid;
        let clock = "set this machine's clock, for instance by `timedatectl set-ntp true`";
        if now < from {
            return Finding::fail(
                what,
                format!("it is valid from {}, and this clock says {}", day(from), day(now)),
                clock,
            );
        }
        if now >= until {
            return Finding::fail(what, format!("it has ended on {}", day(until)), renew);
        }
        let left = (until - now) / 86_400;
        let found = format!("`{}`, valid until {}", self.name, day(until));
        if left < SOON {
            Finding::warn(what, format!("{found}, in {left} days"), renew)
        } else {
            Finding::ok(what, found)
        }
    }
}

fn names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let one = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(one).collect()
}

/// Looks at a host's certificates.
pub fn examine(tls: &Tls, host: &str, listens: bool) -> Vec<Finding> {
    const WHAT: &str = "certificate";
    let renew = format!("make another one where the authority is: `cbus fleet cert {host} --force`, and bring it here");
    let files = "`tls` in the config names the files; paths begin where `cbus run` is started";
    let (authority, own) = match (Certificate::read(&tls.ca), Certificate::read(&tls.cert)) {
        (Ok(authority), Ok(own)) => (authority, own),
        (authority, own) => {
            let failed = [("authority", authority), (WHAT, own)].into_iter();
            return failed.filter_map(|(what, read)| Some(Finding::fail(what, read.err()?, files))).collect();
        }
    };
    let mut found = vec![
        authority
            .validity("authority", "begin the fleet anew in another folder: `cbus fleet init NAME --dir DIR`, and `cbus fleet cert` for each host"),
        own.validity(WHAT, &renew),
    ];
    if listens {
        found.push(Finding::ok("addresses", format!("others can connect to {}", own.names.join(", "))));
    }
    if !own.is_signed_by(&authority) {
        let what = format!("{} is not signed by the authority in {}", tls.cert.display(), tls.ca.display());
        found.push(Finding::fail(WHAT, what, "use the ca.pem of the folder in which the certificate was made"));
    }
    if own.name != host {
        let what = format!("it is that of `{}`, and this host is called `{host}`", own.name);
        found.push(Finding::fail(
            WHAT,
            what,
            format!("set `host: {}` in the config, or use the certificate of `{host}`", own.name),
        ));
    }
    found.push(key(tls, &own, files));
    found
}

fn key(tls: &Tls, own: &Certificate, files: &str) -> Finding {
    const WHAT: &str = "key";
    let at = tls.key.display();
    let text = match std::fs::read_to_string(&tls.key) {
        Ok(text) => text,
        Err(error) => return Finding::fail(WHAT, format!("{at} cannot be read: {error}"), files),
    };
    match KeyPair::from_pem(&text) {
        Err(error) => Finding::fail(WHAT, format!("{at} is no private key: {error}"), files),
        Ok(key) if !own.has_key(&key) => {
            Finding::fail(WHAT, format!("{at} is not the key of {}", tls.cert.display()), files)
        }
        Ok(_) if is_open(&tls.key) => {
            Finding::warn(WHAT, format!("others can read {at}, and be this host with it"), format!("chmod 600 {at}"))
        }
        Ok(_) => Finding::ok(WHAT, format!("{at} is that of the certificate")),
    }
}

#[cfg(unix)]
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> bool {
    false
}
