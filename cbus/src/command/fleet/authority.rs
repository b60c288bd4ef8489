//! The authority of a fleet: a folder with a certificate and a key that sign the hosts' certificates.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use miette::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde::{Deserialize, Serialize};

use super::files::New;
use crate::report::{io, report};

/// For how long an authority's own certificate is valid.
const AUTHORITY_YEARS: i32 = 20;

const ABOUT: &str = "fleet.json";
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// What every host of a fleet has to know.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct About {
    /// The fleet's name.
    pub name: String,
    /// Where hosts connect.
    pub connect: Vec<String>,
}

/// An authority that can sign.
pub struct Authority {
    pub folder: PathBuf,
    pub about: About,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that was made, as PEM.
pub struct Made {
    pub certificate: String,
    pub key: String,
    /// The last day on which it is valid.
    pub until: Date,
}

impl Authority {
    /// Makes a new one, and its files, which are not written yet. It never takes the place of another one: all certificates would
    /// be void.
    pub fn new(folder: &Path, about: About) -> Result<(Self, Vec<New>)> {
        if let Some(there) = [KEY, CERTIFICATE].map(|name| folder.join(name)).iter().find(|path| is_there(path)) {
            return Err(report(
                format!("{} is there already, and nothing was written", there.display()),
                "`cbus fleet cert HOST` makes certificates of this fleet; begin another one in another folder, with --dir",
            ));
        }
        let mut asked = CertificateParams::default();
        asked.distinguished_name = rcgen::DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, format!("authority of the fleet {}", about.name));
        asked.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        asked.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut asked, today().saturating_add(AUTHORITY_YEARS.years()));
        let key = KeyPair::generate().map_err(failed)?;
        let secret = key.serialize_pem();
        let made = CertifiedIssuer::self_signed(asked.clone(), key).map_err(failed)?;
        let text = serde_json::to_string_pretty(&about).unwrap_or_default() + "\n";
        let file = |name: &str, text: String, is_secret| New { path: folder.join(name), text, is_secret };
        let files =
            vec![file(KEY, secret.clone(), true), file(CERTIFICATE, made.pem(), false), file(ABOUT, text, false)];
        let issuer = Issuer::new(asked, KeyPair::from_pem(&secret).map_err(failed)?);
        Ok((Self { folder: folder.to_owned(), about, issuer }, files))
    }

    /// The one in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(io("reading", &path))
        };
        let (about, certificate, key) = (about(folder)?, read(CERTIFICATE)?, read(KEY)?);
        let unfit = |name: &str, error: &dyn std::fmt::Display| {
            report(
                format!("{} cannot be used: {error}", folder.join(name).display()),
                "bring back the file that `cbus fleet init` has written; a new authority means new certificates for all hosts",
            )
        };
        let key = KeyPair::from_pem(&key).map_err(|error| unfit(KEY, &error))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(|error| unfit(CERTIFICATE, &error))?;
        Ok(Self { folder: folder.to_owned(), about, issuer })
    }

    /// The certificate that every host needs.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// Where a file of a host is.
    pub fn of(&self, host: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{host}.{ending}"))
    }

    /// Makes a certificate for a host, with which it both connects and listens.
    pub fn certify(&self, host: &str, addresses: &[String], days: u32) -> Result<Made> {
        let mut names = vec![host.to_owned()];
        // By which programs of its own machine reach it.
        let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        for name in addresses.iter().cloned().chain(local) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut asked = CertificateParams::new(names).map_err(failed)?;
        asked.distinguished_name = rcgen::DistinguishedName::new();
        asked.distinguished_name.push(DnType::CommonName, host);
        asked.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        asked.use_authority_key_identifier_extension = true;
        let until = today().saturating_add(i64::from(days).days());
        valid(&mut asked, until);
        let key = KeyPair::generate().map_err(failed)?;
        let made = asked.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Made { certificate: made.pem(), key: key.serialize_pem(), until })
    }
}

/// Whether there is anything with this path, also a link to nowhere.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// What is known of the fleet whose folder this is.
pub fn about(folder: &Path) -> Result<About> {
    let path = folder.join(ABOUT);
    let text = std::fs::read_to_string(&path).map_err(io("reading", &path))?;
    serde_json::from_str(&text).map_err(|error| report(format!("{} cannot be used: {error}", path.display()), ""))
}

/// The hosts that have a certificate in a folder.
pub fn hosts(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(io("looking for certificates in", folder))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let certificates = paths.filter(|path| path.extension().is_some_and(|ending| ending == "pem"));
    let read = certificates.filter_map(|path| super::certificates::Certificate::read(&path).ok());
    Ok(read.filter(|found| !found.is_authority).map(|found| found.name).collect())
}

/// Whether a folder has an authority in it.
pub fn is_in(folder: &Path) -> bool {
    [ABOUT, CERTIFICATE, KEY].iter().all(|name| folder.join(name).is_file())
}

/// The folder that was named, or the only one here that has an authority.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = named {
        return Ok(folder.to_owned());
    }
    let here = Path::new(".");
    if is_in(here) {
        return Ok(here.to_owned());
    }
    let entries = std::fs::read_dir(here).map_err(io("looking for the fleet's folder in", here))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| PathBuf::from(entry.file_name())).filter(|folder| is_in(folder)).collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(report(
            "there is no fleet's folder here",
            "name it with --dir, or begin a fleet: `cbus fleet init NAME`",
        )),
        [first, second, ..] => Err(report(
            format!("there are several fleets here, such as {} and {}", first.display(), second.display()),
            "name the folder with --dir",
        )),
    }
}

fn today() -> Date {
    Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).date()
}

/// From the day before, for clocks that go wrong by less than a day, to the end of a day.
fn valid(asked: &mut CertificateParams, until: Date) {
    let at = |day: Date| date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs());
    asked.not_before = at(today().saturating_sub(1.day()));
    asked.not_after = at(until.saturating_add(1.day()));
}

fn failed(error: rcgen::Error) -> miette::Report {
    report(format!("a certificate cannot be made: {error}"), "")
}
