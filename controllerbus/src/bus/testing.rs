//! What the testing kit needs of a bus: linked factories that can be replaced one by one, as if each came from a plugin of its own.

use super::engine::Engine;
use super::factories::KnownFactory;
use super::{Bus, Limits, Source};
use crate::controller::Info;
use crate::linked::{FACTORIES, FactoryEntry};

impl Bus {
    /// A bus that knows the factories linked into this binary, each as a source of its own.
    pub(crate) fn with_sources() -> (Self, Vec<(Source, Info)>) {
        let engine = Engine::new(Limits::default());
        let mut sources = Vec::new();
        for factory in FACTORIES.iter().map(FactoryEntry::factory) {
            let source = Source::by_hand(engine.next_id());
            sources.push((source, factory.info()));
            let known = KnownFactory::of(source, vec![factory]);
            engine.life().factories.add(known);
        }
        engine.start_linked();
        (Self(engine), sources)
    }

    /// A source that has nothing yet.
    pub(crate) fn new_source(&self) -> Source {
        Source::by_hand(self.0.next_id())
    }

    /// Whose controllers run configs of an ID, of these sources.
    pub(crate) fn source_that_runs(&self, config_id: &str, sources: &[Source]) -> Option<Source> {
        let life = self.0.life();
        let mut running = life.controllers.values().filter(|entry| entry.configured.is_some());
        let found = running.find(|entry| entry.info.config_id == config_id && sources.contains(&entry.source));
        found.map(|entry| entry.source)
    }
}
