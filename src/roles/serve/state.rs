//! What every part of the server shares.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use tokio::sync::{Notify, mpsc};

use super::admin::crowds::Crowds;
use super::http::access::AccessLog;
use super::http::target::Door;
use super::http::traffic::Traffic;
use super::metadata::listing::Listings;
use super::metadata::pins::Pins;
use super::metadata::repo::Repo;
use super::packages::alternatives::Settled;
use super::packages::learnt::Learnt;
use super::packages::lists::Courtesy;
use super::packages::serving::Downloads;
use super::volunteers::holdings::{self, Kept};
use super::volunteers::orders;
use super::volunteers::popularity;
use super::volunteers::zone::Failover;
use crate::catalog::{Census, PathTable, Snapshot};
use crate::config::ServeConfig;
use crate::formats::control::{HoldingsChange, JournalSpan, MAX_HOLDINGS, ToVolunteer};
use crate::formats::ticket::Key;
use crate::io::clock;
use crate::io::db::Db;
use crate::io::fetch::{FetchError, Fetcher};
use crate::io::index_dir::IndexDir;
use crate::io::shutdown::Shutdown;
use crate::io::tokens::TokenFile;
use crate::io::tree_hashes::TreeHashes;
use crate::io::tunnel::Tunnels;
use crate::io::upstream::Upstream;
use crate::model::{Blob, BlobId, Digest, Expected, RepoPath, Time, VolunteerId};
use crate::policy::{Decision, Event, Known, NodeNo, Params, Policy, Request};

/// Messages waiting for one volunteer. Orders beyond it are dropped and given again on the next demand.
pub const OUTBOX: usize = 1024;
/// One list at a time on each of two cores.
const PARSERS: usize = 2;
/// Looks at the start wait for disks and upstreams most of their time.
const WARMERS: usize = 8;
/// Small answers that are expensive to find out again.
const REMEMBERED: u64 = 100_000;
/// Memory for indexes within metadata: a suite's diff indexes are some 100 KB.
const NESTED_BYTES: u64 = 32 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct Server {
    pub config: ServeConfig,
    pub repos: Vec<Repo>,
    pub door: Door,
    pub tunnels: Tunnels,
    /// Packages from upstreams, bounded by `cache.max_size`.
    pub packages: Arc<Fetcher>,
    /// Members of snapshots.
    pub metadata: Arc<Fetcher>,
    pub upstream: Upstream,
    pub db: Arc<Db>,
    pub tokens: TokenFile,
    pub traffic: Arc<Traffic>,
    pub downloads: Arc<Downloads>,
    pub access: Option<AccessLog>,
    pub started: Time,
    /// Encoded generations, for a quick start.
    pub indexes: Mutex<IndexDir>,
    census: Mutex<Option<(u64, Arc<Census>)>>,
    /// Grows whenever a snapshot or what is known of its blobs changes.
    catalog_version: AtomicU64,
    /// Sizes of files whose metadata gives none (checksum files), once the origin told them.
    pub sizes: Cache<Digest, Option<u64>>,
    /// Whether an upstream has a file of its own where a client asked for a manifest.
    pub has_own_file: Cache<String, bool>,
    /// Until when a client that has a metalink of a blob is given time to get it from volunteers.
    pub courtesy: Courtesy,
    /// Pages of directories.
    pub listings: Listings,
    /// What clients are in the middle of reading.
    pub pins: Pins,
    /// What members that are indexes themselves name, by their digest.
    pub nested: Cache<Digest, Arc<PathTable>>,
    /// Such members that could not be had, for a minute.
    pub not_nested: Cache<Digest, FetchError>,
    /// What the files of local trees hold.
    pub trees: Arc<TreeHashes>,
    /// Those of them that no metadata names.
    pub learnt: Learnt,
    /// Files that were read again for the digests of their pieces, so that each is read once.
    pub hashing: Cache<Digest, ()>,
    /// Which file a path means, where metadata names several.
    pub settled: Settled,
    /// Package lists being read: each takes as much memory as it has bytes, and more.
    pub parsing: tokio::sync::Semaphore,
    /// Units read at the start, over all repositories.
    pub warming: tokio::sync::Semaphore,
    /// Scans of the whole catalog under way: one.
    pub lookups: Arc<tokio::sync::Semaphore>,
    /// What the failover zone needs, where there is one.
    pub failover: Option<Failover>,
    /// Begins when the server is told to stop.
    pub shutdown: Shutdown,
    chooser: Mutex<Chooser>,
    volunteers: Mutex<BTreeMap<NodeNo, Outbox>>,
    session_ended: Notify,
    /// A volunteer is to be tested at once.
    pub doubts: Notify,
    /// Volunteers' holdings from before the start.
    kept: Kept,
    pub crowds: Crowds,
    /// What volunteers were told last of their share for each other, in percent; 0 is nothing.
    sync_share: AtomicU8,
}

/// The policy and what it needs to act: randomness and keys.
#[derive(Debug)]
struct Chooser {
    policy: Policy,
    rng: Pcg64Mcg,
    signers: BTreeMap<NodeNo, Signer>,
}

/// What makes a volunteer's URLs.
#[derive(Clone, Debug)]
pub struct Signer {
    pub key: Arc<Key>,
    /// Its base URL in the failover zone.
    pub named_url: Option<Arc<str>>,
    /// Where its control connection comes from.
    pub peer: IpAddr,
}

#[derive(Debug)]
struct Outbox {
    epoch: u32,
    sender: mpsc::Sender<ToVolunteer>,
    life: Arc<Life>,
}

/// Whether a session's other end still lives, for those who must know before its heartbeats tell.
#[derive(Debug, Default)]
pub struct Life {
    /// Asks the session to ask its volunteer.
    pub asked: Notify,
    /// Something came from the volunteer.
    pub heard: Notify,
}

/// A decision with what is needed to carry it out.
#[derive(Debug)]
pub enum Choice {
    /// Redirect to this base URL, or to the signer's, which signs.
    Volunteer {
        node: NodeNo,
        base_url: Arc<str>,
        signer: Signer,
    },
    Origin,
}

/// What [`Server::new`] takes; the rest it makes.
#[derive(Debug)]
pub struct Parts {
    pub config: ServeConfig,
    pub repos: Vec<Repo>,
    pub packages: Arc<Fetcher>,
    pub metadata: Arc<Fetcher>,
    pub upstream: Upstream,
    pub db: Arc<Db>,
    pub access: Option<AccessLog>,
    pub indexes: IndexDir,
    pub shutdown: Shutdown,
}

impl Server {
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
        let Parts { config, repos, packages, metadata, upstream, db, access, indexes, shutdown } = parts;
        // Each repository has its own bound on waiting, which is kept where that is.
        let gates = config.repos.iter().map(|repo| repo.publish_gate);
        let params = Params::default();
        let gate_wait = gates.max().unwrap_or_default().max(params.gate_wait);
        let uplink = config.uplink.0 as f64;
        let (patience, min_share) = (config.patience, config.min_share.0 as f64);
        let params = Params { gate_wait, uplink, patience, min_share, ..params };
        let mut policy = Policy::new(params, config.networks.clone());
        policy.import_demand(popularity::read(&config.state_dir), clock::now());
        let chooser = Chooser { policy, rng: Pcg64Mcg::from_seed(seed), signers: BTreeMap::new() };
        let ten_minutes = Duration::from_secs(600);
        Ok(Self {
            repos,
            door: Door::new(&config),
            failover: config.failover.as_ref().map(|failover| Failover::new(failover.zone.clone())),
            tunnels: Tunnels::default(),
            tokens: TokenFile::in_state_dir(&config.state_dir),
            kept: Kept::read(&config.state_dir),
            config,
            packages,
            metadata,
            upstream,
            trees: TreeHashes::new(db.clone()),
            learnt: Learnt::new(db.clone()),
            db,
            access,
            traffic: Arc::default(),
            downloads: Arc::default(),
            started: clock::now(),
            indexes: Mutex::new(indexes),
            census: Mutex::default(),
            catalog_version: AtomicU64::new(0),
            sizes: Cache::builder().max_capacity(REMEMBERED).time_to_live(ten_minutes).build(),
            has_own_file: Cache::builder().max_capacity(REMEMBERED).time_to_live(ten_minutes).build(),
            courtesy: Courtesy::default(),
            listings: Listings::default(),
            pins: Pins::default(),
            not_nested: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(Duration::from_secs(60))
                .build(),
            nested: Cache::builder()
                .max_capacity(NESTED_BYTES)
                .weigher(|_, table: &Arc<PathTable>| {
                    u32::try_from(table.as_bytes().len()).unwrap_or(u32::MAX)
                })
                .build(),
            hashing: Cache::builder().max_capacity(REMEMBERED).time_to_live(ten_minutes).build(),
            settled: Settled::default(),
            shutdown,
            parsing: tokio::sync::Semaphore::new(PARSERS),
            warming: tokio::sync::Semaphore::new(WARMERS),
            session_ended: Notify::new(),
            doubts: Notify::new(),
            lookups: Arc::new(tokio::sync::Semaphore::new(1)),
            chooser: Mutex::new(chooser),
            volunteers: Mutex::default(),
            crowds: Crowds::default(),
            sync_share: AtomicU8::new(0),
        })
    }

    pub fn repo(&self, name: &str) -> Option<&Repo> {
        self.repos.iter().find(|repo| repo.config.name == name)
    }

    /// Runs a question or an event through the policy.
    pub fn policy<T>(&self, with: impl FnOnce(&mut Policy) -> T) -> T {
        with(&mut self.chooser().policy)
    }

    /// Goes on with what was known of a volunteer that has just joined, from its last session or from before the
    /// start. Returns the number of the first change that it has to announce; `None` is everything.
    pub fn resume(
        &self,
        node: NodeNo,
        epoch: u32,
        id: &VolunteerId,
        span: Option<JournalSpan>,
    ) -> Option<u64> {
        let now = clock::now();
        let kept = self.kept.take(id, span);
        if let Some(next) = self.policy(|policy| policy.resume(node, span, now)) {
            return Some(next);
        }
        let Known { position, blobs, .. } = kept?;
        for blobs in blobs.chunks(MAX_HOLDINGS) {
            let event = Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs };
            self.policy(|policy| policy.handle(event, now));
        }
        self.policy(|policy| policy.handle(Event::Announced { node, epoch, next: position.next }, now));
        Some(position.next)
    }

    /// Writes down what is known of volunteers' holdings, for the next process. Blocks.
    pub fn keep_holdings(&self) {
        let known = self.policy(|policy| policy.tracker().known(holdings::MAX_KEPT, clock::now()));
        if let Err(e) = holdings::write(&self.config.state_dir, &known) {
            tracing::warn!(error = %e, "volunteers' holdings are not kept; they will announce everything");
        }
    }

    /// Who has not come back by now is not waited for.
    pub fn forget_kept(&self) {
        self.kept.clear();
    }

    /// Has a volunteer's URLs made so from now on.
    pub fn set_signer(&self, node: NodeNo, signer: Signer) {
        self.chooser().signers.insert(node, signer);
    }

    pub fn signer(&self, node: NodeNo) -> Option<Signer> {
        self.chooser().signers.get(&node).cloned()
    }

    pub fn key(&self, node: NodeNo) -> Option<Arc<Key>> {
        self.chooser().signers.get(&node).map(|signer| signer.key.clone())
    }

    /// The key of the volunteer of this name. A look-up by name, whatever the number of volunteers.
    pub fn key_of(&self, id: &VolunteerId) -> Option<Arc<Key>> {
        let chooser = self.chooser();
        let (node, _) = chooser.policy.tracker().find(id)?;
        chooser.signers.get(&node).map(|signer| signer.key.clone())
    }

    /// Decides who answers, and has missing copies made. `repo` and `path` are for the log.
    pub fn choose(self: &Arc<Self>, request: &Request, repo: &str, path: &str) -> Choice {
        let now = clock::now();
        let mut chooser = self.chooser();
        let Chooser { policy, rng, signers } = &mut *chooser;
        let (decision, orders) = policy.decide(request, now, rng);
        let has_doubts = policy.has_doubts();
        let (choice, chosen) = match decision {
            Decision::Volunteer { node, .. } => {
                let chosen = policy.tracker().node(node);
                let base_url = chosen.base_url.clone();
                let signer = signers.get(&node).cloned();
                let choice = signer.map(|signer| Choice::Volunteer { node, base_url, signer });
                // Logging can be slow: it happens after the lock, from a copy.
                let id = tracing::enabled!(tracing::Level::DEBUG).then(|| chosen.id.clone());
                (choice.unwrap_or(Choice::Origin), id)
            }
            Decision::Origin(_) => (Choice::Origin, None),
        };
        drop(chooser);
        if has_doubts {
            self.doubts.notify_one();
        }
        match (decision, chosen) {
            (Decision::Volunteer { candidates, cost_micros, .. }, Some(volunteer)) => {
                tracing::debug!(repo, path, %volunteer, candidates, cost_ms = cost_micros / 1000, "redirect");
            }
            (Decision::Origin(reason), _) => {
                tracing::debug!(repo, path, reason = reason.name(), "served here")
            }
            (Decision::Volunteer { .. }, None) => {}
        }
        orders::send(self, &orders);
        choice
    }

    /// Up to `count` further volunteers that hold a blob, best first, with the keys to sign for them. Nothing is
    /// booked: whoever was chosen gets the download, unless it fails.
    pub fn others(&self, request: &Request, chosen: &str, count: usize) -> Vec<(Arc<str>, Arc<Key>)> {
        let mut chooser = self.chooser();
        let Chooser { policy, signers, .. } = &mut *chooser;
        let others = policy.others(request, clock::now());
        let holder = |node: NodeNo| {
            let base_url = policy.tracker().node(node).base_url.clone();
            let signer = signers.get(&node).filter(|_| *base_url != *chosen)?;
            Some((base_url, signer.key.clone()))
        };
        others.filter_map(holder).take(count).collect()
    }

    /// Notes that a census taken before is out of date.
    pub fn catalog_changed(&self) {
        self.catalog_version.fetch_add(1, Ordering::Relaxed);
    }

    /// Equal as long as nothing has changed.
    pub fn catalog_version(&self) -> u64 {
        self.catalog_version.load(Ordering::Relaxed)
    }

    /// How many names stand for how many blobs now. Blocks while millions are counted.
    pub fn census(&self) -> Arc<Census> {
        let taken = self.census.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match taken {
            Some((of, census)) if of == self.catalog_version() => census,
            _ => self.take_census(),
        }
    }

    /// Counts anew: bytes hashed since the last time may have shown that files are identical. Blocks.
    pub fn take_census(&self) -> Arc<Census> {
        let mut taken = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.catalog_version();
        let snapshots: Vec<_> = self.repos.iter().map(|repo| repo.snapshot().clone()).collect();
        let snapshots: Vec<&Snapshot> = snapshots.iter().map(AsRef::as_ref).collect();
        let canonical = |digest: &Digest| {
            self.packages.resolve(&Expected { digest: *digest, size: None }).map_or(*digest, |id| id.digest())
        };
        let census = Arc::new(Census::of(&snapshots, canonical));
        *taken = Some((version, census.clone()));
        census
    }

    /// Where the catalog has a blob, once per repository: by its SHA-256, or by a digest that its hashed bytes are
    /// known to have. A generation that is about to become visible counts: volunteers fetch its files. Last, where
    /// it was seen without being named.
    pub fn find(&self, id: BlobId) -> Vec<(&Repo, RepoPath, Expected)> {
        let mut digests = vec![id.digest()];
        if let Ok(Some(all)) = self.db.digests(id) {
            digests.extend(all.aliases());
        }
        let in_repo = |repo| {
            let snapshot = Repo::snapshot(repo);
            let visible = digests.iter().find_map(|digest| snapshot.path_of(digest));
            let pending = || digests.iter().find_map(|digest| Repo::pending_path_of(repo, digest));
            let (path, expected) = visible.or_else(pending)?;
            Some((repo, RepoPath::new(&path).ok()?, expected))
        };
        let learnt = self.learnt.find(id);
        let learnt = learnt.and_then(|(repo, path, expected)| Some((self.repos.get(repo)?, path, expected)));
        self.repos.iter().filter_map(in_repo).chain(learnt).collect()
    }

    /// Has copies made of a blob whose bytes have just become known.
    pub fn place(self: &Arc<Self>, blob: Blob) {
        let orders = self.policy(|policy| policy.place(blob, clock::now()));
        orders::send(self, &orders);
    }

    /// Has copies made that are missing of what was asked for lately.
    pub fn tend(self: &Arc<Self>) {
        let orders = self.policy(|policy| policy.tend(clock::now()));
        orders::send(self, &orders);
    }

    /// Who a volunteer is, where it serves and what signs for it there.
    pub fn address_of(&self, node: NodeNo) -> Option<(VolunteerId, Arc<str>, Arc<Key>)> {
        let chooser = self.chooser();
        let key = chooser.signers.get(&node)?.key.clone();
        let node = chooser.policy.tracker().node(node);
        Some((node.id.clone(), node.base_url.clone(), key))
    }

    /// Tells every volunteer how much of its line others may have; those who join later are told then.
    pub fn set_sync_share(&self, percent: u8) {
        self.sync_share.store(percent, Ordering::Relaxed);
        for outbox in self.volunteers().values() {
            // Who does not read has other problems.
            let _ = outbox.sender.try_send(ToVolunteer::SyncShare { percent });
        }
    }

    /// Connects a session's outbox; an older session of the same volunteer loses its own and ends.
    pub fn attach(&self, node: NodeNo, epoch: u32, sender: mpsc::Sender<ToVolunteer>, life: Arc<Life>) {
        // Whoever asks for nothing gets what every volunteer begins with.
        let percent = self.sync_share.load(Ordering::Relaxed);
        if percent > 0 {
            let _ = sender.try_send(ToVolunteer::SyncShare { percent });
        }
        let mut volunteers = self.volunteers();
        // Two sessions that begin at once may come here in the other order.
        if volunteers.get(&node).is_none_or(|outbox| outbox.epoch < epoch) {
            volunteers.insert(node, Outbox { epoch, sender, life });
        }
    }

    /// The life of a volunteer's session, if it has one.
    pub fn life(&self, node: NodeNo) -> Option<Arc<Life>> {
        self.volunteers().get(&node).map(|outbox| outbox.life.clone())
    }

    /// Tells a volunteer something, if its session is of this epoch and takes it.
    pub fn tell(&self, node: NodeNo, epoch: u32, message: ToVolunteer) -> bool {
        let volunteers = self.volunteers();
        let outbox = volunteers.get(&node).filter(|outbox| outbox.epoch == epoch);
        outbox.is_some_and(|outbox| outbox.sender.try_send(message).is_ok())
    }

    pub fn detach(&self, node: NodeNo, epoch: u32) {
        let mut volunteers = self.volunteers();
        if volunteers.get(&node).is_some_and(|outbox| outbox.epoch == epoch) {
            volunteers.remove(&node);
            self.session_ended.notify_waiters();
        }
    }

    /// Completes when every session has ended.
    pub async fn all_sessions_ended(&self) {
        loop {
            let ended = self.session_ended.notified();
            if self.volunteers().is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn chooser(&self) -> MutexGuard<'_, Chooser> {
        // Policy calls do not panic half-way through a change that matters: worst case is a wrong estimate.
        self.chooser.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volunteers(&self) -> MutexGuard<'_, BTreeMap<NodeNo, Outbox>> {
        self.volunteers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
