//! Which plugins have functions: each says so as long as it serves.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::directive::{AnyValue, superseded};
use crate::error::ErrorKind;
use crate::{BusError, BusHandle, Directive, Error, Result};

/// Lists the plugins that have functions: there is a value for each that serves.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFunctions {}

/// A plugin that has functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Functions {
    /// The plugin's id, as its `#[hot_plugin]` says it.
    pub plugin: String,
    /// The trait that it implements, with its crate.
    pub of: String,
    /// The trait's methods, such as `greet(&str) -> String`.
    pub methods: Vec<String>,
}

// By hand, because a derive puts it into a list of those that are decoded by their type, which nobody needs.
impl Directive for ListFunctions {
    type Value = Functions;
    const ID: &'static str = "controllerbus/functions";

    fn pack(value: Functions) -> AnyValue {
        AnyValue::native(value)
    }

    fn unpack(value: &AnyValue) -> Result<Arc<Functions>> {
        Ok(value.get()?)
    }

    fn duplicate(&self) -> Self {
        *self
    }
}

/// The plugin that implements a trait: the only one, or the one with this id. Waits until there is one.
pub(super) async fn find(bus: &BusHandle, name: &str, plugin: Option<&str>) -> Result<String, BusError> {
    let mut request = bus.request(ListFunctions {})?;
    loop {
        if request.next().await.is_none() {
            return Err(superseded(ListFunctions::ID).into());
        }
        // Those that serve have said so by then.
        if !request.is_idle() {
            continue;
        }
        let is_meant = |found: &&Arc<Functions>| plugin.is_none_or(|plugin| plugin == found.plugin);
        let (fits, others): (Vec<_>, Vec<_>) = request.standing().filter(is_meant).partition(|found| found.of == name);
        // In a swap, two generations of one plugin may say it.
        let ids: BTreeSet<&str> = fits.iter().map(|found| found.plugin.as_str()).collect();
        if ids.len() > 1 {
            let ids = ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" and ");
            let what = format!("{ids} implement `{name}`; say which one with `hot_of(id)`");
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
        if let Some(id) = ids.first() {
            return Ok((*id).to_owned());
        }
        if let (Some(plugin), Some(other)) = (plugin, others.first()) {
            let what = format!("`{plugin}` implements `{}`, not `{name}`", other.of);
            return Err(Error::new(ErrorKind::Invalid, what).into());
        }
    }
}
