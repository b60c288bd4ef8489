//! What is logged says what it is of: the controller, the key of its config, the directive.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use controllerbus::bus::Source;
use controllerbus::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event as LogEvent, Metadata, Subscriber};

use crate::kit::{Words, factory, soon};

/// Notes each event with its fields and those of the spans that it is in.
#[derive(Clone, Default)]
struct Noted(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    spans: HashMap<u64, (String, Option<u64>)>,
    entered: Vec<u64>,
    events: Vec<String>,
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Noted {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(String::new());
        span.record(&mut fields);
        let mut inner = self.0.lock().unwrap();
        let parent = if span.is_contextual() { inner.entered.last().copied() } else { span.parent().map(Id::into_u64) };
        let id = inner.spans.len() as u64 + 1;
        inner.spans.insert(id, (fields.0, parent));
        Id::from_u64(id)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &LogEvent<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let mut inner = self.0.lock().unwrap();
        let mut at = inner.entered.last().copied();
        while let Some((own, parent)) = at.and_then(|id| inner.spans.get(&id)) {
            fields.0.push_str(own);
            at = *parent;
        }
        inner.events.push(fields.0);
    }
    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.into_u64());
    }
    fn exit(&self, span: &Id) {
        let mut inner = self.0.lock().unwrap();
        let at = inner.entered.iter().rposition(|id| *id == span.into_u64()).expect("it was entered");
        inner.entered.remove(at);
    }
}

impl Noted {
    /// The fields of the event with this message.
    fn of(&self, message: &str) -> String {
        let inner = self.0.lock().unwrap();
        let found = inner.events.iter().find(|event| event.contains(&format!("message={message} ")));
        found.unwrap_or_else(|| panic!("{message} is not among {:#?}", inner.events)).clone()
    }
}

struct Talks;

#[derive(Config, Serialize, Deserialize, PartialEq)]
#[config(id = "test/talks")]
struct TalksConfig {}

impl Controller for Talks {
    type Config = TalksConfig;
    async fn construct(_: TalksConfig, context: &Context) -> Result<Self> {
        assert_eq!(context.config_key(), "speaker");
        tracing::info!("constructing");
        Ok(Self)
    }
    async fn execute(&self, context: &Context) -> Result<()> {
        tracing::info!("executing");
        context.cancelled().await;
        Ok(())
    }
    async fn close(&self) {
        tracing::info!("closing");
    }
    fn routes(routes: &mut controllerbus::Routes<Self>) {
        routes.add::<Words>(|_, _, values| {
            Box::pin(async move {
                tracing::info!("resolving");
                tokio::task::yield_now().await;
                tracing::info!("later");
                values.add("a word".to_owned());
                Ok(())
            })
        });
    }
}

#[test]
fn what_runs_for_a_controller_is_logged_with_it_its_config_key_and_the_directive() {
    let noted = Noted::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(noted.clone(), || {
        runtime.block_on(async {
            let bus = Bus::new();
            bus.add_factories(Source::STATIC, vec![factory::<Talks>("talker", "1.0.0")]);
            soon(bus.apply(ConfigSet::from_yaml("speaker: { id: test/talks }").unwrap())).await.unwrap();
            soon(bus.resolve(Words { number: 5 })).await.unwrap();
            soon(bus.remove_config("speaker")).await;
        });
    });
    for message in ["constructing", "executing", "closing", "resolving", "later"] {
        let fields = noted.of(message);
        assert!(fields.contains("controller=\"talker\"") && fields.contains("config_key=\"speaker\""), "{fields}");
        let resolves = ["resolving", "later"].contains(&message);
        assert_eq!(fields.contains("directive=\"test/words\""), resolves, "{fields}");
    }
    for message in ["directive added", "directive removed"] {
        let fields = noted.of(message);
        assert!(fields.contains("directive=\"test/words\"") && fields.contains("number=5"), "{fields}");
    }
}
