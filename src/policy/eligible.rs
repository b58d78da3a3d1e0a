//! Which holders a client may be sent to, and why the others not. The choice and its explanation to people
//! ask here, so that they cannot differ.

use super::askers::{Asker, Tries};
use super::node::{NodeNo, NodeState};
use super::origin::Offer;
use super::params::Params;
use super::tracker::Tracker;
use crate::config::{NetworkRule, Networks};
use crate::model::{Blob, Time};

/// A package request, as far as the decision goes.
#[derive(Clone, Debug)]
pub struct Request {
    pub blob: Blob,
    /// Bytes asked for: the blob's size, or less for a range; 0 for those who only look.
    pub len: u64,
    /// How busy the server's own line is, 0 to 1.
    pub origin_load: f64,
    pub client: Asker,
    /// If its volunteer fails, the client asks here again or has another URL.
    pub can_return: bool,
    /// One of several parts that are fetched on their own: asking for the next is no second try.
    pub is_segment: bool,
    /// A volunteer sent the client back to be redirected anew: that must come to an end.
    pub is_sent_back: bool,
}

/// Why a holder is not given a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    State(NodeState),
    /// It is on a loopback address, the client on another machine.
    OtherMachine,
    OtherNetworks,
    SentBefore,
    Volatile,
    /// Volunteers of the client's site come first.
    NotPreferred,
}

impl Exclusion {
    pub fn name(self) -> &'static str {
        match self {
            Self::State(state) => state.name(),
            Self::OtherMachine => "on a loopback address of another machine",
            Self::OtherNetworks => "not for the client's network",
            Self::SentBefore => "the client was sent there just now",
            Self::Volatile => "went away without a word lately, and this client could not come back",
            Self::NotPreferred => "a volunteer of the client's site has it",
        }
    }
}

/// What a decision looks at, besides the tracker.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub params: &'a Params,
    pub networks: &'a Networks,
    pub request: &'a Request,
    /// Where the client was sent for the same blob a moment ago.
    pub tries: Option<Tries>,
    /// What the server itself has to offer.
    pub offer: Offer,
    pub now: Time,
}

impl<'a> View<'a> {
    pub fn rule(&self) -> Option<&'a NetworkRule> {
        self.networks.of(self.request.client.address)
    }

    /// Whether nothing speaks against this holder, as far as its brief tells: most need no closer look.
    pub fn is_plain(&self, tracker: &Tracker, no: NodeNo) -> bool {
        let brief = tracker.brief(no);
        brief.is_up(self.now)
            && brief.is_open
            && !self.networks.limit_volunteers()
            && (self.request.can_return || brief.volatile_until <= self.now)
            && !self.tries.is_some_and(|tries| tries.nodes().contains(&no))
    }

    /// Why this holder is left out, but for preferences; `None` if it is not.
    pub fn exclusion(&self, tracker: &Tracker, no: NodeNo) -> Option<Exclusion> {
        let excluded = self.look(tracker, no);
        debug_assert!(excluded.is_none() || !self.is_plain(tracker, no), "{no:?} is plainly {excluded:?}");
        excluded
    }

    fn look(&self, tracker: &Tracker, no: NodeNo) -> Option<Exclusion> {
        let node = tracker.node(no);
        let client = self.request.client.address;
        match node.state(self.params, self.now) {
            NodeState::Up => {}
            state => return Some(Exclusion::State(state)),
        }
        if node.is_local && !client.is_loopback() {
            return Some(Exclusion::OtherMachine);
        }
        if !node.serves(client) || !self.networks.serves(&node.id, client) {
            return Some(Exclusion::OtherNetworks);
        }
        if self.tries.is_some_and(|tries| tries.nodes().contains(&no)) {
            return Some(Exclusion::SentBefore);
        }
        let is_volatile = || node.standing.is_volatile(self.params, node.connected, self.now);
        (!self.request.can_return && is_volatile()).then_some(Exclusion::Volatile)
    }
}
