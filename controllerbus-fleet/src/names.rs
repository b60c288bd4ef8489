//! Which directive ids are offered: literal names, and `inventory/**` for all below.

use controllerbus::error::ErrorKind;
use controllerbus::{Error, Result};

/// What is the framework's own never crosses.
const OWN: &str = "controllerbus/";

/// The ids that a host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(Vec<String>);

impl Names {
    pub(crate) fn add(&mut self, name: impl Into<String>) {
        self.0.push(name.into());
    }

    /// Whether an id is among them.
    pub(crate) fn contain(&self, id: &str) -> bool {
        !id.starts_with(OWN) && self.0.iter().any(|name| matches(name, id))
    }

    /// Those that are ids themselves.
    pub(crate) fn literal(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|name| !name.contains('*'))
    }

    /// # Errors
    /// Which name cannot be one.
    pub(crate) fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(|name| {
            let rest = name.strip_suffix("**").map_or(name.as_str(), |rest| rest.strip_suffix('/').unwrap_or(rest));
            if rest.contains('*') || (name.ends_with("**") && !(name == "**" || name.ends_with("/**"))) {
                let what = format!("`{name}` in offers: `*` can only be used as `/**` at the end, for all ids below");
                return Err(Error::new(ErrorKind::Invalid, what).permanent());
            }
            if name == "**" { Ok(()) } else { check_id(rest) }
        })
    }
}

fn matches(name: &str, id: &str) -> bool {
    match name.strip_suffix("**") {
        Some(before) => id.len() > before.len() && id.starts_with(before),
        None => name == id,
    }
}

/// # Errors
/// Why directives of an id cannot cross.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Invalid, what).permanent());
    if id.is_empty() || id.contains('*') || id.split('/').any(str::is_empty) {
        return refuse(format!("`{id}` is not a directive's id"));
    }
    if id.starts_with(OWN) || id == "controllerbus" {
        return refuse(format!("`{id}` is the framework's own, and never crosses to another host"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Names {
        Names(all.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_glob_is_for_all_ids_below_and_never_for_those_of_the_framework() {
        let offered = names(&["example/greet", "inventory/**"]);
        assert!(
            offered.contain("example/greet") && offered.contain("inventory/stock") && offered.contain("inventory/a/b")
        );
        assert!(!offered.contain("inventory") && !offered.contain("inventory/") && !offered.contain("example/greeter"));
        assert!(names(&["**"]).contain("any/thing") && !names(&["**"]).contain("controllerbus/fleet/hosts"));
    }

    #[test]
    fn what_cannot_be_a_name_is_refused_by_its_name() {
        for wrong in ["a/*", "a**", "", "a//b", "controllerbus/fleet/hosts", "controllerbus/**"] {
            let error = names(&[wrong]).check().expect_err(wrong).to_string();
            assert!(error.contains(wrong.trim_end_matches("/**")), "{error}");
        }
        names(&["**", "a", "a/b/**"]).check().expect("they can be");
    }
}
