//! One volunteer, as the server knows it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::ledger::Ledger;
use super::orders::Orders;
use super::position::{Left, Position};
use super::stability::{self, Class};
use super::standing::Standing;
use crate::config::contain;
use crate::formats::control::MAX_FETCHES;
use crate::model::{BlobId, Rate, Size, Time, VolunteerId};
use crate::policy::inputs::{Joined, Load};
use crate::policy::params::Params;
use crate::policy::tables::shelves::Shelf;

/// A copy may take so much longer than on the server's line alone, and always so long, before nobody waits for it.
const LATE: f64 = 4.0;
const ALWAYS: Duration = Duration::from_secs(30);

/// Whether a volunteer is given clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    Up,
    /// A heartbeat is missing.
    Suspect,
    /// It has just joined; whether clients can reach it is being tested.
    Testing,
    /// The server's own test does not reach it: so it is for clients.
    Unreachable,
    /// The server's own test got too little from it.
    Slow,
    /// It sent wrong bytes.
    Quarantined,
    Down,
}

impl NodeState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Testing => "testing",
            Self::Unreachable => "unreachable",
            Self::Slow => "slow",
            Self::Quarantined => "quarantined",
            Self::Down => "down",
        }
    }

    /// Whether what it holds counts as copies: it is, or may soon be, sent clients.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Up | Self::Suspect | Self::Testing)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Node {
    pub id: VolunteerId,
    /// Counts its sessions.
    pub epoch: u32,
    pub base_url: Arc<str>,
    pub is_local: bool,
    pub donate: Rate,
    pub max_size: Size,
    pub holdings: u64,
    pub redirected_bytes: u64,
    pub redirects: u64,
    /// When a client was last sent there.
    pub last_redirect: Option<Time>,
    /// Bytes that the server's own tests got from this process of the volunteer: it counts them as served.
    pub tested_bytes: u64,
    pub load: Load,
    pub last_seen: Time,
    /// Since when it has been connected.
    pub connected: Time,
    pub clients: Vec<IpNet>,
    pub instance: u64,
    pub standing: Standing,
    /// Bytes that it was told to drop since it last reported its store.
    pub(in crate::policy) dropped: u64,
    pub(in crate::policy) ledger: Ledger,
    pub(in crate::policy) orders: Orders,
    /// Where its holdings are, once it has any.
    pub(in crate::policy) shelf: Option<Shelf>,
    /// The journal of its changes, and up to where that is known.
    pub(in crate::policy) journal: Option<u64>,
    pub(in crate::policy) announced: Option<u64>,
    /// Of the session before.
    pub(in crate::policy) left: Option<Left>,
    pub(in crate::policy) is_connected: bool,
    /// Since when this server watches volunteers at all, and up to when this one's presence is booked.
    pub(in crate::policy) watched: Time,
    pub(in crate::policy) booked: Time,
}

impl Node {
    /// Its first session, or the next one after `old`.
    pub(in crate::policy) fn join(
        params: &Params,
        join: Joined,
        old: Option<&Self>,
        watched: Time,
        now: Time,
    ) -> Self {
        let left = old.map(|old| Left {
            shelf: old.shelf,
            holdings: old.holdings,
            position: old.position(),
            last_seen: old.last_seen,
        });
        // What this server saw itself is newer than what it had written down.
        let mut standing = old
            .map_or_else(|| Standing::new(join.record, 0, now), |old| Standing::rejoined(&old.standing, now));
        let is_same_process = |old: &&Self| old.instance == join.instance;
        let tested_bytes = old.filter(is_same_process).map_or(0, |old| old.tested_bytes);
        let (booked, was_here) = old.map_or((watched, false), |old| (old.booked, old.is_connected));
        standing.record.presence.watched(now.since(booked), was_here);
        standing.record.returned(params, now);
        standing.is_declared_volatile = join.is_volatile;
        Self {
            id: join.id,
            epoch: 0,
            base_url: join.base_url,
            is_local: join.is_local,
            donate: join.donate,
            max_size: join.max_size,
            holdings: 0,
            redirected_bytes: 0,
            redirects: 0,
            last_redirect: None,
            tested_bytes,
            load: Load::default(),
            last_seen: now,
            connected: now,
            clients: join.clients,
            instance: join.instance,
            standing,
            dropped: 0,
            ledger: Ledger::default(),
            orders: Orders::default(),
            shelf: None,
            journal: None,
            announced: None,
            left,
            is_connected: true,
            watched,
            booked: now,
        }
    }

    /// Estimated upload rate in bytes/s: what is donated, or less where the server's own tests say so.
    pub fn rate(&self) -> f64 {
        self.standing.capacity.rate(self.donate.0 as f64)
    }

    /// Downloads that the ledger counts as running.
    pub fn in_flight(&self) -> usize {
        self.ledger.flows()
    }

    pub(in crate::policy) fn position(&self) -> Option<Position> {
        Some(Position { journal: self.journal?, next: self.announced? })
    }

    /// Whether it was ordered to fetch this, and has not said that it ended.
    pub fn is_fetching(&self, blob: BlobId) -> bool {
        self.orders.get(&blob).is_some_and(|order| !order.has_failed)
    }

    /// Whether it passes that on now: an order that waits behind others has not begun, and one that takes several
    /// times as long as the server's line would is not waited for.
    pub fn passes_on(&self, params: &Params, blob: BlobId, now: Time) -> bool {
        let line = |size: u64| Duration::try_from_secs_f64(LATE * size as f64 / params.uplink.max(1.0));
        self.open_orders() <= MAX_FETCHES
            && self.orders.get(&blob).is_some_and(|order| {
                let most = ALWAYS + line(order.size).unwrap_or(Duration::MAX / 2);
                !order.has_failed && now.since(order.given) <= most
            })
    }

    pub fn open_orders(&self) -> usize {
        self.orders.open()
    }

    pub fn state(&self, params: &Params, now: Time) -> NodeState {
        let silence = now.since(self.last_seen);
        match () {
            () if !self.is_connected || silence > params.dead_after => NodeState::Down,
            () if self.standing.is_quarantined(now) => NodeState::Quarantined,
            () if silence > params.stale_after => NodeState::Suspect,
            () if self.standing.is_untested() => NodeState::Testing,
            () if self.standing.is_unreachable() => NodeState::Unreachable,
            () if self.standing.is_slow() => NodeState::Slow,
            () => NodeState::Up,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// How far its staying is to be relied on.
    pub fn class(&self, params: &Params, now: Time) -> Class {
        let mut presence = self.standing.record.presence;
        presence.watched(now.since(self.booked), self.is_connected);
        let is_volatile = self.standing.is_volatile(params, self.connected, now);
        stability::class(params, presence, now.since(self.watched), is_volatile)
    }

    /// Whether it serves clients of this address, as far as it said itself.
    pub fn serves(&self, client: IpAddr) -> bool {
        self.clients.is_empty() || contain(&self.clients, client)
    }
}
