//! However few holders a decision looks at closely, none would have been better than the one it chooses.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::tests::{hold, join, later, policy, request};
use super::*;
use crate::model::{Blob, BlobId};
use crate::policy::{Event, Load, Request};

/// Requests for a blob of so many bytes, so long after the one before; and what a volunteer reports before it.
type Ask = (u8, u64, u64, Option<(usize, Vec<u64>)>);

fn ask() -> impl Strategy<Value = Ask> {
    let sizes = prop::collection::vec(1u64..50_000_000, 0..8);
    let report = prop::option::weighted(0.3, (0usize..16, sizes));
    (0u8..4, 100_000u64..80_000_000, 0u64..3000, report)
}

proptest! {
    #[test]
    fn nobody_is_better_than_the_chosen_one(
        rates in prop::collection::vec(100_000u64..50_000_000, 1..=16),
        asks in prop::collection::vec(ask(), 1..60),
        is_busy: bool,
        seed: u64,
    ) {
        let mut policy = policy();
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let sessions: Vec<_> = (0..).zip(&rates).map(|(n, rate)| join(&mut policy, n, *rate, later(0))).collect();
        for (session, blob) in sessions.iter().flat_map(|session| (0..4).map(move |blob| (*session, blob))) {
            hold(&mut policy, session, BlobId([blob; 32]), later(0));
        }
        let (mut millis, mut heartbeat) = (0, 0);
        for (blob, size, wait, report) in asks {
            millis += wait;
            let now = later(millis);
            if millis >= heartbeat {
                heartbeat = millis + 5_000;
                for &(node, epoch) in &sessions {
                    policy.handle(Event::Reported { node, epoch, load: &Load::default() }, now);
                }
            }
            if let Some((n, downloads)) = report {
                let (node, epoch) = sessions[n % sessions.len()];
                let remaining: Vec<Blob> =
                    downloads.iter().map(|size| Blob { id: BlobId([9; 32]), size: *size }).collect();
                let load = Load { uploads: remaining.len() as u32, remaining, ..Load::default() };
                policy.handle(Event::Reported { node, epoch, load: &load }, now);
            }
            let blob = Blob { id: BlobId([blob; 32]), size };
            let request = Request { origin_load: if is_busy { 1.0 } else { 0.0 }, ..request(blob) };
            let mut others = policy.explain(&request, now).candidates;
            others.retain(|candidate| candidate.excluded.is_none());
            let best = others.iter().map(|candidate| candidate.rank).min().expect("they all hold it");
            match policy.choose(&request, now, &mut rng) {
                Decision::Volunteer { node, cost_micros, .. } => {
                    let chosen = others.iter().find(|candidate| candidate.node == node).expect("one of them");
                    prop_assert_eq!((chosen.rank, cost_micros), (best, best.cost_micros));
                }
                Decision::Origin(reason) => prop_assert_eq!(Some(reason), best.objection()),
            }
        }
    }
}
