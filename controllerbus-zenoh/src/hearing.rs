//! Notices that a hub does not hear another hub to which it is connected.
//!
//! Two of the engine's routers whose connection is back within a tenth of a second do not tell each other again what they have (see
//! README). What is behind the other one stays away then, although the connection is there: such as the presence of the other hub
//! itself.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// For how long a hub may be connected after its presence has ended: so long it may take to leave, or to be told of again.
const LEAVING: Duration = Duration::from_millis(1500);

/// For how long one that is not connected is remembered, in case it is connected again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The hosts whose presence has ended, and when, by their names in the engine.
#[derive(Debug, Default)]
pub(crate) struct Missing(HashMap<String, Instant>);

impl Missing {
    /// The presence of a host has ended.
    pub(crate) fn is_gone(&mut self, host: String, now: Instant) {
        self.0.insert(host, now);
    }

    /// It is there again.
    pub(crate) fn is_there(&mut self, host: &str) {
        self.0.remove(host);
    }

    /// A session begins, in which nobody was present yet.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether a hub is connected although its presence has ended a while ago.
    pub(crate) fn is_connected(&mut self, connected: &HashSet<String>, now: Instant) -> bool {
        let since = |ended: &Instant| now.saturating_duration_since(*ended);
        self.0.retain(|host, ended| connected.contains(host) || since(ended) < REMEMBERED);
        self.0.iter().any(|(host, ended)| connected.contains(host) && since(ended) >= LEAVING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_is_connected_and_whose_presence_has_ended_is_missed_after_a_while() {
        let (mut missing, begun) = (Missing::default(), Instant::now());
        let connected: HashSet<String> = ["b".to_owned()].into();
        let after = |millis| begun + Duration::from_millis(millis);
        // A router of the engine that was never present, such as one that is in no fleet.
        assert!(!missing.is_connected(&connected, after(10_000)));
        missing.is_gone("b".to_owned(), after(10_000));
        assert!(!missing.is_connected(&connected, after(11_400)), "it may be about to leave, or to be told of again");
        assert!(missing.is_connected(&connected, after(11_500)));
        missing.is_there("b");
        assert!(!missing.is_connected(&connected, after(20_000)));
        missing.is_gone("b".to_owned(), after(20_000));
        missing.clear();
        assert!(!missing.is_connected(&connected, after(30_000)), "another session knows nothing of it");
    }

    #[test]
    fn whoever_has_left_is_forgotten_unless_it_is_connected_again() {
        let (mut missing, begun) = (Missing::default(), Instant::now());
        let (nobody, connected): (_, HashSet<String>) = (HashSet::new(), ["b".to_owned()].into());
        for host in ["a", "b", "c"] {
            missing.is_gone(host.to_owned(), begun);
        }
        assert!(!missing.is_connected(&nobody, begun + Duration::from_secs(59)));
        assert!(missing.is_connected(&connected, begun + Duration::from_secs(59)));
        assert!(missing.is_connected(&connected, begun + Duration::from_secs(61)), "it is connected all the time");
        assert_eq!(missing.0.len(), 1);
        assert!(!missing.is_connected(&nobody, begun + Duration::from_secs(62)));
        assert_eq!(missing.0.len(), 0);
    }
}
