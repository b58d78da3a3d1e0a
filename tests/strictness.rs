//! The table of `docs/strictness.md`: through a server, a repository with a defect works with stock clients just
//! when it works without one.
//!
//! `cargo test` runs every row and fails where the server makes a difference, or where the page says something else
//! than was seen. With `MANYHANDS_PAGE` set it writes the page, with `MANYHANDS_SOAK` each row is looked at over the
//! origin's tree and over its URL, else over one of them. `MANYHANDS_ROWS` picks rows by a part of their name,
//! `MANYHANDS_SAID` shows what the clients said where they differ.

mod support;

use support::Scratch;
use support::strictness::clients::Outcome;
use support::strictness::page;
use support::strictness::runs::{Results, Table, Way};
use support::strictness::{Row, rows};

/// What a way should give, by what the client sees at the origin.
fn wanted(row: &Row, straight: Outcome, way: Way) -> Outcome {
    match (way, row.differs) {
        (Way::Straight, _) => straight,
        // The good one stays.
        (Way::TreeAfterGood | Way::UpstreamAfterGood, None) => Outcome::Works,
        (Way::TreeAfterGood | Way::UpstreamAfterGood, Some((outcome, _))) => outcome,
        (Way::Tree | Way::Upstream, Some((outcome, _))) => outcome,
        (Way::Tree | Way::Upstream, None) => straight,
    }
}

/// A line for each client and way where the server makes a difference.
fn differences(rows: &[Row], results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for ((at, client, way), seen) in results {
        let row = &rows[*at];
        let straight = results[&(*at, *client, Way::Straight)].outcome;
        if seen.outcome.differs(wanted(row, straight, *way)) {
            lines.push(format!(
                "{}: {} {straight}; {}: {}",
                row.name,
                client.name(),
                way.name(),
                seen.outcome
            ));
            if std::env::var_os("MANYHANDS_SAID").is_some() {
                lines.push(seen.said.clone());
            }
        }
    }
    lines
}

#[test]
fn a_server_is_no_stricter_and_no_laxer_than_the_clients() {
    let wanted = std::env::var("MANYHANDS_ROWS").unwrap_or_default();
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.name.contains(&wanted)).collect();
    let scratch = Scratch::new();
    let results = Table::start(&scratch, &rows).run();
    let mut problems = differences(&rows, &results);
    if wanted.is_empty() {
        let page = page::page(&rows, &results);
        if std::env::var_os("MANYHANDS_PAGE").is_some() {
            page::write(&page);
        }
        problems.extend(page::outdated(&page));
    }
    assert!(problems.is_empty(), "{} differences:\n{}", problems.len(), problems.join("\n"));
}
