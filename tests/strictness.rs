//! The table of `docs/strictness.md`: through a server, a repository with a defect works with stock clients just
//! when it works without one.
//!
//! `cargo test` runs every row and fails where the server makes a difference, or where the page says something else
//! than was seen. With `MANYHANDS_SOAK` each row is looked at straight and over both the origin's tree and its URL; else
//! over one of these, straight in one of three rows, and after a good generation in one of two, the page saying the rest.
//! What [`shortfalls`] names may differ. With `MANYHANDS_PAGE` it writes the
//! page. `MANYHANDS_ROWS` picks rows by parts of their names, with commas between, `MANYHANDS_SAID` shows what
//! the clients said where they differ.

mod support;

use support::strictness::clients::Outcome;
use support::strictness::page;
use support::strictness::runs::{Results, Table, Way};
use support::strictness::{Row, rows, shortfalls};
use support::{Scratch, is_soak};

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
fn differences(rows: &[Row], table: &Table<'_>, results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for ((at, client, way), seen) in results {
        let row = &rows[*at];
        let straight = table.straight(results, *at, *client);
        let is_known = || shortfalls::reason(row, *client, seen.outcome).is_some();
        if seen.outcome.differs(wanted(row, straight, *way)) && !is_known() {
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
    let is_wanted = |row: &Row| wanted.split(',').any(|part| row.name.contains(part));
    let rows: Vec<Row> = rows().into_iter().filter(is_wanted).collect();
    let scratch = Scratch::new();
    let table = Table::start(&scratch, &rows);
    let results = table.run();
    let mut problems = differences(&rows, &table, &results);
    if wanted.is_empty() && is_soak() {
        let page = page::page(&rows, &results);
        if std::env::var_os("MANYHANDS_PAGE").is_some() {
            page::write(&page);
        }
        problems.extend(page::outdated(&page));
    }
    problems.extend(table.changed(&results));
    assert!(problems.is_empty(), "{} differences:\n{}", problems.len(), problems.join("\n"));
}
