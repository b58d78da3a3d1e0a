//! Each rule of the lint is broken once: a lint that finds nothing proves nothing.

use std::time::Duration;

use super::*;
use crate::config::Networks;
use crate::formats::control::HoldingsChange;
use crate::model::{Blob, Rate, Size};
use crate::policy::{Asker, Event, Joined, Outcome, Record, Release, ReleasedFile, Request};

const START: Time = Time::from_secs(1_800_000_000);
const MIB: u64 = 1 << 20;

fn blob(n: u8) -> Blob {
    Blob { id: BlobId([n; 32]), size: MIB }
}

fn joined(n: u8) -> Joined {
    Joined {
        id: format!("v{n}").parse().expect("valid id"),
        base_url: format!("http://192.0.2.{n}").into(),
        is_local: n == 3,
        donate: Rate(10 * MIB),
        max_size: Size(100 * MIB),
        clients: if n == 2 { vec!["198.51.100.0/24".parse().expect("a network")] } else { vec![] },
        instance: 0,
        is_volatile: false,
        record: Record::default(),
    }
}

/// Volunteers 0 to 4: 2 serves others only, 3 is local, 4 is not tested yet. The first blob is on all of them.
fn policy() -> Policy {
    let mut policy = Policy::new(Params::default(), Networks::default());
    for n in 0..5 {
        let (node, epoch) = policy.join(joined(n), START);
        if n != 4 {
            policy.handle(Event::Probed { node, epoch, outcome: Outcome::Reached }, START);
        }
        hold(&mut policy, node, HoldingsChange::Add, blob(1));
    }
    policy
}

fn no(n: u32) -> NodeNo {
    crate::policy::ids::node_no(n)
}

fn hold(policy: &mut Policy, node: NodeNo, change: HoldingsChange, blob: Blob) {
    policy.handle(Event::Holdings { node, epoch: 0, change, blobs: &[blob.id] }, START);
}

fn fetch(node: NodeNo, blob: Blob, peers: &[NodeNo]) -> Order {
    Order { node, epoch: 0, blob, task: Task::Fetch { peers: peers.to_vec() } }
}

fn drops(node: NodeNo, blob: Blob) -> Order {
    Order { node, epoch: 0, blob, task: Task::Drop }
}

#[test]
fn every_rule_can_be_broken() {
    let policy = policy();
    let (one, two) = (blob(1), blob(2));
    let mut elsewhere = fetch(no(0), two, &[]);
    elsewhere.epoch = 7;
    let table = [
        (vec![fetch(no(0), two, &[])], vec![]),
        (vec![fetch(no(0), one, &[])], vec![Violation::Held(no(0), one.id)]),
        (vec![fetch(no(0), two, &[]); 2], vec![Violation::Twice(no(0), two.id)]),
        (vec![fetch(no(4), two, &[])], vec![Violation::NotUp(no(4))]),
        (vec![elsewhere], vec![Violation::NotUp(no(0))]),
        (vec![fetch(no(0), two, &[no(1)])], vec![Violation::NotAtPeer(no(1), two.id)]),
        (vec![drops(no(0), one)], vec![Violation::DropNotBooked(no(0), one.id)]),
        // Never asked for, and nobody has it: it is forgotten.
        (vec![drops(no(0), two)], vec![]),
    ];
    for (orders, want) in table {
        assert_eq!(policy.lint(&orders, START), want, "{orders:?}");
    }
}

#[test]
fn peers_must_have_it_and_be_there_for_the_volunteer() {
    let mut policy = policy();
    let one = blob(1);
    hold(&mut policy, no(0), HoldingsChange::Remove, one);
    let table = [
        (no(1), vec![]),
        (no(2), vec![Violation::PeerOutOfReach(no(2), no(0))]),
        (no(3), vec![Violation::PeerOutOfReach(no(3), no(0))]),
        (no(4), vec![Violation::PeerNotUp(no(4))]),
        (no(0), vec![Violation::FromItself(no(0), one.id), Violation::NotAtPeer(no(0), one.id)]),
    ];
    for (peer, want) in table {
        assert_eq!(policy.lint(&[fetch(no(0), one, &[peer])], START), want, "{peer:?}");
    }
}

#[test]
fn what_is_hot_new_or_the_last_is_not_given_up() {
    let mut policy = policy();
    let mut rng = <rand_pcg::Pcg64Mcg as rand::SeedableRng>::seed_from_u64(1);
    let mut ask = |policy: &mut Policy, blob, n| {
        let client = Asker::new(std::net::Ipv4Addr::new(192, 0, 2, n).into(), "apt");
        let request = Request {
            blob,
            len: MIB,
            origin_load: 0.0,
            client,
            can_return: true,
            is_segment: false,
            is_sent_back: false,
        };
        policy.choose(&request, START, &mut rng);
    };
    let (one, two, three) = (blob(1), blob(2), blob(3));
    hold(&mut policy, no(0), HoldingsChange::Remove, one);
    (0..3).for_each(|n| ask(&mut policy, one, n));
    ask(&mut policy, two, 0);
    let file = ReleasedFile { blob: three, predecessor: None };
    policy.released(&Release { name: "x".into(), files: vec![file] }, START);
    for (blob, want) in [
        (one, Violation::DropsHot(no(0), one.id)),
        (two, Violation::DropsLast(no(0), two.id)),
        (three, Violation::DropsHot(no(0), three.id)),
    ] {
        assert_eq!(policy.lint(&[drops(no(0), blob)], START), [want]);
    }
    // Four days later none of that is remembered.
    let later = START + Duration::from_secs(4 * 86_400 + 1);
    assert_eq!(policy.lint(&[drops(no(0), three)], later), []);
}

#[test]
fn budgets_and_quotas_are_looked_at() {
    let mut policy = policy();
    let one = blob(1);
    hold(&mut policy, no(0), HoldingsChange::Remove, one);
    let plan = [fetch(no(0), one, &[no(1)])];
    // 2 MiB/s for five minutes are 600 MiB.
    policy.placer.sync.book(&policy.tracker, no(1), Way::From, 602 * MIB, START);
    assert_eq!(policy.lint(&plan, START), [Violation::OverBudget(no(1))]);
    policy.placer.sync.book(&policy.tracker, no(0), Way::To, 602 * MIB, START);
    assert_eq!(policy.lint(&plan, START), [Violation::OverBudget(no(0)), Violation::OverBudget(no(1))]);
    let later = START + Duration::from_secs(1);
    assert_eq!(policy.lint(&plan, later), [], "2 MiB of each have drained");
    policy.placer.sync.book_origin(&policy.params, 4 << 30, START);
    assert_eq!(policy.lint(&[fetch(no(1), blob(2), &[])], START), [Violation::OriginOverBudget]);
    policy.tracker.order_fetch(no(1), Blob { size: 101 * MIB, ..blob(9) }, Vec::new(), START);
    assert_eq!(policy.lint(&[fetch(no(1), one, &[no(3)])], START)[..1], [Violation::Held(no(1), one.id)]);
    assert!(policy.lint(&[fetch(no(1), blob(7), &[])], START).contains(&Violation::OverQuota(no(1))));
}
