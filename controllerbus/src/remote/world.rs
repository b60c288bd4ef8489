//! What the other end has told of one ask, so that it can be told again without being told twice.

use std::collections::HashSet;

use crate::Error;
use crate::few::Few;

/// How many errors are remembered.
const ERRORS: usize = 8;

/// What one ask's reader has been told.
#[derive(Default)]
pub(super) struct World {
    /// The values that stand, each with what it counts.
    values: Few<u64, u64>,
    idle: bool,
    /// What most have nothing of.
    rare: Option<Box<Rare>>,
    /// The ask was released: nothing stands any more.
    pub(super) released: bool,
}

#[derive(Default)]
struct Rare {
    /// Those since it was last busy.
    errors: Vec<Error>,
    /// While it is told again.
    again: Option<Again>,
}

struct Again {
    /// The values that have not been told again.
    missing: HashSet<u64>,
    /// What those count.
    bytes: u64,
    idle: bool,
}

impl Again {
    fn is_there(&mut self, value: u64, counted: u64) {
        if self.missing.remove(&value) {
            self.bytes -= counted;
        }
    }
}

/// What has changed since the world was last told.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) gone: Vec<u64>,
    /// What the gone ones counted.
    pub(super) counted: u64,
    pub(super) idle: Option<bool>,
}

impl World {
    fn again(&mut self) -> Option<&mut Again> {
        self.rare.as_mut()?.again.as_mut()
    }

    /// It is busy, and so an error is news again.
    fn forget_errors(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.errors = Vec::new();
        }
        self.rare.take_if(|rare| rare.again.is_none());
    }

    /// Whether this value is to be [added](World::added). One that stands already is not missing any more.
    pub(super) fn is_news(&mut self, value: u64) -> bool {
        let Some(counted) = self.values.get(value).copied() else { return !self.released };
        if let Some(again) = self.again() {
            again.is_there(value, counted);
        }
        false
    }

    /// A value is there that is news.
    pub(super) fn added(&mut self, value: u64, counted: u64) {
        self.values.insert(value, counted);
    }

    /// What the values count that were not told again so far: they are on their way out.
    pub(super) fn missing(&self) -> u64 {
        self.rare.as_ref().and_then(|rare| rare.again.as_ref()).map_or(0, |again| again.bytes)
    }

    /// What a value counted that has stood until now.
    pub(super) fn removed(&mut self, value: u64) -> Option<u64> {
        let counted = self.values.remove(value)?;
        if let Some(again) = self.again() {
            again.is_there(value, counted);
        }
        Some(counted)
    }

    /// Whether this is new.
    pub(super) fn idle(&mut self, idle: bool) -> bool {
        if let Some(again) = self.again() {
            again.idle = idle;
            return false;
        }
        if !idle {
            self.forget_errors();
        }
        std::mem::replace(&mut self.idle, idle) != idle
    }

    /// Whether this is new.
    pub(super) fn failed(&mut self, error: &Error) -> bool {
        let rare = self.rare.get_or_insert_default();
        if rare.again.is_some() && rare.errors.contains(error) {
            return false;
        }
        if rare.errors.len() == ERRORS {
            rare.errors.remove(0);
        }
        rare.errors.push(error.clone());
        true
    }

    /// From here on it is told again.
    pub(super) fn anew(&mut self) {
        let (missing, bytes) = (
            self.values.iter().map(|(value, _)| *value).collect(),
            self.values.iter().map(|(_, counted)| counted).sum(),
        );
        self.rare.get_or_insert_default().again = Some(Again { missing, bytes, idle: false });
    }

    /// All of it has been told.
    pub(super) fn told(&mut self) -> Changed {
        let Some(again) = self.rare.as_mut().and_then(|rare| rare.again.take()) else { return Changed::default() };
        let mut gone: Vec<u64> = again.missing.into_iter().collect();
        gone.sort_unstable();
        let counted = gone.iter().filter_map(|value| self.values.remove(*value)).sum();
        let idle = (again.idle != self.idle).then_some(again.idle);
        if idle == Some(false) {
            self.forget_errors();
        }
        self.rare.take_if(|rare| rare.errors.is_empty());
        self.idle = again.idle;
        Changed { gone, counted, idle }
    }

    /// The ask is released: returns what its values counted.
    pub(super) fn release(&mut self) -> u64 {
        self.released = true;
        self.rare = None;
        std::mem::take(&mut self.values).iter().map(|(_, counted)| counted).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(world: &mut World, value: u64, counted: u64) -> bool {
        let is_news = world.is_news(value);
        if is_news {
            world.added(value, counted);
        }
        is_news
    }

    #[test]
    fn what_is_told_again_is_not_news_and_what_is_not_told_again_is_gone() {
        let mut world = World::default();
        assert!(add(&mut world, 1, 10) && add(&mut world, 2, 20) && world.idle(true));
        world.anew();
        assert!(!add(&mut world, 2, 20) && add(&mut world, 3, 30));
        assert_eq!(world.missing(), 10);
        assert!(!world.idle(true));
        let changed = world.told();
        assert_eq!((changed.gone, changed.counted, changed.idle), (vec![1], 10, None));
        assert_eq!(world.release(), 50);
    }

    #[test]
    fn whether_it_is_idle_is_news_only_where_it_has_changed() {
        let mut world = World::default();
        assert!(!world.idle(false) && world.idle(true) && !world.idle(true));
        world.anew();
        assert_eq!(world.told().idle, Some(false));
        world.anew();
        world.idle(true);
        assert_eq!(world.told().idle, Some(true));
    }

    #[test]
    fn a_failure_is_news_again_only_after_it_was_busy() {
        let mut world = World::default();
        let error = Error::msg("no");
        assert!(world.failed(&error) && world.idle(true));
        world.anew();
        assert!(!world.failed(&error));
        world.idle(true);
        assert!(world.told().idle.is_none());
        assert!(world.idle(false) && world.failed(&error));
    }
}
