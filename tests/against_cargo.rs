//! Random edits of random workspaces: what serves is what a plain `cargo build` and a dlopen give.
//!
//! `AGAINST_CARGO_SEED` and `AGAINST_CARGO_EDITS` choose others than those of CI.

#![cfg(unix)]

#[path = "against/mod.rs"]
mod against;

use std::time::{Duration, Instant};

use controllerbus::prelude::*;
use hot_runtime::{Error as RuntimeError, HotRuntime, PluginSpec, RuntimeEvent};
use tests::{Ask, nonce, target_dir, work_dir};
use tokio::sync::mpsc;

use against::Both;
use against::edits::{Save, edit, save};
use against::model::Model;
use against::random::Random;

/// A host that watches the plugin's workspace.
struct Host {
    bus: Bus,
    runtime: HotRuntime,
    told: mpsc::UnboundedReceiver<RuntimeEvent>,
    /// How the last build ended: what was wrong with it.
    failed: Option<String>,
}

impl Host {
    async fn start(both: &Both) -> Self {
        let bus = Bus::new();
        bus.apply(ConfigSet::from_yaml("against:\n  id: against\n").expect("a config set")).await.expect("applying");
        let (sender, told) = mpsc::unbounded_channel();
        let runtime = HotRuntime::builder(&bus)
            .plugin(PluginSpec::new("against").crate_path(both.controller()))
            .work_dir(work_dir().join("against"))
            .target_dir(target_dir())
            .on_event(move |event| drop(sender.send(event.clone())))
            .start()
            .await
            .expect("starting");
        let mut host = Self { bus, runtime, told, failed: None };
        host.hear();
        host
    }

    /// Takes in what was told since.
    fn hear(&mut self) {
        while let Ok(event) = self.told.try_recv() {
            match event {
                RuntimeEvent::BuildFailed { rendered, .. } => self.failed = Some(rendered),
                RuntimeEvent::RolledBack { reason, .. } => self.failed = Some(reason),
                RuntimeEvent::Swapped { .. } | RuntimeEvent::Unchanged { .. } => self.failed = None,
                _ => {}
            }
        }
    }

    async fn answer(&self) -> Option<String> {
        let answer = self.bus.resolve(Ask { what: String::new(), nonce: nonce() });
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.ok()?;
        Some(answer.ok()?.0.clone())
    }

    /// Whether it is as cargo has it: the same answer, or a build that failed.
    async fn is_as(&mut self, wanted: &Result<String, String>) -> bool {
        self.hear();
        match wanted {
            Ok(wanted) => self.failed.is_none() && self.answer().await.as_ref() == Some(wanted),
            Err(_) => self.failed.is_some(),
        }
    }

    /// Waits until it is, or says how it differs.
    async fn agrees(&mut self, wanted: &Result<String, String>) -> Result<(), String> {
        let limit = Instant::now() + Duration::from_secs(90);
        let seen = loop {
            if self.is_as(wanted).await {
                break true;
            }
            if Instant::now() > limit {
                break false;
            }
            // The next event, or another look.
            if let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(100), self.told.recv()).await {
                match event {
                    RuntimeEvent::BuildFailed { rendered, .. } => self.failed = Some(rendered),
                    RuntimeEvent::RolledBack { reason, .. } => self.failed = Some(reason),
                    RuntimeEvent::Swapped { .. } | RuntimeEvent::Unchanged { .. } => self.failed = None,
                    _ => {}
                }
            }
        };
        // It stays so when it is asked to build.
        let built = self.runtime.rebuild("against").await;
        self.hear();
        if let Err(error) = &built {
            self.failed = Some(error.to_string());
        }
        let right = match (wanted, &built) {
            (Ok(wanted), Ok(_)) => self.answer().await.as_ref() == Some(wanted),
            (Err(_), Err(RuntimeError::Build { .. } | RuntimeError::Metadata { .. })) => true,
            (Err(_), Err(other)) => !other.to_string().is_empty(),
            _ => false,
        };
        let serves = self.answer().await;
        match (seen, right) {
            (true, true) => Ok(()),
            (false, true) => Err("it was not seen, only a rebuild finds it".to_owned()),
            (_, false) => Err(format!("wanted {wanted:?}\n  serves {serves:?}\n  built {:?}", built.map(|_| ()))),
        }
    }
}

/// Makes edits and counts the differences.
async fn run(seed: u64, edits: usize) -> Vec<String> {
    let mut random = Random::new(seed);
    let mut differences = Vec::new();
    let mut done = 0;
    while done < edits {
        let mut model = Model::new(&mut random);
        let mut before = Vec::new();
        let mut both = Both::new(&model);
        let first = both.plain();
        assert!(first.is_ok(), "seed {seed}: what it begins with does not compile: {first:?}");
        let mut host = Host::start(&both).await;
        if let Err(difference) = host.agrees(&first).await {
            differences.push(format!("seed {seed}: at the start: {difference}"));
        }
        let here = edits.min(done + 50);
        while done < here {
            done += 1;
            before.push(model.clone());
            let mut what = edit(&mut random, &mut model, &before);
            let how = save(&mut random);
            both.write(&model, how);
            if random.chance(15) {
                // Another one before the first can be built.
                what = format!("{what}, and then {}", edit(&mut random, &mut model, &before));
                both.write(&model, Save::Over);
            }
            let begun = Instant::now();
            let wanted = both.plain();
            let took = begun.elapsed();
            let agrees = host.agrees(&wanted).await;
            println!("{done}: {what} ({how:?}): {} {:?} cargo {took:?}", wanted.is_ok(), agrees.is_ok());
            if let Err(difference) = agrees {
                println!("    {difference}");
                differences.push(format!("seed {seed}, edit {done}: {what} ({how:?}): {difference}"));
                if wanted.is_ok() {
                    // The next one begins with what is right.
                    host.runtime.shutdown().await;
                    host = Host::start(&both).await;
                }
            }
        }
        host.runtime.shutdown().await;
    }
    differences
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_random_edits_give_what_cargo_gives() {
    let differences = run(from_environment("AGAINST_CARGO_SEED", 1), 20).await;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour"]
async fn five_hundred_random_edits_give_what_cargo_gives() {
    let edits = from_environment("AGAINST_CARGO_EDITS", 500) as usize;
    let differences = run(from_environment("AGAINST_CARGO_SEED", 2), edits).await;
    println!("{} differences in {edits} edits", differences.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
