//! The ends of volunteers' sessions by which the rest of the server reaches them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use crate::formats::control::ToVolunteer;
use crate::policy::NodeNo;

/// Messages waiting for one volunteer. Orders beyond it are dropped and given again on the next demand.
pub const OUTBOX: usize = 1024;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<NodeNo, Outbox>>,
    ended: Notify,
    /// The share for each other that volunteers were last told, in percent; 0 is none.
    sync_share: AtomicU8,
}

#[derive(Debug)]
struct Outbox {
    epoch: u32,
    sender: mpsc::Sender<ToVolunteer>,
    life: Arc<Life>,
}

/// Whether a session's other end is alive, if that must be known before its next heartbeat.
#[derive(Debug, Default)]
pub struct Life {
    /// Asks the session to ask its volunteer.
    pub asked: Notify,
    /// Something came from the volunteer.
    pub heard: Notify,
}

impl Sessions {
    /// Tells every volunteer how much of its line others may use; later ones are told when they join.
    pub fn set_sync_share(&self, percent: u8) {
        self.sync_share.store(percent, Ordering::Relaxed);
        for outbox in self.open().values() {
            // Who does not read has other problems.
            let _ = outbox.sender.try_send(ToVolunteer::SyncShare { percent });
        }
    }

    /// Connects a session's outbox; an older session of the same volunteer loses its own and ends.
    pub fn attach(&self, node: NodeNo, epoch: u32, sender: mpsc::Sender<ToVolunteer>, life: Arc<Life>) {
        // Whoever asks for nothing gets what every volunteer begins with.
        let percent = self.sync_share.load(Ordering::Relaxed);
        if percent > 0 {
            let _ = sender.try_send(ToVolunteer::SyncShare { percent });
        }
        let mut open = self.open();
        // Two sessions that begin at once may come here in the other order.
        if open.get(&node).is_none_or(|outbox| outbox.epoch < epoch) {
            open.insert(node, Outbox { epoch, sender, life });
        }
    }

    /// The life of a volunteer's session, if it has one.
    pub fn life(&self, node: NodeNo) -> Option<Arc<Life>> {
        self.open().get(&node).map(|outbox| outbox.life.clone())
    }

    /// Sends a volunteer a message, if its session is of this epoch and has room.
    pub fn tell(&self, node: NodeNo, epoch: u32, message: ToVolunteer) -> bool {
        let open = self.open();
        let outbox = open.get(&node).filter(|outbox| outbox.epoch == epoch);
        outbox.is_some_and(|outbox| outbox.sender.try_send(message).is_ok())
    }

    pub fn detach(&self, node: NodeNo, epoch: u32) {
        let mut open = self.open();
        if open.get(&node).is_some_and(|outbox| outbox.epoch == epoch) {
            open.remove(&node);
            self.ended.notify_waiters();
        }
    }

    /// Completes when every session has ended.
    pub async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.open().is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<NodeNo, Outbox>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
