//! What the server's own line is worth to clients who have a holder: much while it is at leisure, nothing when its
//! credit is spent.

use std::time::Duration;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::tests::{START, hold, join, later, request};
use crate::config::Networks;
use crate::model::{Blob, BlobId};
use crate::policy::{Decision, Event, Load, OriginReason, Params, Policy, Request};

const FILE: Blob = Blob { id: BlobId([7; 32]), size: 5_000_000 };

/// Volunteers of this rate that all hold [`FILE`].
fn fleet(params: Params, volunteers: usize, rate: u64) -> Policy {
    let mut policy = Policy::new(params, Networks::default());
    for n in 0..volunteers {
        let session = join(&mut policy, n, rate, START);
        hold(&mut policy, session, FILE.id, START);
    }
    policy
}

/// Of so many requests a second, those that volunteers were chosen for and those that were left to the server.
fn crowd(policy: &mut Policy, per_second: u64, secs: u64) -> (u64, u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let (mut redirected, mut served) = (0, 0);
    for n in 0..per_second * secs {
        let now = later(n * 1000 / per_second);
        if n % per_second == 0 {
            let nodes: Vec<_> = policy.tracker().nodes().map(|(no, node)| (no, node.epoch)).collect();
            for (node, epoch) in nodes {
                policy.handle(Event::Reported { node, epoch, load: &Load::default() }, now);
            }
        }
        match policy.choose(&request(FILE), now, &mut rng) {
            Decision::Volunteer { .. } => redirected += 1,
            Decision::Origin(_) => served += 1,
        }
    }
    (redirected, served)
}

#[test]
fn forty_at_once_get_a_decent_share_each() {
    let mut policy = fleet(Params::default(), 1, 4 << 20);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let decisions: Vec<_> = (0..40).map(|_| policy.choose(&request(FILE), START, &mut rng)).collect();
    let origin = decisions.iter().filter(|d| **d == Decision::Origin(OriginReason::AllSlow)).count();
    // Four of 5 MB share 4 MiB/s: 1 MiB/s each. With what was given, a fifth may come.
    assert!((34..=37).contains(&origin), "{decisions:?}");
    assert_eq!(policy.explain(&request(FILE), START).origin, Some(OriginReason::AllSlow));
}

/// In a crowd that goes on others come for those that end: what counts is the share, not when this one would end alone.
#[test]
fn a_share_counts_as_long_as_others_have_it() {
    let mut policy = fleet(Params::default(), 1, 4 << 20);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut is_served = |millis| {
        policy.choose(&request(FILE), later(millis), &mut rng) == Decision::Origin(OriginReason::AllSlow)
    };
    assert_eq!([0; 5].map(&mut is_served), [false, false, false, false, true]);
    // The four have half of it.
    assert!(is_served(2400));
    assert!(!is_served(6000), "they have all of it");
}

#[test]
fn a_slow_line_of_its_own_keeps_nobody() {
    for params in
        [Params { uplink: 1e6, ..Params::default() }, Params { min_share: 0.0, ..Params::default() }]
    {
        let mut policy = fleet(params, 1, 500_000);
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let decision = policy.choose(&request(FILE), START, &mut rng);
        assert!(matches!(decision, Decision::Volunteer { .. }), "{decision:?}");
    }
}

#[test]
fn a_large_file_is_not_for_the_server() {
    let mut policy = fleet(Params::default(), 1, 500_000);
    let image = Blob { size: 4 << 30, ..FILE };
    let decision = policy.choose(&request(image), START, &mut Pcg64Mcg::seed_from_u64(1));
    assert!(matches!(decision, Decision::Volunteer { .. }), "{decision:?}");
}

#[test]
fn a_crowd_that_lasts_is_carried_by_volunteers() {
    // At 80 % of what they carry, and at half as much again.
    for (per_second, most) in [(84, 0.01), (157, 0.4)] {
        let mut policy = fleet(Params::default(), 10, 50 << 20);
        let (redirected, served) = crowd(&mut policy, per_second, 60);
        let share = served as f64 / (redirected + served) as f64;
        assert!(share <= most, "{share} at {per_second}/s");
    }
    // Of slow ones, who never give anybody a decent share, after the credit.
    let mut policy = fleet(Params::default(), 100, 900_000);
    let (redirected, served) = crowd(&mut policy, 16, 300);
    let share = served as f64 / (redirected + served) as f64;
    assert!((0.02..0.1).contains(&share), "{share}");
}

#[test]
fn credit_comes_back() {
    let mut policy = fleet(Params::default(), 1, 500_000);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut served = |policy: &mut Policy, secs: u64| {
        let asked = (0..1000).map(|n| {
            policy.choose(&request(FILE), START + Duration::from_millis(secs * 1000 + n * 20), &mut rng)
        });
        asked.filter(|decision| *decision == Decision::Origin(OriginReason::AllSlow)).count()
    };
    let first = served(&mut policy, 0);
    assert!((30..=130).contains(&first), "625 MB at most: {first}");
    let second = served(&mut policy, 20);
    assert!(second < first / 2, "{second} after {first}");
}

#[test]
fn small_files_and_saturation_stay_at_the_server() {
    // Whatever it leaves each client.
    let mut policy = fleet(Params { min_share: 0.0, ..Params::default() }, 2, 50 << 20);
    let file = Blob { size: 1 << 20, ..FILE };
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let small = Blob { size: 1000, ..FILE };
    let busy = Request { origin_load: 0.9, ..request(small) };
    assert_eq!(policy.choose(&request(small), START, &mut rng), Decision::Origin(OriginReason::SmallFile));
    assert!(matches!(policy.choose(&busy, START, &mut rng), Decision::Volunteer { .. }));
    let decisions: Vec<_> = (0..1200).map(|_| policy.choose(&request(file), START, &mut rng)).collect();
    let origin = Decision::Origin(OriginReason::AllSaturated);
    // 50 MiB/s give 409 downloads 128 kB/s each, for each of the two.
    let first = decisions.iter().position(|decision| *decision == origin).expect("saturated at last");
    assert!((700..819).contains(&first), "{first}");
    // Whatever was measured, the server takes what its line carries in a moment...
    let served = decisions.iter().filter(|decision| **decision == origin).count();
    assert!((95..130).contains(&served), "{served}");
    // ... and where holders would take very much longer, some seconds more.
    let rest = (0..20_000).map(|_| policy.choose(&request(file), START, &mut rng));
    let helped = rest.filter(|decision| *decision == origin).count();
    assert!((400..500).contains(&helped), "{helped}");
}
