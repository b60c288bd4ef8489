//! What a plugin sees of a directive that it may answer and not ask: that it stands and who answers it, but no values.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use controllerbus::bus::ResolverSnapshot;
use controllerbus::controller::{AnyController, BoxFuture, Context, OnStarted, State};
use controllerbus::directive::{AnyDirective, AnyValue, Callback, RawEvent, RawRequest, ValueId, ValueSink};
use controllerbus::{Result, Retry};

use super::capability::May;

/// A controller whose resolvers read the values of their directives only where it may ask these.
pub(super) struct AnswersOnly {
    controller: Arc<dyn AnyController>,
    may: Arc<May>,
}

impl AnswersOnly {
    pub(super) fn new(controller: Arc<dyn AnyController>, may: &Arc<May>) -> Self {
        Self { controller, may: Arc::clone(may) }
    }
}

impl AnyController for AnswersOnly {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        Arc::clone(&self.controller).execute(context, on_started)
    }
    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Arc::clone(&self.controller).close()
    }
    fn part(self: Arc<Self>, within: Duration) -> BoxFuture<'static, Result<()>> {
        Arc::clone(&self.controller).part(within)
    }
    fn health(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Arc::clone(&self.controller).health()
    }
    fn save(self: Arc<Self>) -> BoxFuture<'static, Result<Option<State>>> {
        Arc::clone(&self.controller).save()
    }
    fn restore(self: Arc<Self>, state: State) -> BoxFuture<'static, Result<()>> {
        Arc::clone(&self.controller).restore(state)
    }
    fn retry(&self, directive: &str) -> Option<Retry> {
        self.controller.retry(directive)
    }
    fn clone_for_lane(&self) -> Option<Arc<dyn AnyController>> {
        Some(Arc::new(Self { controller: self.controller.clone_for_lane()?, may: Arc::clone(&self.may) }))
    }
    fn resolves(&self) -> Vec<String> {
        self.controller.resolves()
    }
    fn resolve(
        self: Arc<Self>,
        directive: Arc<dyn AnyDirective>,
        sink: Arc<dyn ValueSink>,
    ) -> Option<BoxFuture<'static, Result<()>>> {
        let sink = if self.may.reads(&*directive) { sink } else { Arc::new(Unread(sink)) };
        Arc::clone(&self.controller).resolve(directive, sink)
    }
}

/// A sink, or a reference to its directive, that shows no values.
struct Unread<T>(T);

impl ValueSink for Unread<Arc<dyn ValueSink>> {
    fn add(&self, value: AnyValue) -> Option<ValueId> {
        self.0.add(value)
    }
    fn add_watched(&self, value: AnyValue, removed: Callback) -> Option<ValueId> {
        self.0.add_watched(value, removed)
    }
    fn replace(&self, old: ValueId, value: AnyValue) -> Option<ValueId> {
        self.0.replace(old, value)
    }
    fn on_gone(&self, callback: Callback) {
        self.0.on_gone(callback);
    }
    fn remove(&self, id: ValueId) -> bool {
        self.0.remove(id)
    }
    fn set_idle(&self, idle: bool) {
        self.0.set_idle(idle);
    }
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
    fn reference(&self) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(Unread(self.0.reference()?)))
    }
    fn close(&self, even_if_referred: bool) -> Result<bool> {
        self.0.close(even_if_referred)
    }
}

impl RawRequest for Unread<Box<dyn RawRequest>> {
    fn poll_event(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<RawEvent>> {
        loop {
            match ready!(self.0.poll_event(cx)) {
                Some(RawEvent::Added(..) | RawEvent::Removed(_)) => {}
                event => return Poll::Ready(event),
            }
        }
    }
    fn reference(&self, strong: bool) -> Result<Box<dyn RawRequest>> {
        Ok(Box::new(Unread(self.0.reference(strong)?)))
    }
    fn resolvers(&self) -> Result<Vec<ResolverSnapshot>> {
        self.0.resolvers()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use controllerbus::bus::Bus;
    use controllerbus::controller::{Closures, Info};
    use controllerbus::prelude::*;

    use super::*;
    use crate::host::capability::Capabilities;

    #[derive(Directive, Serialize, Deserialize, Hash, PartialEq, Eq)]
    #[directive(id = "test/secret", value = String)]
    struct Secret {}

    fn info(id: &str) -> Info {
        Info::new(id, semver::Version::new(1, 0, 0), id)
    }

    /// What a plugin's resolver sees of a directive to which another controller has added a value.
    async fn seen(capabilities: Capabilities) -> Vec<String> {
        let bus = Bus::new();
        let answers = Closures::new().resolves(|_: Secret, values| {
            values.add("of another".to_owned());
            std::future::ready(Ok(()))
        });
        bus.add_controller(Arc::new(answers), info("other"));
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&seen);
        let reads = Closures::new().resolves(move |_: Secret, values: Values<String>| {
            let told = Arc::clone(&told);
            async move {
                let see = |what: String| told.lock().unwrap().push(what);
                values.add("its own".to_owned());
                values.idle();
                let mut weak = values.directive::<Secret>()?;
                let mut strong = weak.strong()?;
                for request in [&mut weak, &mut strong] {
                    while !request.is_idle() {
                        match request.next().await {
                            Some(Event::Added(_, value)) => see(format!("added {value}")),
                            Some(Event::Idle) => see("idle".to_owned()),
                            _ => {}
                        }
                    }
                    see(format!("standing {}", request.standing().count()));
                }
                see(format!("count {}, resolvers {}", values.count()?, weak.resolvers()?.len()));
                Ok(())
            }
        });
        let may = Arc::new(May::with(capabilities));
        bus.add_controller(may.within(Arc::new(reads)), info("plugin"));
        let values = bus.resolve_all(Secret {}).await.expect("both answer");
        assert_eq!(values.len(), 2, "what it may answer counts");
        for _ in 0..1000 {
            if seen.lock().unwrap().iter().any(|what| what.starts_with("count")) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seen = seen.lock().unwrap();
        seen.clone()
    }

    #[test]
    fn a_plugin_that_may_answer_a_directive_and_not_ask_it_reads_no_values_through_its_resolver() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answers = || Capabilities::default().answer("test/secret");
            let blind = ["idle", "standing 0", "idle", "standing 0", "count 2, resolvers 2"];
            assert_eq!(seen(answers()).await, blind);
            let all = seen(answers().ask("test/*")).await;
            assert!(all.contains(&"added of another".to_owned()), "{all:?}");
            assert_eq!(all.iter().filter(|what| *what == "standing 2").count(), 2, "{all:?}");
        });
    }
}
