//! The faults of volunteers, hosts and lines, and how they are brought about.

use std::fs;
use std::io::Write as _;

use super::{Bed, Ill, Worker};

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Killed,
    Frozen,
    LinkDown,
    Silent,
    ResetOnce,
    Reset,
    ClosesOnce,
    Closes,
    Wrong,
    Short,
    Trickle,
    StoreGone,
    DiskFull,
    Drained,
    Restarted,
    ServerRestarted,
}

impl Fault {
    pub const ALL: [Self; 16] = [
        Self::Killed,
        Self::Frozen,
        Self::LinkDown,
        Self::Silent,
        Self::ResetOnce,
        Self::Reset,
        Self::ClosesOnce,
        Self::Closes,
        Self::Wrong,
        Self::Short,
        Self::Trickle,
        Self::StoreGone,
        Self::DiskFull,
        Self::Drained,
        Self::Restarted,
        Self::ServerRestarted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "process killed",
            Self::Frozen => "frozen",
            Self::LinkDown => "link down",
            Self::Silent => "packets dropped silently",
            Self::ResetOnce => "connection reset",
            Self::Reset => "every connection reset",
            Self::ClosesOnce => "closes mid-body",
            Self::Closes => "closes mid-body every time",
            Self::Wrong => "serves wrong bytes",
            Self::Short => "serves short",
            Self::Trickle => "1 KB/s",
            Self::StoreGone => "store directory gone",
            Self::DiskFull => "disk full",
            Self::Drained => "drained",
            Self::Restarted => "volunteer restarted",
            Self::ServerRestarted => "server restarted",
        }
    }

    /// What is wrong with the line, where it is the line.
    pub fn ill(self) -> Option<Ill> {
        match self {
            Self::ResetOnce => Some(Ill::ResetOnce),
            Self::Reset => Some(Ill::Reset),
            Self::ClosesOnce => Some(Ill::ClosesOnce),
            Self::Closes => Some(Ill::Closes),
            Self::Wrong => Some(Ill::Wrong),
            Self::Short => Some(Ill::Short),
            Self::Trickle => Some(Ill::Trickles),
            _ => None,
        }
    }

    /// Whether a client learns of it by its own timeouts only.
    pub fn is_quiet(self) -> bool {
        matches!(self, Self::Frozen | Self::LinkDown | Self::Silent | Self::Trickle)
    }

    /// Brings it about at one volunteer of a bed.
    pub fn strike(self, bed: &Bed, worker: &Worker) {
        if let Some(ill) = self.ill() {
            return worker.line.as_ref().expect("a bed with lines").set(ill);
        }
        match self {
            Self::Killed => worker.keeper.kill(),
            Self::Frozen => worker.keeper.signal("STOP"),
            Self::LinkDown => worker.host.set_link(false),
            Self::Silent => {
                let hosts = bed.clients.iter().chain([&*bed.server_host]);
                worker.host.set_silent(true, &hosts.collect::<Vec<_>>());
            }
            Self::StoreGone => {
                let gone = worker.options.store.with_extension("gone");
                fs::rename(&worker.options.store, gone).expect("a store of ours");
            }
            Self::DiskFull => fill(worker),
            Self::Drained => worker.keeper.stop(),
            Self::Restarted => worker.keeper.restart(),
            Self::ServerRestarted => bed.server.restart(),
            _ => {}
        }
    }

    /// Ends it; the volunteer comes back by itself.
    pub fn mend(self, bed: &Bed, worker: &Worker) {
        if self.ill().is_some() {
            return worker.line.as_ref().expect("a bed with lines").set(Ill::Not);
        }
        match self {
            Self::Frozen => worker.keeper.signal("CONT"),
            Self::LinkDown => worker.host.set_link(true),
            Self::Silent => {
                let hosts = bed.clients.iter().chain([&*bed.server_host]);
                worker.host.set_silent(false, &hosts.collect::<Vec<_>>());
            }
            Self::StoreGone => {
                // What was made in its place meanwhile has nothing that counts.
                let _ = fs::remove_dir_all(&worker.options.store);
                let gone = worker.options.store.with_extension("gone");
                fs::rename(gone, &worker.options.store).expect("a store of ours");
            }
            Self::DiskFull => {
                let disk = worker.disk().expect("a bed with small disks");
                fs::remove_file(disk.join("filler")).expect("a disk of ours");
            }
            Self::Drained => worker.keeper.resume(),
            _ => {}
        }
    }
}

/// Fills a volunteer's disk to the last byte.
fn fill(worker: &Worker) {
    let disk = worker.disk().expect("a bed with small disks");
    let mut filler = fs::File::create(disk.join("filler")).expect("a disk of ours");
    let zeros = [0; 4096];
    while filler.write_all(&zeros).is_ok() {}
}
