//! Where the server still makes a difference: rows and what their clients see, with what is behind it. The page says
//! each; whoever mends one takes its line out.

use super::Row;
use super::clients::{Client, Outcome};

/// Why a difference is known, if it is.
pub fn reason(row: &Row, client: Client, seen: Outcome) -> Option<&'static str> {
    match (row.name.as_str(), client) {
        ("rpm-repomd-entities", Client::Zypper) if seen == Outcome::Refuses => {
            Some("entities of a document's own are not expanded")
        }
        // It may repeat for as long as the file may be on its way: 503 for ten minutes after a change of a tree.
        ("rpm-package-size-wrong", Client::Zypper) if seen != Outcome::Works => {
            Some("the size that is listed for a package counts, as it does for dnf")
        }
        // An answer that has begun breaks off; only the next one is 404.
        ("rpm-package-sum-wrong", Client::Zypper) if seen == Outcome::Waits => {
            Some("an answer with the wrong file breaks off, and zypper repeats it")
        }
        // It gets what its own URL, put together otherwise, does not find.
        ("rpm-absolute", Client::Zypper) if seen == Outcome::Works => {
            Some("the package is found all the same")
        }
        _ => None,
    }
}

/// What the page says of a row for it.
pub fn of_row(row: &Row) -> Option<&'static str> {
    let seen = [Outcome::Refuses, Outcome::Waits, Outcome::Works];
    seen.into_iter().find_map(|seen| reason(row, Client::Zypper, seen))
}
