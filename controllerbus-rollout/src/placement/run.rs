//! Has a host run what a published set says for it: controller `controllerbus/fleet/placement`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::config::ConfigSet;
use controllerbus::controller::{Closures, Info};
use controllerbus::{Bus, Context, Request};
use hot_runtime::Moment;
use hot_runtime::sign::PublicKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::applied::Following;
use super::sets::Kept;
use super::{Ends, PlacementHost, PlacementHosts, TrustedSet, lease_name};
use crate::blocking;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::lease::{Candidate, Held};
use crate::store::{Store, jittered};

/// How placement works on a host.
#[derive(Clone, Debug)]
pub struct PlacementOptions {
    store: Store,
    set: String,
    host: String,
    labels: BTreeMap<String, String>,
    keys: Vec<PublicKey>,
    folder: PathBuf,
    poll: Duration,
    settle: Duration,
    lease: Duration,
    clock: Clock,
}

impl PlacementOptions {
    /// This host follows a set of a store, as far as one of the keys has signed it. What it applied last is kept in `folder`.
    pub fn new(
        store: &Store,
        set: impl Into<String>,
        host: impl Into<String>,
        keys: impl IntoIterator<Item = PublicKey>,
        folder: impl Into<PathBuf>,
    ) -> Self {
        Self {
            store: store.clone(),
            set: set.into(),
            host: host.into(),
            labels: BTreeMap::new(),
            keys: keys.into_iter().collect(),
            folder: folder.into(),
            poll: Duration::from_secs(30),
            settle: Duration::from_secs(10),
            lease: Duration::from_secs(15),
            clock: Clock::system(),
        }
    }

    /// With what this host is.
    #[must_use]
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self
    }

    /// Sets how often it looks for a new set; 30 s unless set.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// Sets for how long a host may be out of reach before others run what it ran; 10 s unless set.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Sets how long the leases of what is exclusive last; 15 s unless set. A holder ends it after two thirds without a renewal.
    #[must_use]
    pub fn lease(mut self, lasts: Duration) -> Self {
        self.lease = lasts;
        self
    }

    /// With other clocks, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }
}

/// Runs placement on a bus, which is also that of the fleet. Dropping what is returned ends it, and what is exclusive; the rest
/// of the set goes on running.
///
/// # Errors
/// A folder that cannot be used, no key, or the bus's.
pub fn place(bus: &Bus, options: PlacementOptions, ends: Arc<dyn Ends>) -> Result<controllerbus::bus::Running> {
    let (controller, info) = controller(bus, options, ends)?;
    Ok(bus.handle().add_controller(Arc::new(controller), info)?)
}

/// Placement as a controller.
pub(crate) fn controller(bus: &Bus, options: PlacementOptions, ends: Arc<dyn Ends>) -> Result<(Closures, Info)> {
    if options.keys.is_empty() {
        let why = "placement without a key accepts nothing; name at least one public key";
        return Err(Error::Invalid(why.to_owned()));
    }
    let kept = Kept::in_folder(&options.folder, &options.set)?;
    let own = PlacementHost { host: options.host.clone(), labels: options.labels.clone() };
    let set = options.set.clone();
    let placement = Arc::new(Placement { bus: bus.clone(), options, ends, kept });
    let controller = Closures::new()
        .executes(move |context| {
            let placement = Arc::clone(&placement);
            async move { placement.run(context).await }
        })
        .resolves(move |asked: PlacementHosts, values| {
            let own = (asked.set == set).then(|| own.clone());
            async move {
                if let Some(own) = own {
                    values.add(own);
                }
                Ok(())
            }
        });
    let version = semver::Version::new(0, 1, 0);
    let info = Info::new("controllerbus/fleet/placement", version, "controllerbus/fleet/placement");
    Ok((controller, info.with_description("Runs what a published config set says for this host.")))
}

struct Placement {
    bus: Bus,
    options: PlacementOptions,
    ends: Arc<dyn Ends>,
    kept: Kept,
}

/// The other hosts, as far as they were heard of.
struct Hosts {
    request: Request<PlacementHosts>,
    heard: HashMap<String, (PlacementHost, Duration)>,
}

impl Placement {
    async fn run(self: Arc<Self>, context: Context) -> controllerbus::Result<()> {
        let (options, clock) = (&self.options, &self.options.clock);
        let (kept, name, keys) = (self.kept.clone(), options.set.clone(), options.keys.clone());
        let mut set = match blocking(move || kept.read(&name, &keys)).await {
            Ok(set) => set,
            Err(error) => {
                tracing::warn!(%error, "what this host kept of its set cannot be used; it waits for the store");
                None
            }
        };
        let mut hosts = Hosts {
            request: context.bus().request(PlacementHosts { set: options.set.clone() })?,
            heard: HashMap::new(),
        };
        let begun = clock.now();
        let following = Following::begin(&self.bus, &options.set);
        let mut is_applied = true;
        let mut exclusive: BTreeMap<String, CancellationToken> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let newest = watch::Sender::new(set.clone());
        let mut next_poll = clock.now();
        loop {
            if clock.now() >= next_poll {
                next_poll = clock.now() + jittered(options.poll);
                if let Some(found) = self.look(set.as_ref()).await {
                    newest.send_replace(Some(found.clone()));
                    set = Some(found);
                }
            }
            let there = hosts.there(clock.now(), options.settle);
            if let Some(set) = &set {
                // A host that has just come does not know yet who else is there.
                let may_count = clock.now().saturating_sub(begun) >= options.settle;
                self.apply(set, &there, may_count, (&following, &mut is_applied)).await;
                self.follow_exclusive(set, &newest, &mut exclusive, &mut tasks);
            }
            let soon = (options.settle / 4).min(Duration::from_secs(1));
            tokio::select! {
                event = hosts.request.next() => if event.is_none() { break },
                () = tokio::time::sleep(soon) => {}
                () = context.cancelled() => break,
            }
        }
        exclusive.values().for_each(CancellationToken::cancel);
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// A newer set, which this host keeps from now on.
    async fn look(&self, known: Option<&TrustedSet>) -> Option<TrustedSet> {
        let options = &self.options;
        let above = known.map_or(0, |known| known.number);
        let found = match TrustedSet::newest(&options.store, &options.set, above, &options.keys).await {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(%error, "this host goes on with the set that it has");
                return None;
            }
        };
        let (kept, set) = (self.kept.clone(), found.clone());
        if let Err(error) = blocking(move || kept.write(&set)).await {
            tracing::warn!(%error, "the set is applied, and not kept");
        }
        Some(found)
    }

    /// Applies what this host is to run of a set, and takes off what it is not to run any more, whoever has applied that.
    async fn apply(
        &self,
        set: &TrustedSet,
        there: &[PlacementHost],
        may_count: bool,
        (following, is_applied): (&Following, &mut bool),
    ) {
        let options = &self.options;
        if !may_count {
            return;
        }
        let Some(applied) = following.applied(options.settle) else { return };
        let wanted = set.set.on_host(&options.host, &options.labels, there);
        if wanted == applied && *is_applied {
            return;
        }
        // Known before it is done: whoever comes next may find half of it.
        let mut both = applied.clone();
        wanted.iter().for_each(|(key, entry)| both.set(key, entry.clone()));
        following.set(both);
        let gone: Vec<String> =
            applied.iter().map(|(key, _)| key.to_owned()).filter(|key| wanted.get(key).is_none()).collect();
        for key in gone {
            self.bus.remove_config(&key).await;
        }
        let result = self.bus.apply(wanted.clone()).await;
        *is_applied = result.is_ok();
        match result {
            Ok(_) => following.set(wanted),
            Err(error) => tracing::warn!(%error, "the set is not applied"),
        }
    }

    /// Has a task for each exclusive entry that is for this host.
    fn follow_exclusive(
        self: &Arc<Self>,
        set: &TrustedSet,
        newest: &watch::Sender<Option<TrustedSet>>,
        running: &mut BTreeMap<String, CancellationToken>,
        tasks: &mut JoinSet<()>,
    ) {
        let wanted: Vec<String> = set.set.exclusive_on(&self.options.labels).map(str::to_owned).collect();
        running.retain(|key, stop| {
            let stays = wanted.contains(key);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for key in wanted {
            if !running.contains_key(&key) {
                let stop = CancellationToken::new();
                running.insert(key.clone(), stop.clone());
                tasks.spawn(Arc::clone(self).exclusive(key, newest.subscribe(), stop));
            }
        }
    }

    /// Runs one entry while this host holds its lease.
    async fn exclusive(
        self: Arc<Self>,
        key: String,
        mut sets: watch::Receiver<Option<TrustedSet>>,
        stop: CancellationToken,
    ) {
        let options = &self.options;
        let name = lease_name(&options.set, &key);
        let mut candidate = Candidate::new(&options.store, &name, &options.host, options.lease, &options.clock);
        while !stop.is_cancelled() {
            match candidate.try_acquire().await {
                Ok(Some(held)) => self.hold(&key, held, &mut sets, &stop).await,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, key, "its lease is not to be had"),
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(candidate.interval())) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn may_run(&self, key: &str, id: &str) -> bool {
        self.ends.check(key, id).inspect_err(|error| tracing::error!(%error, "it does not run here")).is_ok()
    }

    async fn hold(
        &self,
        key: &str,
        mut held: Held,
        sets: &mut watch::Receiver<Option<TrustedSet>>,
        stop: &CancellationToken,
    ) {
        let lease = self.options.lease;
        let fence = held.fence();
        tracing::info!(key, fence, "this host runs it");
        // It is renewed by a task of its own: however long a config takes to be applied, the lease does not wait.
        let (until, mut ended) = watch::channel(held.until());
        let (renewed, lasts) = (sets.clone(), ended.clone());
        let renewing = async {
            loop {
                tokio::time::sleep(lease / 3).await;
                match held.renew(serde_json::Value::Null).await {
                    Ok(true) => {
                        self.limit(key, id_of(&renewed, key).as_deref(), held.until());
                        until.send_replace(held.until());
                    }
                    Ok(false) => break,
                    Err(error) if held.is_held() => tracing::warn!(%error, key, "its lease is not renewed"),
                    Err(_) => break,
                }
                if !held.is_held() {
                    break;
                }
            }
        };
        let running = async {
            loop {
                let set = sets.borrow_and_update().clone();
                let entry = set.and_then(|set| set.set.with_fence(key, fence));
                let Some(entry) = entry else { return };
                let id = entry.id.clone();
                let mut config = ConfigSet::new();
                config.set(key, entry);
                let mut config = Some(config);
                // What cannot be ended is not begun, nor what nobody ends if this host cannot. Its plugin may come later, or be moved.
                while self.may_run(key, &id) {
                    let until = *lasts.borrow();
                    if self.limit(key, Some(&id), until)
                        && let Some(config) = config.take()
                    {
                        self.begin(key, config).await;
                    }
                    tokio::select! {
                        changed = sets.changed() => if changed.is_ok() { break } else { return },
                        () = tokio::time::sleep(lease / 6) => {}
                    }
                }
                if !self.may_run(key, &id) {
                    return;
                }
            }
        };
        // Not held any more by this host's clock, although a renewal may still be on its way.
        let over = async {
            loop {
                let left = ended.borrow_and_update().saturating_sub(self.options.clock.now());
                if left.is_zero() {
                    return;
                }
                // Timers stand still while the machine sleeps, and its lease does not: so it looks again soon.
                tokio::select! {
                    () = tokio::time::sleep(left.min(lease / 60)) => {}
                    _ = ended.changed() => {}
                }
            }
        };
        tokio::select! {
            () = renewing => {}
            () = running => {}
            () = over => {}
            () = stop.cancelled() => {}
        }
        // A third of the lease is left: an eighth of the whole at most for the controller to end by itself. Then it is killed here, and a
        // little later its process would end itself.
        let mut tries = 0;
        while !self.ends.end(key, self.patience()).await {
            tracing::error!(key, "it may still run here: its lease is not given up, and it is not begun again");
            tries += 1;
            if stop.is_cancelled() && tries >= 3 {
                return;
            }
            tokio::time::sleep(lease / 6).await;
        }
        let _ = held.release().await;
    }

    /// How long an exclusive controller has to end by itself: less than the bus has patience with it, which would not say later whether it
    /// has ended, or was given up.
    fn patience(&self) -> Duration {
        let limits = self.bus.limits();
        (self.options.lease / 8).min(limits.cancel.min(limits.close) * 3 / 4)
    }

    /// Applies the config of an exclusive controller, and ends the one before if that hangs.
    async fn begin(&self, key: &str, config: ConfigSet) {
        let mut applying = std::pin::pin!(self.bus.apply(config));
        let applied = loop {
            tokio::select! {
                applied = &mut applying => break applied,
                () = tokio::time::sleep(self.patience() / 2) => {
                    if !self.ends.end_replaced(key).await {
                        tracing::error!(key, "what runs there with the config before does not end");
                    }
                }
            }
        };
        if let Err(error) = applied {
            tracing::warn!(%error, key, "it is not applied");
        }
    }

    /// Has the process of an exclusive controller end itself when this host should have ended it, whatever becomes of this host. False
    /// if no plugin makes it here.
    fn limit(&self, key: &str, id: Option<&str>, until: Duration) -> bool {
        // In this order: a host that is frozen in between makes it sooner, not later.
        let now = Moment::now();
        let left = (until + self.options.lease / 6).saturating_sub(self.options.clock.now());
        id.is_some_and(|id| self.ends.limit(key, id, now + left))
    }
}

/// The config ID of an exclusive entry, if the set has it still.
fn id_of(sets: &watch::Receiver<Option<TrustedSet>>, key: &str) -> Option<String> {
    let set = sets.borrow();
    Some(set.as_ref()?.set.with_fence(key, 0)?.id)
}

impl Hosts {
    /// The hosts that are there, or were a moment ago.
    fn there(&mut self, now: Duration, settle: Duration) -> Vec<PlacementHost> {
        for host in self.request.standing() {
            self.heard.insert(host.host.clone(), (PlacementHost::clone(host), now));
        }
        self.heard.retain(|_, (_, last)| now.saturating_sub(*last) < settle);
        let mut all: Vec<_> = self.heard.values().map(|(host, _)| host.clone()).collect();
        all.sort_by(|a, b| a.host.cmp(&b.host));
        all
    }
}
