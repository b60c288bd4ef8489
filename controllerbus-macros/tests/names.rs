//! The macros work whatever a crate's own types and ids are called, and whatever the crate calls `controllerbus`.

#![allow(dead_code, clippy::upper_case_acronyms)]

/// A crate of a company's that has it all.
mod sdk {
    pub use ::controllerbus;
}

/// Types with the names that the macros use themselves.
mod taken {
    use controllerbus::prelude::*;

    /// A place in the network.
    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    pub struct Node {
        /// Where it is.
        pub address: String,
    }

    pub use Node as Peer;

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    pub struct Field(pub u32);

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    pub enum Probe {
        Hot,
        Cold,
    }

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "names/taken")]
    pub struct Unknown {
        pub node: Node,
        pub peer: Peer,
        pub field: Field,
        pub probe: Probe,
    }

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "names/config", value = String)]
    pub struct Config;

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "names/entry", value = String)]
    pub struct ENTRY;

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "names/many", value = Vec<(String, [u8; 2])>)]
    pub struct Many;

    pub struct Routes;
    pub struct LENGTH;
    pub mod linkme {}
    pub mod cbus {}

    #[hot_plugin(id = "names/taken", version = "1.0.0")]
    #[allow(clippy::needless_pass_by_value)]
    #[deny(warnings)]
    impl Controller for Routes {
        type Config = Unknown;

        async fn construct(_: Unknown, _: &Context) -> Result<Self> {
            Ok(Self)
        }

        #[resolves]
        async fn config(&self, _: Config) -> Result<String> {
            Ok("config".to_owned())
        }

        #[resolves]
        async fn entry(&self, _: ENTRY) -> Result<String> {
            Ok("entry".to_owned())
        }
    }
}

/// Ids that differ in what is no letter only.
mod alike {
    use controllerbus::prelude::*;

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "names/none")]
    pub struct None {}

    macro_rules! plugin {
        ($name:ident, $id:literal) => {
            pub struct $name;

            #[hot_plugin(id = $id, version = "1.0.0")]
            impl Controller for $name {
                type Config = None;

                async fn construct(_: None, _: &Context) -> Result<Self> {
                    Ok(Self)
                }
            }
        };
    }

    plugin!(One, "a-b");
    plugin!(Two, "a_b");
    plugin!(Three, "a.b");
    plugin!(Four, "a/b");
    plugin!(Five, "a__b");
    plugin!(Six, "ab");
}

/// What is said by way of another crate.
mod by_another {
    use crate::sdk::controllerbus::prelude::*;

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "names/other", crate = crate::sdk::controllerbus)]
    pub struct Other {
        pub inner: Inner,
    }

    #[derive(Schema, Serialize, Deserialize, PartialEq)]
    #[config(crate = "crate::sdk::controllerbus")]
    pub struct Inner(pub u8);

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "names/by-another", value = u32, key = name, max_values = 1, crate = crate::sdk::controllerbus)]
    pub struct Ask {
        pub name: String,
    }

    pub struct Controls;

    #[hot_plugin(id = "names/other", version = "1.0.0", crate = crate::sdk::controllerbus)]
    impl Controller for Controls {
        type Config = Other;

        async fn construct(_: Other, _: &Context) -> Result<Self> {
            Ok(Self)
        }

        #[resolves]
        async fn ask(&self, _: &Ask) -> Result<u32> {
            Ok(1)
        }
    }
}

/// Resolvers, and a whole plugin, that are there on a condition.
mod sometimes {
    use controllerbus::prelude::*;

    #[derive(Config, Serialize, Deserialize, PartialEq)]
    #[config(id = "names/sometimes")]
    pub struct Never {}

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "names/always", value = u32)]
    pub struct Always;

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "names/test", value = u32)]
    pub struct InTests;

    pub struct Sometimes;

    #[hot_plugin(id = "names/sometimes", version = "1.0.0")]
    impl Controller for Sometimes {
        type Config = Never;

        async fn construct(_: Never, _: &Context) -> Result<Self> {
            Ok(Self)
        }

        #[cfg(windows)]
        #[cfg(unix)]
        #[resolves]
        async fn above(&self, _: NotEvenAType) -> Result<u32> {
            Ok(0)
        }

        #[resolves]
        #[cfg(any())]
        async fn below(&self, _: NotEvenAType) -> Result<u32> {
            Ok(0)
        }

        #[resolves]
        async fn always(&self, _: Always) -> Result<u32> {
            Ok(1)
        }

        #[cfg(test)]
        #[resolves]
        async fn in_tests(&self, _: InTests) -> Result<u32> {
            Ok(2)
        }

        #[cfg_attr(any(), resolves)]
        async fn no_resolver_here(&self, _: Always) -> Result<u32> {
            Ok(3)
        }
    }

    pub struct Nowhere;

    #[hot_plugin(id = "names/nowhere", version = "1.0.0")]
    #[cfg(any())]
    impl Controller for Nowhere {
        type Config = NotEvenAType;

        async fn construct(_: NotEvenAType, _: &Context) -> Result<Self> {
            Ok(Self)
        }

        #[resolves]
        async fn ask(&self, _: NotEvenAType) -> Result<u32> {
            Ok(0)
        }
    }
}

fn record(id: &str) -> serde_json::Value {
    let found = controllerbus::__private::FACTORIES.iter().find(|factory| factory.id == id);
    serde_json::from_slice(found.unwrap_or_else(|| panic!("no factory `{id}`")).record).expect("JSON")
}

#[test]
fn a_type_may_have_any_name_and_its_schema_is_in_the_record() {
    let schema = &record("names/taken")["schema"]["properties"];
    for key in ["node", "peer"] {
        assert_eq!(schema[key]["properties"]["address"]["description"], "Where it is.", "{key}: {schema}");
    }
    assert_eq!(schema["probe"]["enum"], serde_json::json!(["Hot", "Cold"]));
    assert_eq!(record("names/taken")["resolves"], serde_json::json!(["names/config", "names/entry"]));
}

#[test]
fn ids_that_are_nearly_alike_are_different_plugins() {
    for id in ["a-b", "a_b", "a.b", "a/b", "a__b", "ab"] {
        assert_eq!(record(id)["plugin"], id);
    }
}

#[test]
fn a_crate_that_has_controllerbus_from_another_says_so() {
    assert_eq!(record("names/other")["resolves"], serde_json::json!(["names/by-another"]));
    assert!(record("names/other")["schema"]["properties"]["inner"].is_object());
}

#[test]
fn a_resolver_that_is_not_there_is_neither_routed_nor_recorded() {
    assert_eq!(record("names/sometimes")["resolves"], serde_json::json!(["names/always", "names/test"]));
    assert!(controllerbus::__private::FACTORIES.iter().all(|factory| factory.id != "names/nowhere"));
}
