//! Locks for builds in a target directory, which processes may share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::compile::progress::Progress;
use crate::error::{Error, Result};
use crate::phase::BuildPhase;
use crate::source::spec::PluginSpec;
use crate::sys::scratch::has_no_locks;

/// How many cargos run at once in one target directory. Only one of them builds at a time, but the next one can find out
/// meanwhile what there is to do.
const CARGOS: usize = 2;

/// Waits for a permit to run cargo in a target directory. If many builds waited for cargo's own lock instead, they would
/// time out.
pub(crate) async fn cargo_permit(
    target_dir: &Path,
    spec: &PluginSpec,
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<OwnedSemaphorePermit> {
    static PLACES: Mutex<BTreeMap<PathBuf, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());
    let places = {
        let mut all = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(target_dir.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(CARGOS))))
    };
    permit(places, spec, progress, cancel).await
}

/// Waits for a permit to compile without cargo: an edit of a crate that a hundred plugins share would start a hundred
/// compilers at once. There are as many permits as cores.
pub(crate) async fn compiler_permit(
    spec: &PluginSpec,
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<OwnedSemaphorePermit> {
    static PLACES: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let cores = || std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let places = PLACES.get_or_init(|| Arc::new(Semaphore::new(cores())));
    permit(Arc::clone(places), spec, progress, cancel).await
}

async fn permit(
    places: Arc<Semaphore>,
    spec: &PluginSpec,
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
        return Ok(place);
    }
    progress.phase(BuildPhase::Waiting);
    tokio::select! {
        place = places.acquire_owned() => place.map_err(|_| Error::Closed),
        () = cancel.cancelled() => Err(Error::Cancelled { plugin: spec.id.clone() }),
    }
}

/// The exclusive right to build one plugin in a target directory. Released on drop, and when the process ends.
pub(crate) struct BuildLock {
    _file: std::fs::File,
}

impl BuildLock {
    /// Waits until no other process builds this plugin there.
    pub(crate) async fn acquire(
        target_dir: &Path,
        spec: &PluginSpec,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let path = target_dir.join(format!(".cbus-{}.lock", spec.slug()));
        std::fs::create_dir_all(target_dir).map_err(Error::io("creating the target directory", target_dir))?;
        let open = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::io("opening the build's lock file", &path))?;
        lock(&file, spec, progress, cancel).await?.map_err(Error::io("locking the build", &path))?;
        Ok(Self { _file: file })
    }
}

/// Cargo's own lock of a profile's directory. Who holds it may change what a cargo that builds there relies on.
pub(crate) struct CargoLock {
    /// None where there are no locks; cargo goes on without them as well.
    _file: Option<std::fs::File>,
}

impl CargoLock {
    /// Waits until no cargo builds in that directory, as long as a build may take at most.
    ///
    /// # Errors
    /// [`Error::BuildTimedOut`] after that, [`Error::Cancelled`].
    pub(crate) async fn acquire(
        profile: &Path,
        limit: Duration,
        spec: &PluginSpec,
        progress: &mut Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let open = std::fs::OpenOptions::new().create(true).append(true).open(profile.join(".cargo-lock"));
        let Ok(file) = open else { return Ok(Self { _file: None }) };
        match tokio::time::timeout(limit, lock(&file, spec, progress, cancel)).await {
            Ok(locked) => Ok(Self { _file: locked?.ok().map(|()| file) }),
            Err(_) => Err(Error::BuildTimedOut { plugin: spec.id.clone(), after: limit }),
        }
    }
}

/// Waits for the lock of a file; the inner error is why there is none.
async fn lock(
    file: &std::fs::File,
    spec: &PluginSpec,
    progress: &mut Progress<'_>,
    cancel: &CancellationToken,
) -> Result<std::io::Result<()>> {
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(std::fs::TryLockError::WouldBlock) => {}
            // Without locks, builds cannot exclude each other; cargo, which locks too, goes on without them as well.
            Err(std::fs::TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Ok(())),
            Err(std::fs::TryLockError::Error(error)) => return Ok(Err(error)),
        }
        if !std::mem::replace(&mut told, true) {
            progress.phase(BuildPhase::Waiting);
        }
        // A blocking lock would need a thread that cannot be cancelled.
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
            () = cancel.cancelled() => return Err(Error::Cancelled { plugin: spec.id.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::compile::BuildEvent;

    #[tokio::test]
    async fn of_more_than_a_hundred_builds_two_run_cargo_at_once_and_none_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().to_owned();
        let (at_work, most, waited) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0), AtomicUsize::new(0));
        let build = async |number: usize| {
            let spec = PluginSpec::new(format!("plugin-{number}"));
            let observer = |event: BuildEvent| {
                let waits = matches!(event, BuildEvent::Phase { phase: BuildPhase::Waiting, .. });
                waited.fetch_add(usize::from(waits), Ordering::Relaxed);
            };
            let mut progress = Progress::new(&observer);
            let cancel = CancellationToken::new();
            // One is not wanted any more before its turn comes.
            if number == 100 {
                cancel.cancel();
            }
            let permit = cargo_permit(&target, &spec, &mut progress, &cancel).await;
            most.fetch_max(at_work.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            at_work.fetch_sub(1, Ordering::Relaxed);
            permit.is_ok()
        };
        let mut building = Vec::new();
        for number in 0..120 {
            building.push(Box::pin(build(number)));
        }
        let done = all(building).await;
        assert_eq!(done.iter().filter(|done| !**done).count(), 1);
        assert!(most.into_inner() <= CARGOS + 1, "and the one that was not wanted");
        assert_eq!(waited.into_inner(), 120 - CARGOS);
    }

    #[tokio::test]
    async fn a_wait_for_a_cargo_that_builds_is_shown_can_be_cancelled_and_has_a_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let builds = std::fs::File::create(folder.path().join(".cargo-lock")).expect("the lock");
        builds.lock().expect("locking");
        let waited = AtomicUsize::new(0);
        let observer = |event: BuildEvent| {
            let waits = matches!(event, BuildEvent::Phase { phase: BuildPhase::Waiting, .. });
            waited.fetch_add(usize::from(waits), Ordering::Relaxed);
        };
        let (spec, cancel) = (PluginSpec::new("plugin"), CancellationToken::new());
        let acquire = async |limit: Duration| {
            CargoLock::acquire(folder.path(), limit, &spec, &mut Progress::new(&observer), &cancel).await
        };
        const LONG: Duration = Duration::from_secs(600);
        let short = Duration::from_millis(1);
        assert!(matches!(acquire(short).await, Err(Error::BuildTimedOut { after, .. }) if after == short));
        assert_eq!(waited.load(Ordering::Relaxed), 1);
        let (locked, ()) = tokio::join!(acquire(LONG), async {
            while waited.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
            builds.unlock().expect("the build ends");
        });
        assert!(builds.try_lock().is_err(), "it has the lock");
        let (cancelled, ()) = tokio::join!(acquire(LONG), async {
            while waited.load(Ordering::Relaxed) < 3 {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        });
        assert!(matches!(cancelled, Err(Error::Cancelled { .. })));
        drop(locked.expect("the lock"));
        assert!(builds.try_lock().is_ok());
    }

    /// Runs all at the same time.
    async fn all<T>(mut futures: Vec<std::pin::Pin<Box<impl Future<Output = T>>>>) -> Vec<T> {
        let mut done = Vec::new();
        std::future::poll_fn(|cx| {
            futures.retain_mut(|future| match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => {
                    done.push(value);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        done
    }
}
