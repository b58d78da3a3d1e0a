//! Volunteers: they join, report, fetch what they are ordered to, leave with or without a word, and are tested.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::{Rng, RngExt};
use rand_distr::Distribution;
use rand_distr::weighted::WeightedAliasIndex;
use rand_pcg::Pcg64Mcg;

use super::engine::{Nanos, SECOND, nanos};
use super::line::Kind;
use super::scenario::Scenario;
use super::world::{Event, NodeIndex, Tested, To, Transfer, World, blob_id};
use crate::formats::control::{HoldingsChange, MAX_HOLDINGS, MAX_UPLOADS};
use crate::model::{Blob, BlobId, Rate, Size};
use crate::policy::{self, Joined, Load, NodeNo, Order, Outcome, Record, Task};

/// Copies that a volunteer fetches at a time, as the real one does.
const PARALLEL_FETCHES: usize = 4;
/// How long one that announces its departure continues with running downloads.
const DRAIN: Nanos = 30 * SECOND;
/// The server's test: bytes of a part, how long it waits.
const PROBE_PART: f64 = 65_536.0;
const PROBE_PATIENCE: f64 = 8.0;
/// A connection that gets no answer is given up after this.
const PROBE_SILENCE: Nanos = 4 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Away,
    Up,
    /// It has said that it goes.
    Leaving,
}

/// A volunteer as it is, not as the server sees it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Bytes/s, true.
    pub rate: f64,
    pub group: usize,
    pub presence: Presence,
    /// Counts joins and ends: shows an event that it is too late.
    pub session: u32,
    pub since: Nanos,
    /// The policy's name for it.
    pub known: Option<(NodeNo, u32)>,
    pub files: Vec<u32>,
    pub stored: u64,
    /// Copies to fetch: files and who may have them.
    pub queue: VecDeque<(u32, Vec<NodeIndex>)>,
    pub fetching: Vec<u32>,
    /// Downloads at its last report, for the baseline that goes by it.
    pub reported: u32,
    pub served: u64,
    /// Bytes of copies fetched.
    pub from_peers: u64,
    pub from_server: u64,
    /// When the server first stopped sending clients there because of wrong bytes.
    pub found: Option<Nanos>,
    /// Sent to clients when samples were taken last.
    pub bin_mark: f64,
    /// Sent to clients and to volunteers when the last window ended.
    pub window_mark: (f64, f64),
}

/// Draws of holders per copy.
const DRAWS: usize = 64;

/// The volunteers of a scenario, away.
pub fn draw(scenario: &Scenario, rng: &mut Pcg64Mcg) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (group, law) in scenario.volunteers.iter().enumerate() {
        let mut rates: Vec<f64> = (0..law.count).map(|number| law.rate.draw(number, rng)).collect();
        if let Some(total) = law.total {
            let sum: f64 = rates.iter().sum();
            rates.iter_mut().for_each(|rate| *rate *= total.0 as f64 / sum);
        }
        nodes.extend(rates.into_iter().map(|rate| Node::new(rate, group)));
    }
    nodes
}

/// Who has a copy of each file at the beginning: as many as the scenario says, drawn by rate.
pub fn seed_copies(scenario: &Scenario, nodes: &[Node], rng: &mut Pcg64Mcg) -> Vec<Vec<NodeIndex>> {
    let files = &scenario.files;
    let mut holders = vec![Vec::new(); files.count];
    let copies = files.copies.min(nodes.len());
    let seeded = (files.seeded * files.count as f64) as usize;
    let Ok(by_rate) = WeightedAliasIndex::new(nodes.iter().map(|node| node.rate).collect()) else {
        return holders;
    };
    for holders in holders.iter_mut().take(if copies > 0 { seeded } else { 0 }) {
        if copies == nodes.len() {
            *holders = (0..nodes.len() as u32).collect();
            continue;
        }
        // Of rates that differ a million times the same ones come again and again: then any others do.
        let drawn = (0..DRAWS * copies).map(|_| by_rate.sample(rng) as u32);
        for node in drawn.chain(0..nodes.len() as u32) {
            if holders.len() == copies {
                break;
            }
            if let Err(at) = holders.binary_search(&node) {
                holders.insert(at, node);
            }
        }
    }
    holders
}

impl Node {
    fn new(rate: f64, group: usize) -> Self {
        Self {
            rate,
            group,
            presence: Presence::Away,
            session: 0,
            since: 0,
            known: None,
            files: Vec::new(),
            stored: 0,
            queue: VecDeque::new(),
            fetching: Vec::new(),
            reported: 0,
            served: 0,
            from_peers: 0,
            from_server: 0,
            found: None,
            bin_mark: 0.0,
            window_mark: (0.0, 0.0),
        }
    }
}

impl World<'_> {
    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.nodes[node as usize].presence == Presence::Up
    }

    /// Whether it sends wrong bytes now.
    pub fn sends_wrong(&mut self, node: NodeIndex) -> bool {
        let share = self.scenario.volunteers[self.nodes[node as usize].group].wrong;
        share > 0.0 && self.streams.wrong.random::<f64>() < share
    }

    pub fn join(&mut self, index: NodeIndex) {
        let now = self.now();
        let law = &self.scenario.volunteers[self.nodes[index as usize].group];
        let node = &mut self.nodes[index as usize];
        // A volunteer's name does not outlive this line: valid by construction.
        let Ok(id) = format!("v{index}").parse() else { return };
        let joined = Joined {
            id,
            base_url: Arc::from("http://volunteer.example"),
            is_local: false,
            donate: Rate((node.rate * law.lie) as u64),
            max_size: law.store.unwrap_or(Size(u64::MAX >> 1)),
            clients: Vec::new(),
            instance: u64::from(node.session),
            is_volatile: law.volatile,
            record: Record::default(),
        };
        node.session += 1;
        node.presence = Presence::Up;
        node.since = self.queue.now();
        let session = node.session;
        let (no, epoch) = self.policy.join(joined, now);
        node.known = Some((no, epoch));
        if self.by_no.len() <= no.index() {
            self.by_no.resize(no.index() + 1, 0);
        }
        self.by_no[no.index()] = index;
        let files = std::mem::take(&mut node.files);
        for batch in files.chunks(MAX_HOLDINGS) {
            let blobs: Vec<BlobId> = batch.iter().map(|file| self.files.blob(*file).id).collect();
            let change = HoldingsChange::Add;
            self.policy.handle(policy::Event::Holdings { node: no, epoch, change, blobs: &blobs }, now);
        }
        self.nodes[index as usize].files = files;
        self.report(index);
        if let Some(stay) = law.session.draw(&mut self.streams.sessions) {
            self.queue.after(stay, Event::SessionEnds { node: index, session });
        }
        // Beats of different volunteers are not in step.
        let period = self.params.heartbeat.as_nanos() as f64;
        let phase = (self.streams.faults.random::<f64>() * period) as Nanos;
        self.queue.after(phase, Event::Beat { node: index, session });
    }

    pub fn beat(&mut self, index: NodeIndex, session: u32) {
        let node = &self.nodes[index as usize];
        if node.session != session || node.presence != Presence::Up {
            return;
        }
        let lost = self.scenario.faults.lost_heartbeats;
        if lost == 0.0 || self.streams.faults.random::<f64>() >= lost {
            self.report(index);
        }
        self.queue.after(self.params.heartbeat.as_nanos() as Nanos, Event::Beat { node: index, session });
    }

    /// A heartbeat reaches the server.
    fn report(&mut self, index: NodeIndex) {
        let now = self.queue.now();
        let line = &mut self.lines[index as usize + 1];
        line.advance(now);
        let (transfers, files) = (&self.transfers, &self.files);
        let blob = |(transfer, left): (u32, f64)| {
            let file = transfers.get(transfer)?.file;
            Some(Blob { id: files.blob(file).id, size: left.ceil() as u64 })
        };
        let remaining = line.remaining(Kind::Client).filter_map(blob).take(MAX_UPLOADS).collect();
        let syncs = line.remaining(Kind::Sync).filter_map(blob).take(MAX_UPLOADS).collect();
        let node = &mut self.nodes[index as usize];
        node.reported = line.clients() as u32;
        let load = Load {
            uploads: node.reported,
            remaining,
            syncs,
            served_bytes: line.sent().0 as u64,
            served_requests: node.served,
            store_bytes: node.stored,
            adopted: 0,
            sync_bytes: line.sent().1 as u64,
            peer_bytes: node.from_peers,
            fetched_bytes: node.from_server,
            ended: Vec::new(),
        };
        let Some((node, epoch)) = node.known else { return };
        let now = self.now();
        self.policy.handle(policy::Event::Reported { node, epoch, load: &load }, now);
    }

    pub fn session_ends(&mut self, index: NodeIndex, session: u32) {
        let node = &self.nodes[index as usize];
        if node.session != session || node.presence != Presence::Up {
            return;
        }
        let crash = self.scenario.volunteers[node.group].crash;
        // Drawn always: what comes after does not depend on the share.
        let is_crash = self.streams.sessions.random::<f64>() < crash;
        self.leave(index, is_crash);
    }

    /// Many leave at once.
    pub fn depart(&mut self, index: u32) {
        let departure = &self.scenario.departures[index as usize];
        for node in 0..self.nodes.len() as u32 {
            let is_drawn = self.streams.sessions.random::<f64>() < departure.share;
            if is_drawn && self.is_up(node) {
                self.leave(node, departure.crash);
            }
        }
    }

    fn leave(&mut self, index: NodeIndex, is_crash: bool) {
        let law = &self.scenario.volunteers[self.nodes[index as usize].group];
        if let Some(away) = law.away.draw(&mut self.streams.sessions) {
            // It is not back before the old session is over.
            self.queue.after(away.max(DRAIN + SECOND), Event::Join { node: index });
        }
        let node = &mut self.nodes[index as usize];
        let session = node.session;
        node.queue.clear();
        for transfer in std::mem::take(&mut node.fetching) {
            self.give_up_copy(transfer);
        }
        if is_crash {
            self.nodes[index as usize].presence = Presence::Away;
            self.nodes[index as usize].session += 1;
            self.cut(index);
            self.queue
                .after(self.scenario.faults.seen_after.nanos(), Event::LossSeen { node: index, session });
        } else {
            self.nodes[index as usize].presence = Presence::Leaving;
            self.tell_left(index, true);
            self.queue.after(DRAIN, Event::Drained { node: index, session });
        }
    }

    fn tell_left(&mut self, index: NodeIndex, clean: bool) {
        let Some((node, epoch)) = self.nodes[index as usize].known else { return };
        let now = self.now();
        self.policy.handle(policy::Event::Left { node, epoch, clean }, now);
    }

    pub fn loss_seen(&mut self, index: NodeIndex, session: u32) {
        // Who has joined again since was seen to have gone by that.
        if self.nodes[index as usize].session == session + 1 {
            self.tell_left(index, false);
        }
    }

    pub fn drained(&mut self, index: NodeIndex, session: u32) {
        let node = &mut self.nodes[index as usize];
        if node.session == session && node.presence == Presence::Leaving {
            node.presence = Presence::Away;
            node.session += 1;
            self.cut(index);
        }
    }

    /// Everything that the volunteer sends breaks off.
    fn cut(&mut self, index: NodeIndex) {
        let now = self.queue.now();
        for (transfer, left) in self.lines[index as usize + 1].clear(now) {
            self.broken(transfer, left);
        }
        self.look_after(index + 1);
        self.drop_held(index);
    }

    /// An order from the server.
    pub fn order(&mut self, order: &Order) {
        let index = self.index_of(order.node);
        let node = &mut self.nodes[index as usize];
        let is_of_now = node.known.is_some_and(|(_, epoch)| epoch == order.epoch);
        if node.presence != Presence::Up || !is_of_now {
            return;
        }
        let Some(file) = self.files.find(order.blob.id) else {
            // A predecessor, which nobody has any more.
            return self.tell_order_ended(index, order.blob.id, true);
        };
        match &order.task {
            Task::Fetch { peers } => {
                let peers = peers.iter().map(|no| self.by_no[no.index()]).collect();
                self.nodes[index as usize].queue.push_back((file, peers));
                self.fetch_more(index);
            }
            Task::Drop => self.drop_copy(index, file),
        }
    }

    fn drop_copy(&mut self, index: NodeIndex, file: u32) {
        if let Ok(at) = self.files.holders[file as usize].binary_search(&index) {
            self.files.holders[file as usize].remove(at);
            let size = self.files.sizes[file as usize];
            let node = &mut self.nodes[index as usize];
            node.stored -= size;
            node.files.retain(|held| *held != file);
        }
        self.tell_holding(index, file, HoldingsChange::Remove);
        self.tell_order_ended(index, blob_id(u64::from(file)), false);
    }

    fn tell_holding(&mut self, index: NodeIndex, file: u32, change: HoldingsChange) {
        let Some((node, epoch)) = self.nodes[index as usize].known else { return };
        let now = self.now();
        let blobs = [self.files.blob(file).id];
        self.policy.handle(policy::Event::Holdings { node, epoch, change, blobs: &blobs }, now);
    }

    fn tell_order_ended(&mut self, index: NodeIndex, blob: BlobId, failed: bool) {
        let Some((node, epoch)) = self.nodes[index as usize].known else { return };
        let now = self.now();
        self.policy.handle(policy::Event::OrderEnded { node, epoch, blob, failed }, now);
    }

    fn fetch_more(&mut self, index: NodeIndex) {
        while self.nodes[index as usize].fetching.len() < PARALLEL_FETCHES {
            let Some((file, peers)) = self.nodes[index as usize].queue.pop_front() else { return };
            let store = self.scenario.volunteers[self.nodes[index as usize].group].store;
            let size = self.files.sizes[file as usize];
            let has_room = store.is_none_or(|store| self.nodes[index as usize].stored + size <= store.0);
            if self.files.has(file, index) || !has_room {
                self.tell_order_ended(index, blob_id(u64::from(file)), !has_room);
                self.settle(index, file);
                continue;
            }
            let gives = |peer: &NodeIndex| self.files.has(file, *peer) || self.relays(*peer, file);
            let source = peers.into_iter().find(|peer| self.is_up(*peer) && gives(peer));
            let node = &self.nodes[index as usize];
            let to = To::Volunteer { node: index, session: node.session };
            let (line, session) = source.map_or((0, 0), |peer| (peer + 1, self.nodes[peer as usize].session));
            let transfer = self.transfers.insert(Transfer {
                line,
                session,
                file,
                len: size as f64,
                to,
                is_relayed: false,
            });
            self.nodes[index as usize].fetching.push(transfer);
            self.queue.after(self.scenario.clients.round_trip.nanos(), Event::Begin { transfer });
        }
    }

    /// A copy is there.
    pub fn copied(&mut self, transfer: u32, ended: &Transfer, index: NodeIndex) {
        let file = ended.file;
        self.account.copied += ended.len;
        let node = &mut self.nodes[index as usize];
        node.fetching.retain(|other| *other != transfer);
        let from = if ended.line > 0 { &mut node.from_peers } else { &mut node.from_server };
        *from += self.files.sizes[file as usize];
        if let Err(at) = self.files.holders[file as usize].binary_search(&index) {
            self.files.holders[file as usize].insert(at, index);
            node.files.push(file);
            node.stored += self.files.sizes[file as usize];
        }
        self.tell_order_ended(index, blob_id(u64::from(file)), false);
        self.tell_holding(index, file, HoldingsChange::Add);
        self.settle(index, file);
        self.fetch_more(index);
    }

    /// A volunteer sent wrong bytes for a copy: it is reported, and the server asked instead.
    pub fn copy_wrong(&mut self, transfer: u32, ended: &Transfer, (from, to): (NodeIndex, NodeIndex)) {
        if let Some((from, _)) = self.nodes[from as usize].known {
            self.policy.suspect(from, self.files.blob(ended.file));
        }
        self.copy_broken(transfer, 0.0, to);
    }

    /// The source of a copy is gone: what has arrived is discarded, and the server asked instead.
    pub fn copy_broken(&mut self, transfer: u32, left: f64, index: NodeIndex) {
        let Some(broken) = self.transfers.remove(transfer) else { return };
        self.account.wasted_copies += broken.len - left;
        let node = &mut self.nodes[index as usize];
        node.fetching.retain(|other| *other != transfer);
        node.queue.push_front((broken.file, Vec::new()));
        self.fetch_more(index);
    }

    /// The volunteer that fetches is going.
    fn give_up_copy(&mut self, transfer: u32) {
        let Some(&given_up) = self.transfers.get(transfer) else { return };
        let now = self.queue.now();
        // One that has not begun goes when it would: its number must not be another's by then.
        if let Some(left) = self.lines[given_up.line as usize].remove(Kind::Sync, transfer, now) {
            self.transfers.remove(transfer);
            self.account.wasted_copies += given_up.len - left;
            self.look_after(given_up.line);
        }
    }

    pub fn start_probes(&mut self) {
        let now = self.now();
        for probe in self.policy.probes(now) {
            let index = self.index_of(probe.node);
            let line = &self.lines[index as usize + 1];
            let share = line.rate() / (line.flows() + 1) as f64;
            let lasts = (PROBE_PART / share).min(PROBE_PATIENCE);
            let holds = |blob: Blob| self.files.find(blob.id).is_some_and(|file| self.files.has(file, index));
            let (result, after) = match probe.blob {
                _ if self.nodes[index as usize].presence == Presence::Away => (Tested::Silent, PROBE_SILENCE),
                Some(blob) if !holds(blob) => (Tested::Lacks, 0),
                Some(_) if self.sends_wrong(index) => (Tested::Wrong, nanos(lasts)),
                Some(_) => (Tested::Good(share as f32), nanos(lasts)),
                None => (Tested::Reached, 0),
            };
            let after = after + self.scenario.clients.round_trip.nanos();
            self.queue.after(after, Event::Probed { node: index, epoch: probe.epoch, result });
        }
    }

    pub fn probed(&mut self, index: NodeIndex, epoch: u32, result: Tested) {
        let Some((node, _)) = self.nodes[index as usize].known else { return };
        let outcome = match result {
            Tested::Silent => Outcome::Failed { why: "does not answer".to_owned() },
            Tested::Lacks => Outcome::Failed { why: "does not have the file".to_owned() },
            Tested::Reached => Outcome::Reached,
            Tested::Wrong => Outcome::Wrong { what: "other bytes".to_owned() },
            Tested::Good(rate) => Outcome::Good { bytes_per_sec: f64::from(rate) },
        };
        let now = self.now();
        self.policy.handle(policy::Event::Probed { node, epoch, outcome }, now);
        if self.policy.tracker().node(node).standing.is_quarantined(now) {
            self.nodes[index as usize].found.get_or_insert(self.queue.now());
        }
    }
}

/// One of several, in proportion to their weights.
pub fn draw_by<T: Copy>(of: &[T], weight: impl Fn(T) -> f64, rng: &mut impl Rng) -> Option<T> {
    let total: f64 = of.iter().map(|one| weight(*one)).sum();
    let mut at = rng.random::<f64>() * total;
    for one in of {
        at -= weight(*one);
        if at < 0.0 {
            return Some(*one);
        }
    }
    of.last().copied()
}
