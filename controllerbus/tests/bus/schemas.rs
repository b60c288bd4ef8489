//! JSON schemas of configs.

use std::collections::BTreeMap;

use controllerbus::bus::Source;
use controllerbus::prelude::*;
use serde_json::{Value, json};

use crate::kit::factory;

/// A type of somebody else's, without a schema.
#[derive(Serialize, Deserialize, PartialEq)]
struct Foreign(u8);

/// A shop.
///
/// More about it, which is not shown.
#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/shop")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Shop {
    /// Says "hello" to
    /// customers.
    opening_words: String,
    #[serde(default)]
    staff_count: u8,
    note: Option<String>,
    #[serde(rename = "prices-by-name")]
    prices: BTreeMap<String, f64>,
    door: Door,
    #[serde(skip)]
    cache: u64,
    foreign: Foreign,
    #[serde(default, with = "as_text")]
    odd: u64,
    payment: Vec<Payment>,
    inner: Option<Box<Shop>>,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};
    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from).map(|text| text.len() as u64)
    }
}

#[derive(Schema, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Door {
    WideOpen,
    Shut,
}

/// How to pay.
#[derive(Schema, Serialize, Deserialize, PartialEq)]
enum Payment {
    /// Notes and coins.
    Cash,
    Card(u64),
    Bill {
        address: String,
    },
}

#[derive(Schema, Serialize, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Tagged {
    Plain,
    Wide { width: u8 },
}

fn schema() -> Value {
    serde_json::from_str(&Shop::SCHEMA.to_json()).expect("JSON")
}

#[test]
fn a_schema_follows_the_fields_their_docs_and_serdes_attributes() {
    let schema = schema();
    assert_eq!((&schema["title"], &schema["description"]), (&json!("Shop"), &json!("A shop.")));
    assert_eq!(schema["additionalProperties"], false);
    let fields = &schema["properties"];
    assert_eq!(fields["openingWords"], json!({"type": "string", "description": "Says \"hello\" to customers."}));
    assert_eq!(fields["staffCount"], json!({"type": "integer", "minimum": 0, "maximum": 255}));
    assert_eq!(fields["note"]["anyOf"][1], json!({"type": "null"}));
    assert_eq!(fields["prices-by-name"], json!({"type": "object", "additionalProperties": {"type": "number"}}));
    assert!(fields.get("cache").is_none());
    let required = json!(["openingWords", "prices-by-name", "door", "foreign", "payment"]);
    assert_eq!(schema["required"], required);
}

#[test]
fn a_field_whose_type_has_no_schema_fits_anything() {
    let schema = schema();
    assert_eq!(schema["properties"]["foreign"], json!({}));
    assert_eq!(schema["properties"]["odd"], json!({}));
    assert_eq!(schema["properties"]["inner"], json!({}));
}

#[test]
fn enums_are_described_as_serde_writes_them() {
    let schema = schema();
    assert_eq!(schema["properties"]["door"]["enum"], json!(["wide-open", "shut"]));
    let payment = &schema["properties"]["payment"]["items"]["anyOf"];
    assert_eq!(payment[0], json!({"const": "Cash", "description": "Notes and coins."}));
    assert_eq!(payment[1]["properties"]["Card"]["type"], "integer");
    assert_eq!(payment[2]["properties"]["Bill"]["properties"]["address"]["type"], "string");
    let tagged: Value = serde_json::from_str(&<Tagged as Schema>::NODE.to_json()).expect("JSON");
    assert_eq!(tagged["anyOf"][1]["properties"]["kind"], json!({"const": "wide"}));
    assert_eq!(tagged["anyOf"][1]["required"], json!(["kind", "width"]));
}

struct ShopController;

/// Sells.
#[hot_plugin(id = "test/shop", version = "1.0.0")]
impl Controller for ShopController {
    type Config = Shop;
    async fn construct(_: Shop, _: &Context) -> Result<Self> {
        Ok(Self)
    }
}

#[test]
fn the_manifest_record_of_a_plugin_carries_the_schema() {
    let entry = controllerbus::__private::FACTORIES.iter().find(|entry| entry.config_id == "test/shop").expect("it");
    let record: Value = serde_json::from_slice(entry.record).expect("a line of JSON");
    assert_eq!(record["config"], "test/shop");
    assert_eq!(record["schema"], schema());
}

#[test]
fn the_bus_knows_the_schema_of_every_known_config() {
    let bus = Bus::new();
    bus.add_factories(Source(1), vec![factory::<ShopController>("shop", "2.0.0")]);
    let shops = bus.factories().into_iter().filter(|factory| factory.info.config_id == "test/shop");
    let schemas: Vec<_> = shops.map(|factory| factory.schema).collect();
    assert_eq!(schemas, [schema(), schema()]);
}
