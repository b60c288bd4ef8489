//! Objects in a row: each is written once, and the one with the highest number is what counts.

use bytes::Bytes;
use serde::Serialize;

use super::{Created, LARGEST_DOCUMENT, Store};
use crate::error::{Error, Result};

/// How many objects are read one after the other before a list is cheaper.
const IN_A_ROW: u64 = 32;

/// A row of numbered objects in a folder of a store.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    store: Store,
    folder: String,
    ending: &'static str,
}

/// Something that no other writer writes, so that each knows his own objects again.
pub(crate) fn token() -> String {
    format!("{:016x}", fastrand::u64(..))
}

impl Numbered {
    pub(crate) fn new(store: &Store, folder: String, ending: &'static str) -> Self {
        Self { store: store.clone(), folder, ending }
    }

    pub(crate) fn path(&self, number: u64) -> String {
        format!("{}/{}", self.folder, self.file(number))
    }

    fn file(&self, number: u64) -> String {
        // So that they are in order by name, too.
        format!("{number:010}{}", self.ending)
    }

    /// Their numbers, those above `above`.
    pub(crate) async fn numbers(&self, above: u64) -> Result<Vec<u64>> {
        let after = (above > 0).then(|| self.file(above));
        let names = self.store.list(&self.folder, after.as_deref()).await?;
        let number = |name: &String| name.strip_suffix(self.ending)?.parse::<u64>().ok();
        let mut numbers: Vec<_> = names.iter().filter_map(number).filter(|number| *number > above).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(crate) async fn read(&self, number: u64) -> Result<Option<Bytes>> {
        self.store.read(&self.path(number), LARGEST_DOCUMENT).await
    }

    /// The newest one after `known`, with all that is between if that is little; `None` if there is none. One request where
    /// nothing is new.
    pub(crate) async fn newest(&self, known: u64) -> Result<Option<(u64, Bytes)>> {
        let mut newest = None;
        let mut known = known;
        if known == 0 {
            match self.numbers(0).await?.last() {
                Some(last) => known = last - 1,
                None => return Ok(None),
            }
        }
        let begun = known;
        while let Some(bytes) = self.read(known + 1).await? {
            known += 1;
            newest = Some((known, bytes));
            if known - begun == IN_A_ROW {
                let last = self.numbers(known).await?.last().copied();
                known = last.map_or(known, |last| last - 1);
            }
        }
        Ok(newest)
    }

    /// Writes one. False if somebody else has written it.
    pub(crate) async fn create(&self, number: u64, document: &impl Serialize) -> Result<bool> {
        let bytes = encoded(document)?;
        match self.store.create(&self.path(number), bytes.clone()).await? {
            Created::New => Ok(true),
            // Ours, of a try whose answer was lost.
            Created::Existed(found) => Ok(found == bytes),
        }
    }

    /// Writes one, and says what is there otherwise.
    pub(crate) async fn put(&self, number: u64, document: &impl Serialize) -> Result<Created> {
        self.store.create(&self.path(number), encoded(document)?).await
    }

    pub(crate) async fn delete(&self, number: u64) -> Result<()> {
        self.store.delete(&self.path(number)).await
    }
}

/// A document's bytes: JSON that people can read.
pub(crate) fn encoded(document: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(text.into_bytes().into())
}
