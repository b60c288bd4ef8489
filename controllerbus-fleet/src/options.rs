//! How a host joins a fleet, by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controllerbus::Result;

use crate::config::{AskOf, FleetConfig};
use crate::names::{Names, check_id};

/// How a host joins a fleet: what it offers and asks, and its limits.
///
/// ```
/// use controllerbus_fleet::FleetOptions;
///
/// let options = FleetOptions::new("shop").offers("inventory/**").asks("example/greet").asks_one("inventory/stock");
/// ```
#[derive(Clone, Debug)]
pub struct FleetOptions {
    pub(crate) fleet: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) version: String,
    pub(crate) offers: Names,
    pub(crate) asks: BTreeMap<String, AskOf>,
    pub(crate) times: Times,
    pub(crate) limits: Limits,
}

/// How long things may take.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// How long what another host has asked is kept when it is out of reach.
    pub(crate) resume_within: Duration,
    pub(crate) ping: Duration,
    /// As many pings without an answer, and the link is lost.
    pub(crate) unanswered: u32,
    /// How long asked ids are held busy at first.
    pub(crate) gate: Duration,
    /// The first and the longest wait before a host is greeted again.
    pub(crate) greet: (Duration, Duration),
    /// How long after a link was ended for a reason it is tried again.
    pub(crate) refused: Duration,
    /// How long a host that offers an id no more is believed to be going as a whole.
    pub(crate) withdraw: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            resume_within: Duration::from_secs(10),
            ping: Duration::from_secs(1),
            unanswered: 3,
            gate: Duration::from_secs(1),
            greet: (Duration::from_millis(50), Duration::from_secs(1)),
            refused: Duration::from_secs(30),
            withdraw: Duration::from_millis(200),
        }
    }
}

/// How much another host may use of this one.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) asks: u64,
    pub(crate) standing: u64,
    pub(crate) message: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { asks: 100_000, standing: 256 << 20, message: 64 << 20 }
    }
}

impl FleetOptions {
    /// A host that offers and asks nothing.
    pub fn new(fleet: impl Into<String>) -> Self {
        Self {
            fleet: fleet.into(),
            labels: BTreeMap::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            offers: Names::default(),
            asks: BTreeMap::new(),
            times: Times::default(),
            limits: Limits::default(),
        }
    }

    /// Others may ask this host directives of an id, or of all below, as in `inventory/**`.
    #[must_use]
    pub fn offers(mut self, name: impl Into<String>) -> Self {
        self.offers.add(name);
        self
    }

    /// Directives of an id are asked of all hosts that offer it, too.
    #[must_use]
    pub fn asks(mut self, id: impl Into<String>) -> Self {
        self.asks.insert(id.into(), AskOf::All);
        self
    }

    /// Directives of an id are asked of one host that offers it, too, which is chosen by the directive's key.
    #[must_use]
    pub fn asks_one(mut self, id: impl Into<String>) -> Self {
        self.asks.insert(id.into(), AskOf::One);
        self
    }

    /// What this host is, for who selects hosts.
    #[must_use]
    pub fn labels(self, labels: BTreeMap<String, String>) -> Self {
        Self { labels, ..self }
    }

    /// The version of the program, as others see it.
    #[must_use]
    pub fn version(self, version: impl Into<String>) -> Self {
        Self { version: version.into(), ..self }
    }

    /// How long what another host has asked is kept when it is out of reach: 10 seconds unless set. If it is back within that
    /// time, nothing runs again.
    #[must_use]
    pub fn resume_within(mut self, time: Duration) -> Self {
        self.times.resume_within = time;
        self
    }

    /// How often other hosts are asked whether they are well, and how many of these may be unanswered before a host is lost: each
    /// second, and 3, unless set.
    #[must_use]
    pub fn pings(mut self, every: Duration, unanswered: u32) -> Self {
        (self.times.ping, self.times.unanswered) = (every, unanswered);
        self
    }

    /// How many directives another host may have open here: 100,000 unless set. The link to one that has more is ended.
    #[must_use]
    pub fn most_asks(mut self, most: u64) -> Self {
        self.limits.asks = most;
        self
    }

    /// How many bytes of another host's values may stand here: 256 MiB unless set. The link to one that has more is ended.
    #[must_use]
    pub fn most_standing(mut self, bytes: u64) -> Self {
        self.limits.standing = bytes;
        self
    }

    /// How long a message may be: 64 MiB unless set. A value that is longer is an error of its request.
    #[must_use]
    pub fn longest_message(mut self, bytes: usize) -> Self {
        self.limits.message = bytes;
        self
    }

    /// The ids that this host asks, of whomever.
    pub(crate) fn asked(&self) -> BTreeSet<&str> {
        self.asks.keys().map(String::as_str).collect()
    }

    pub(crate) fn asked_of(&self, of: AskOf) -> impl Iterator<Item = &str> {
        self.asks.iter().filter(move |(_, whom)| **whom == of).map(|(id, _)| id.as_str())
    }

    /// # Errors
    /// What cannot be asked or offered.
    pub(crate) fn check(&self) -> Result<()> {
        self.offers.check()?;
        self.asks.keys().try_for_each(|id| check_id(id))
    }
}

impl From<&FleetConfig> for FleetOptions {
    fn from(config: &FleetConfig) -> Self {
        let mut options = Self::new(&config.name)
            .labels(config.labels.clone())
            .resume_within(Duration::from_millis(config.resume_within_ms));
        config.offers.iter().for_each(|name| options.offers.add(name));
        options.asks = config.asks.iter().map(|ask| (ask.id().to_owned(), ask.of())).collect();
        options
    }
}
