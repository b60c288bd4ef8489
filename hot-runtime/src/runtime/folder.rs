//! Follows a plugins directory: loads files that are there, appear or change, unloads those that are removed, and copes
//! with the removal of the directory itself. One that is a config's unloads all of them when it is not followed any more.
//!
//! A change event is only a hint. What is done depends on the directory's contents, and on each file's own state: the same
//! bytes written again after an unload are loaded again, and a file that was refused because another file was the same
//! plugin is tried when that one is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use controllerbus::error::Code;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::artifact::is_artifact;
use crate::artifact::sign::signature_path;
use crate::error::{Error, Result};
use crate::event::{RuntimeEvent, UnloadReport};
use crate::runtime::Inner;
use crate::runtime::claims::Loader;
use crate::runtime::task::Command;
use crate::source::inputs::Stamp;
use crate::source::watch::{Following, Watched};
use crate::util::in_full;

/// Copying a file gives many events: how long there must be no further one before it is read.
const QUIET: Duration = Duration::from_millis(20);

/// The longest wait for that. A file that is still being written then is refused, and read again later.
const SETTLED: Duration = Duration::from_millis(500);

/// A removed file may be about to be replaced: how long nothing must change before its plugin is unloaded.
const GONE: Duration = Duration::from_millis(300);

/// Loads what is in a directory, and then, in the background, each artifact that appears or changes there. The plugin of a
/// removed file is unloaded; if the directory itself is removed, everything stays loaded.
pub(crate) async fn follow(inner: &Arc<Inner>, dir: PathBuf) -> Result<()> {
    std::fs::create_dir_all(&dir).map_err(Error::io("creating the plugins directory", &dir))?;
    let mut folder = Folder::new(inner, dir)?;
    let following = folder.followed(inner);
    folder.look(inner).await;
    following.set(folder.watched());
    let weak = Arc::downgrade(inner);
    inner.tasks.spawn(async move { folder.go_on(&weak, following).await });
    Ok(())
}

/// Does the same, all of it in the background, for a directory that has to be there, until `stop` is cancelled; then its
/// plugins are unloaded, and the returned token is cancelled. Unless `watch` is set, the directory is read once.
pub(crate) fn load(
    inner: &Arc<Inner>,
    dir: PathBuf,
    watch: bool,
    stop: CancellationToken,
) -> Result<CancellationToken> {
    let checks = &inner.shared.settings.checks;
    if checks.are_undecided() {
        let reason = "it is not set whose plugin files this host loads; pass `Trust::keys(..)` or `Trust::anyone()` to \
                      `Builder::trust`";
        return Err(Error::Settings { reason: reason.to_owned() });
    }
    let found = std::fs::metadata(&dir).map_err(Error::io("opening the plugins directory", &dir))?;
    if !found.is_dir() {
        let (reason, help) =
            ("it is not a directory".to_owned(), "pass the directory that contains the plugin files".to_owned());
        return Err(Error::Folder { path: dir, code: Code::PLUGINS_FOLDER, reason, help });
    }
    let mut folder = Folder::new(inner, dir)?;
    folder.stop = stop;
    let following = watch.then(|| folder.followed(inner));
    let (ended, weak) = (CancellationToken::new(), Arc::downgrade(inner));
    let guard = ended.clone().drop_guard();
    let first = Arc::clone(inner);
    inner.tasks.spawn(async move {
        let _guard = guard;
        folder.look(&first).await;
        drop(first);
        match following {
            Some(following) => {
                following.set(folder.watched());
                folder.go_on(&weak, following).await;
            }
            None => folder.take_what_is_given_up(&weak).await,
        }
        folder.end(&weak).await;
    });
    Ok(ended)
}

/// The directory as last seen.
struct Folder {
    loader: Loader,
    dir: PathBuf,
    there: bool,
    files: BTreeMap<PathBuf, File>,
    /// Plugins that others give up may be loaded from here.
    given_up: watch::Receiver<()>,
    stop: CancellationToken,
}

/// A plugin file.
struct File {
    /// The state of the file and of its signature.
    seen: Seen,
    state: State,
    /// The plugin and the build that were rolled back, and may still be swapped in after a change of config.
    waits: Option<(String, String)>,
}

type Seen = (Option<Stamp>, Option<Stamp>);

/// What was done with a file.
enum State {
    /// It was loaded.
    Loaded { id: String, hash: String, build_hash: String },
    /// Another file is the same plugin.
    Waiting { id: String },
    /// It cannot be loaded.
    Refused,
}

impl Folder {
    /// A directory that is a safe place for plugins; nothing of it is loaded yet.
    fn new(inner: &Inner, dir: PathBuf) -> Result<Self> {
        let dir = in_full(&dir);
        inner.shared.settings.checks.check_folder(&dir)?;
        let (loader, given_up) = (inner.claims.add_folder(&dir), inner.claims.given_up());
        Ok(Self { loader, dir, there: true, files: BTreeMap::new(), given_up, stop: inner.stop.clone() })
    }

    fn followed(&self, inner: &Inner) -> Following {
        let following = inner.watcher.follow();
        following.set(self.watched());
        following
    }

    /// Follows the directory until it is stopped.
    async fn go_on(&mut self, inner: &Weak<Inner>, mut following: Following) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = following.changed() => following.settle(QUIET, SETTLED).await,
                Ok(()) = self.given_up.changed() => {}
            }
            {
                let Some(inner) = inner.upgrade() else { return };
                self.look(&inner).await;
                following.set(self.watched());
            }
            if self.gone().next().is_some() {
                following.settle(GONE, GONE).await;
                let Some(inner) = inner.upgrade() else { return };
                self.look(&inner).await;
                self.unload_what_went(&inner).await;
                following.set(self.watched());
            }
        }
    }

    /// Unloads the plugins that nobody else has, if the runtime goes on, and waits for that.
    async fn end(self, inner: &Weak<Inner>) {
        let Some(inner) = inner.upgrade() else { return };
        let own = inner.claims.remove_folder(self.loader);
        let mut leaving = Vec::new();
        for (path, mut file) in self.files {
            let is_an_heirs =
                matches!(&file.state, State::Loaded { id, .. } if own.iter().all(|(plugin, _)| plugin != id));
            if !is_an_heirs {
                leaving.extend(file.forget(&inner, &path).await);
            }
        }
        for (plugin, claim) in own {
            leaving.extend(unload(&inner, &claim.file, &plugin, claim.build_hash).await);
        }
        drop(inner);
        for answered in leaving {
            let _ = answered.await;
        }
    }

    /// The directory, and the files that links in it lead to.
    fn watched(&self) -> Vec<Watched> {
        let files = self.files.keys().map(|path| Watched::File(path.clone()));
        std::iter::once(Watched::Folder(self.dir.clone())).chain(files).collect()
    }

    /// The removed files whose plugins are loaded, or may be later.
    fn gone(&self) -> impl Iterator<Item = &PathBuf> {
        let loaded = self.files.iter().filter(|(_, file)| file.is_plugin());
        loaded.map(|(path, _)| path).filter(|path| self.there && !path.is_file())
    }

    /// Loads new and changed files.
    async fn look(&mut self, inner: &Arc<Inner>) {
        let was_there = std::mem::replace(&mut self.there, self.dir.is_dir());
        if !self.there {
            if was_there {
                let reason = "the plugins folder was removed; loaded plugins keep serving, and the folder is followed again \
                              when it is back";
                let help = "create it again, or stop the host";
                let path = self.dir.clone();
                let code = Code::PLUGINS_FOLDER;
                tell(inner, &self.dir, &Error::Folder { path, code, reason: reason.into(), help: help.into() });
            }
            return;
        }
        if let Err(error) = inner.shared.settings.checks.check_folder(&self.dir) {
            return tell(inner, &self.dir, &error);
        }
        let there = match artifacts_in(&self.dir) {
            Ok(there) => there,
            Err(error) => return tell(inner, &self.dir, &error),
        };
        self.files.retain(|path, file| file.is_plugin() || there.contains(path));
        for path in &there {
            if self.stop.is_cancelled() {
                return;
            }
            let seen = (Stamp::of(path), Stamp::of(&signature_path(path)));
            if seen.0.is_some() && self.files.get(path).is_none_or(|file| file.seen != seen) {
                self.load_or_tell(inner, path, seen).await;
            }
        }
        self.load_what_waits(inner).await;
    }

    /// A file that waited for another one takes over from it without a gap.
    async fn load_what_waits(&mut self, inner: &Arc<Inner>) {
        let waits = self.files.iter().filter_map(|(path, file)| match &file.state {
            State::Waiting { id } => Some((path.clone(), id.clone(), file.seen)),
            _ => None,
        });
        for (path, id, seen) in waits.collect::<Vec<_>>() {
            if !self.stop.is_cancelled() && path.is_file() && self.other_file(inner, &id, &path).is_none() {
                self.load_or_tell(inner, &path, seen).await;
            }
        }
    }

    /// Loads what others give up, of a directory that is read once, until it is stopped.
    async fn take_what_is_given_up(&mut self, inner: &Weak<Inner>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = self.given_up.changed() => if changed.is_err() { return },
            }
            let Some(inner) = inner.upgrade() else { return };
            self.load_what_waits(&inner).await;
        }
    }

    /// Another existing file that is this plugin, here or in another directory.
    fn other_file(&self, inner: &Inner, id: &str, path: &Path) -> Option<PathBuf> {
        let is = |file: &File| matches!(&file.state, State::Loaded { id: loaded, .. } if loaded == id);
        let mut others = self.files.iter().filter(|(other, file)| *other != path && is(file) && other.is_file());
        let other = others.next().map(|(other, _)| other.clone());
        other.or_else(|| inner.claims.rival(self.loader, id, path))
    }

    async fn load_or_tell(&mut self, inner: &Arc<Inner>, path: &Path, seen: Seen) {
        let mut waits = None;
        let state = match self.load(inner, path, &mut waits).await {
            Ok(state) => state,
            Err(error) => {
                // The plugin's task has already reported what it rolled back.
                if !matches!(error, Error::Swap { .. } | Error::Load { .. }) {
                    tell(inner, path, &error);
                }
                waits = waits.filter(|_| matches!(error, Error::Swap { .. }));
                // What was loaded from it before keeps serving.
                match self.files.remove(path) {
                    Some(File { state: state @ State::Loaded { .. }, .. }) => state,
                    _ => State::Refused,
                }
            }
        };
        if let Some(File { state: State::Loaded { id: before, build_hash, .. }, .. }) = self.files.get(path)
            && !matches!(&state, State::Loaded { id, .. } if id == before)
        {
            // The file has become another plugin's.
            inner.claims.give_up(self.loader, before, path);
            if let Some(answered) = unload(inner, path, before, build_hash.clone()).await {
                inner.tasks.spawn(async move { drop(answered.await) });
            }
        }
        if let State::Loaded { id, hash, build_hash } = &state {
            inner.claims.take(self.loader, id, path, hash, build_hash);
            // This replaces what was loaded from a removed file.
            self.files.retain(|_, file| !matches!(&file.state, State::Loaded { id: other, .. } if other == id));
        }
        self.files.insert(path.to_owned(), File { seen, state, waits });
    }

    /// Loads a file; on an error `waits` is the plugin and the build that were tried.
    async fn load(&self, inner: &Arc<Inner>, path: &Path, waits: &mut Option<(String, String)>) -> Result<State> {
        let (artifact, timeline) = inner.read(path).await?;
        let (id, hash, build_hash) =
            (artifact.bundle.id.clone(), artifact.hash.clone(), artifact.bundle.build_hash.clone());
        if let Some(other) = self.other_file(inner, &id, path) {
            let error = Error::Artifact {
                path: path.to_owned(),
                code: Code::SAME_PLUGIN,
                reason: format!("it is the plugin `{id}`, as is {}", other.display()),
                help: "remove one of them; to replace a plugin, overwrite its file".to_owned(),
            };
            tell(inner, path, &error);
            return Ok(State::Waiting { id });
        }
        let known = self.files.get(path).map(|file| &file.state);
        // What another config has loaded from the same file runs on.
        let same = match known {
            Some(State::Loaded { hash: loaded, .. }) => *loaded == hash,
            _ => inner.claims.has(&id, path, &hash),
        };
        if !same || inner.shared.registry.serving_build(&id).as_ref() != Some(&build_hash) {
            *waits = Some((id.clone(), build_hash.clone()));
            inner.load(artifact, timeline).await?;
            *waits = None;
        }
        Ok(State::Loaded { id, hash, build_hash })
    }

    /// Unloads the plugins whose files were removed, if what serves is from that file.
    async fn unload_what_went(&mut self, inner: &Arc<Inner>) {
        let gone: Vec<PathBuf> = self.gone().cloned().collect();
        for path in gone {
            let Some(file) = self.files.remove(&path) else { continue };
            if let State::Loaded { id, .. } = &file.state {
                inner.claims.give_up(self.loader, id, &path);
            }
            for answered in file.leave(inner, &path).await {
                // Not awaited, so that other changes of the folder need not wait for it.
                inner.tasks.spawn(async move { drop(answered.await) });
            }
        }
    }
}

type Unloading = oneshot::Receiver<Result<UnloadReport>>;

impl File {
    /// Whether something was loaded from it, or may be later.
    fn is_plugin(&self) -> bool {
        matches!(self.state, State::Loaded { .. }) || self.waits.is_some()
    }

    /// Has nothing loaded from it later.
    async fn forget(&mut self, inner: &Inner, path: &Path) -> Option<Unloading> {
        let (id, build_hash) = self.waits.take()?;
        if let Ok(known) = inner.known(&id) {
            known.serving.forget(&build_hash).await;
        }
        unload(inner, path, &id, build_hash).await
    }

    /// Unloads what was loaded from it, and has nothing loaded from it later.
    async fn leave(mut self, inner: &Inner, path: &Path) -> Vec<Unloading> {
        let mut plugins: Vec<String> = self.waits.iter().map(|(id, _)| id.clone()).collect();
        if let State::Loaded { id, .. } = &self.state
            && !plugins.contains(id)
        {
            plugins.push(id.clone());
        }
        let mut unloading: Vec<_> = self.forget(inner, path).await.into_iter().collect();
        if let State::Loaded { id, build_hash, .. } = self.state {
            unloading.extend(unload(inner, path, &id, build_hash).await);
        }
        for plugin in plugins {
            inner.shared.emit(RuntimeEvent::FileRemoved { plugin });
        }
        unloading
    }
}

/// Unloads a plugin whose file is not in a followed directory any more, if what serves is from that file.
async fn unload(inner: &Inner, path: &Path, id: &str, build_hash: String) -> Option<Unloading> {
    if inner.shared.registry.serving_build(id) != Some(build_hash) {
        return None;
    }
    let why = if path.is_file() { "its directory is no longer followed" } else { "its file was removed" };
    tracing::info!(plugin = id, path = %path.display(), "unloading a plugin because {why}");
    let (answer, answered) = oneshot::channel();
    inner.send(id, Command::Unload(answer)).await.is_ok().then_some(answered)
}

fn tell(inner: &Inner, path: &Path, error: &Error) {
    tracing::warn!(path = %path.display(), error = %error.with_causes(), "a plugin file was not loaded");
    let (path, reason) = (path.to_owned(), error.with_causes().to_string());
    inner.shared.emit(RuntimeEvent::Refused { path, code: error.code(), reason });
}

fn artifacts_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut found: Vec<_> = std::fs::read_dir(dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| is_artifact(path))
            .collect();
        found.sort();
        Ok(found)
    };
    list().map_err(Error::io("listing the plugins directory", dir))
}
