//! `docs/strictness.md`: the table as people read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::clients::{Client, Outcome};
use super::runs::{FIRST, Results, Way};
use super::{Reach, Row, shortfalls};
use crate::support::net::page::version;

/// What the page says before its tables.
const HEAD: &str = "\
# Strictness

A generation is judged by what clients need from it. manyhands is neither stricter nor laxer than the clients that it
serves: where apt, dnf or zypper work with a repository straight from its origin, they work with it through manyhands;
where they all refuse it, manyhands refuses it too, and keeps serving the last good generation. It logs a warning that
names file and reason for everything that it forgives.

The tables list defects of metadata, what stock clients do with them straight from a plain web server, and what
manyhands does. `tests/strictness.rs` makes a small repository for each row, runs the clients with an empty cache
straight and through manyhands (over the origin's tree and over its URL), and fails where the outcome differs, or
where it is not what this page says. `make strictness` writes the page.

Where manyhands makes a difference, the row has a note. *Keeps the last good one*: if the defect is one broken list, and others
that clients rely on are whole, that ends after a while ([the rule](operations.md#what-must-be-whole)).

- *works*: the client reads the lists and downloads a package. *Works, warns*: the same with a warning.
- *Update fails, install works*: `apt-get update` ends with an error about one list; packages can be installed.
- *Refuses*: the client gets no package.
- Unless a row says otherwise the repository is signed, and the clients and manyhands have the key (`keyring`).
- Lists are fetched with the client's defaults: apt reads Packages and Translation-en of its own architecture and of
  the components in its sources. Rows with *and asked for* have a client that wants the list in question.
- Measured with {versions}.
";

/// What manyhands does with a row.
fn served(row: &Row, results: &Results, at: usize, notes: &mut Vec<&'static str>) -> String {
    let mut noted = |text: &str, why: &'static str| {
        let known = notes.iter().position(|known| *known == why);
        let number = known.unwrap_or_else(|| {
            notes.push(why);
            notes.len() - 1
        });
        format!("{text} ({})", number + 1)
    };
    if let Some((outcome, why)) = row.differs {
        return noted(short(outcome), why);
    }
    let text = seen(row, results, at);
    match shortfalls::of_row(row) {
        Some(why) => noted(text.split(", keeps").next().unwrap_or(text), why),
        None => text.to_owned(),
    }
}

/// The same as it was seen.
fn seen(row: &Row, results: &Results, at: usize) -> &'static str {
    // The client, not the server, refuses one package of many.
    match row.reach {
        Reach::Package => return short(Outcome::Works),
        // The client that asks for it hears so; what it gets of the rest is its own decision.
        Reach::List => return short(Outcome::Complains),
        Reach::Generation => {}
    }
    let by_itself = results.iter().filter(|((row, _, way), _)| *row == at && FIRST.contains(way));
    short(by_itself.map(|(_, seen)| seen.outcome).min().expect("a row has a client"))
}

/// What it does so that the best served client sees this.
fn short(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Works | Outcome::Warns => "serves it",
        Outcome::Complains => "serves it without that list",
        Outcome::Refuses | Outcome::Waits => "refuses it, keeps the last good one",
    }
}

fn table(rows: &[Row], results: &Results, clients: &[Client], notes: &mut Vec<&'static str>) -> String {
    let names: Vec<&str> = clients.iter().map(|client| client.name()).collect();
    let mut table =
        format!("| defect | {} | manyhands |\n|---|{}---|\n", names.join(" | "), "---|".repeat(names.len()));
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.clients() == clients) {
        let seen = clients.iter().map(|client| results[&(at, *client, Way::Straight)].outcome.to_string());
        let seen: Vec<String> = seen.collect();
        let _ = writeln!(
            table,
            "| {} | {} | {} |",
            row.defect,
            seen.join(" | "),
            served(row, results, at, notes)
        );
    }
    table
}

/// The whole page.
pub fn page(rows: &[Row], results: &Results) -> String {
    let versions = ["apt-get", "dnf", "zypper"].map(|name| format!("{name} {}", version(Command::new(name))));
    let mut page = HEAD.replace("{versions}", &versions.join(", "));
    let mut notes = Vec::new();
    page += "\n## deb\n\n";
    page += &table(rows, results, &[Client::Apt], &mut notes);
    page += "\n## rpm-md\n\n";
    page += &table(rows, results, &[Client::Dnf, Client::Zypper], &mut notes);
    if !notes.is_empty() {
        page.push('\n');
    }
    for (number, note) in (1..).zip(notes) {
        let _ = writeln!(page, "({number}) {note}.  ");
    }
    page
}

/// What the page in the working tree says that clients make of a defect straight from the origin.
pub fn known() -> BTreeMap<(Client, String), Outcome> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    let mut known = BTreeMap::new();
    let mut clients: &[Client] = &[];
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["defect", "apt", _] => clients = &[Client::Apt],
            ["defect", "dnf", "zypper", _] => clients = &[Client::Dnf, Client::Zypper],
            [defect, outcomes @ .., _] if outcomes.len() == clients.len() => {
                for (client, outcome) in clients.iter().zip(outcomes) {
                    let of_name = Outcome::ALL.into_iter().find(|known| known.to_string() == *outcome);
                    known.extend(of_name.map(|outcome| ((*client, (*defect).to_owned()), outcome)));
                }
            }
            _ => {}
        }
    }
    known
}

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/strictness.md")
}

pub fn write(page: &str) {
    fs::write(file(), page).expect("the working tree is writable");
}

/// Rows of the page that are not in the working tree's, and those that are only there.
pub fn outdated(page: &str) -> Vec<String> {
    let old = fs::read_to_string(file()).unwrap_or_default();
    let rows = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with('|')).map(str::to_owned).collect()
    };
    let (old, new) = (rows(&old), rows(page));
    let gone = old.iter().filter(|row| !new.contains(row)).map(|row| format!("- {row}"));
    let come = new.iter().filter(|row| !old.contains(row)).map(|row| format!("+ {row}"));
    gone.chain(come).collect()
}
