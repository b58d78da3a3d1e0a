//! Who asked for what a moment ago. A client that asks for the same file again was not served where it was
//! sent: it is sent elsewhere, and after `asker_tries` redirects the server serves it itself.
//!
//! What the repetition proves is little (many clients may stand behind one address), so it only makes the
//! server look: the volunteer's standing changes by the server's own test alone, and one client cannot
//! smear it. And an address that asks on after the server served it is many clients: the file's requests
//! from there are redirected as any others, until there is none for the window.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::node::NodeNo;
use super::params::Params;
use super::rings::fnv1a;
use crate::model::{BlobId, Time};

/// Redirects remembered: about 20 MB. A crowd of 100,000 within a minute forgets its oldest.
const MAX_REMEMBERED: usize = 100_000;
/// Redirects of one client for one blob that are told apart.
const MAX_TRIES: usize = 4;

/// Who asks, as far as can be told: another program is another client. A client that tries again is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    pub address: IpAddr,
    /// What stands for its User-Agent.
    pub agent: u64,
}

impl Asker {
    pub fn new(address: IpAddr, user_agent: &str) -> Self {
        Self { address, agent: fnv1a(user_agent) }
    }
}

pub type Key = (Asker, BlobId);

/// Where one client was sent for one blob, the last one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    nodes: [NodeNo; MAX_TRIES],
    count: usize,
    at: Time,
    is_crowd: bool,
}

impl Tries {
    pub fn nodes(&self) -> &[NodeNo] {
        &self.nodes[..self.count]
    }

    /// When that was last.
    pub fn at(&self) -> Time {
        self.at
    }

    /// Whether many clients stand behind the address.
    pub fn is_crowd(&self) -> bool {
        self.is_crowd
    }

    pub fn last(&self) -> Option<NodeNo> {
        self.nodes().last().copied()
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Askers {
    tries: BTreeMap<Key, Tries>,
    /// In the order of time; an entry that was renewed since is skipped.
    order: VecDeque<(Time, Key)>,
}

impl Askers {
    /// Where the client was sent for the blob within the window.
    pub fn before(&self, params: &Params, client: Asker, blob: BlobId, now: Time) -> Option<Tries> {
        let tries = self.tries.get(&(client, blob))?;
        (now.since(tries.at) <= params.asker_window).then_some(*tries)
    }

    /// The same for every program at an address, for people.
    pub fn of_address(
        &self,
        params: &Params,
        address: IpAddr,
        blob: BlobId,
        now: Time,
    ) -> impl Iterator<Item = Tries> {
        let end = |agent, byte| (Asker { address, agent }, BlobId([byte; 32]));
        let known = self.tries.range(end(0, 0)..=end(u64::MAX, u8::MAX));
        let is_recent = move |tries: &Tries| now.since(tries.at) <= params.asker_window;
        known.filter(move |((_, of), _)| *of == blob).map(|(_, tries)| *tries).filter(is_recent)
    }

    /// Books a redirect; `before` is what [`Self::before`] says.
    pub fn redirected(
        &mut self,
        params: &Params,
        (client, blob): Key,
        node: NodeNo,
        before: Option<Tries>,
        now: Time,
    ) {
        let fresh = Tries { nodes: [node; MAX_TRIES], count: 0, at: now, is_crowd: false };
        let mut tries = before.unwrap_or(fresh);
        if tries.is_crowd {
            (tries.nodes[0], tries.count) = (node, 1);
            return self.renew(params, (client, blob), tries, now);
        }
        tries.count = (tries.count + 1).min(MAX_TRIES);
        tries.nodes[tries.count - 1] = node;
        self.put(params, (client, blob), Tries { at: now, ..tries });
    }

    /// The server serves the file: whoever asks for it next from there is somebody else.
    pub fn served(&mut self, params: &Params, key: Key, before: Option<Tries>, now: Time) {
        match before {
            Some(tries) if tries.is_crowd => self.renew(params, key, tries, now),
            Some(tries) => self.put(params, key, Tries { count: 0, at: now, is_crowd: true, ..tries }),
            None => {}
        }
    }

    /// A crowd goes on. That is noted now and then: it may be thousands a second.
    fn renew(&mut self, params: &Params, key: Key, tries: Tries, now: Time) {
        if now.since(tries.at) > params.asker_window / 4 {
            self.put(params, key, Tries { at: now, ..tries });
        } else if let Some(known) = self.tries.get_mut(&key) {
            *known = tries;
        }
    }

    fn put(&mut self, params: &Params, key: Key, tries: Tries) {
        self.forget_old(params, tries.at);
        self.tries.insert(key, tries);
        self.order.push_back((tries.at, key));
    }

    fn forget_old(&mut self, params: &Params, now: Time) {
        while let Some((at, key)) = self.order.front().copied() {
            let is_over = now.since(at) > params.asker_window || self.order.len() >= MAX_REMEMBERED;
            if !is_over {
                break;
            }
            self.order.pop_front();
            if self.tries.get(&key).is_some_and(|tries| tries.at <= at) {
                self.tries.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::node::node_no;
    use std::time::Duration;

    const CLIENT: Asker = Asker { address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), agent: 1 };

    fn redirected(askers: &mut Askers, blob: BlobId, node: NodeNo, now: Time) {
        let params = Params::default();
        let before = askers.before(&params, CLIENT, blob, now);
        askers.redirected(&params, (CLIENT, blob), node, before, now);
    }

    #[test]
    fn an_address_is_all_its_programs_and_no_other() {
        let (mut askers, params) = (Askers::default(), Params::default());
        let (now, blob) = (Time::from_secs(1000), BlobId([1; 32]));
        let other = "192.0.2.2".parse().expect("an address");
        for (address, agent, blob) in [
            (CLIENT.address, 0, blob),
            (CLIENT.address, u64::MAX, blob),
            (other, 1, blob),
            (CLIENT.address, 1, BlobId([2; 32])),
        ] {
            askers.redirected(&params, (Asker { address, agent }, blob), node_no(7), None, now);
        }
        let told = |now| askers.of_address(&params, CLIENT.address, blob, now).count();
        assert_eq!(told(now), 2);
        assert_eq!(told(now + params.asker_window + Duration::from_secs(1)), 0);
    }

    #[test]
    fn remembers_for_the_window_and_no_longer() {
        let params = Params::default();
        let mut askers = Askers::default();
        let (start, blob) = (Time::from_secs(1000), BlobId([1; 32]));
        redirected(&mut askers, blob, node_no(3), start);
        let later = start + Duration::from_secs(40);
        redirected(&mut askers, blob, node_no(5), later);
        let nodes =
            |askers: &Askers, now| askers.before(&params, CLIENT, blob, now).map(|t| t.nodes().to_vec());
        assert_eq!(nodes(&askers, later), Some(vec![node_no(3), node_no(5)]));
        assert_eq!(nodes(&askers, later + params.asker_window), Some(vec![node_no(3), node_no(5)]));
        assert_eq!(nodes(&askers, later + params.asker_window + Duration::from_nanos(1)), None);
        assert_eq!(askers.before(&params, CLIENT, BlobId([2; 32]), later), None, "another file");
        assert_eq!(
            askers.before(&params, Asker { agent: 2, ..CLIENT }, blob, later),
            None,
            "another program"
        );
        let before = askers.before(&params, CLIENT, blob, later);
        askers.served(&params, (CLIENT, blob), before, later);
        assert_eq!(nodes(&askers, later), Some(vec![]));
        redirected(&mut askers, blob, node_no(5), later);
        redirected(&mut askers, blob, node_no(7), later);
        assert_eq!(nodes(&askers, later), Some(vec![node_no(7)]), "of many clients only the last one's");
    }

    #[test]
    fn is_bounded() {
        let mut askers = Askers::default();
        for n in 0..MAX_REMEMBERED as u64 + 1000 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            redirected(&mut askers, BlobId(id), node_no(0), Time::from_secs(1000));
        }
        assert!(askers.tries.len() <= MAX_REMEMBERED && askers.order.len() <= MAX_REMEMBERED);
    }
}
