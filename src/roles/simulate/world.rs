//! The simulated world: clients, volunteers and a server that does what the policy decides.
//!
//! What happens to clients is in `clients.rs`, what happens to volunteers in `nodes.rs`. Nothing here decides
//! who serves or holds what: the policy does, or a baseline of `balancers.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::arrivals::{self, Popularity};
use super::balancers::Balancer;
use super::crowds::Crowds;
use super::engine::{Nanos, Queue, SECOND};
use super::figures::{Curves, Tally};
use super::first_minute::FirstMinute;
use super::line::Line;
use super::nodes::{self, Node};
use super::samples::{Account, Marks, Outcome};
use super::scenario::{Scenario, Shape};
use super::slab::Slab;
use crate::model::{Blob, BlobId, Time};
use crate::policy::{Gate, NodeNo, Order, Params, Policy, Release, ReleaseNo, ReleasedFile};

/// When the simulated time begins: any moment does.
const START: Time = Time::from_secs(1_800_000_000);
/// Nothing that a client still waits for takes longer than this after the last one came: else the world is
/// broken, and the run ends with an error instead of never.
const LONGEST_DRAIN: Nanos = 30 * 86_400 * SECOND;
/// Index of a volunteer in the world.
pub type NodeIndex = u32;

/// What happens. A `session` tells that the volunteer is the same as when it was scheduled.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The next client comes.
    Arrive,
    /// A client asks the server.
    Ask {
        client: u32,
    },
    /// A request has reached the host that will serve it.
    Begin {
        transfer: u32,
    },
    /// The first transfer of a line may have ended.
    Wake {
        line: u32,
    },
    Beat {
        node: NodeIndex,
        session: u32,
    },
    Join {
        node: NodeIndex,
    },
    SessionEnds {
        node: NodeIndex,
        session: u32,
    },
    /// The server's connection to one that is gone breaks.
    LossSeen {
        node: NodeIndex,
        session: u32,
    },
    /// One that announced its departure waits no longer for its downloads.
    Drained {
        node: NodeIndex,
        session: u32,
    },
    Depart {
        index: u32,
    },
    Probed {
        node: NodeIndex,
        epoch: u32,
        result: Tested,
    },
    Second,
    Tend,
    Release,
    /// Clients may come.
    Open,
}

/// How a test of a volunteer ends.
#[derive(Clone, Copy, Debug)]
pub enum Tested {
    Silent,
    Lacks,
    Reached,
    Wrong,
    /// It sends so many bytes/s.
    Good(f32),
}

/// Bytes on their way.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// 0 is the server's, then the volunteers'.
    pub line: u32,
    /// Of the sending volunteer.
    pub session: u32,
    pub file: u32,
    pub len: f64,
    pub to: To,
    /// The sender is still fetching the file.
    pub is_relayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Client(u32),
    Volunteer { node: NodeIndex, session: u32 },
}

/// A client and the file that it wants now.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Its address.
    pub number: u32,
    pub file: u32,
    /// Files that it wants after this one.
    pub rest: Vec<u32>,
    /// Bytes of the file that it has, and how many of them a volunteer sent.
    pub got: f64,
    pub by_volunteers: f64,
    pub asked: Nanos,
    /// Since when no bytes have come.
    pub idle_since: Nanos,
    pub is_stalled: bool,
    /// Some of what it has is not what it asked for.
    pub is_spoilt: bool,
    pub retries: u32,
    pub can_return: bool,
    /// Where it was sent last.
    pub last: Option<NodeIndex>,
}

/// Files by number, the most popular first.
#[derive(Clone, Debug)]
pub struct Files {
    pub sizes: Vec<u64>,
    /// Volunteers that have the file on disk, present or not; sorted.
    pub holders: Vec<Vec<NodeIndex>>,
    /// What the clients want of them.
    pub popularity: Popularity,
}

impl Files {
    pub fn blob(&self, file: u32) -> Blob {
        Blob { id: blob_id(u64::from(file)), size: self.sizes[file as usize] }
    }

    /// The file whose digest this is; `None` of a predecessor.
    pub fn find(&self, id: BlobId) -> Option<u32> {
        let number = number_of(id);
        (number < self.sizes.len() as u64).then_some(number as u32)
    }

    pub fn has(&self, file: u32, node: NodeIndex) -> bool {
        self.holders[file as usize].binary_search(&node).is_ok()
    }
}

/// A digest that stands for a file: spread like a real one, with the number at its end.
pub fn blob_id(number: u64) -> BlobId {
    // The finaliser of SplitMix64.
    let mut hash = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let mut id = [0; 32];
    id[..8].copy_from_slice(&hash.to_be_bytes());
    id[24..].copy_from_slice(&number.to_be_bytes());
    BlobId(id)
}

/// The number whose digest this is: that of a file, or beyond them all.
pub fn number_of(id: BlobId) -> u64 {
    id.0.last_chunk().map_or(0, |tail| u64::from_be_bytes(*tail))
}

/// The version before a released file; nobody holds it.
fn predecessor(file: u32) -> BlobId {
    blob_id(u64::from(file) | 1 << 40)
}

/// A stream of random numbers for each purpose: what one of them draws changes nothing in the others.
#[derive(Debug)]
pub struct Streams {
    pub wants: Pcg64Mcg,
    pub sessions: Pcg64Mcg,
    pub faults: Pcg64Mcg,
    pub choices: Pcg64Mcg,
    pub history: Pcg64Mcg,
    pub wrong: Pcg64Mcg,
}

fn stream(seed: u64, purpose: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (purpose << 56))
}

/// See the module's documentation.
#[derive(Debug)]
pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub params: Params,
    pub balancer: Balancer,
    pub queue: Queue<Event>,
    pub policy: Policy,
    pub files: Files,
    pub nodes: Vec<Node>,
    pub by_no: Vec<NodeIndex>,
    pub lines: Vec<Line>,
    pub transfers: Slab<Transfer>,
    /// Those that wait for a copy at their sender.
    pub held: BTreeMap<(NodeIndex, u32), Vec<u32>>,
    pub clients: Slab<Client>,
    pub streams: Streams,
    pub crowds: Crowds,
    pub tally: Tally,
    pub first_minute: FirstMinute,
    pub curves: Curves,
    pub account: Account,
    pub server_load: f64,
    /// What the volunteers were last told.
    sync_share: f64,
    pub mean_rate: f64,
    /// What a client gets at most.
    pub fastest: f64,
    /// When clients begin to come; unknown while the release is not visible.
    pub opened: Option<Nanos>,
    pub arrivals: Vec<Nanos>,
    pub arrived: usize,
    release: Option<ReleaseNo>,
    history_left: usize,
    pub marks: Marks,
}

impl<'a> World<'a> {
    pub fn new(
        scenario: &'a Scenario,
        catalog: &[u64],
        balancer: Balancer,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let params = scenario.params()?;
        let sync_share = params.sync_share;
        let mut draws = stream(seed, 1);
        let sizes: Vec<u64> =
            (0..scenario.files.count).map(|n| scenario.files.size.draw(n, catalog, &mut draws)).collect();
        let wanted = scenario.release.as_ref().map_or(scenario.files.count, |release| release.files);
        let popularity = Popularity::new(wanted, scenario.files.zipf);
        let nodes = nodes::draw(scenario, &mut stream(seed, 2));
        let client_rate = scenario.clients.line.map_or(f64::INFINITY, |line| line.0 as f64);
        let server = Line::new(scenario.server.uplink.0 as f64, client_rate, None);
        let line = |node: &Node| Line::new(node.rate, client_rate, Some(sync_share));
        let lines: Vec<Line> = std::iter::once(server).chain(nodes.iter().map(line)).collect();
        let fastest = lines.iter().map(Line::rate).fold(0.0, f64::max).min(client_rate);
        let all_rates: f64 = nodes.iter().map(|node| node.rate).sum();
        let mean_size = popularity.mean_size(&sizes[..wanted]);
        let capacity = all_rates / (mean_size * scenario.clients.files as f64);
        let arrivals =
            arrivals::times(&scenario.clients, scenario.duration.0, capacity, &mut stream(seed, 3))?;
        let history_left = scenario.release.as_ref().map_or(0, |release| {
            (release.learned * (arrivals.len() * scenario.clients.files) as f64) as usize
        });
        let holders = nodes::seed_copies(scenario, &nodes, &mut stream(seed, 4));
        let mut world = Self {
            scenario,
            balancer,
            first_minute: FirstMinute::new(lines.len(), params.min_share.min(client_rate)),
            queue: Queue::default(),
            policy: Policy::new(params.clone(), crate::config::Networks::default()),
            params,
            files: Files { sizes, holders, popularity },
            mean_rate: all_rates / nodes.len().max(1) as f64,
            fastest,
            nodes,
            by_no: Vec::new(),
            lines,
            transfers: Slab::default(),
            held: BTreeMap::new(),
            clients: Slab::default(),
            streams: Streams {
                wants: stream(seed, 5),
                sessions: stream(seed, 6),
                faults: stream(seed, 7),
                choices: stream(seed, 8),
                history: stream(seed, 9),
                wrong: stream(seed, 10),
            },
            crowds: Crowds::default(),
            tally: Tally::default(),
            curves: Curves::default(),
            account: Account::default(),
            server_load: 0.0,
            sync_share,
            opened: None,
            arrivals,
            arrived: 0,
            release: None,
            history_left,
            marks: Marks::default(),
        };
        world.take_stock();
        Ok(world)
    }

    /// Clients that will come.
    pub fn expected(&self) -> usize {
        self.arrivals.len()
    }

    pub fn now(&self) -> Time {
        START + Duration::from_nanos(self.queue.now())
    }

    /// Runs to the end. `progress` hears every simulated second how many clients have come.
    pub fn run(mut self, progress: &dyn Fn(usize)) -> anyhow::Result<Outcome> {
        if self.balancer.has_volunteers() {
            for node in 0..self.nodes.len() as u32 {
                self.queue.at(0, Event::Join { node });
            }
        }
        self.queue.at(SECOND, Event::Second);
        self.queue.at(self.params.heartbeat.as_nanos() as Nanos, Event::Tend);
        match &self.scenario.release {
            Some(release) => self.queue.at(release.at.nanos(), Event::Release),
            None => self.queue.at(self.scenario.settle.nanos(), Event::Open),
        }
        while let Some(event) = self.queue.next() {
            if matches!(event, Event::Second) {
                progress(self.arrived);
                if self.is_over() {
                    break;
                }
            }
            self.handle(event);
            ensure!(
                self.queue.now() <= LONGEST_DRAIN.saturating_add(self.scenario.duration.nanos()),
                "some clients are never served: this is a fault of the simulator"
            );
        }
        self.finish()
    }

    fn is_over(&self) -> bool {
        let ends = self.opened.map(|opened| opened + self.scenario.duration.nanos());
        self.arrived == self.arrivals.len()
            && self.clients.is_empty()
            && ends.is_some_and(|end| self.queue.now() >= end || self.comes_in_a_burst())
    }

    /// A crowd is over when its last client is served; steady arrivals continue for the whole time.
    fn comes_in_a_burst(&self) -> bool {
        matches!(self.scenario.clients.shape, Shape::Within { .. })
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Ask { client } => self.ask(client),
            Event::Begin { transfer } => self.begin(transfer),
            Event::Wake { line } => self.wake(line),
            Event::Beat { node, session } => self.beat(node, session),
            Event::Join { node } => self.join(node),
            Event::SessionEnds { node, session } => self.session_ends(node, session),
            Event::LossSeen { node, session } => self.loss_seen(node, session),
            Event::Drained { node, session } => self.drained(node, session),
            Event::Depart { index } => self.depart(index),
            Event::Probed { node, epoch, result } => self.probed(node, epoch, result),
            Event::Second => self.second(),
            Event::Tend => {
                let orders = self.policy.tend(self.now());
                self.send(&orders);
                self.queue.after(self.params.heartbeat.as_nanos() as Nanos, Event::Tend);
            }
            Event::Release => self.released(),
            Event::Open => self.open(),
        }
    }

    /// What clients want is visible.
    fn open(&mut self) {
        let now = self.queue.now();
        self.opened = Some(now);
        self.marks.window_due = now + self.scenario.warmup.nanos();
        for (index, departure) in (0..).zip(&self.scenario.departures) {
            self.queue.at(now + departure.at.nanos(), Event::Depart { index });
        }
        self.schedule_arrival();
    }

    pub fn schedule_arrival(&mut self) {
        if let (Some(at), Some(opened)) = (self.arrivals.get(self.arrived), self.opened) {
            self.queue.at(opened + at, Event::Arrive);
        }
    }

    /// New files come to the server.
    fn released(&mut self) {
        let Some(release) = &self.scenario.release else { return };
        let file = |file| ReleasedFile {
            blob: self.files.blob(file),
            predecessor: (release.learned > 0.0).then(|| predecessor(file)),
        };
        let files = (0..release.files as u32).map(file).collect();
        let release = Release { name: "simulated release".into(), files };
        let (number, orders) = self.policy.released(&release, self.now());
        self.release = Some(number);
        self.send(&orders);
        self.look_at_gate();
    }

    /// While the release waits for copies, those that are still missing are ordered again.
    fn look_at_gate(&mut self) {
        let (Some(release), None) = (self.release, self.opened) else { return };
        let now = self.now();
        if self.policy.gate(release, now) == Gate::Open {
            self.open();
        } else {
            let orders = self.policy.seed(now);
            self.send(&orders);
        }
    }

    /// Volunteers hear how much copies may take.
    fn share_lines(&mut self) {
        let share = self.policy.tracker().sync_share();
        if std::mem::replace(&mut self.sync_share, share) == share {
            return;
        }
        let now = self.queue.now();
        for line in 1..self.lines.len() as u32 {
            self.lines[line as usize].set_sync_share(share, now);
            self.look_after(line);
        }
    }

    /// What the server does every second.
    fn second(&mut self) {
        let now = self.queue.now();
        self.lines[0].advance(now);
        let sent = self.lines[0].sent().0 + self.lines[0].sent().1;
        // As `serve` measures its own line.
        let load = (sent - self.marks.second) / self.lines[0].rate();
        self.server_load = (self.server_load * 2.0 + load) / 3.0;
        self.marks.second = sent;
        self.share_lines();
        self.remember_history();
        self.look_at_gate();
        self.start_probes();
        let time = self.now();
        let reports = self.policy.crowds(time);
        if let Some(opened) = self.opened {
            self.crowds.take(&reports, START + Duration::from_nanos(opened));
        }
        self.sample();
        self.queue.after(SECOND, Event::Second);
    }

    /// The demand for the versions before a release, as the server has learned it.
    fn remember_history(&mut self) {
        let Some(release) = self.scenario.release.as_ref().filter(|_| self.release.is_none()) else { return };
        let seconds_left = (release.at.nanos().saturating_sub(self.queue.now()) / SECOND).max(1) as usize;
        let count = self.history_left.div_ceil(seconds_left);
        self.history_left -= count;
        for _ in 0..count {
            let file = self.files.popularity.draw(&mut self.streams.history);
            let blob = Blob { id: predecessor(file), size: self.files.sizes[file as usize] };
            let now = self.now();
            self.policy.learn(blob, now);
        }
    }

    /// Gives volunteers that are there their orders.
    pub fn send(&mut self, orders: &[Order]) {
        for order in orders {
            self.order(order);
        }
    }

    pub fn index_of(&self, no: NodeNo) -> NodeIndex {
        self.by_no[no.index()]
    }

    fn take_stock(&mut self) {
        for (file, holders) in (0_u32..).zip(&self.files.holders) {
            for holder in holders {
                let node = &mut self.nodes[*holder as usize];
                node.files.push(file);
                node.stored += self.files.sizes[file as usize];
            }
        }
    }
}
