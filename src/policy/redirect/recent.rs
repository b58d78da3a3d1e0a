//! Who asked for what a moment ago. A client that asks for the same file again was not served where it was
//! sent: it is sent elsewhere, and after `asker_tries` redirects the server serves it itself.
//!
//! What the repetition proves is little (many clients may stand behind one address), so it only makes the
//! server look: the volunteer's standing changes by the server's own test alone, and one client cannot
//! smear it. And an address that asks on after the server served it is many clients: the file's requests
//! from there are redirected as any others, until there is none for the window.
//!
//! What is remembered lies in a table of small rows, one cache line per memory: what a request looks up it
//! most likely changes next. A full row forgets its oldest.

use std::net::IpAddr;

use crate::model::{BlobId, Time};
use crate::policy::ids::NodeNo;
use crate::policy::inputs::Asker;
use crate::policy::params::Params;
use crate::policy::tables::hash::mix;

/// Redirects remembered, 64 bytes each. A crowd of so many within a minute forgets its oldest.
const MAX_REMEMBERED: usize = ROW << 16;
/// Memories that a key may be in.
const ROW: usize = 4;
/// Rows of a table that is made.
const FIRST_ROWS: usize = 64;
/// Redirects of one client for one blob that are told apart.
const MAX_TRIES: usize = 4;

pub type Key = (Asker, BlobId);

/// A key in short. A quarter of the digest is enough: it is one of a catalog, which nobody made up to
/// resemble another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tag {
    address: u128,
    agent: u64,
    blob: u64,
}

impl From<Key> for Tag {
    fn from((client, blob): Key) -> Self {
        let address = match client.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Self { address: address.to_bits(), agent: client.agent, blob: blob.prefix() }
    }
}

impl Tag {
    fn hash(&self) -> u64 {
        let address = self.address as u64 ^ mix((self.address >> 64) as u64);
        mix(mix(address ^ self.blob) ^ self.agent)
    }
}

/// Where one client was sent for one blob, the last one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    nodes: [NodeNo; MAX_TRIES],
    at: Time,
    count: u8,
    is_crowd: bool,
}

impl Tries {
    pub fn nodes(&self) -> &[NodeNo] {
        &self.nodes[..usize::from(self.count)]
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

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Memory {
    tag: Tag,
    tries: Tries,
}

impl Memory {
    /// Longer ago than any window.
    const NONE: Self = Self {
        tag: Tag { address: 0, agent: 0, blob: 0 },
        tries: Tries { nodes: [NodeNo(0); MAX_TRIES], at: Time::from_nanos(0), count: 0, is_crowd: false },
    };

    fn is_used(&self) -> bool {
        self.tries.at > Time::default()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Askers {
    /// A power of two of them, [`MAX_REMEMBERED`] at most.
    rows: Vec<[Memory; ROW]>,
    used: usize,
}

impl Default for Askers {
    fn default() -> Self {
        Self { rows: vec![[Memory::NONE; ROW]; FIRST_ROWS], used: 0 }
    }
}

impl Askers {
    /// Where the client was sent for the blob within the window.
    pub fn before(&self, params: &Params, client: Asker, blob: BlobId, now: Time) -> Option<Tries> {
        let tag = Tag::from((client, blob));
        let found = self.rows[self.row(&tag)].iter().find(|memory| memory.tag == tag)?;
        let is_within = found.is_used() && now.since(found.tries.at) <= params.asker_window;
        is_within.then_some(found.tries)
    }

    /// The same for every program at an address, for people: looks through all that is remembered.
    pub fn of_address(
        &self,
        params: &Params,
        address: IpAddr,
        blob: BlobId,
        now: Time,
    ) -> impl Iterator<Item = Tries> {
        let of = Tag::from((Asker { address, agent: 0 }, blob));
        let window = params.asker_window;
        let is_of = move |memory: &&Memory| {
            memory.tag == Tag { agent: memory.tag.agent, ..of }
                && memory.is_used()
                && now.since(memory.tries.at) <= window
        };
        self.rows.iter().flatten().filter(is_of).map(|memory| memory.tries)
    }

    /// Books a redirect; `before` is what [`Self::before`] says.
    pub fn redirected(&mut self, key: Key, node: NodeNo, before: Option<Tries>, now: Time) {
        let mut tries = before.unwrap_or(Memory::NONE.tries);
        tries.at = now;
        if tries.is_crowd {
            (tries.nodes[0], tries.count) = (node, 1);
        } else {
            tries.count = (tries.count + 1).min(MAX_TRIES as u8);
            tries.nodes[usize::from(tries.count) - 1] = node;
        }
        self.put(key.into(), tries);
    }

    /// The server serves the file: whoever asks for it next from there is somebody else.
    pub fn served(&mut self, key: Key, before: Option<Tries>, now: Time) {
        match before {
            Some(tries) if tries.is_crowd => self.put(key.into(), Tries { at: now, ..tries }),
            Some(tries) => self.put(key.into(), Tries { count: 0, at: now, is_crowd: true, ..tries }),
            None => {}
        }
    }

    fn row(&self, tag: &Tag) -> usize {
        tag.hash() as usize & (self.rows.len() - 1)
    }

    fn put(&mut self, tag: Tag, tries: Tries) {
        // Half full at most: so a row seldom forgets before its time.
        if self.used * 2 > self.rows.len() * ROW && self.rows.len() * ROW < MAX_REMEMBERED {
            let twice = vec![[Memory::NONE; ROW]; self.rows.len() * 2];
            self.used = 0;
            for memory in std::mem::replace(&mut self.rows, twice).into_iter().flatten() {
                if memory.is_used() {
                    self.set(memory.tag, memory.tries);
                }
            }
        }
        self.set(tag, tries);
    }

    fn set(&mut self, tag: Tag, tries: Tries) {
        let row = self.row(&tag);
        let row = &mut self.rows[row];
        let at = row.iter().position(|memory| memory.tag == tag).unwrap_or_else(|| {
            let oldest = row.iter().enumerate().min_by_key(|(_, memory)| memory.tries.at);
            oldest.map_or(0, |(index, _)| index)
        });
        self.used += usize::from(!row[at].is_used());
        row[at] = Memory { tag, tries };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ids::node_no;
    use std::time::Duration;

    const CLIENT: Asker = Asker { address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), agent: 1 };

    fn redirected(askers: &mut Askers, blob: BlobId, node: NodeNo, now: Time) {
        let params = Params::default();
        let before = askers.before(&params, CLIENT, blob, now);
        askers.redirected((CLIENT, blob), node, before, now);
    }

    #[test]
    fn an_address_is_all_its_programs_and_no_other() {
        let (mut askers, params) = (Askers::default(), Params::default());
        let (now, blob, other) = (Time::from_secs(1000), BlobId([1; 32]), BlobId([2; 32]));
        let another = "192.0.2.2".parse().expect("an address");
        let mine = CLIENT.address;
        for (address, agent, blob) in
            [(mine, 0, blob), (mine, u64::MAX, blob), (another, 1, blob), (mine, 1, other)]
        {
            askers.redirected((Asker { address, agent }, blob), node_no(7), None, now);
        }
        let told = |now| askers.of_address(&params, mine, blob, now).count();
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
        askers.served((CLIENT, blob), before, later);
        assert_eq!(nodes(&askers, later), Some(vec![]));
        redirected(&mut askers, blob, node_no(5), later);
        redirected(&mut askers, blob, node_no(7), later);
        assert_eq!(nodes(&askers, later), Some(vec![node_no(7)]), "of many clients only the last one's");
    }

    #[test]
    fn is_bounded_and_forgets_little_before_its_time() {
        let (mut askers, params) = (Askers::default(), Params::default());
        let now = Time::from_secs(1000);
        let blob = |n: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            BlobId(id)
        };
        let mut known = [100_000, 2 * MAX_REMEMBERED as u64].map(|count| {
            for n in 0..count {
                redirected(&mut askers, blob(n), node_no(0), now + Duration::from_nanos(n));
            }
            let last = count.saturating_sub(100_000)..count;
            last.filter(|n| askers.before(&params, CLIENT, blob(*n), now).is_some()).count()
        });
        assert_eq!((askers.rows.len() * ROW, size_of::<Memory>()), (MAX_REMEMBERED, 64));
        known.sort_unstable();
        assert!(known[0] > 90_000, "{known:?}");
    }
}
