//! The config of controllers that need none.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Config;
use super::schema::Node;
use crate::controller::PluginId;

/// The config of a controller that needs none: without fields, and with the controller's own id. It is what a
/// `#[hot_plugin]` block has that names no `Config`.
pub struct NoConfig<C>(PhantomData<fn() -> C>);

impl<C> Default for NoConfig<C> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<C> fmt::Debug for NoConfig<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoConfig")
    }
}

impl<C> PartialEq for NoConfig<C> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<C> Serialize for NoConfig<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_map(Some(0))?.end()
    }
}

impl<'de, C> Deserialize<'de> for NoConfig<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Nothing(PhantomData))
    }
}

struct Nothing<C>(PhantomData<fn() -> C>);

impl<'de, C> Visitor<'de> for Nothing<C> {
    type Value = NoConfig<C>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no fields")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(NoConfig::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // As everywhere, unknown keys are told, but no error.
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(NoConfig::default())
    }
}

impl<C: PluginId> Config for NoConfig<C> {
    const ID: &'static str = C::ID;
    const SCHEMA: &'static Node = &Node::Object { title: "NoConfig", description: "", fields: &[], closed: false };
}
