//! Where the server still makes a difference: rows and what their clients see, with what is behind it. The page says
//! each; whoever mends one takes its line out.

use super::Row;
use super::clients::{Client, Outcome};
use super::runs::{AFTER_GOOD, Way};

/// A generation is adopted that clients refuse, although there was a good one.
const ADOPTED: [(&str, &str); 14] = [
    ("packages-listed-as-90-gb", UNLISTED),
    ("unlisted", UNLISTED),
    ("lists-nothing", UNLISTED),
    ("wrong-then-right", UNLISTED),
    ("size-wrong", UNLISTED),
    ("size-no-number", UNLISTED),
    ("short-line", UNLISTED),
    ("path-dot", UNLISTED),
    ("other-without-package", ENTRIES),
    ("own-no-digest-trusted", ENTRIES),
    ("packages-garbage", ENTRIES),
    ("inrelease-blank-after", "more forms of a signed file are taken than apt takes"),
    ("rpm-list-elsewhere", "lists are found by their digests, wherever they are said to be"),
    ("rpm-repomd-prefix", "prefixes of XML names are not looked at"),
];

const UNLISTED: &str =
    "a generation whose Release file does not list Packages as apt wants it replaces one that does";
const ENTRIES: &str = "an entry that apt refuses, with its whole list, is left out";

const BREAKS_OFF: &str = "an answer with the wrong file breaks off, and zypper repeats it";
const FOUND: &str = "the package is found all the same";

/// Why a difference is known, if it is.
pub fn reason(row: &Row, client: Client, way: Way, seen: Outcome) -> Option<&'static str> {
    let is_refused = seen == Outcome::Refuses;
    if AFTER_GOOD.contains(&way) && is_refused {
        let known = ADOPTED.iter().find(|(name, _)| *name == row.name);
        return known.map(|(_, reason)| *reason);
    }
    match (row.name.as_str(), client) {
        ("rpm-repomd-entities", Client::Zypper) if is_refused => {
            Some("entities of a document's own are not expanded")
        }
        // It may repeat for as long as the file may be on its way: 503 for ten minutes after a change of a tree.
        ("rpm-package-size-wrong", Client::Zypper) if seen != Outcome::Works => {
            Some("the size that is listed for a package counts, as it does for dnf")
        }
        // An answer that has begun breaks off; only the next one is 404.
        ("rpm-package-sum-wrong", Client::Zypper) if seen == Outcome::Waits => Some(BREAKS_OFF),
        // It gets what its own URL, put together otherwise, does not find.
        ("rpm-absolute", Client::Zypper) if seen == Outcome::Works => Some(FOUND),
        _ => None,
    }
}

/// What the page says of a row for it.
pub fn of_row(row: &Row) -> Option<&'static str> {
    let adopted = ADOPTED.iter().find(|(name, _)| *name == row.name).map(|(_, reason)| *reason);
    let seen = [Outcome::Refuses, Outcome::Waits, Outcome::Works];
    adopted.or_else(|| seen.into_iter().find_map(|seen| reason(row, Client::Zypper, Way::Tree, seen)))
}
