//! A map of which there are many, and which mostly has one entry: that one is kept in place.

use std::collections::HashMap;
use std::hash::Hash;

/// Entries by their keys.
#[derive(Default)]
#[expect(clippy::box_collection, reason = "a map is 48 bytes, also where there is none")]
pub(crate) enum Few<K, V> {
    #[default]
    None,
    One(K, V),
    Many(Box<HashMap<K, V>>),
}

impl<K: Copy + Eq + Hash, V> Few<K, V> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, key: K) -> Option<&V> {
        match self {
            Self::One(own, value) if *own == key => Some(value),
            Self::None | Self::One(..) => None,
            Self::Many(many) => many.get(&key),
        }
    }

    /// Returns what the key had before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match std::mem::take(self) {
            Self::None => {
                *self = Self::One(key, value);
                None
            }
            Self::One(own, before) if own == key => {
                *self = Self::One(key, value);
                Some(before)
            }
            Self::One(own, other) => {
                *self = Self::Many(Box::new(HashMap::from([(own, other), (key, value)])));
                None
            }
            Self::Many(mut many) => {
                let before = many.insert(key, value);
                *self = Self::Many(many);
                before
            }
        }
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        if let Self::Many(many) = self {
            let removed = many.remove(&key);
            if many.is_empty() {
                *self = Self::None;
            }
            return removed;
        }
        match std::mem::take(self) {
            Self::One(own, value) if own == key => Some(value),
            other => {
                *self = other;
                None
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(key, value) => (Some((key, value)), None),
            Self::Many(many) => (None, Some(many.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_a_map_has_however_many_there_are() {
        let (mut few, mut map) = (Few::default(), HashMap::new());
        let mut dice = 1_u64;
        for _ in 0..10_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (key, value) = ((dice >> 40) % 3, dice);
            if dice >> 63 == 0 {
                assert_eq!(few.insert(key, value), map.insert(key, value));
            } else {
                assert_eq!(few.remove(key), map.remove(&key));
            }
            assert_eq!((few.len(), few.is_empty(), few.get(key)), (map.len(), map.is_empty(), map.get(&key)));
            let mut all: Vec<_> = few.iter().map(|(key, value)| (*key, *value)).collect();
            all.sort_unstable();
            let mut expected: Vec<_> = map.clone().into_iter().collect();
            expected.sort_unstable();
            assert_eq!(all, expected);
        }
    }
}
