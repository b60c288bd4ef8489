//! An authority and certificates of hosts, as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use serde_json::{Value, json};

/// An authority in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    pub fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.join("ca.pem"), ca.pem()).expect("a file");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// Makes a certificate for a host, which is reached as `reached`, and gives the config's `tls`.
    pub fn host(&self, host: &str, reached: &str) -> Value {
        self.host_with(host, &[reached], |_| {})
    }

    /// The same for a host that is reached in several ways.
    pub fn host_at(&self, host: &str, reached: &[&str]) -> Value {
        self.host_with(host, reached, |_| {})
    }

    /// The same for one that has ended.
    pub fn ended(&self, host: &str, reached: &str) -> Value {
        self.host_with(host, &[reached], |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn host_with(&self, host: &str, reached: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, host);
        params.subject_alt_names.extend(reached.iter().map(|reached| match reached.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*reached).try_into().expect("a name")),
        }));
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |end: &str, text: String| {
            let path = self.folder.join(format!("{host}{end}"));
            std::fs::write(&path, text).expect("a file");
            path
        };
        let (cert, key) = (file(".pem", certificate.pem()), file(".key", key.serialize_pem()));
        json!({ "ca": self.folder.join("ca.pem"), "cert": cert, "key": key })
    }
}
