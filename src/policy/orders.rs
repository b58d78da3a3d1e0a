//! Orders given to one volunteer and not yet forgotten.

use std::collections::BTreeMap;

use super::node::NodeNo;
use super::params::Params;
use crate::model::{BlobId, Time};

/// One order.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderState {
    pub(super) since: Time,
    pub(super) has_failed: bool,
    /// The volunteer whose line it takes.
    pub(super) source: Option<NodeNo>,
    /// Bytes that it brings.
    pub(super) size: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Orders {
    all: BTreeMap<BlobId, OrderState>,
    failed: usize,
}

impl Orders {
    pub(super) fn get(&self, blob: &BlobId) -> Option<&OrderState> {
        self.all.get(blob)
    }

    pub(super) fn insert(&mut self, blob: BlobId, order: OrderState) {
        let old = self.all.insert(blob, order);
        self.failed += usize::from(order.has_failed);
        self.failed -= usize::from(old.is_some_and(|old| old.has_failed));
    }

    /// Those that neither failed nor ended.
    pub(super) fn open(&self) -> usize {
        self.all.len() - self.failed
    }

    /// Bytes that are on their way.
    pub(super) fn bytes(&self) -> u64 {
        self.all.values().map(|order| order.size).sum()
    }

    /// It ended. One that failed is remembered for a while. Returns what it was, if it was open.
    pub(super) fn end(&mut self, blob: BlobId, failed: bool, now: Time) -> Option<OrderState> {
        let order = self.all.remove(&blob)?;
        self.failed -= usize::from(order.has_failed);
        if failed {
            self.insert(blob, OrderState { since: now, has_failed: true, source: None, size: 0 });
        }
        Some(order)
    }

    /// Forgets the lost ones, and those that failed long ago; returns the lost ones.
    pub(super) fn expire(&mut self, params: &Params, now: Time) -> Vec<(BlobId, OrderState)> {
        let is_over = |order: &OrderState| {
            let keep = if order.has_failed { params.order_retry } else { params.order_timeout };
            now.since(order.since) >= keep
        };
        let over: Vec<BlobId> =
            self.all.iter().filter(|(_, order)| is_over(order)).map(|(id, _)| *id).collect();
        let over: Vec<_> = over.into_iter().filter_map(|id| self.all.remove_entry(&id)).collect();
        self.failed -= over.iter().filter(|(_, order)| order.has_failed).count();
        over
    }

    /// Forgets all of them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = (BlobId, OrderState)> + use<> {
        std::mem::take(self).all.into_iter()
    }
}
