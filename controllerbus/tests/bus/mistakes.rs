//! What is said where two sides mean different things by one id.

use std::sync::Arc;
use std::time::Duration;

use controllerbus::bus::Source;
use controllerbus::controller::factory::{Factory, FactoryOf};
use controllerbus::controller::{Closures, Info};
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/misread", value = String)]
struct Told {}

#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/misread", value = Number)]
struct Asked {}

#[derive(Serialize, Deserialize, Debug)]
struct Number {
    #[allow(dead_code)]
    number: u32,
}

fn info(id: &str, config: &str) -> Info {
    Info::new(id, semver::Version::new(1, 0, 0), config)
}

#[tokio::test]
async fn a_value_of_another_shape_is_told_with_both_types_and_what_to_do() {
    let bus = Bus::new();
    let teller = Closures::new().resolves(|_: Told, values| async move {
        values.add("one".to_owned());
        Ok(())
    });
    let types = vec![("test/misread".to_owned(), "String".to_owned())];
    bus.add_controller(Arc::new(teller), info("test/teller", "test/teller").with_value_types(types));
    let error = bus.resolve(Asked {}).await.unwrap_err().to_string();
    assert!(error.contains("directive test/misread: cannot decode `bus::mistakes::Number`"), "{error}");
    let both = "; `test/teller` answers with its `String`, in another shape: give both types the same fields, or declare the type once";
    assert!(error.contains(both), "{error}");
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/shared")]
struct Shared {
    number: u32,
}

struct Sharing;

impl Controller for Sharing {
    type Config = Shared;

    async fn construct(_: Shared, _: &Context) -> Result<Self> {
        Ok(Self)
    }
}

#[tokio::test]
async fn of_two_plugins_with_one_config_id_and_version_the_first_makes_the_controllers_and_so_do_its_later_generations()
{
    let bus = Bus::new();
    let factory =
        |id: &str| -> Vec<Arc<dyn Factory>> { vec![FactoryOf::<Sharing>::with_info(info(id, "test/shared"))] };
    bus.add_factories(Source(1), factory("first"));
    bus.add_factories(Source(2), factory("second"));
    let makes = async |number: u32| {
        let set = format!("key{number}: {{ id: test/shared, config: {{ number: {number} }} }}");
        bus.apply(ConfigSet::from_yaml(&set).unwrap()).await.unwrap().all_running().unwrap();
        bus.controllers().into_iter().max_by_key(|found| found.id).unwrap().info.id
    };
    assert_eq!(makes(1).await, "first");
    let staged = bus.stage(Source(1), Source(3), factory("first again"), Duration::from_secs(10)).await.unwrap();
    staged.commit(Duration::from_secs(1)).await.unwrap();
    assert_eq!(makes(2).await, "first again");
    bus.remove_source(Source(3)).await;
    assert_eq!(makes(3).await, "second");
}

/// As the requester has it.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "test/asked-as", value = u32)]
struct AskedAs {
    zone: String,
}

#[test]
fn an_error_of_decoding_a_directive_names_the_type_that_was_asked_and_others_stay_as_they_are() {
    let asked = AskedAs { zone: "a".to_owned() };
    let unread = Error::new(ErrorKind::Encoding, "cannot decode `there::Asked`: missing field `place`");
    let told = controllerbus::directive::asked_as(unread, &asked).to_string();
    let expected = "cannot decode `there::Asked`: missing field `place`; it was asked as `bus::mistakes::AskedAs`, which has another \
                    shape: give both types the same fields, or declare the type once";
    assert!(told.contains(expected), "{told}");
    let other = Error::new(ErrorKind::Encoding, "the value is too large");
    assert_eq!(controllerbus::directive::asked_as(other.clone(), &asked).to_string(), other.to_string());
}
