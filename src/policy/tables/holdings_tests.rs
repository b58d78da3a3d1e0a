//! Holdings are what a plain list says, whatever happens in whatever order, and take the memory that is stated.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::policy::ids::node_no;
use crate::policy::tables::hash::mix;

fn blob(n: u32) -> BlobId {
    let mut id = [0; 32];
    // Spread as digests are.
    id[..8].copy_from_slice(&mix(u64::from(n)).to_be_bytes());
    id[28..].copy_from_slice(&n.to_be_bytes());
    BlobId(id)
}

#[derive(Clone, Debug)]
enum Step {
    /// A new session; it goes on with the shelf of the one before, or not.
    Join(u32, bool),
    Leave(u32),
    Add(u32, u32),
    Remove(u32, u32),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0u32..40;
    prop_oneof![
        2 => (node.clone(), any::<bool>()).prop_map(|(n, resumes)| Step::Join(n, resumes)),
        1 => node.clone().prop_map(Step::Leave),
        30 => (node.clone(), 0u32..9).prop_map(|(n, b)| Step::Add(n, b)),
        5 => (node, 0u32..9).prop_map(|(n, b)| Step::Remove(n, b)),
        2 => Just(Step::Sweep),
    ]
}

/// What one volunteer has, as plainly as possible.
#[derive(Default)]
struct Plain {
    shelf: Option<Shelf>,
    blobs: BTreeSet<BlobId>,
    is_here: bool,
}

fn apply(holdings: &mut Holdings, plain: &mut [Plain], step: &Step) -> Result<(), TestCaseError> {
    match *step {
        Step::Join(n, resumes) => {
            let own = &mut plain[n as usize];
            if let Some(shelf) = own.shelf {
                holdings.park(shelf);
                if resumes {
                    holdings.resume(shelf, node_no(n));
                } else {
                    holdings.retire(shelf);
                    *own = Plain::default();
                }
            }
            own.is_here = true;
        }
        Step::Leave(n) => plain[n as usize].is_here = false,
        Step::Add(n, b) if plain[n as usize].is_here => {
            let own = &mut plain[n as usize];
            let shelf = own.shelf.or_else(|| holdings.take_shelf(node_no(n)));
            let Some(shelf) = shelf else { return Err(TestCaseError::fail("no shelf")) };
            own.shelf = Some(shelf);
            prop_assert_eq!(holdings.insert(blob(b), shelf), own.blobs.insert(blob(b)));
        }
        Step::Remove(n, b) => {
            let own = &mut plain[n as usize];
            if let Some(shelf) = own.shelf {
                prop_assert_eq!(holdings.remove(blob(b), shelf), own.blobs.remove(&blob(b)));
            }
        }
        Step::Sweep => drop(holdings.sweep()),
        Step::Add(..) => {}
    }
    Ok(())
}

proptest! {
    #[test]
    fn are_what_a_plain_list_says(steps in prop::collection::vec(step(), 1..400)) {
        let mut holdings = Holdings::default();
        let mut plain: Vec<Plain> = (0..40).map(|_| Plain::default()).collect();
        for step in &steps {
            apply(&mut holdings, &mut plain, step)?;
        }
        let holders = |b| -> Vec<NodeNo> {
            let who = (0..).zip(&plain).filter(|(_, own)| own.blobs.contains(&blob(b)));
            who.map(|(n, _)| node_no(n)).collect()
        };
        for b in 0..9 {
            let mut found: Vec<NodeNo> = holdings.of(blob(b)).collect();
            let mut turned = Vec::new();
            holdings.visit(blob(b), 3, |shelves| shelves / 2, |node| {
                turned.push(node);
                false
            });
            found.sort_unstable();
            turned.sort_unstable();
            prop_assert_eq!(&found, &holders(b));
            prop_assert_eq!(&turned, &found);
        }
        let all: usize = plain.iter().map(|own| own.blobs.len()).sum();
        prop_assert_eq!(holdings.all().count(), all);
        // What nobody holds leaves nothing behind.
        for own in &mut plain {
            own.shelf.take().into_iter().for_each(|shelf| holdings.retire(shelf));
        }
        while holdings.sweep() {}
        prop_assert_eq!((holdings.blobs.len(), holdings.all().count()), (0, 0));
        prop_assert_eq!(holdings.free.len(), holdings.owners.len());
    }
}

#[test]
fn numbers_are_used_again_and_are_bounded() {
    let mut holdings = Holdings::default();
    for n in 0..3 * MAX_SHELVES as u32 {
        let shelf = holdings.take_shelf(node_no(n)).expect("a shelf");
        holdings.insert(blob(n % 7), shelf);
        holdings.retire(shelf);
        if n % 2 == 0 {
            holdings.sweep();
        }
    }
    assert!(holdings.owners.len() < 10, "{}", holdings.owners.len());
    for n in 0..MAX_SHELVES as u32 {
        assert!(holdings.take_shelf(node_no(n)).is_some());
    }
    assert_eq!(holdings.take_shelf(node_no(0)), None, "all are in use");
    holdings.retire(5);
    assert_eq!(holdings.take_shelf(node_no(0)), Some(5), "retired and in need");
}

const VOLUNTEERS: u32 = 300;

fn filled(blobs: u32, holds: impl Fn(u32, u32) -> bool) -> Holdings {
    let mut holdings = Holdings::default();
    for n in 0..VOLUNTEERS {
        let shelf = holdings.take_shelf(node_no(n)).expect("a shelf");
        for b in (0..blobs).filter(|b| holds(n, *b)) {
            holdings.insert(blob(b), shelf);
        }
    }
    holdings
}

#[test]
fn bytes_per_holding_are_as_stated() {
    // Just before there are twice as many trees, and just after.
    for blobs in [11 << 10, (11 << 10) + 100] {
        let dense = filled(blobs, |_, _| true);
        let each = dense.heap_bytes() as f64 / f64::from(blobs * VOLUNTEERS);
        assert!(each < 0.55, "{each}");
        let sparse = filled(blobs, |n, b| (n + VOLUNTEERS - b % VOLUNTEERS) % VOLUNTEERS < 3);
        assert_eq!(sparse.all().count(), 3 * blobs as usize);
        let each = sparse.heap_bytes() as f64 / f64::from(blobs * 3);
        assert!(each < 41.0, "{each}");
    }
}
