//! Who serves a request: the policy says, or one of the baselines that it is compared with.
//!
//! Baselines get the same copies made and the same volunteers shown as up; they only choose otherwise. The
//! server serves what nobody else can, and with the oracle what it can serve soonest itself.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::nodes::draw_by;
use super::world::{NodeIndex, World};
use crate::policy::{Decision, Request};

/// Holders that the oracle looks at; further ones are as good as those.
const MAX_LOOKED_AT: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancer {
    Manyhands,
    /// The server alone.
    None,
    Random,
    /// In proportion to the claimed rates.
    WeightedRandom,
    /// Fewest downloads at the last heartbeat.
    LeastConnections,
    /// Least finish time, knowing true rates and what every download still lacks at this moment.
    Oracle,
}

impl Balancer {
    pub fn baselines() -> Vec<Self> {
        vec![Self::None, Self::Random, Self::WeightedRandom, Self::LeastConnections, Self::Oracle]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Manyhands => "manyhands",
            Self::None => "none",
            Self::Random => "random",
            Self::WeightedRandom => "weighted-random",
            Self::LeastConnections => "least-connections",
            Self::Oracle => "oracle",
        }
    }

    pub fn has_volunteers(self) -> bool {
        self != Self::None
    }
}

impl World<'_> {
    /// Who serves a request; nobody is the server. `last` is whom the client was sent to for this before.
    pub fn choose(&mut self, request: &Request, last: Option<NodeIndex>) -> Option<NodeIndex> {
        let now = self.now();
        let (decision, orders) = self.policy.decide(request, now, &mut self.streams.choices);
        self.send(&orders);
        match self.balancer {
            Balancer::Manyhands => match decision {
                Decision::Volunteer { node, .. } => Some(self.index_of(node)),
                Decision::Origin(_) => None,
            },
            Balancer::None => None,
            Balancer::Oracle => self.soonest(request),
            _ => self.baseline(request, last),
        }
    }

    fn baseline(&mut self, request: &Request, last: Option<NodeIndex>) -> Option<NodeIndex> {
        let now = self.now();
        let holders = &self.files.holders[self.files.find(request.blob.id)? as usize];
        let is_shown_up = |node: &NodeIndex| {
            let known = self.nodes[*node as usize].known;
            Some(*node) != last && known.is_some_and(|(no, _)| self.policy.tracker().is_up(no, now))
        };
        let shown: Vec<NodeIndex> = holders.iter().copied().filter(is_shown_up).collect();
        if shown.is_empty() {
            return None;
        }
        let rng = &mut self.streams.choices;
        let (nodes, volunteers) = (&self.nodes, &self.scenario.volunteers);
        let claimed = |node: NodeIndex| {
            let node = &nodes[node as usize];
            node.rate * volunteers[node.group].lie
        };
        match self.balancer {
            Balancer::WeightedRandom => draw_by(&shown, claimed, rng),
            Balancer::LeastConnections => {
                let connections = |node: &NodeIndex| nodes[*node as usize].reported;
                let least = shown.iter().map(connections).min()?;
                let best: Vec<NodeIndex> =
                    shown.iter().copied().filter(|node| connections(node) == least).collect();
                Some(best[rng.random_range(0..best.len())])
            }
            _ => Some(shown[rng.random_range(0..shown.len())]),
        }
    }

    /// Who would finish it first; `None` is the server.
    fn soonest(&mut self, request: &Request) -> Option<NodeIndex> {
        let (now, len) = (self.queue.now(), request.len as f64);
        let holders = &self.files.holders[self.files.find(request.blob.id)? as usize];
        let skip = match holders.len() {
            count if count > MAX_LOOKED_AT => self.streams.choices.random_range(0..count),
            _ => 0,
        };
        let looked_at = holders.iter().cycle().skip(skip).take(holders.len().min(MAX_LOOKED_AT));
        self.lines[0].advance(now);
        let mut best = (self.lines[0].finish_time(len), None);
        for node in looked_at {
            if self.nodes[*node as usize].presence != super::nodes::Presence::Up {
                continue;
            }
            let line = &mut self.lines[*node as usize + 1];
            line.advance(now);
            let time = line.finish_time(len);
            if time < best.0 {
                best = (time, Some(*node));
            }
        }
        best.1
    }
}
