//! Who may ask and offer what, as the engine's access rules for a hub.
//!
//! ```yaml
//! hosts: [edge-1, edge-2, core-1]          # all that there are; patterns below stand for some of these
//! edge:  { hosts: [edge-*], ask: [example/greet], offer: ["inventory/**"] }
//! core:  { hosts: [core-1], ask: ["**"], offer: [payments/charge] }
//! hubs:  { hosts: [hub-2], hub: true }     # the other hubs, which speak for the hosts behind them
//! ```
//!
//! What is not allowed is denied. A host is who its certificate says (common name). A rule binds at the first hub only: behind it,
//! frames come with the hub's certificate.
//!
//! Frames of one id are one lane in both directions, and so **a host that may offer an id may ask it, too**: the engine cannot
//! tell an ask from an answer.

use std::collections::{BTreeMap, BTreeSet};

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::names::{chunk, of_id, root_of};

/// Who may do what in a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Policy {
    /// The hosts that there are, for which patterns in roles stand: names, without patterns. A hub knows of no others.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The roles, by name.
    #[serde(flatten)]
    pub roles: BTreeMap<String, Role>,
}

/// What some hosts may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Role {
    /// The hosts: names, or patterns with `*`.
    pub hosts: Vec<String>,
    /// The directives that they may ask of others: ids, `inventory/**` for all below, `**` for all.
    #[serde(default)]
    pub ask: Vec<String>,
    /// The directives that they may resolve for others, written in the same way.
    #[serde(default)]
    pub offer: Vec<String>,
    /// Whether they are hubs, which may do everything because they speak for the hosts behind them.
    #[serde(default)]
    pub hub: bool,
}

impl Policy {
    /// Reads a policy in YAML.
    ///
    /// # Errors
    /// Where it is wrong.
    pub fn from_yaml(text: &str) -> Result<Self> {
        serde_saphyr::from_str(text).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()).permanent())
    }

    /// The hosts among these that are named by a pattern only.
    fn unlisted(&self, known: &[String]) -> Vec<String> {
        let named: BTreeSet<_> = self.hosts.iter().chain(self.roles.values().flat_map(|role| &role.hosts)).collect();
        let by_pattern = |host: &String| {
            self.roles
                .values()
                .flat_map(|role| &role.hosts)
                .any(|pattern| pattern.contains('*') && is_match(pattern, host))
        };
        known.iter().filter(|host| !named.contains(host) && by_pattern(host)).cloned().collect()
    }

    /// The role's hosts, with patterns expanded.
    fn hosts_of(&self, name: &str, role: &Role, known: &[String]) -> Result<Vec<String>> {
        let wrong = |what: String| Err(invalid(format!("role `{name}`: {what}")));
        let mut hosts = BTreeSet::new();
        for pattern in &role.hosts {
            if pattern.is_empty() {
                return wrong("a host has no name".to_owned());
            }
            if !pattern.contains('*') {
                hosts.insert(pattern.clone());
                continue;
            }
            let all = self.hosts.iter().chain(known);
            let before = hosts.len();
            hosts.extend(all.filter(|host| is_match(pattern, host)).cloned());
            if hosts.len() == before {
                return wrong(format!(
                    "`{pattern}` stands for no host that is known; the engine knows certificates by their names only, so list the \
                     names under `hosts:` at the top of the policy"
                ));
            }
        }
        Ok(hosts.into_iter().collect())
    }
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what).permanent()
}

/// Whether a name is what a pattern stands for, in which `*` is any text.
fn is_match(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| is_match(rest, &name[at..]))
        }),
    }
}

/// A directive's id in a policy as chunks of a key: `inventory/**` is all below, `**` all.
fn ids(role: &str, pattern: &str) -> Result<String> {
    let (id, all_below) = match pattern.strip_suffix("**") {
        Some("") => return Ok("**".to_owned()),
        Some(before) => (before.strip_suffix('/').filter(|id| !id.is_empty()), true),
        None => (Some(pattern), false),
    };
    match id.filter(|id| !id.is_empty() && !id.contains('*')) {
        // At least one chunk below: `a/**` alone would be `a`, too.
        Some(id) if all_below => Ok(format!("{}/*/**", of_id(id))),
        Some(id) => Ok(of_id(id)),
        None => {
            let what = "is not an id, such as `example/greet`, nor all below one, such as `example/**`, nor `**`";
            Err(invalid(format!("role `{role}`: `{pattern}` {what}")))
        }
    }
}

/// The engine's section `access_control` for a hub of a fleet. `known` are the hosts that there are, beside those that the policy
/// names.
///
/// # Errors
/// A pattern that stands for nobody, or a text that is not an id.
pub fn rules(policy: &Policy, fleet: &str, known: &[String]) -> Result<Value> {
    if let Some(pattern) = policy.hosts.iter().find(|host| host.contains('*') || host.is_empty()) {
        let what = format!(
            "`hosts:` at the top of the policy has `{pattern}`, and takes names only, for which patterns stand"
        );
        return Err(invalid(what));
    }
    let root = root_of(fleet);
    let mut written = Written::new(&root);
    for (name, role) in &policy.roles {
        let hosts = policy.hosts_of(name, role, known)?;
        if role.hub {
            written.hub(&hosts);
            continue;
        }
        let read = |patterns: &[String]| patterns.iter().map(|pattern| ids(name, pattern)).collect::<Result<Vec<_>>>();
        let (ask, offer) = (read(&role.ask)?, read(&role.offer)?);
        for host in &hosts {
            written.host(name, host, &ask, &offer);
        }
    }
    Ok(written.finish())
}

/// The rules that a hub makes of a policy by itself, with `access: policy.yaml`: it reads the policy and knows no other hosts.
///
/// `known` are hosts that should be among them, such as those that have a certificate; a hub calls this without any.
///
/// # Errors
/// What of the policy a hub cannot use; and of `known`, whom its patterns stand for and a hub would not let in, with the line that
/// lists all of them.
pub fn check(policy: &Policy, fleet: &str, known: &[String]) -> Result<Value> {
    let unlisted = policy.unlisted(known);
    if unlisted.is_empty() {
        return rules(policy, fleet, &[]);
    }
    // What else is wrong with it is told first.
    rules(policy, fleet, known)?;
    let all: BTreeSet<_> = policy.hosts.iter().chain(&unlisted).map(String::as_str).collect();
    let all = serde_json::to_string(&all)?;
    Err(invalid(format!(
        "a hub would not let in {}: it knows the names in the policy only; let the policy begin with `hosts: {all}`",
        unlisted.join(", ")
    )))
}

/// The section as far as it is written.
struct Written<'a> {
    root: &'a str,
    rules: Vec<Value>,
    subjects: BTreeMap<String, Value>,
    policies: Vec<Value>,
}

/// What the engine calls the kinds of its messages.
const ALL_MESSAGES: [&str; 9] = [
    "put",
    "delete",
    "declare_subscriber",
    "query",
    "reply",
    "declare_queryable",
    "liveliness_token",
    "liveliness_query",
    "declare_liveliness_subscriber",
];

impl<'a> Written<'a> {
    fn new(root: &'a str) -> Self {
        let mut written = Self { root, rules: Vec::new(), subjects: BTreeMap::new(), policies: Vec::new() };
        // A host receives only what it has subscribed to, and that is checked where it comes in.
        written.rule("out", "egress", &ALL_MESSAGES, &[format!("{root}/**")]);
        written.rule("in-hub", "ingress", &ALL_MESSAGES, &[format!("{root}/**")]);
        let present = [format!("{root}/up/*/*"), format!("{root}/offer/**")];
        written.rule("look", "ingress", &["liveliness_query", "declare_liveliness_subscriber"], &present);
        written
    }

    fn rule(&mut self, id: &str, flow: &str, messages: &[&str], keys: &[String]) -> Option<String> {
        if keys.is_empty() {
            return None;
        }
        self.rules.push(json!({
            "id": id, "permission": "allow", "flows": [flow], "messages": messages, "key_exprs": keys,
        }));
        Some(id.to_owned())
    }

    fn policy(&mut self, id: String, rules: &[String], host: &str) {
        self.subjects.entry(host.to_owned()).or_insert_with(|| json!({ "id": host, "cert_common_names": [host] }));
        self.policies.push(json!({ "id": id, "rules": rules, "subjects": [host] }));
    }

    fn hub(&mut self, hosts: &[String]) {
        for host in hosts {
            self.policy(format!("hub {host}"), &["out".to_owned(), "in-hub".to_owned()], host);
        }
    }

    fn host(&mut self, role: &str, host: &str, ask: &[String], offer: &[String]) {
        let (root, own) = (self.root, chunk(host));
        let id = |what: &str| format!("{role} {host} {what}");
        let keys =
            |before: &str, ids: &[String]| ids.iter().map(|id| format!("{root}/{before}/{id}")).collect::<Vec<_>>();
        let mut lanes = keys(&format!("to/*/*/{own}/*/dir"), ask);
        lanes.extend(keys(&format!("to/*/*/{own}/*/dir"), offer));
        lanes.sort();
        lanes.dedup();
        lanes.insert(0, format!("{root}/to/*/*/{own}/*/link"));
        let mut tokens = keys(&format!("offer/{own}/*"), offer);
        tokens.insert(0, format!("{root}/up/{own}/*"));
        let given = [
            self.rule(&id("put"), "ingress", &["put"], &lanes),
            self.rule(&id("token"), "ingress", &["liveliness_token"], &tokens),
            self.rule(&id("inbox"), "ingress", &["declare_subscriber"], &[format!("{root}/to/{own}/*/**")]),
            self.rule(&id("query"), "ingress", &["query"], &keys("ask", ask)),
            self.rule(&id("answer"), "ingress", &["declare_queryable", "reply"], &keys("ask", offer)),
        ];
        let rules: Vec<_> = ["out", "look"].map(str::to_owned).into_iter().chain(given.into_iter().flatten()).collect();
        self.policy(format!("{role} {host}"), &rules, host);
    }

    fn finish(self) -> Value {
        json!({
            "enabled": true,
            "default_permission": "deny",
            "rules": self.rules,
            "subjects": self.subjects.into_values().collect::<Vec<_>>(),
            "policies": self.policies,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
hosts: [edge-1, edge-2, core-1]
edge: { hosts: [edge-*], ask: [example/greet], offer: ['inventory/**'] }
core: { hosts: [core-1], ask: ['**'], offer: [payments/charge] }
hubs: { hosts: [hub-2], hub: true }
";

    /// Whether a host may have the hub take this message for this key.
    fn may(section: &Value, host: &str, message: &str, key: &str) -> bool {
        let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
        let has = |value: &Value, field: &str, text: &str| list(value, field).iter().any(|found| found == text);
        let allowed: Vec<_> = list(section, "policies")
            .into_iter()
            .filter(|policy| has(policy, "subjects", host))
            .flat_map(|policy| list(&policy, "rules"))
            .collect();
        let rules = list(section, "rules");
        let key = zenoh::key_expr::KeyExpr::try_from(key.to_owned()).expect("a key");
        rules.iter().filter(|rule| allowed.contains(&rule["id"])).any(|rule| {
            let of_rule = list(rule, "key_exprs");
            let includes = |text: &Value| {
                let text = text.as_str().expect("a text").to_owned();
                zenoh::key_expr::KeyExpr::try_from(text).expect("a key").includes(&key)
            };
            has(rule, "flows", "ingress") && has(rule, "messages", message) && of_rule.iter().any(includes)
        })
    }

    #[test]
    fn a_host_may_do_what_its_role_says_and_nothing_else() {
        let policy = Policy::from_yaml(POLICY).expect("a policy");
        let section = rules(&policy, "shop", &[]).expect("rules");
        let f = "@cbus/1/shop";
        for (host, message, key, expected) in [
            ("edge-1", "put", "to/core-1/1/edge-1/2/link", true),
            ("edge-1", "put", "to/core-1/1/edge-1/2/dir/example/greet", true),
            ("edge-1", "put", "to/core-1/1/edge-1/2/dir/inventory/stock", true),
            ("edge-1", "put", "to/core-1/1/edge-1/2/dir/payments/charge", false),
            ("edge-1", "put", "to/core-1/1/edge-2/2/link", false),
            ("edge-1", "liveliness_token", "up/edge-1/1", true),
            ("edge-1", "liveliness_token", "up/edge-2/1", false),
            ("edge-1", "liveliness_token", "offer/edge-1/1/inventory/stock", true),
            ("edge-1", "liveliness_token", "offer/edge-1/1/inventory", false),
            ("edge-1", "liveliness_token", "offer/edge-1/1/example/greet", false),
            ("edge-1", "declare_subscriber", "to/edge-1/1/**", true),
            ("edge-1", "declare_subscriber", "to/edge-2/1/**", false),
            ("edge-1", "declare_subscriber", "to/**", false),
            ("edge-1", "declare_liveliness_subscriber", "up/*/*", true),
            ("edge-1", "declare_liveliness_subscriber", "offer/*/*/example/greet", true),
            ("edge-1", "query", "ask/example/greet", true),
            ("edge-1", "query", "ask/payments/charge", false),
            ("edge-1", "declare_queryable", "ask/inventory/stock", true),
            ("edge-1", "declare_queryable", "ask/example/greet", false),
            ("core-1", "put", "to/edge-1/1/core-1/2/dir/anything/at/all", true),
            ("core-1", "liveliness_token", "offer/core-1/1/payments/charge", true),
            ("core-1", "liveliness_token", "offer/core-1/1/payments/other", false),
            ("hub-2", "put", "to/edge-1/1/core-1/2/dir/anything/at/all", true),
            ("stranger", "put", "to/core-1/1/stranger/2/link", false),
            ("stranger", "liveliness_token", "up/stranger/1", false),
        ] {
            assert_eq!(may(&section, host, message, &format!("{f}/{key}")), expected, "{host} {message} {key}");
        }
        for other in ["@cbus/1/other/up/edge-1/1", "up/edge-1/1"] {
            assert!(!may(&section, "edge-1", "liveliness_token", other), "{other}");
        }
    }

    #[test]
    fn patterns_stand_for_the_hosts_of_the_policy_and_of_the_caller() {
        let policy = Policy::from_yaml("edge: { hosts: [edge-*-eu] }").expect("a policy");
        let known = ["edge-1-eu", "edge-2-us", "edge-3-eu"].map(str::to_owned);
        let section = rules(&policy, "shop", &known).expect("rules");
        let ids: Vec<_> =
            section["subjects"].as_array().expect("a list").iter().map(|subject| &subject["id"]).collect();
        assert_eq!(ids, ["edge-1-eu", "edge-3-eu"]);
        let error = rules(&policy, "shop", &[]).expect_err("it stands for nobody").to_string();
        assert!(error.contains("role `edge`: `edge-*-eu`") && error.contains("under `hosts:`"), "{error}");
    }

    #[test]
    fn a_hub_makes_its_rules_of_the_policy_alone_and_what_it_lacks_is_told_as_a_line() {
        let listed = Policy::from_yaml(POLICY).expect("a policy");
        assert_eq!(check(&listed, "shop", &[]).expect("rules"), rules(&listed, "shop", &[]).expect("rules"));
        let known = ["edge-2", "core-1", "stranger"].map(str::to_owned);
        assert_eq!(check(&listed, "shop", &known).expect("rules"), rules(&listed, "shop", &[]).expect("rules"));

        let error = check(&listed, "shop", &["edge-3".to_owned()]).expect_err("it is not listed").to_string();
        assert!(error.contains("not let in edge-3") && error.contains("`hosts:"), "{error}");

        let pattern = Policy::from_yaml("edge: { hosts: [edge-*], ask: [example/greet] }").expect("a policy");
        let error = check(&pattern, "shop", &[]).expect_err("it stands for nobody").to_string();
        assert!(error.contains("list the names under `hosts:`"), "{error}");
        let error =
            check(&pattern, "shop", &["edge-2", "edge-1"].map(str::to_owned)).expect_err("it has no list").to_string();
        let line = error.split('`').nth(1).expect("the line to add");
        let mended =
            Policy::from_yaml(&format!("{line}\nedge: {{ hosts: [edge-*], ask: [example/greet] }}")).expect("a policy");
        let section = check(&mended, "shop", &known).expect("a hub can use it");
        assert!(may(&section, "edge-1", "query", "@cbus/1/shop/ask/example/greet"), "{section}");

        let top = Policy::from_yaml("{ hosts: [edge-*], edge: { hosts: [edge-*] } }").expect("a policy");
        let error = check(&top, "shop", &[]).expect_err("a pattern is no host").to_string();
        assert!(error.contains("`edge-*`") && error.contains("names only"), "{error}");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for id in ["", "*", "a/*", "/**", "a**", "**/a"] {
            let policy = Policy::from_yaml(&format!("edge: {{ hosts: [a], ask: ['{id}'] }}")).expect("a policy");
            let error = rules(&policy, "shop", &[]).expect_err(id).to_string();
            assert!(error.contains(&format!("role `edge`: `{id}`")), "{error}");
        }
        let error = Policy::from_yaml("edge: { hosts: [a], asks: [b] }").expect_err("no such field").to_string();
        assert!(error.contains("asks"), "{error}");
    }
}
