//! Leases: who may do what only one may, for a while, by numbered objects in a store.
//!
//! Nobody compares clocks of two machines. Who holds a lease counts from before it was written, by his own clock, and stops after
//! two thirds of its time. Who waits for it counts from when he saw its last object, by his own clock, and takes it when the whole
//! time has passed without a new one. As long as the clocks of two machines run at the same speed, within a quarter, there is
//! one holder at most; with the store out of reach there is soon none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::error::Result;
use crate::release::millis;
use crate::store::{Created, Numbered, Store, part, token};

/// The first field of each document.
const KIND: &str = "controllerbus lease 1";

/// How many objects of a lease are left in the store.
const LEFT: u64 = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Document {
    kind: String,
    number: u64,
    /// The number of the first object of this holder.
    fence: u64,
    holder: String,
    lasts_ms: u64,
    /// The holder has given it up.
    over: bool,
    /// What the holder leaves to the next one.
    note: serde_json::Value,
    /// Of this holder, for as long as he holds it.
    token: String,
}

/// Somebody who wants a lease.
#[derive(Debug)]
pub struct Candidate {
    row: Numbered,
    holder: String,
    lasts: Duration,
    clock: Clock,
    /// The newest object that was seen, and when it was seen first.
    seen: Option<(Document, Duration)>,
}

impl Candidate {
    /// A candidate for the lease `name`, who is called `holder` in it. A holder who is gone is replaced after `lasts`.
    pub fn new(store: &Store, name: &str, holder: &str, lasts: Duration, clock: &Clock) -> Self {
        // A call that takes longer than a holder may wait is of no use to him.
        let store = store.clone().with_limit((lasts / 6).max(Duration::from_millis(10)));
        let row = Numbered::new(&store, format!("leases/{}", part(name)), ".json");
        Self { row, holder: holder.to_owned(), lasts, clock: clock.clone(), seen: None }
    }

    /// How often a candidate should try, and a holder renew.
    pub fn interval(&self) -> Duration {
        self.lasts / 3
    }

    /// Takes the lease if it is free: there was none, it was given up, or its time is over. `None` if it is another one's.
    ///
    /// # Errors
    /// The store's. The lease is not held then.
    pub async fn try_acquire(&mut self) -> Result<Option<Held>> {
        let known = self.seen.as_ref().map_or(0, |(seen, _)| seen.number);
        if let Some((number, bytes)) = self.row.newest(known).await? {
            self.saw(number, &bytes);
        }
        let (last, note, ago) = match &self.seen {
            None => (known, serde_json::Value::Null, Duration::ZERO),
            Some((seen, at)) => {
                let ago = self.clock.now().saturating_sub(*at);
                if !seen.over && ago < Duration::from_millis(seen.lasts_ms) {
                    return Ok(None);
                }
                (seen.number, seen.note.clone(), ago)
            }
        };
        // Old objects are deleted, and so the next one may be missing although there are later ones.
        if let Some(newest) = self.row.numbers(last).await?.last().copied() {
            if let Some(bytes) = self.row.read(newest).await? {
                self.saw(newest, &bytes);
            }
            return Ok(None);
        }
        let document = Document {
            kind: KIND.to_owned(),
            number: last + 1,
            fence: last + 1,
            holder: self.holder.clone(),
            lasts_ms: millis(self.lasts),
            over: false,
            note: note.clone(),
            token: token(),
        };
        let begun = self.clock.now();
        let written = self.row.put(document.number, &document).await?;
        let is_ours = match &written {
            Created::New => true,
            Created::Existed(found) => is_by(found, &document.token),
        };
        // Whoever was asleep may have written where others had been, and their objects were deleted since.
        if !is_ours || !self.row.numbers(document.number).await?.is_empty() {
            if is_ours {
                self.row.delete(document.number).await?;
            }
            self.seen = None;
            return Ok(None);
        }
        let mut held = Held {
            tried: (0, Duration::ZERO),
            row: self.row.clone(),
            clock: self.clock.clone(),
            lasts: self.lasts,
            until: Duration::ZERO,
            document,
            inherited: note,
            ago,
        };
        held.lasts_from(begun);
        Ok(Some(held).filter(Held::is_held))
    }

    fn saw(&mut self, number: u64, bytes: &[u8]) {
        // What is no lease holds nothing for longer than ours would.
        let document = serde_json::from_slice::<Document>(bytes).ok().filter(|document| document.kind == KIND);
        let strange = || Document {
            kind: KIND.to_owned(),
            number,
            fence: number,
            holder: String::new(),
            lasts_ms: millis(self.lasts),
            over: false,
            note: serde_json::Value::Null,
            token: String::new(),
        };
        let mut document = document.unwrap_or_else(strange);
        document.number = number;
        self.seen = Some((document, self.clock.now()));
    }

    /// Who holds it, as far as this candidate has seen.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().filter(|(seen, _)| !seen.over).map(|(seen, _)| seen.holder.as_str())
    }
}

fn is_by(bytes: &[u8], token: &str) -> bool {
    serde_json::from_slice::<Document>(bytes).is_ok_and(|document| document.token == token)
}

/// A lease that is held, as long as [`Held::is_held`].
#[derive(Debug)]
pub struct Held {
    row: Numbered,
    clock: Clock,
    lasts: Duration,
    until: Duration,
    /// The number of the object that was tried last, and when it was tried first: it may have been written then.
    tried: (u64, Duration),
    document: Document,
    inherited: serde_json::Value,
    ago: Duration,
}

impl Held {
    /// Higher for each holder: what has seen a higher one refuses a lower one.
    pub fn fence(&self) -> u64 {
        self.document.fence
    }

    /// Whether it is held now.
    pub fn is_held(&self) -> bool {
        self.clock.now() < self.until
    }

    /// Until when, by the clock of this holder.
    pub(crate) fn until(&self) -> Duration {
        self.until
    }

    /// What the holder before has left, and how long ago it was seen at least.
    pub(crate) fn inherited(&self) -> (&serde_json::Value, Duration) {
        (&self.inherited, self.ago)
    }

    fn lasts_from(&mut self, begun: Duration) {
        self.until = begun + self.lasts * 2 / 3;
    }

    /// Holds it for longer, and leaves a note. False if another one has it.
    ///
    /// # Errors
    /// The store's. It is held until [`Held::is_held`] says otherwise.
    pub async fn renew(&mut self, note: serde_json::Value) -> Result<bool> {
        self.write(note, false).await
    }

    /// Gives it up, so that the next one need not wait.
    ///
    /// # Errors
    /// The store's; then the next one waits.
    pub async fn release(mut self) -> Result<()> {
        if self.is_held() {
            let note = self.document.note.clone();
            self.write(note, true).await?;
        }
        Ok(())
    }

    async fn write(&mut self, note: serde_json::Value, over: bool) -> Result<bool> {
        let number = self.document.number + 1;
        let document = Document { number, note, over, ..self.document.clone() };
        let begun = self.clock.now();
        if self.tried.0 != number {
            self.tried = (number, begun);
        }
        let since = match self.row.put(number, &document).await? {
            Created::New => begun,
            // Of an earlier try whose answer was lost, and others count from that. What it says differs at most in the note.
            Created::Existed(found) if is_by(&found, &document.token) => self.tried.1,
            Created::Existed(_) => {
                self.until = Duration::ZERO;
                return Ok(false);
            }
        };
        self.document = document;
        self.lasts_from(since);
        if let Some(old) = number.checked_sub(LEFT).filter(|old| *old > 0)
            && let Err(error) = self.row.delete(old).await
        {
            tracing::debug!(%error, "an old object of a lease stays");
        }
        Ok(true)
    }
}
