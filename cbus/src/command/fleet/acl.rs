//! `cbus fleet acl`: a policy as the rules of a hub.

use miette::Result;

use crate::cli::FleetAcl;

#[cfg(not(feature = "fleet"))]
pub fn run(_: &FleetAcl) -> Result<()> {
    Err(super::missing("this command"))
}

#[cfg(feature = "fleet")]
pub fn run(args: &FleetAcl) -> Result<()> {
    use controllerbus_zenoh::acl::{Policy, check, rules};

    use super::authority;
    use crate::report::{io, report};
    use crate::text::{print_json, tell};

    let text = std::fs::read_to_string(&args.policy).map_err(io("reading the policy", &args.policy))?;
    let at = args.policy.display();
    let policy = Policy::from_yaml(&text).map_err(|error| {
        report(format!("{at}: {error}"), "`cbus fleet acl --help` shows one; docs/fleet.md says what each word means")
    })?;
    let folder = authority::find(args.dir.as_deref())?;
    let about = authority::about(&folder)?;
    let mut hosts = authority::hosts(&folder)?;
    hosts.extend(args.host.iter().cloned());
    hosts.sort();
    hosts.dedup();
    let made = rules(&policy, &about.name, &hosts)
        .map_err(|error| report(format!("{at}: {error}"), "--host names a host that has no certificate here"))?;
    print_json(&serde_json::json!({ "access_control": made }), false);
    // A hub reads the policy alone, and knows nobody's certificate.
    match check(&policy, &about.name, &hosts) {
        Err(error) => tell(&format!("These are not the rules that a hub would make of {at}: {error}.")),
        Ok(_) if args.json => {}
        Ok(_) => {
            let known = hosts.join(", ");
            tell(&format!(
                "These are the rules for the hosts {known}. A hub follows them with `access: {at}` in its fleet's entry."
            ));
        }
    }
    Ok(())
}
