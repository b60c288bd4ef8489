//! Brings a plugin of this host to a release, or back.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::Load;
use super::follow::Follower;
use crate::bad;
use crate::blocking;
use crate::error::{Error, Result};
use crate::link::{Link, Stage};
use crate::release::{ReleaseName, Signed};
use crate::seen::{Failed, Ran};

impl Follower {
    /// What runs, runs on; after a start, it is loaded from this host's own copies.
    pub(super) async fn keep(&mut self) -> Result<()> {
        let Some(runs) = self.seen.runs.clone() else { return Ok(()) };
        if self.serving.is_some_and(|(_, sequence)| sequence == runs.release.sequence) {
            return Ok(());
        }
        let (cache, hash) = (self.agent.cache.clone(), runs.blake3.clone());
        let path = blocking(move || Ok(cache.get(&hash))).await?;
        let path = match path {
            Some(path) => path,
            None => self.fetch_again(&runs).await?,
        };
        if !runs.well {
            self.seen.open = true;
            self.write().await?;
        }
        match self.load(&path, &runs, false).await {
            Err(error) if !error.is_transient() && !runs.well && self.seen.before.is_some() => {
                let (sequence, rollout) = (runs.release.sequence, runs.rollout);
                self.seen.failed = Some(Failed { sequence, rollout, why: error.why(), crashed: false });
                self.seen.went_back();
                self.write().await?;
                Box::pin(self.keep()).await
            }
            loaded => loaded,
        }
    }

    /// Loads a file, which serves from then on.
    async fn load(&mut self, path: &PathBuf, ran: &Ran, back: bool) -> Result<()> {
        let options = &self.agent.options;
        let load = Load { plugin: &self.plugin, path, version: &ran.release.version, keys: &options.keys, back };
        let generation = self.agent.plugins.load(load).await?;
        self.serving = Some((generation, ran.release.sequence));
        self.loaded = self.serving;
        self.crashes = 0;
        Ok(())
    }

    /// Fetches what this host ran before, and has no copy of any more. What it is, its own memory says.
    async fn fetch_again(&self, ran: &Ran) -> Result<PathBuf> {
        let store = &self.agent.options.store;
        let trusted =
            Signed::read(store, &self.plugin, ran.release.sequence).await?.trusted(&self.agent.options.keys)?;
        let artifact = trusted.artifacts.iter().find(|artifact| artifact.blake3 == ran.blake3);
        let artifact = artifact.ok_or_else(|| {
            Error::refused(format!("{} of {}", ran.release, self.plugin), "its document names other files than before")
        })?;
        self.agent.cache.fetch(store, artifact, &self.kept(), self.agent.turns.take()).await
    }

    /// The hashes that stay in the cache.
    fn kept(&self) -> Vec<String> {
        let Self { seen, .. } = self;
        seen.runs.iter().chain(&seen.before).map(|ran| ran.blake3.clone()).collect()
    }

    /// Goes to a release.
    pub(super) async fn bring_to(&mut self, link: &Link, release: ReleaseName) -> Result<()> {
        let is_done = link.stage == Stage::Done;
        if self.seen.runs.as_ref().is_some_and(|runs| runs.release == release) {
            self.keep().await?;
            return if is_done { self.done().await } else { Ok(()) };
        }
        let has_failed =
            |failed: &&crate::seen::Failed| failed.sequence == release.sequence && failed.rollout == link.rollout;
        if self.seen.failed.as_ref().filter(has_failed).is_some() {
            return self.keep().await;
        }
        if self.waits_for_work(link, &release).await {
            return self.keep().await;
        }
        match self.install(link, &release).await {
            Ok(()) if is_done => self.done().await,
            Ok(()) => Ok(()),
            // Nothing is wrong with the release. The rollout's deadline says for how long.
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                self.failed(link, &release, &error);
                self.write().await?;
                self.keep().await
            }
        }
    }

    /// Whether a release waits until work ends that the one that serves has begun.
    async fn waits_for_work(&mut self, link: &Link, release: &ReleaseName) -> bool {
        // What was swapped in by somebody else, or does not serve, has no work that this agent knows of.
        let Some(pin) = link.wanted.pin.as_ref().filter(|_| self.serving.is_some()) else { return false };
        let since = self.waits.as_ref().map_or_else(Instant::now, |(_, since, _)| *since);
        let works = self.agent.plugins.works(&self.plugin, &pin.of);
        let works = tokio::time::timeout(Duration::from_secs(5), works).await.unwrap_or_default();
        if works == 0 || since.elapsed() >= pin.at_most {
            self.waits = None;
            return false;
        }
        let says = format!("it waits for {works} of {} to end, for at most {:?}", pin.of, pin.at_most);
        self.waits = Some((release.sequence, since, says));
        true
    }

    /// The release that runs is on all hosts.
    pub(super) async fn done(&mut self) -> Result<()> {
        let before = self.seen.clone();
        self.seen.is_done();
        if self.seen != before { self.write().await } else { Ok(()) }
    }

    /// Fetches, verifies and swaps in.
    async fn install(&mut self, link: &Link, release: &ReleaseName) -> Result<()> {
        self.seen.check(&self.plugin, release)?;
        let options = &self.agent.options;
        let (store, keys) = (&options.store, &options.keys);
        let trusted = Signed::read(store, &self.plugin, release.sequence).await?.trusted(keys)?;
        trusted.check_fresh()?;
        if trusted.name() != *release {
            let why = format!("it is {}, and the rollout says {}", trusted.version, release.version);
            return Err(Error::refused(format!("release {} of {}", release.sequence, self.plugin), why));
        }
        let artifact = trusted.artifact()?;
        if !link.wanted.despite
            && let Some(mark) = bad::marked(store, &self.plugin, &artifact.blake3).await?
        {
            return Err(bad::refusal(&self.plugin, &mark));
        }
        let path = self.agent.cache.fetch(store, artifact, &self.kept(), self.agent.turns.take()).await?;
        let ran = Ran { release: release.clone(), blake3: artifact.blake3.clone(), well: false, rollout: link.rollout };
        let before = self.seen.clone();
        self.seen.begins(ran.clone());
        // Should it take this host down, it is known at the next start.
        self.write().await?;
        if let Err(error) = self.load(&path, &ran, false).await {
            // The highest release stays seen; what ran before still serves.
            self.seen = crate::seen::Seen { highest: self.seen.highest, ..before };
            return Err(error);
        }
        if self.seen.failed.as_ref().is_some_and(|failed| failed.sequence == release.sequence) {
            self.seen.failed = None;
        }
        self.write().await
    }

    /// Goes to what was done before the rollout.
    pub(super) async fn bring_back(&mut self, link: &Link, before: Option<ReleaseName>) -> Result<()> {
        let runs = self.seen.runs.clone();
        let Some(before) = before else {
            return match runs {
                Some(runs) if runs.release == link.release => self.take_off().await,
                _ => self.keep().await,
            };
        };
        if runs.is_some_and(|runs| runs.release == before) {
            return self.keep().await;
        }
        if let Some(ran) = self.seen.back_to(&before).cloned() {
            return self.go_back(&ran).await;
        }
        // A host that came later, or was away meanwhile.
        if before.sequence >= self.seen.highest {
            match self.install(link, &before).await {
                Ok(()) => return self.done().await,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => self.problem = Some(error.to_string()),
            }
            return Err(Error::NotNow(self.problem.clone().unwrap_or_default()));
        }
        self.keep().await?;
        self.seen.check(&self.plugin, &before)
    }

    /// Goes back to what this host ran well, from its own copy, without a key and without the store.
    async fn go_back(&mut self, ran: &Ran) -> Result<()> {
        let (cache, hash) = (self.agent.cache.clone(), ran.blake3.clone());
        let path = match blocking(move || Ok(cache.get(&hash))).await? {
            Some(path) => path,
            None => self.fetch_again(ran).await?,
        };
        self.load(&path, ran, true).await?;
        self.seen.went_back();
        self.write().await
    }

    /// The first release of a plugin failed: it is not loaded any more.
    async fn take_off(&mut self) -> Result<()> {
        self.agent.plugins.unload(&self.plugin).await?;
        self.serving = None;
        self.seen.went_back();
        self.write().await
    }
}
