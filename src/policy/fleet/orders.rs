//! Orders given to one volunteer and not yet forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{BlobId, Time};
use crate::policy::ids::NodeNo;

/// One order.
#[derive(Clone, Copy, Debug)]
pub(in crate::policy) struct OrderState {
    /// When it counts as lost; or, if it failed, when it may be given again.
    pub(super) until: Time,
    pub(in crate::policy) has_failed: bool,
    /// The volunteer whose line it takes.
    pub(super) source: Option<NodeNo>,
    /// Bytes that it brings.
    pub(super) size: u64,
    pub(super) given: Time,
    /// Somebody was sent there for it meanwhile: the volunteer is tested by it when it has it.
    pub(super) is_owed: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::policy) struct Orders {
    all: BTreeMap<BlobId, OrderState>,
    failed: usize,
    /// Sum of their sizes.
    bytes: u64,
}

impl Orders {
    pub(in crate::policy) fn get(&self, blob: &BlobId) -> Option<&OrderState> {
        self.all.get(blob)
    }

    /// Notes that somebody was sent there for what the order is to bring; whether there is such an order.
    pub(in crate::policy) fn owe(&mut self, blob: &BlobId) -> bool {
        let open = self.all.get_mut(blob).filter(|order| !order.has_failed);
        open.map(|order| order.is_owed = true).is_some()
    }

    pub(super) fn insert(&mut self, blob: BlobId, order: OrderState) {
        self.remove(&blob);
        self.failed += usize::from(order.has_failed);
        self.bytes = self.bytes.saturating_add(order.size);
        self.all.insert(blob, order);
    }

    fn remove(&mut self, blob: &BlobId) -> Option<OrderState> {
        let order = self.all.remove(blob)?;
        self.failed -= usize::from(order.has_failed);
        self.bytes = self.bytes.saturating_sub(order.size);
        Some(order)
    }

    /// Those that neither failed nor ended.
    pub(super) fn open(&self) -> usize {
        self.all.len() - self.failed
    }

    /// Bytes that are on their way.
    pub(in crate::policy) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It ended. One that failed is not given again until then. Returns what it was, if it was open.
    pub(super) fn end(&mut self, blob: BlobId, failed_until: Option<Time>) -> Option<OrderState> {
        let order = self.remove(&blob)?;
        if let Some(until) = failed_until {
            self.insert(
                blob,
                OrderState { until, has_failed: true, source: None, size: 0, given: until, is_owed: false },
            );
        }
        (!order.has_failed).then_some(order)
    }

    /// Forgets those that failed long ago. The lost ones count as failed from now on, for `pause`; returns them.
    pub(super) fn expire(&mut self, pause: Duration, now: Time) -> Vec<(BlobId, OrderState)> {
        let is_over = |order: &OrderState| now >= order.until;
        let over: Vec<BlobId> =
            self.all.iter().filter(|(_, order)| is_over(order)).map(|(id, _)| *id).collect();
        let mut lost = Vec::new();
        for id in over {
            let is_lost = self.all.get(&id).is_some_and(|order| !order.has_failed);
            lost.extend(self.end(id, is_lost.then(|| now + pause)).map(|order| (id, order)));
        }
        lost
    }

    /// Forgets all of them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = (BlobId, OrderState)> + use<> {
        std::mem::take(self).all.into_iter()
    }
}
