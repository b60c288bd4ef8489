//! Directives from end to end: equal ones share their values, values come and go while a directive is active, one
//! directive is answered with the values of another, and a failure is reported to the requester and retried.
#![forbid(unsafe_code)]

use std::time::Duration;

use controllerbus::prelude::*;
use tokio::sync::watch;

/// Asks for the temperature of a place, in degrees Celsius. It stays active for a moment after its last reference is
/// dropped.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "weather/temperature", value = f64, keep_for_ms = 1000, validate = Temperature::check)]
struct Temperature {
    place: String,
}

impl Temperature {
    fn check(&self) -> Result<()> {
        if self.place.is_empty() { Err(Error::msg("the place has no name")) } else { Ok(()) }
    }
}

/// Asks for the same as a sentence.
#[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
#[directive(id = "weather/report", value = String)]
struct Report {
    place: String,
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "weather/station")]
struct StationConfig {
    place: String,
}

/// A thermometer. Its readings arrive on a watch channel, as those of a device would.
struct Station {
    place: String,
    readings: watch::Sender<f64>,
}

/// Measures the temperature of one place.
#[hot_plugin(id = "weather/station", version = "1.0.0")]
impl Controller for Station {
    type Config = StationConfig;

    async fn construct(config: StationConfig, _: &Context) -> Result<Self> {
        Ok(Self { place: config.place, readings: watch::Sender::new(11.5) })
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        while !context.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(60)).await;
            self.readings.send_modify(|reading| *reading += 0.5);
        }
        Ok(())
    }

    #[resolves]
    async fn temperature(&self, request: Temperature, values: Values<f64>) -> Result<()> {
        if request.place == "the sun" {
            return Err(Error::msg("the thermometer melted"));
        }
        if request.place != self.place {
            return Ok(()); // no value from this controller; another one may have it
        }
        values.follow(self.readings.subscribe()).await
    }
}

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "weather/reporter")]
struct ReporterConfig {}

struct Reporter {
    bus: BusHandle,
}

/// Describes temperatures in words.
#[hot_plugin(id = "weather/reporter", version = "1.0.0")]
impl Controller for Reporter {
    type Config = ReporterConfig;

    async fn construct(_: ReporterConfig, context: &Context) -> Result<Self> {
        Ok(Self { bus: context.bus().clone() })
    }

    #[resolves]
    async fn report(&self, request: Report, values: Values<String>) -> Result<()> {
        let place = request.place;
        let temperature = self.bus.request(Temperature { place: place.clone() })?;
        values.map(temperature, |degrees| Some(format!("{degrees:.1} degrees in {place}"))).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let bus = Bus::new();

    // A request made before any controller can answer it stays active and waits.
    let mut report = bus.request(Report { place: "the harbour".into() })?;
    println!("requested; {} controllers on the bus", bus.controllers().len());

    let stations = "
harbour: { id: weather/station, config: { place: the harbour } }
reporter: { id: weather/reporter }
";
    bus.apply(ConfigSet::from_yaml(stations)?).await?;
    for _ in 0..3 {
        println!("report: {}", report.value().await?);
    }

    // An equal request shares the active directive; a weak reference does not keep it active.
    let mut same = bus.request(Report { place: "the harbour".into() })?;
    println!("an equal request gets the same value: {}", same.value().await?);
    let mut weak = same.weak()?;
    for directive in bus.directives() {
        let values: Vec<_> = directive.values.iter().map(|value| value.value.to_string()).collect();
        println!(
            "active: {} {:?}, {} references and {} weak ones, values {}",
            directive.id,
            directive.debug,
            directive.references,
            directive.weak_references,
            values.join(", ")
        );
    }

    // The values of a controller that is removed are withdrawn, and the requester sees that.
    bus.remove_config("harbour").await;
    while report.standing().next().is_some() {
        report.next().await;
    }
    println!("the station was removed, and with it the report");
    println!(
        "`try_resolve` does not wait for a controller: {:?}",
        bus.try_resolve(Temperature { place: "the moon".into() }).await?
    );

    // Errors are reported to the requester.
    bus.apply(ConfigSet::from_yaml(stations)?).await?;
    println!("refused: {}", bus.request(Temperature { place: String::new() }).expect_err("an empty name is refused"));
    println!("failed: {}", bus.resolve(Temperature { place: "the sun".into() }).await.expect_err("too hot"));

    drop((report, same));
    while weak.next().await.is_some() {}
    println!("nothing refers to the report any more, so it has ended");
    bus.close().await;
    Ok(())
}
