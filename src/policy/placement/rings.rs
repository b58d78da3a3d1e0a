//! Where copies may go: the volunteers that are up, by class, on rings.
//!
//! A walk over ten thousand volunteers per blob would hold the policy for milliseconds, so they are looked
//! through once a second at most, and a blob's candidates are scored a window at a time: the volunteers from
//! the blob's own place on the ring onwards. Within a window weighted rendezvous ranks by -weight / ln(h), h a
//! hash of blob and volunteer in (0, 1). A fleet of up to one window is ranked whole.
//!
//! Properties, tested in `placer_tests.rs`: the same blob prefers the same volunteers; one that leaves moves only its own
//! share; a volunteer is preferred in proportion to its weight; copies of one blob are in different networks
//! (/24, /48) as long as there are any.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::formats::authority::Authority;
use crate::model::{BlobId, Time};
use crate::policy::fleet::node::Node;
use crate::policy::fleet::stability::Class;
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::params::Params;
use crate::policy::tables::hash::{fnv1a, mix};

/// Volunteers of each class that are scored at once.
const WINDOW: usize = 64;
/// Windows looked through for one blob.
const MAX_WINDOWS: usize = 16;
/// Volunteers scored until they are looked through again: what finds nobody looks at many, and a store is
/// full or a budget spent for longer than a second. About 10 ms.
const MAX_SCORED: usize = 200_000;
/// The fleet is looked through again after this.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// A fleet up to this size is looked through whenever somebody came or went.
const SMALL: usize = 256;

pub const CLASSES: [Class; 3] = [Class::Stable, Class::Volatile, Class::Probation];

/// Whose network an address is in: copies there may vanish together.
type Group = u64;

#[derive(Clone, Copy, Debug)]
struct Member {
    /// Its place on the ring.
    place: u64,
    no: NodeNo,
    group: Group,
    /// Hash of its name, and its rate in bytes/s: what is donated, or less where tests say so.
    hash: u64,
    weight: f64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Rings {
    built: Option<Time>,
    has_changed: bool,
    by_class: [Vec<Member>; CLASSES.len()],
    rate: f64,
    scored: usize,
    /// Volunteers whose store is nearly full.
    pub full: BTreeSet<NodeNo>,
}

impl Rings {
    /// Somebody came or went.
    pub fn changed(&mut self) {
        self.has_changed = true;
    }

    /// Looks at the volunteers again, if that is due.
    pub fn refresh(&mut self, tracker: &Tracker, params: &Params, now: Time) {
        let is_fresh = self.built.is_some_and(|built| built <= now && now.since(built) < FRESH_FOR);
        if is_fresh && !(self.has_changed && self.up() <= SMALL) {
            return;
        }
        (self.built, self.has_changed, self.rate) = (Some(now), false, 0.0);
        self.full.clear();
        self.scored = 0;
        self.by_class.iter_mut().for_each(Vec::clear);
        for (no, node) in tracker.nodes().filter(|(no, _)| tracker.is_up(*no, now)) {
            self.rate += node.rate();
            let hash = fnv1a(node.id.as_str());
            let member = Member { place: mix(hash), no, group: group(node), hash, weight: node.rate() };
            self.by_class[tracker.brief(no).class as usize].push(member);
            if node.load.store_bytes as f64 > node.max_size.0 as f64 * params.evict_above {
                self.full.insert(no);
            }
        }
        self.by_class
            .iter_mut()
            .for_each(|ring| ring.sort_unstable_by_key(|member| (member.place, member.no)));
    }

    /// Volunteers that are up.
    pub fn up(&self) -> usize {
        self.by_class.iter().map(Vec::len).sum()
    }

    pub fn of_class(&self, class: Class) -> usize {
        self.by_class[class as usize].len()
    }

    /// Mean rate of those that are up, in bytes/s.
    pub fn mean_rate(&self) -> f64 {
        self.rate / self.up().max(1) as f64
    }

    /// Whether there was so much to do lately that what nobody waits for can wait.
    pub fn is_tired(&self) -> bool {
        self.scored > MAX_SCORED / 2
    }

    /// Up to `count` volunteers of these classes that `is_able`, the most preferred first. `taken` are the
    /// networks that have a copy already; those of the chosen are added.
    pub fn select(
        &mut self,
        classes: &[Class],
        blob: BlobId,
        count: usize,
        taken: &mut BTreeSet<Group>,
        mut is_able: impl FnMut(NodeNo) -> bool,
    ) -> Vec<NodeNo> {
        let rings: Vec<&[Member]> =
            classes.iter().map(|class| self.by_class[*class as usize].as_slice()).collect();
        let longest = rings.iter().map(|ring| ring.len()).max().unwrap_or(0);
        let mut chosen = Vec::new();
        for window in 0..longest.div_ceil(WINDOW).min(MAX_WINDOWS) {
            if chosen.len() >= count || self.scored >= MAX_SCORED {
                break;
            }
            let scored = |member: &Member| (score(member, blob), *member);
            let mut scored: Vec<(f64, Member)> =
                rings.iter().flat_map(|ring| slice(ring, blob, window)).map(scored).collect();
            self.scored += scored.len();
            scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.no.cmp(&b.1.no)));
            let mut passed_over = Vec::new();
            for (_, member) in scored {
                if chosen.len() >= count {
                    break;
                } else if taken.contains(&member.group) {
                    passed_over.push(member.no);
                } else if is_able(member.no) {
                    taken.insert(member.group);
                    chosen.push(member.no);
                }
            }
            let missing = count - chosen.len();
            chosen.extend(passed_over.into_iter().filter(|no| is_able(*no)).take(missing));
        }
        chosen
    }
}

/// The members of one window of a ring, each in one window only.
fn slice(ring: &[Member], blob: BlobId, window: usize) -> impl Iterator<Item = &Member> {
    let from = window * WINDOW;
    let count = ring.len().saturating_sub(from).min(WINDOW);
    let start = ring.partition_point(|member| member.place < mix(blob.prefix()));
    let (before, after) = ring.split_at((start + from) % ring.len().max(1));
    after.iter().chain(before).take(count)
}

/// Weighted rendezvous score.
fn score(member: &Member, blob: BlobId) -> f64 {
    let hash = mix(blob.prefix() ^ member.hash);
    // 53 bits, moved off both ends of (0, 1).
    let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -member.weight / unit.ln()
}

/// The address in a volunteer's base URL, where it is no name.
pub fn address(node: &Node) -> Option<IpAddr> {
    host(node)?.address()
}

fn host(node: &Node) -> Option<Authority> {
    let (_, rest) = node.base_url.split_once("://")?;
    Authority::parse(rest.split('/').next()?)
}

pub fn group(node: &Node) -> Group {
    match host(node) {
        None => fnv1a(&node.base_url),
        Some(host) => match host.address() {
            Some(IpAddr::V4(address)) => u64::from(address.to_bits() >> 8),
            Some(IpAddr::V6(address)) => (address.to_bits() >> 80) as u64,
            None => fnv1a(&host.host),
        },
    }
}
