//! `cbus fleet init` and `cbus fleet cert`: certificates and configs of hosts.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use miette::Result;

use super::authority::{self, About, Authority, is_there};
use super::certificates;
use super::entry::machine;
use super::files::{self, New};
use super::printed::Written;
use crate::cli::{FleetCert, FleetInit};
use crate::report::{io, report};
use crate::text::{print_json, print_line};

pub fn init(args: &FleetInit) -> Result<()> {
    let host = match &args.host {
        Some(host) => host.clone(),
        None => {
            machine().ok_or_else(|| report("this machine has no name that a host can have", "name it with --host"))?
        }
    };
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let reached =
        if args.certificate.address.is_empty() { vec![host.clone()] } else { args.certificate.address.clone() };
    let connect = reached.iter().map(|address| with_port(address, args.port)).collect();
    std::fs::create_dir_all(&folder).map_err(io("creating the fleet's folder", &folder))?;
    let (authority, mut new) = Authority::new(&folder, About { name: args.name.clone(), connect })?;
    let listen = format!("listen: [\"0.0.0.0:{}\"]", args.port);
    let asked = &args.certificate;
    let (mut written, files) = of_host(&authority, &host, &listen, &asked.address, asked.days)?;
    let keeps_config = asked.force && is_there(&written.config);
    new.extend(files.into_iter().filter(|file| !keeps_config || file.path != written.config));
    files::write(&new, asked.force)?;
    let dir = shown(&folder);
    written.next = vec![format!("cbus run {}", shown(&written.config)), format!("cbus fleet cert NAME --dir {dir}")];
    if args.json {
        print_json(&written, false);
        return Ok(());
    }
    print_line(&format!("The fleet `{}` begins with this host, `{host}`, to which the others connect.", args.name));
    print_line("");
    if keeps_config {
        print_line(&format!("{} was there already, and is as it was.", shown(&written.config)));
    }
    print_line("Start it:");
    print_line(&format!("  {}", written.next[0]));
    print_line("For each further host, here, with its name:");
    print_line(&format!("  {}", written.next[1]));
    print_line("");
    print_line(&format!("They connect to {}.", written.connect.join(" or ")));
    print_line(&format!(
        "Whoever has {} decides who is in the fleet: keep it where only you can read it.",
        shown(&folder.join("ca.key"))
    ));
    Ok(())
}

pub fn cert(args: &FleetCert) -> Result<()> {
    let folder = authority::find(args.dir.as_deref())?;
    let authority = Authority::open(&folder)?;
    let connect = serde_json::to_string(&authority.about.connect).unwrap_or_default();
    let (host, asked) = (&args.host, &args.certificate);
    let replaced = Some(authority.of(host, "pem")).filter(|path| asked.force && is_there(path));
    let addresses = match &replaced {
        Some(path) if asked.address.is_empty() => names_of(path, host)?,
        _ => asked.address.clone(),
    };
    let (mut written, mut new) = of_host(&authority, host, &format!("connect: {connect}"), &addresses, asked.days)?;
    // A host that had a certificate has a config, here or elsewhere, which is its owner's by now; a hub's says where it listens.
    if replaced.is_some() || asked.force && is_there(&written.config) {
        new.retain(|file| file.path != written.config);
    }
    files::write(&new, asked.force)?;
    let dir = shown(&folder);
    if replaced.is_some() {
        return renewed(args, written, &dir);
    }
    let brought = [&written.ca, &written.cert, &written.key, &written.config].map(|path| shown(path)).join(" ");
    written.next = vec![
        format!("ssh {host} mkdir -p {dir}"),
        format!("scp -p {brought} {host}:{dir}/"),
        format!("cbus run {}", shown(&written.config)),
    ];
    if args.json {
        print_json(&written, false);
        return Ok(());
    }
    print_line(&format!("A certificate for `{host}`, valid until {}.", written.valid_until));
    print_line("");
    print_line("Bring it there:");
    print_line(&format!("  {}", written.next[0]));
    print_line(&format!("  {}", written.next[1]));
    print_line("And start it there:");
    print_line(&format!("  {}", written.next[2]));
    Ok(())
}

/// Says what to do with a certificate that was made in place of another one.
fn renewed(args: &FleetCert, mut written: Written, dir: &str) -> Result<()> {
    let (host, cert, key) = (&args.host, shown(&written.cert), shown(&written.key));
    written.next = vec![format!("scp -p {cert} {key} {host}:{dir}/"), format!("cbus run {}", shown(&written.config))];
    if args.json {
        print_json(&written, false);
        return Ok(());
    }
    print_line(&format!(
        "A new certificate for `{host}`, valid until {}. Its config is as it was.",
        written.valid_until
    ));
    print_line("");
    print_line("Bring it there, if that is another machine:");
    print_line(&format!("  {}", written.next[0]));
    print_line("And start its daemon again, such as by:");
    print_line(&format!("  {}", written.next[1]));
    Ok(())
}

/// Under which names a host is reached, as its certificate has them.
fn names_of(path: &Path, host: &str) -> Result<Vec<String>> {
    let unknown = |why: String| {
        let remedy = "say with --address under which names or addresses others reach the host";
        report(format!("the names of the certificate that is replaced are not known: {why}"), remedy)
    };
    let found = certificates::Certificate::read(path).map_err(unknown)?;
    if found.name == host {
        Ok(found.names)
    } else {
        Err(unknown(format!("{} is the certificate of `{}`", path.display(), found.name)))
    }
}

/// What a host needs: a certificate, its key, and a config in which `role` says whom it connects to, or where it listens.
fn of_host(
    authority: &Authority,
    host: &str,
    role: &str,
    addresses: &[String],
    days: u32,
) -> Result<(Written, Vec<New>)> {
    let made = authority.certify(host, addresses, days)?;
    let [cert, key, config] = ["pem", "key", "yaml"].map(|ending| authority.of(host, ending));
    let ca = authority.certificate();
    let quoted = |path: &Path| serde_json::Value::from(shown(path)).to_string();
    let (run, name) = (shown(&config), serde_json::Value::from(authority.about.name.as_str()));
    let text = format!(
        "\
# The host `{host}` of the fleet {name}. `cbus run {run}` reads it; paths begin where that is run.
fleet:
  id: controllerbus/fleet
  config:
    name: {name}
    host: {own}
    {role}
    tls: {{ ca: {ca}, cert: {cert}, key: {key} }}
    offers: []      # what others may ask of this host, such as [example/greet, \"inventory/**\"]
    asks: []        # what this host asks of others too, such as [example/greet, {{ id: inventory/stock, of: one }}]
",
        own = serde_json::Value::from(host),
        ca = quoted(&ca),
        cert = quoted(&cert),
        key = quoted(&key),
    );
    let new = vec![
        New { path: key.clone(), text: made.key, is_secret: true },
        New { path: cert.clone(), text: made.certificate, is_secret: false },
        New { path: config.clone(), text, is_secret: false },
    ];
    let (fleet, connect) = (authority.about.name.clone(), authority.about.connect.clone());
    let valid_until = made.until.to_string();
    let written =
        Written { fleet, host: host.to_owned(), ca, cert, key, config, valid_until, connect, next: Vec::new() };
    Ok((written, new))
}

fn with_port(address: &str, port: u16) -> String {
    if address.parse::<Ipv6Addr>().is_ok() { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// A path as a shell and a config take it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
