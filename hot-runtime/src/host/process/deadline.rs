//! When the processes of a plugin end themselves, unless they are told otherwise: for what must not run longer than this process is
//! able to end it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::host::moment::Moment;

/// The deadlines of all plugins.
#[derive(Default)]
pub(crate) struct Deadlines(Mutex<HashMap<String, Arc<Deadline>>>);

impl Deadlines {
    /// That of a plugin.
    pub(crate) fn of(&self, plugin: &str) -> Arc<Deadline> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(plugin.to_owned()).or_default())
    }
}

/// A generation's process that has to know its deadline.
pub(crate) trait Limited: Send + Sync {
    /// Sends it to the process, if one runs, without waiting.
    fn limit(&self, at: Option<Moment>);
}

/// The deadline of a plugin: the first of those that were set for it.
#[derive(Default)]
pub(crate) struct Deadline(Mutex<Set>);

#[derive(Default)]
struct Set {
    /// By who has set it.
    by: HashMap<String, Moment>,
    processes: Vec<Weak<dyn Limited>>,
}

impl Set {
    fn first(&self) -> Option<Moment> {
        self.by.values().min().copied()
    }
}

impl Deadline {
    fn lock(&self) -> MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets one, or takes it back.
    pub(crate) fn set(&self, by: &str, at: Option<Moment>) {
        let mut set = self.lock();
        let before = set.first();
        match at {
            Some(at) => drop(set.by.insert(by.to_owned(), at)),
            None => drop(set.by.remove(by)),
        }
        let first = set.first();
        if first != before {
            set.processes.retain(|process| process.strong_count() > 0);
            set.processes.iter().filter_map(Weak::upgrade).for_each(|process| process.limit(first));
        }
    }

    pub(crate) fn first(&self) -> Option<Moment> {
        self.lock().first()
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.first().is_some_and(|at| at.left().is_zero())
    }

    /// Tells a generation's processes from now on.
    pub(crate) fn tell(&self, process: Weak<dyn Limited>) {
        self.lock().processes.push(process);
    }

    /// Does something with it while nobody changes it. `then` must not wait.
    pub(crate) fn while_it_is<T>(&self, then: impl FnOnce(Option<Moment>) -> T) -> T {
        let set = self.lock();
        then(set.first())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<Option<Moment>>>);

    impl Limited for Told {
        fn limit(&self, at: Option<Moment>) {
            self.0.lock().expect("what it was told").push(at);
        }
    }

    #[test]
    fn the_first_of_all_counts_and_processes_are_told_when_it_changes() {
        let (deadlines, told) = (Deadlines::default(), Arc::new(Told::default()));
        let deadline = deadlines.of("a");
        deadline.tell(Arc::downgrade(&told) as Weak<dyn Limited>);
        let now = Moment::now();
        let [soon, later, last] = [1, 2, 3].map(|seconds| now + Duration::from_secs(seconds));
        deadlines.of("b").set("x", Some(now));
        deadline.set("x", Some(soon));
        deadline.set("y", Some(later));
        deadline.set("x", Some(last));
        deadline.set("y", None);
        deadline.set("x", None);
        assert_eq!(*told.0.lock().expect("told"), [Some(soon), Some(later), Some(last), None]);
        assert_eq!((deadline.first(), deadlines.of("b").first()), (None, Some(now)));
    }
}
