//! Confines the plugin host before any of the plugin's code runs: limits, privileges, files, networks.
//!
//! The plugin host confines itself, first thing, on its only thread, so that no code runs between `fork` and `exec`.

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::host::options::{Limits, Sandbox};
use crate::host::process::protocol::Hello;

/// Applies the limits and the sandbox of a plugin; returns what is in effect.
pub(super) fn apply(hello: &Hello) -> Result<Vec<String>, String> {
    let mut layers = limit(&hello.limits)?;
    #[cfg(target_os = "linux")]
    {
        rustix::thread::set_no_new_privs(true).map_err(|error| format!("cannot set `no_new_privs`: {error}"))?;
        layers.push("no new privileges".to_owned());
    }
    if let Some(sandbox) = &hello.sandbox {
        layers.extend(restrict(sandbox, hello)?);
    }
    Ok(layers)
}

fn limit(limits: &Limits) -> Result<Vec<String>, String> {
    let mut layers = Vec::new();
    let Limits { memory, open_files, cpu_seconds, .. } = *limits;
    let mut set = |resource: Resource, what: &str, most: Option<u64>| {
        let Some(most) = most else { return Ok(()) };
        // The soft limit of processor time ends it with a signal that says why, the hard limit with SIGKILL.
        let maximum = if resource == Resource::Cpu { most.saturating_add(1) } else { most };
        if resource != Resource::Core {
            layers.push(format!("{what} {most}"));
        }
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(maximum) })
            .map_err(|error| format!("cannot limit {what} to {most}: {error}"))
    };
    set(Resource::As, "memory", memory)?;
    set(Resource::Nofile, "open files", open_files)?;
    set(Resource::Cpu, "processor seconds", cpu_seconds)?;
    // A crash is reported, and should not leave a core file somewhere.
    set(Resource::Core, "core files", Some(0))?;
    Ok(layers)
}

/// What every program reads: the system's libraries, time zones, certificates, name resolution files. Not all of
/// `/etc`, which has private files, nor all of `/usr`, which has the programs.
#[cfg(target_os = "linux")]
const SYSTEM: [&str; 39] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/locale",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/etc/os-release",
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/sys/vm/overcommit_memory",
    "/dev/null",
    "/dev/urandom",
    "/dev/zero",
    "/sys/devices/system/cpu",
];

#[cfg(target_os = "linux")]
fn restrict(sandbox: &Sandbox, hello: &Hello) -> Result<Vec<String>, String> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus, Scope, path_beneath_rules,
    };
    let failed = |error: landlock::RulesetError| format!("cannot set up the sandbox: {error}");
    let missing = sandbox.read.iter().chain(&sandbox.write).find(|path| !path.exists());
    if let Some(missing) = missing {
        return Err(format!("the sandbox names {}, which does not exist", missing.display()));
    }
    let files = AccessFs::from_all(ABI::V5);
    let mut rules = Ruleset::default().handle_access(files).map_err(failed)?;
    // From Linux 6.12: no signals to processes that it has not started, and no access to their abstract sockets.
    rules = rules.scope(Scope::from_all(ABI::V6)).map_err(failed)?;
    if !sandbox.network {
        rules = rules
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessNet::from_all(ABI::V4))
            .map_err(|error| format!("this kernel cannot restrict network access (Linux 6.7 or later can): {error}"))?
            .set_compatibility(CompatLevel::BestEffort);
    }
    let read = SYSTEM.iter().map(std::path::Path::new).chain(sandbox.read.iter().map(std::path::PathBuf::as_path));
    let read = read.chain([hello.library.path()]).filter(|path| path.exists());
    let write = sandbox.write.iter().map(std::path::PathBuf::as_path).chain([std::path::Path::new("/dev/null")]);
    let status = rules
        .create()
        .and_then(|rules| rules.add_rules(path_beneath_rules(read, AccessFs::from_read(ABI::V5))))
        .and_then(|rules| rules.add_rules(path_beneath_rules(write, files)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("this kernel has no Landlock, so the plugin was not started; remove `sandbox`, or use Linux 5.13 \
                    or later with Landlock enabled"
            .to_owned());
    }
    let landlock = match status.landlock {
        landlock::LandlockStatus::Available { effective_abi, .. } => format!("Landlock {}", effective_abi as i32),
        _ => "Landlock".to_owned(),
    };
    let mut layers = vec![landlock];
    // After Landlock, whose set-up needs system calls itself.
    if super::filter::apply(sandbox)? {
        layers.push("seccomp".to_owned());
    }
    Ok(layers)
}

#[cfg(not(target_os = "linux"))]
fn restrict(_: &Sandbox, _: &Hello) -> Result<Vec<String>, String> {
    Err("sandboxes are available on Linux only; remove `sandbox` from the plugin's options".to_owned())
}
