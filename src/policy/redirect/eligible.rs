//! Which holders a client may be sent to, and why the others not. The choice and its explanation to people
//! ask here, so that they cannot differ.

use super::origin::Offer;
use super::recent::Tries;
use crate::config::{NetworkRule, Networks};
use crate::model::Time;
use crate::policy::fleet::node::NodeState;
use crate::policy::fleet::tracker::Tracker;
use crate::policy::ids::NodeNo;
use crate::policy::inputs::Request;
use crate::policy::params::Params;

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
