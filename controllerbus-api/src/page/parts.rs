//! The state that the page shows, as parts made of items, and what has changed of it since a page was told last.
//!
//! All pages share one copy, in which each item has the version at which it changed last. So a page costs the daemon one number,
//! however long it does not read: what it is told next is the difference to what there is then.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

/// How many removed items each part remembers. A page that has missed more is told the whole part.
const GONE: usize = 4096;

/// The parts that are lists, in the order in which they are sent.
pub const LISTS: [&str; 7] = ["plugins", "controllers", "directives", "configs", "hosts", "offers", "rollouts"];

/// The items of a part, each with what tells it apart, as JSON.
pub type Items = Vec<(String, String)>;

/// A new look at the state; a part that is `None` is as it was.
#[derive(Default)]
pub struct Look {
    /// The overview, as JSON.
    pub info: String,
    pub lists: [Option<Items>; LISTS.len()],
}

struct Item {
    /// When it changed last.
    version: u64,
    json: Arc<str>,
}

#[derive(Default)]
struct Part {
    items: BTreeMap<String, Item>,
    /// What was removed, and when; the oldest first.
    gone: VecDeque<(u64, String)>,
    /// The version of the latest removal that is not remembered any more.
    forgotten: u64,
}

impl Part {
    /// Takes in all of its items. Whether anything has changed, which then has this version.
    fn update(&mut self, items: Items, version: u64) -> bool {
        let mut before = std::mem::take(&mut self.items);
        let mut changed = false;
        for (key, json) in items {
            let item = match before.remove(&key) {
                Some(same) if *same.json == *json => same,
                _ => {
                    changed = true;
                    Item { version, json: json.into() }
                }
            };
            self.items.insert(key, item);
        }
        for key in before.into_keys() {
            changed = true;
            self.gone.push_back((version, key));
        }
        while self.gone.len() > GONE {
            self.forgotten = self.gone.pop_front().map_or(self.forgotten, |(version, _)| version);
        }
        changed
    }

    /// What has changed since a version: an array, if that is all of it.
    fn since(&self, seen: u64) -> Option<String> {
        if seen == 0 || seen < self.forgotten {
            return Some(array(self.items.values()));
        }
        let changed = array(self.items.values().filter(|item| item.version > seen));
        let gone: Vec<&str> =
            self.gone.iter().rev().take_while(|(version, _)| *version > seen).map(|(_, key)| &**key).collect();
        if changed == "[]" && gone.is_empty() {
            return None;
        }
        let gone = serde_json::to_string(&gone).unwrap_or_else(|_| "[]".to_owned());
        Some(format!("{{\"gone\":{gone},\"changed\":{changed}}}"))
    }
}

fn array<'a>(items: impl Iterator<Item = &'a Item>) -> String {
    let mut out = "[".to_owned();
    for item in items {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&item.json);
    }
    out + "]"
}

/// The whole state.
#[derive(Default)]
pub struct State {
    /// Incremented with each change.
    version: u64,
    info: (u64, String),
    parts: [Part; LISTS.len()],
}

impl State {
    /// Takes in what there is now. Whether anything has changed.
    pub fn update(&mut self, look: Look) -> bool {
        let version = self.version + 1;
        let mut changed = false;
        if self.info.1 != look.info {
            self.info = (version, look.info);
            changed = true;
        }
        for (part, items) in self.parts.iter_mut().zip(look.lists) {
            changed |= items.is_some_and(|items| part.update(items, version));
        }
        if changed {
            self.version = version;
        }
        changed
    }

    /// What is newer than what a page has seen, which is 0 for a new one, as a JSON object; none if nothing is. An array is a
    /// whole part; an object has what has `changed` of one, after what is `gone` was removed.
    pub fn since(&self, seen: &mut u64) -> Option<String> {
        let before = std::mem::replace(seen, self.version);
        let mut object = String::new();
        let mut add = |name: &str, json: &str| {
            let start = if object.is_empty() { '{' } else { ',' };
            let _ = write!(object, "{start}\"{name}\":{json}");
        };
        if self.info.0 > before {
            add("info", &self.info.1);
        }
        for (part, name) in self.parts.iter().zip(LISTS) {
            if let Some(news) = part.since(before) {
                add(name, &news);
            }
        }
        (!object.is_empty()).then(|| object + "}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// Numbers that look random and are the same in each run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// A page: it knows what it was told, and nothing else.
    #[derive(Default)]
    struct Page {
        seen: u64,
        info: Value,
        lists: [BTreeMap<String, Value>; LISTS.len()],
    }

    impl Page {
        /// Reads what is new; how long that was.
        fn read(&mut self, state: &State) -> usize {
            let Some(text) = state.since(&mut self.seen) else { return 0 };
            let mut news: Value = serde_json::from_str(&text).expect("JSON");
            if let Some(info) = news.get_mut("info") {
                self.info = info.take();
            }
            let key = |item: &Value| item["key"].as_str().expect("a key").to_owned();
            for (list, name) in self.lists.iter_mut().zip(LISTS) {
                match &news[name] {
                    Value::Null => {}
                    Value::Array(whole) => {
                        *list = whole.iter().map(|item| (key(item), item.clone())).collect();
                    }
                    changes => {
                        for gone in changes["gone"].as_array().expect("keys") {
                            list.remove(gone.as_str().expect("a key"));
                        }
                        for item in changes["changed"].as_array().expect("items") {
                            list.insert(key(item), item.clone());
                        }
                    }
                }
            }
            text.len()
        }
    }

    /// A look at nothing else.
    fn only_directives(items: Items) -> [Option<Items>; LISTS.len()] {
        let mut lists = <[Option<Items>; LISTS.len()]>::default();
        lists[2] = Some(items);
        lists
    }

    fn item(key: u64, value: u64) -> (String, String) {
        (key.to_string(), format!("{{\"key\":\"{key}\",\"value\":{value}}}"))
    }

    #[test]
    fn pages_that_read_at_any_time_and_apply_what_has_changed_see_what_a_new_page_sees() {
        for seed in 1..=200 {
            let mut dice = Dice(seed);
            let mut state = State::default();
            let mut model: [BTreeMap<u64, u64>; LISTS.len()] = Default::default();
            let mut pages: Vec<Page> = (0..4).map(|_| Page::default()).collect();
            for step in 0..60 {
                let mut look = Look { info: dice.roll(3).to_string(), ..Look::default() };
                for (part, list) in model.iter_mut().zip(&mut look.lists) {
                    // A part that was not looked at stays as it was.
                    if dice.roll(3) == 0 {
                        continue;
                    }
                    for _ in 0..dice.roll(6) {
                        let key = dice.roll(12);
                        match dice.roll(3) {
                            0 => drop(part.remove(&key)),
                            _ => drop(part.insert(key, dice.roll(3))),
                        }
                    }
                    *list = Some(part.iter().map(|(key, value)| item(*key, *value)).collect());
                }
                state.update(look);
                // Each page reads in its own rhythm.
                for (every, page) in (1..).zip(&mut pages) {
                    if step % (every * every) == 0 {
                        page.read(&state);
                    }
                }
            }
            let mut fresh = Page::default();
            fresh.read(&state);
            let expected: [BTreeMap<String, u64>; LISTS.len()] =
                model.map(|part| part.into_iter().map(|(key, value)| (key.to_string(), value)).collect());
            for (part, expected) in fresh.lists.iter().zip(&expected) {
                let seen: BTreeMap<String, u64> =
                    part.iter().map(|(key, item)| (key.clone(), item["value"].as_u64().expect("a value"))).collect();
                assert_eq!(&seen, expected, "seed {seed}");
            }
            for page in &mut pages {
                page.read(&state);
                assert_eq!((&page.info, &page.lists), (&fresh.info, &fresh.lists), "seed {seed}");
                assert_eq!(page.read(&state), 0, "it is told what it knows");
            }
        }
    }

    #[test]
    fn a_page_is_told_of_one_item_among_thousands_in_a_few_bytes() {
        let mut state = State::default();
        let directives = |changed: u64| (0..5000).map(|key| item(key, u64::from(key == changed))).collect::<Items>();
        let look = |changed| Look { lists: only_directives(directives(changed)), ..Look::default() };
        state.update(look(5001));
        let mut page = Page::default();
        assert!(page.read(&state) > 100_000);
        state.update(look(17));
        let told = page.read(&state);
        assert!((1..100).contains(&told), "{told} bytes");
        assert!(!state.update(look(17)), "nothing has changed");
    }

    #[test]
    fn a_page_that_sleeps_while_items_come_and_go_costs_the_daemon_nothing_and_is_told_what_there_is() {
        let mut state = State::default();
        let mut page = Page::default();
        page.read(&state);
        for round in 0..100_000 {
            let look = Look { lists: only_directives(vec![item(round, 1)]), ..Look::default() };
            state.update(look);
            if round == 0 {
                page.read(&state);
            }
        }
        assert!(state.parts[2].gone.len() <= GONE);
        let told = page.read(&state);
        assert!(told < 100, "{told} bytes");
        assert_eq!(page.lists[2].keys().collect::<Vec<_>>(), ["99999"]);
    }
}
