//! Volunteers that come back: their holdings stay known, and they announce what has changed since.
//!
//! A volunteer numbers its changes and can say the last of them again ([`JournalSpan`]). Who knows its holdings as
//! they were at one number needs only the changes from there on; a change that is told twice does no harm,
//! since only the last one of each blob counts.

use std::collections::BTreeMap;

use super::position::{KEPT_FOR, Known, Position};
use super::tracker::Tracker;
use crate::formats::control::JournalSpan;
use crate::model::Time;
use crate::policy::ids::NodeNo;

impl Tracker {
    /// To be called right after a join: goes on with the holdings of the session before if `span` reaches back to
    /// them. Returns the number of the first change to announce; `None` is everything.
    pub fn resume(&mut self, no: NodeNo, span: Option<JournalSpan>, now: Time) -> Option<u64> {
        let node = self.node_mut(no);
        node.journal = span.map(|span| span.id);
        let left = node.left.filter(|left| now.since(left.last_seen) < KEPT_FOR);
        let position = left.and_then(|left| left.position);
        let position = position.filter(|position| span.is_some_and(|span| position.is_within(&span)));
        let (Some(left), Some(position)) = (left, position) else {
            self.drop_left(no);
            return None;
        };
        node.left = None;
        node.shelf = left.shelf;
        node.holdings = left.holdings;
        node.announced = Some(position.next);
        if let Some(shelf) = left.shelf {
            self.holdings.resume(shelf, no);
        }
        Some(position.next)
    }

    /// Volunteers' holdings with their positions, smallest first until `max` blobs.
    pub fn known(&self, max: u64, now: Time) -> Vec<Known> {
        let mut nodes: Vec<_> = self
            .nodes()
            .filter_map(|(no, node)| Some((node.holdings, no, node.position()?)))
            .filter(|(_, no, _)| now.since(self.node(*no).last_seen) < KEPT_FOR)
            .collect();
        nodes.sort_unstable_by_key(|(holdings, no, _)| (*holdings, *no));
        let mut total = 0;
        let fits = |(holdings, ..): &(u64, NodeNo, Position)| {
            total += holdings;
            total <= max
        };
        let known = nodes.into_iter().take_while(fits).map(|(_, no, position)| {
            (no, Known { id: self.node(no).id.clone(), position, blobs: Vec::new() })
        });
        let mut known: BTreeMap<NodeNo, Known> = known.collect();
        for (blob, no) in self.all_holdings() {
            if let Some(known) = known.get_mut(&no) {
                known.blobs.push(blob);
            }
        }
        known.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::formats::control::HoldingsChange;
    use crate::model::{BlobId, Rate, Size};
    use crate::policy::{Event, Joined, Load, Params};

    const START: Time = Time::from_secs(1_800_000_000);

    fn blob(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    fn join(tracker: &mut Tracker, now: Time) -> (NodeNo, u32) {
        let id = "v1".parse().expect("valid id");
        let base_url = "http://v1.example".into();
        let joined = Joined {
            id,
            base_url,
            is_local: false,
            donate: Rate(1 << 20),
            max_size: Size(1 << 40),
            clients: Vec::new(),
            instance: 0,
            is_volatile: false,
            record: crate::policy::Record::default(),
        };
        tracker.join(joined, now)
    }

    fn add(tracker: &mut Tracker, (node, epoch): (NodeNo, u32), blobs: &[BlobId], now: Time) {
        tracker.handle(Event::Holdings { node, epoch, change: HoldingsChange::Add, blobs }, now);
    }

    fn span(id: u64, first: u64, next: u64) -> Option<JournalSpan> {
        Some(JournalSpan { id, first, next })
    }

    /// One volunteer that has announced blobs 1 and 2, up to change 7 of journal 5, and left.
    fn gone() -> Tracker {
        let mut tracker = Tracker::new(Params::default());
        let session = join(&mut tracker, START);
        assert_eq!(tracker.resume(session.0, span(5, 0, 7), START), None);
        add(&mut tracker, session, &[blob(1), blob(2)], START);
        let (node, epoch) = session;
        tracker.handle(Event::Announced { node, epoch, next: 7 }, START);
        tracker.handle(Event::Left { node, epoch, clean: true }, START);
        assert_eq!(tracker.live_holders(blob(1), START).count(), 0, "it is gone");
        // Others report, and what nobody holds is swept out.
        for _ in 0..3 {
            tracker.handle(Event::Reported { node, epoch, load: &Load::default() }, START);
        }
        tracker
    }

    #[test]
    fn who_comes_back_in_time_announces_what_has_changed() {
        let mut tracker = gone();
        let now = START + Duration::from_secs(60);
        let session = join(&mut tracker, now);
        assert_eq!(tracker.resume(session.0, span(5, 3, 9), now), Some(7));
        assert_eq!(tracker.node(session.0).holdings, 2);
        assert_eq!(tracker.live_holders(blob(1), now).collect::<Vec<_>>(), [session.0]);
        // Told again, and new.
        add(&mut tracker, session, &[blob(2), blob(3)], now);
        assert_eq!(tracker.node(session.0).holdings, 3);
        let known = tracker.known(10, now);
        assert_eq!(known[0].position, Position { journal: 5, next: 7 });
        assert_eq!(known[0].blobs, [blob(1), blob(2), blob(3)]);
        assert!(tracker.known(2, now).is_empty(), "more than may be kept");
    }

    #[test]
    fn everything_is_announced_where_changes_are_missing() {
        let in_time = START + Duration::from_secs(60);
        let cases = [
            (None, in_time),
            (span(6, 0, 9), in_time),
            (span(5, 8, 9), in_time),
            (span(5, 0, 6), in_time),
            (span(5, 0, 9), START + KEPT_FOR),
        ];
        for (span, now) in cases {
            let mut tracker = gone();
            let session = join(&mut tracker, now);
            assert_eq!(tracker.resume(session.0, span, now), None, "{span:?} at {now:?}");
            assert_eq!(tracker.live_holders(blob(1), now).count(), 0);
            add(&mut tracker, session, &[blob(2)], now);
            assert_eq!(tracker.node(session.0).holdings, 1);
            assert_eq!(tracker.live_holders(blob(2), now).count(), 1);
            // What the session before held is not this one's.
            assert_eq!(tracker.all_holdings().collect::<Vec<_>>(), [(blob(2), session.0)]);
        }
    }
}
