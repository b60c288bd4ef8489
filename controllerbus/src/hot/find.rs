//! Which plugins have functions: each says so as long as it serves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

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

/// How long those that are at work on something else are waited for, once one that fits has answered.
const OTHERS: Duration = Duration::from_secs(1);

/// The plugin that implements a trait: the only one, or the one with this id. Waits until there is one.
pub(super) async fn find(bus: &BusHandle, name: &str, plugin: Option<&str>) -> Result<String, BusError> {
    let mut request = bus.request(ListFunctions {})?;
    // Until when the others have time to answer.
    let mut until = None;
    loop {
        let event = match until {
            None => Ok(request.next().await),
            Some(until) => timeout_at(until, request.next()).await,
        };
        if matches!(event, Ok(None)) {
            return Err(superseded(ListFunctions::ID).into());
        }
        let is_late = event.is_err();
        let is_meant = |found: &&Arc<Functions>| plugin.is_none_or(|plugin| plugin == found.plugin);
        let (fits, others): (Vec<_>, Vec<_>) = request.standing().filter(is_meant).partition(|found| found.of == name);
        // In a swap, two generations of one plugin may say it.
        let ids: BTreeSet<&str> = fits.iter().map(|found| found.plugin.as_str()).collect();
        let is_there = !ids.is_empty() || (plugin.is_some() && !others.is_empty());
        if !is_there {
            until = None;
            continue;
        }
        // What others say makes no difference to the one that is named. Else those that serve have said so by the time that it is
        // idle, unless they are busy.
        let is_named = plugin.is_some() && !ids.is_empty();
        if !is_named && !is_late && !request.is_idle() {
            until = until.or_else(|| Some(Instant::now() + OTHERS));
            continue;
        }
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
