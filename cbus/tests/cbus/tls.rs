//! The bus API over TLS, with certificates made for the test.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::process::{Daemon, daemon_folder, write_secret};
use crate::{fails, fine};

/// An authority whose certificate is written to NAME.pem.
fn authority(folder: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut asked = CertificateParams::new(Vec::new()).expect("names");
    asked.distinguished_name.push(DnType::CommonName, name);
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = CertifiedIssuer::self_signed(asked, KeyPair::generate().expect("a key")).expect("a certificate");
    std::fs::write(folder.join(format!("{name}.pem")), made.pem()).expect("writing");
    made
}

/// A certificate and its key, signed by an authority and written to NAME.pem and NAME.key.
fn certificate(folder: &Path, name: &str, hosts: &[&str], by: &CertifiedIssuer<'_, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = CertificateParams::new(hosts).expect("names").signed_by(&key, by).expect("a certificate");
    std::fs::write(folder.join(format!("{name}.pem")), made.pem()).expect("writing");
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("writing");
}

#[test]
fn over_tls_clients_with_a_certificate_of_the_authority_are_served_and_no_others() {
    let folder = daemon_folder();
    let at = folder.path();
    let (ours, others) = (authority(at, "ours"), authority(at, "others"));
    certificate(at, "daemon", &["localhost", "127.0.0.1"], &ours);
    certificate(at, "client", &["client"], &ours);
    certificate(at, "stranger", &["client"], &others);

    let tls = ["--tls-cert", "daemon.pem", "--tls-key", "daemon.key", "--tls-client-ca", "ours.pem"];
    let arguments = [&["--plugins", "plugins", "--listen", "0.0.0.0:0"], &tls[..]].concat();
    let daemon = Daemon::start(at, &arguments);
    let address = daemon.address.trim_start_matches("https://").replace("0.0.0.0", "127.0.0.1");
    let with = |tls: &[&'static str]| [&["bus", "--connect", &address], tls].concat().join(" ");
    let served = |tls: &[&'static str]| fine(at, &with(tls).split(' ').collect::<Vec<_>>());
    let refused = |tls: &[&'static str], why: &str| drop(fails(at, &with(tls).split(' ').collect::<Vec<_>>(), 1, why));
    let client = ["--tls-cert", "client.pem", "--tls-key", "client.key"];
    let stranger = ["--tls-cert", "stranger.pem", "--tls-key", "stranger.key"];
    let of = |authority: &'static str, own: &[&'static str]| [&["--tls-ca", authority], own].concat();

    assert!(served(&of("ours.pem", &client)).contains("controllers"));
    refused(&of("ours.pem", &[]), "pass --tls-cert");
    refused(&of("ours.pem", &stranger), "certificate");
    refused(&of("others.pem", &client), "the certificate of the daemon at");
    refused(&client, "the certificate of the daemon at");
    refused(&[], "--tls-ca");
    refused(&of("ours.pem", &["--tls-cert", "client.pem", "--tls-key", "stranger.key"]), "cannot be used");
    refused(&of("none.pem", &client), "none.pem");
    daemon.end();

    // With both, a certificate alone does not do, nor does a token.
    write_secret(&at.join("token"), "a-long-enough-secret");
    let daemon = Daemon::start(at, &[&arguments[..], &["--token-file", "token"]].concat());
    let address = daemon.address.trim_start_matches("https://").replace("0.0.0.0", "127.0.0.1");
    let asked =
        |more: &[&str]| crate::run(at, &[&["bus", "--connect", &address, "--tls-ca", "ours.pem"], more].concat());
    assert!(asked(&client).err.contains("a token is required"));
    assert_eq!(asked(&["--token-file", "token"]).code, Some(1));
    let both = [&client[..], &["--token-file", "token"]].concat();
    assert_eq!(asked(&both).code, Some(0), "{}", asked(&both).err);
    daemon.end();

    // Neither side speaks TLS when it is not asked to.
    let listen = ["--plugins", "plugins", "--listen", "127.0.0.1:0", "--token-file", "token"];
    let daemon = Daemon::start(at, &listen);
    fails(at, &["bus", "--connect", &daemon.address, "--tls-ca", "ours.pem"], 1, "does not speak TLS");
    daemon.end();
    let bad = ["--plugins", "plugins", "--listen", "127.0.0.1:0", "--tls-cert", "daemon.pem", "--tls-key"];
    fails(at, &[&["run"], &bad[..], &["client.key"]].concat(), 1, "daemon.pem");
    fails(at, &[&["run"], &bad[..], &["none.key"]].concat(), 1, "none.key");
}
