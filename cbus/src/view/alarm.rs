//! What is worth a bell: a long build that has ended, and whatever failed.

use std::collections::HashMap;

use controllerbus_api::proto::Event;

use crate::text::duration;

/// How long a build takes that nobody watches, in milliseconds.
const LONG: u64 = 5000;

/// Listens to what happens.
#[derive(Default)]
pub struct Alarm {
    /// When each running build began.
    begun: HashMap<String, u64>,
    /// What happened before this is past.
    since_ms: u64,
}

impl Alarm {
    /// From a time on.
    pub fn since(since_ms: u64) -> Self {
        Self { since_ms, ..Self::default() }
    }

    /// What to tell somebody who looks elsewhere.
    pub fn hear(&mut self, event: &Event) -> Option<String> {
        let plugin = &event.plugin;
        let text = match event.kind.as_str() {
            "build_started" => {
                // One that an edit restarts has lasted since the first.
                self.begun.entry(plugin.clone()).or_insert(event.at_ms);
                return None;
            }
            "built" => {
                let took = event.at_ms.saturating_sub(self.begun.remove(plugin)?);
                (took >= LONG).then(|| format!("{plugin} was built in {}", duration(took as f64)))?
            }
            "build_failed" => {
                self.begun.remove(plugin);
                format!("{plugin} does not build")
            }
            "rolled_back" => format!("{plugin}: the new code was not swapped in"),
            "taken_back" => format!("{plugin} was rolled back"),
            "crashed" => format!("{plugin} crashed"),
            _ => return None,
        };
        (event.at_ms >= self.since_ms).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_rings_for_what_failed_and_for_the_end_of_a_long_build() {
        let mut alarm = Alarm::since(1000);
        let mut hear = |kind: &str, at_ms| {
            let event = Event { kind: kind.to_owned(), at_ms, plugin: "one".to_owned(), ..Event::default() };
            alarm.hear(&event)
        };
        assert_eq!(hear("build_failed", 900), None, "that is past");
        assert_eq!(hear("build_started", 1000), None);
        assert_eq!(hear("build_started", 3000), None);
        assert_eq!(hear("built", 6500), Some("one was built in 5.5 s".to_owned()));
        assert_eq!(hear("build_started", 7000), None);
        assert_eq!(hear("built", 8000), None);
        assert_eq!(hear("swapped", 8001), None);
        assert_eq!(hear("build_failed", 8002), Some("one does not build".to_owned()));
    }
}
