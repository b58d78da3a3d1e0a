//! Publish gate: a new generation becomes visible when its likely hot files have their copies, or when waiting
//! for them has taken long enough.
//!
//! Likely hot are those whose predecessors are asked for most: `gate_share` of the release's files, a small
//! release's all, as far as there was any demand for the version before. A file without one is nobody's yet.
//!
//! Properties, tested below and in `placement/placer_tests.rs`:
//! - a gate opens within `gate_wait`, at once if nothing is hot or nobody is up, and stays open;
//! - while it waits, every call of [`crate::policy::Policy::seed`] and [`crate::policy::Policy::tend`] orders what is missing;
//! - a file is new for `new_for`, and belongs to the latest release that brought it;
//! - releases, their files and what is waited for are bounded: the oldest go first.

use std::collections::BTreeMap;

use super::counters::Demand;
use crate::model::{Blob, BlobId, Time};
use crate::policy::ids::ReleaseNo;
use crate::policy::inputs::Release;
use crate::policy::params::Params;

/// Releases remembered.
const MAX_RELEASES: usize = 64;
/// New files remembered over all of them, about 60 bytes each.
const MAX_FILES: usize = 300_000;
/// Hot files that one release waits for.
const MAX_HOT: usize = 1000;
/// A release of up to so many files is small.
const SMALL: usize = 16;

/// What is known of a file that came lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFile {
    pub release: ReleaseNo,
    pub is_hot: bool,
}

/// A release that is remembered.
#[derive(Debug)]
struct Known {
    at: Time,
    /// Hot files whose copies are waited for; none once it is open.
    awaited: Vec<Blob>,
    files: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Releases {
    next: u64,
    known: BTreeMap<ReleaseNo, Known>,
    files: BTreeMap<BlobId, NewFile>,
}

impl Releases {
    /// Takes in a release. Returns its number and the rate at which its files are expected to be asked for.
    pub fn add(
        &mut self,
        params: &Params,
        demand: &mut Demand,
        release: &Release,
        now: Time,
    ) -> (ReleaseNo, f64) {
        let no = ReleaseNo(self.next);
        self.next += 1;
        let count = release.files.len().min(MAX_FILES);
        self.forget(params, count, now);
        let files = release.files.iter().take(count);
        let mut inherited: Vec<(f64, Blob)> = Vec::new();
        let mut usual = 0.0;
        for file in files.clone() {
            self.files.insert(file.blob.id, NewFile { release: no, is_hot: false });
            let rate = file.predecessor.map_or(0.0, |before| demand.inherit(file.blob, before, now));
            usual += rate;
            if rate > 0.0 {
                inherited.push((rate, file.blob));
            }
        }
        inherited.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.id.cmp(&b.1.id)));
        let share = (count as f64 * params.gate_share).ceil() as usize;
        let mut bytes = 0_u64;
        let fits = |(_, blob): &&(f64, Blob)| {
            bytes = bytes.saturating_add(blob.size);
            bytes <= params.gate_bytes
        };
        let hot = inherited.iter().take(share.clamp(SMALL, MAX_HOT)).take_while(fits);
        let awaited: Vec<Blob> =
            hot.map(|(_, blob)| *blob).filter(|blob| blob.size >= params.small_file).collect();
        for blob in &awaited {
            self.files.insert(blob.id, NewFile { release: no, is_hot: true });
        }
        self.known.insert(no, Known { at: now, awaited, files: count });
        (no, usual)
    }

    /// Makes room for a release of `coming` files.
    fn forget(&mut self, params: &Params, coming: usize, now: Time) {
        let mut left = self.known.values().map(|known| known.files).sum::<usize>() + coming;
        let mut gone = None;
        while let Some(oldest) = self.known.first_entry() {
            let is_old = now.since(oldest.get().at) > params.new_for;
            // Files that a later release brought too are counted twice, never too few.
            if !is_old && left <= MAX_FILES && oldest.key().0 + MAX_RELEASES as u64 >= self.next {
                break;
            }
            left -= oldest.get().files;
            gone = Some(*oldest.key());
            oldest.remove();
        }
        if let Some(gone) = gone {
            self.files.retain(|_, file| file.release > gone);
        }
    }

    /// The release that brought the file lately.
    pub fn of(&self, params: &Params, blob: BlobId, now: Time) -> Option<NewFile> {
        let file = *self.files.get(&blob)?;
        let known = self.known.get(&file.release)?;
        (now.since(known.at) <= params.new_for).then_some(file)
    }

    /// The gates that are not open, and up to `max` in turn of what each waits for.
    pub fn waiting(&mut self, max: usize) -> Vec<(ReleaseNo, Vec<Blob>)> {
        let waits = |(no, known): (&ReleaseNo, &mut Known)| {
            let count = max.min(known.awaited.len());
            let next = known.awaited[..count].to_vec();
            known.awaited.rotate_left(count);
            (*no, next)
        };
        self.known.iter_mut().filter(|(_, known)| !known.awaited.is_empty()).map(waits).collect()
    }

    /// What a release waits for, and until when at the latest; nothing once that is over.
    pub fn awaited(&mut self, params: &Params, no: ReleaseNo, now: Time) -> Option<(Vec<Blob>, Time)> {
        let known = self.known.get_mut(&no)?;
        // A clock that was set back must not hold a release for longer.
        if now < known.at || now.since(known.at) >= params.gate_wait {
            known.awaited.clear();
        }
        (!known.awaited.is_empty()).then(|| (known.awaited.clone(), known.at + params.gate_wait))
    }

    /// These have their copies.
    pub fn arrived(&mut self, no: ReleaseNo, arrived: impl Fn(&Blob) -> bool) {
        if let Some(known) = self.known.get_mut(&no) {
            known.awaited.retain(|blob| !arrived(blob));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ReleasedFile;
    use std::time::Duration;

    const START: Time = Time::from_secs(1_800_000_000);

    fn blob(n: u32) -> Blob {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Blob { id: BlobId(id), size: 1 << 20 }
    }

    fn release(files: impl Iterator<Item = (u32, Option<u32>)>) -> Release {
        let file = |(n, before): (u32, Option<u32>)| ReleasedFile {
            blob: blob(n),
            predecessor: before.map(|n| blob(n).id),
        };
        Release { name: "debian dists/stable".into(), files: files.map(file).collect() }
    }

    #[test]
    fn the_hot_are_those_whose_predecessors_were_asked_for_most() {
        let (params, mut releases) = (Params::default(), Releases::default());
        let mut demand = Demand::new(&params);
        for n in 0..60 {
            (0..=n).for_each(|_| _ = demand.record(blob(n), START));
        }
        // 100 files, of which 60 had a predecessor: 20 wait.
        let (no, usual) =
            releases.add(&params, &mut demand, &release((0..100).map(|n| (1000 + n, Some(n)))), START);
        let (awaited, until) = releases.awaited(&params, no, START).expect("it waits");
        assert_eq!(awaited, (40..60).rev().map(|n| blob(1000 + n)).collect::<Vec<_>>());
        assert_eq!(until, START + params.gate_wait);
        assert!((usual - 60.0 * 61.0 / 2.0 * std::f64::consts::LN_2 / 86_400.0).abs() < 1e-9);
        let of = |n, secs| releases.of(&params, blob(n).id, START + Duration::from_secs(secs));
        assert_eq!(of(1059, 72 * 3600), Some(NewFile { release: no, is_hot: true }));
        assert_eq!(of(1000, 0), Some(NewFile { release: no, is_hot: false }));
        assert_eq!((of(1000, 72 * 3600 + 1), of(0, 0)), (None, None));
        // A small one waits for all that somebody will want, but not for more bytes than it may.
        let (small, _) =
            releases.add(&params, &mut demand, &release([(2000, Some(5)), (2001, None)].into_iter()), START);
        assert_eq!(
            releases.awaited(&params, small, START).map(|(awaited, _)| awaited),
            Some(vec![blob(2000)])
        );
        let tight = Params { gate_bytes: 5 << 20, ..params };
        let (no, _) =
            releases.add(&tight, &mut demand, &release((0..100).map(|n| (3000 + n, Some(n)))), START);
        assert_eq!(releases.awaited(&tight, no, START).map(|(awaited, _)| awaited.len()), Some(5));
    }

    #[test]
    fn releases_and_files_are_bounded_and_the_oldest_go() {
        let (params, mut releases) = (Params::default(), Releases::default());
        let mut demand = Demand::new(&params);
        for n in 0..200 {
            releases.add(&params, &mut demand, &release([(n, None)].into_iter()), START);
            assert!(releases.known.len() <= MAX_RELEASES + 1 && releases.files.len() <= MAX_RELEASES + 1);
        }
        assert!(
            releases.of(&params, blob(0).id, START).is_none()
                && releases.of(&params, blob(199).id, START).is_some()
        );
        let many = MAX_FILES as u32 + 5;
        releases.add(&params, &mut demand, &release((1000..1000 + many).map(|n| (n, None))), START);
        assert_eq!((releases.known.len(), releases.files.len()), (1, MAX_FILES));
    }
}
