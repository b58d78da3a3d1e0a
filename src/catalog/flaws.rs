//! Whether a generation may be adopted although its origin has some of its members wrong.
//!
//! A generation is judged by what clients need from it. The rule:
//!
//! - A member that clients rely on ([`Needed`](super::Needed)) and that the generation before had whole holds the
//!   new one back, because clients who work now would not any more.
//! - It does so for a limited time: what stays broken look after look is given up, so that one file does not keep
//!   a suite from its updates for ever. Unless nothing that clients rely on would be left: then the origin is of no
//!   use to anybody, straight or through this server.
//! - Anything else holds nothing back. Its own path is answered with an error until the origin has it.
//! - Without a generation before, everything is waited for a moment: the origin may be in the middle of an update.

use std::time::Duration;

use crate::model::Time;

/// A member that the origin does not have as the root files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// A list's path without compression suffix, else what the member is called in every generation.
    pub name: String,
    pub is_list: bool,
    /// Clients rely on it, and what they have now has it whole.
    pub is_needed: bool,
    /// The origin has it wrong or not at all since then, in whatever generation.
    pub since: Time,
    pub reason: String,
    /// It is what the root files name, and of no use: only another generation can mend it.
    pub is_final: bool,
}

/// Package lists that are whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    pub lists: usize,
    /// Of them, those that clients rely on.
    pub needed_lists: usize,
}

/// How long a generation waits for its flaws to be mended.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub now: Time,
    /// For what clients rely on.
    pub for_needed: Duration,
    /// Whether to wait for everything: for the moment that an update takes.
    pub for_all: bool,
}

/// The position of the flaw that keeps the generation from being adopted now, if one does.
pub fn obstacle(flaws: &[Flaw], whole: Whole, bounds: Bounds) -> Option<usize> {
    let first = |is_it: &dyn Fn(&Flaw) -> bool| flaws.iter().position(is_it);
    let no_list = || first(&|flaw| flaw.is_list).filter(|_| whole.lists == 0);
    let no_needed_list = || first(&|flaw| flaw.is_list && flaw.is_needed).filter(|_| whole.needed_lists == 0);
    let waited_for =
        |flaw: &Flaw| bounds.for_all || (flaw.is_needed && bounds.now.since(flaw.since) < bounds.for_needed);
    no_list().or_else(no_needed_list).or_else(|| first(&waited_for))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1000);

    fn flaw(name: &str, is_list: bool, is_needed: bool, secs: u64) -> Flaw {
        let since = Time::from_secs(1000 - secs);
        Flaw { name: name.to_owned(), is_list, is_needed, since, reason: "gone".to_owned(), is_final: false }
    }

    #[test]
    fn what_nobody_relies_on_holds_nothing_back() {
        let (list, member) = (flaw("list", true, false, 0), flaw("member", false, false, 0));
        let (needed, old) = (flaw("needed", true, true, 10), flaw("old", true, true, 60));
        let asked = flaw("asked", false, true, 10);
        let some = Whole { lists: 3, needed_lists: 1 };
        let unneeded = Whole { lists: 3, needed_lists: 0 };
        let bounds = Bounds { now: NOW, for_needed: Duration::from_secs(60), for_all: false };
        let patient = Bounds { for_all: true, ..bounds };
        for (flaws, whole, bounds, want) in [
            (vec![], some, bounds, None),
            (vec![], Whole::default(), bounds, None),
            (vec![list.clone(), member.clone()], some, bounds, None),
            (vec![list.clone(), member.clone()], unneeded, bounds, None),
            (vec![list.clone()], some, patient, Some("list")),
            (vec![list.clone(), needed.clone()], some, bounds, Some("needed")),
            (vec![list.clone(), asked], some, bounds, Some("asked")),
            // Long enough, and there is more that clients rely on.
            (vec![old.clone()], some, bounds, None),
            // Nothing would be left for them.
            (vec![old.clone()], unneeded, bounds, Some("old")),
            (vec![list.clone()], Whole::default(), bounds, Some("list")),
            (vec![member], Whole::default(), bounds, None),
        ] {
            let held = obstacle(&flaws, whole, bounds).map(|at| flaws[at].name.as_str());
            assert_eq!(held, want, "{flaws:?} {whole:?}");
        }
    }
}
