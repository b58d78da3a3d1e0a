//! What goes from a full store: what nobody asks for, before more comes.
//!
//! A volunteer evicts on its own what was not read for longest. It does not know what the others hold; this
//! does: a drop order names something cold that is not the last copy of anything still remembered. Holdings are
//! looked through a slice at a time, and only while some store is nearly full.
//!
//! Properties, tested in `placer_tests.rs`: nothing hot or new is dropped, nor below two copies of what is
//! remembered; the coldest known goes first; nothing is dropped where there is room.

use std::collections::{BTreeMap, BTreeSet};

use super::scene::Scene;
use crate::formats::control::HoldingsChange;
use crate::model::{Blob, BlobId, Time};
use crate::policy::demand::counters::Demand;
use crate::policy::fleet::node::Node;
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::inputs::Event;
use crate::policy::outputs::{Order, Task};
use crate::policy::params::Params;

/// Blobs looked at per [`Cold::look`], and holders of these.
const SLICE: usize = 1024;
const MAX_PAIRS: usize = 16_384;
/// Cold blobs noted per volunteer.
const MAX_NOTED: usize = 32;
/// Drops per copy that comes: what one frees is small if many are needed.
const MAX_DROPS: usize = 8;

/// Cold blobs on volunteers that are nearly full.
#[derive(Debug, Default)]
pub struct Cold {
    next: Option<BlobId>,
    noted: BTreeMap<NodeNo, Vec<BlobId>>,
}

impl Cold {
    /// Notes what is cold among the next holdings in turn.
    pub fn look(&mut self, scene: &Scene<'_>, full: &BTreeSet<NodeNo>, is_new: impl Fn(BlobId) -> bool) {
        self.noted.retain(|no, _| full.contains(no));
        if full.is_empty() {
            return;
        }
        let Scene { tracker, demand, params, now, .. } = scene;
        let slice = tracker.held_from(self.next.unwrap_or(BlobId([0; 32])), SLICE);
        self.next = slice.last().copied().filter(|_| slice.len() == SLICE);
        let mut pairs = 0;
        for blob in slice.into_iter().filter(|blob| is_cold(demand, params, *blob, *now) && !is_new(*blob)) {
            if pairs >= MAX_PAIRS {
                self.next = Some(blob);
                break;
            }
            for no in tracker.holders(blob).inspect(|_| pairs += 1).filter(|no| full.contains(no)) {
                let noted = self.noted.entry(no).or_default();
                if !noted.contains(&blob) {
                    noted.push(blob);
                }
                if noted.len() > MAX_NOTED {
                    let lasting = |blob: &BlobId| demand.of(*blob, *now).lasting;
                    noted.sort_by(|a, b| lasting(a).total_cmp(&lasting(b)).then(a.cmp(b)));
                    noted.truncate(MAX_NOTED / 2);
                }
            }
        }
    }

    /// What is new was not, when it was noted.
    pub fn forget(&mut self) {
        self.noted.clear();
    }

    /// Orders dropped what must go so that a volunteer has room for the blob, as far as that is known.
    pub fn make_room(&mut self, scene: &mut Scene<'_>, no: NodeNo, blob: Blob, is_full: bool) -> Vec<Order> {
        let Some(noted) = self.noted.get_mut(&no).filter(|_| is_full) else { return Vec::new() };
        let Scene { tracker, demand, params, now, .. } = scene;
        let lasting = |demand: &Demand, blob: &BlobId| demand.of(*blob, *now).lasting;
        noted.sort_by(|a, b| lasting(demand, a).total_cmp(&lasting(demand, b)).then(a.cmp(b)));
        let node = tracker.node(no);
        let (epoch, mean) = (node.epoch, mean_size(node));
        let limit = (node.max_size.0 as f64 * params.evict_above) as u64;
        let coming = node.orders.bytes().saturating_add(blob.size);
        let kept = node.load.store_bytes.saturating_sub(node.dropped);
        let mut over = kept.saturating_add(coming).saturating_sub(limit);
        let mut drops = Vec::new();
        while over > 0 && drops.len() < MAX_DROPS && !noted.is_empty() {
            let id = noted.remove(0);
            if id == blob.id || !may_drop(tracker, demand, params, no, id, *now) {
                continue;
            }
            let size = demand.size(id);
            let freed = size.unwrap_or(mean);
            over = over.saturating_sub(freed);
            tracker.node_mut(no).dropped += freed;
            demand.given_up(id);
            // It counts as gone at once: no client is sent there, and no other copy is given up for this one.
            let change = HoldingsChange::Remove;
            tracker.handle(Event::Holdings { node: no, epoch, change, blobs: &[id] }, *now);
            drops.push(Order {
                node: no,
                epoch,
                blob: Blob { id, size: size.unwrap_or(0) },
                task: Task::Drop,
            });
        }
        drops
    }
}

/// Whether no copy of it pays.
fn is_cold(demand: &Demand, params: &Params, blob: BlobId, now: Time) -> bool {
    let recent = demand.of(blob, now);
    recent.requests < params.hot_requests && recent.expected(params.copy_life) < params.payback
}

/// Whether a volunteer may give it up.
fn may_drop(
    tracker: &Tracker,
    demand: &Demand,
    params: &Params,
    no: NodeNo,
    blob: BlobId,
    now: Time,
) -> bool {
    let mut others = tracker.live_holders(blob, now).filter(|other| *other != no);
    is_cold(demand, params, blob, now)
        && tracker.holders(blob).any(|holder| holder == no)
        // What is not even remembered may go from its last place.
        && (demand.size(blob).is_none() || others.next().is_some())
}

/// What a blob is taken to have that nobody asked for since.
fn mean_size(node: &Node) -> u64 {
    node.load.store_bytes / node.holdings.saturating_sub(node.load.adopted).max(1)
}
