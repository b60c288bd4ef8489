//! The policy that the config of a hub names, for `cbus fleet doctor`.

use std::path::Path;

use controllerbus_fleet::config::FleetConfig;
use controllerbus_zenoh::acl::{Policy, check};
use hot_runtime::doctor::Finding;

use super::authority;

/// Looks at the policy that a host's config names, as its hub reads it, and at whom it would not let in of the hosts whose
/// certificates are beside the authority's.
pub fn examine(config: &FleetConfig) -> Option<Finding> {
    const WHAT: &str = "access";
    let path = config.access.as_ref()?;
    let at = path.display();
    let wrong = |found: String, remedy: &str| Some(Finding::fail(WHAT, format!("{at}: {found}"), remedy));
    let Some(tls) = config.tls.as_ref().filter(|_| !config.listen.is_empty()) else {
        let remedy = "name it in the config of the hubs, with `listen` and `tls`";
        return wrong("only a hub enforces rules, and knows hosts by their certificates".to_owned(), remedy);
    };
    let policy = match std::fs::read_to_string(path) {
        Ok(text) => Policy::from_yaml(&text).map_err(|error| error.to_string()),
        Err(error) => Err(format!("it cannot be read: {error}")),
    };
    let policy = match policy {
        Ok(policy) => policy,
        Err(error) => return wrong(error, "docs/fleet.md says what each word of a policy means"),
    };
    if let Err(error) = check(&policy, &config.name, &[]) {
        return wrong(error.to_string(), "correct the policy: this host does not join with it");
    }
    let folder = tls.ca.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut known = authority::hosts(folder).unwrap_or_default();
    known.sort();
    let remedy = "add the line, and start the hubs again";
    Some(match check(&policy, &config.name, &known) {
        Err(error) => Finding::warn(WHAT, format!("{at}: {error}"), remedy),
        Ok(_) => Finding::ok(WHAT, format!("{at}: a hub follows it")),
    })
}
