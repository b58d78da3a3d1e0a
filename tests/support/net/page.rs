//! `docs/failures.md`: the matrix of failures as people read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use super::matrix::{Cell, MOMENTS, Moment, Seen};
use super::patron::Kind;
use super::strike::Fault;
use crate::support::{debian13, run_ok};

/// What became of each cell.
pub type Results = BTreeMap<Cell, Result<Seen, String>>;

/// What the page says before its tables.
const HEAD: &str = "\
# Failures

What installing costs when something fails on the way, measured with stock clients by `make faults`, which writes
this page. Each cell is a network of its own: a server, two volunteers that both hold two packages of 450 KB and give
256 KiB/s, and one client. It installs one package without a fault and the other with it. The fault strikes the
volunteer that the client is sent to, and stays; the other one stays well.

- *Before connect*: the client has its redirect, its packets to volunteers are held back until the fault is there.
- *Mid-transfer*: 100 KB have come.
- *Killed*: SIGKILL; the service manager holds the port and starts the process again after half a second.
  *Frozen*: SIGSTOP; the watchdog ends the process after a minute. *Link down*: the volunteer's own interface.
  *Reset*, *closes*, *wrong bytes*, *short*, *1 KB/s*: a proxy before the volunteer does it, to every answer where
  nothing else is said, while the control connection stays well. *Connection reset* and *closes mid-body* happen once.
  *Short*: half of the file, with a Content-Length that says so. *1 KB/s*: the proxy holds
  nothing back, so that a volunteer that gives up is heard. *Drained*: stopped and not started again.
- *Extra* is in seconds, against the install without a fault in the same network.
- The clients are {versions}.

";

/// The whole page; `reason` says why a cell may fail, where it may.
pub fn page(results: &Results, reason: impl Fn(&Cell) -> Option<&'static str>) -> String {
    let mut page = HEAD.replace("{versions}", &versions());
    page += "## Extra seconds, before connect / mid-transfer\n\nStock settings.\n\n";
    let mut notes: Vec<&'static str> = Vec::new();
    page += &overview(results, false, &reason, &mut notes);
    page += "\nWith the settings that docs/clients.md recommends, where a client learns of a fault by its own timeouts.\n\n";
    page += &overview(results, true, &reason, &mut notes);
    page.push('\n');
    for (number, note) in (1..).zip(&notes) {
        let _ = writeln!(page, "({number}) {note}.  ");
    }
    page += "\n## What the server did next\n\n| client | fault | moment | outcome | server |\n|---|---|---|---|---|\n";
    for (cell, result) in results.iter().filter(|(cell, _)| !cell.is_recommended) {
        let moment = if cell.moment == Moment::Connect { "before connect" } else { "mid-transfer" };
        let server = result.as_ref().map_or("", |seen| seen.server.as_str());
        let (client, fault) = (cell.kind.name(), cell.fault.name());
        let _ = writeln!(page, "| {client} | {fault} | {moment} | {} | {server} |", words(result));
    }
    page
}

/// A program's version, as it says it itself.
pub fn version(mut command: Command) -> String {
    let said = run_ok(command.arg("--version"));
    let number = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    number.map(str::to_owned).unwrap_or_default()
}

/// Of the clients.
fn versions() -> String {
    let here = |program: &str| format!("{program} {}", version(Command::new(program)));
    let new_apt = debian13::usr().map(|usr| {
        let command = debian13::within(usr, &Command::new("apt-get"));
        format!("apt-get {} of Debian 13 as \"apt 3\"", version(command))
    });
    let apt: Vec<String> = [here("apt-get")].into_iter().chain(new_apt).collect();
    let others = ["dnf", "zypper", "wget", "debootstrap"].map(here);
    format!("{},\n  {}", apt.join(", "), others.join(", "))
}

/// One table: faults down, clients across.
fn overview(
    results: &Results,
    is_recommended: bool,
    reason: &impl Fn(&Cell) -> Option<&'static str>,
    notes: &mut Vec<&'static str>,
) -> String {
    let is_there =
        |kind: &Kind| results.keys().any(|c| c.is_recommended == is_recommended && c.kind == *kind);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(is_there).collect();
    let mut table = String::from("| fault |");
    for kind in &kinds {
        let _ = write!(table, " {} |", kind.name());
    }
    let _ = write!(table, "\n|---|{}\n", "---|".repeat(kinds.len()));
    for fault in Fault::ALL {
        let mut row = String::new();
        for kind in &kinds {
            let both = MOMENTS.map(|moment| {
                let cell = Cell { kind: *kind, fault, moment, is_recommended };
                results.get(&cell).map_or_else(String::new, |result| short(&cell, result, reason, notes))
            });
            let _ = write!(row, " {} |", both.join(" / "));
        }
        if row.chars().any(char::is_alphanumeric) {
            let _ = writeln!(table, "| {} |{row}", fault.name());
        }
    }
    table
}

/// The extra seconds, or that it failed, with the number of the note that says why it may.
fn short(
    cell: &Cell,
    result: &Result<Seen, String>,
    reason: &impl Fn(&Cell) -> Option<&'static str>,
    notes: &mut Vec<&'static str>,
) -> String {
    match result {
        Ok(seen) if seen.outcome.is_good => format!("{:.0}", seen.extra.max(0.0)),
        _ => match reason(cell) {
            None => "**fails**".to_owned(),
            Some(note) => {
                let known = notes.iter().position(|known| *known == note);
                let number = known.unwrap_or_else(|| {
                    notes.push(note);
                    notes.len() - 1
                });
                format!("fails ({})", number + 1)
            }
        },
    }
}

/// What became of an install, in words.
pub fn words(result: &Result<Seen, String>) -> String {
    match result {
        Err(problem) => problem.lines().next().unwrap_or_default().to_owned(),
        Ok(Seen { outcome, extra, .. }) => {
            let what = match outcome {
                outcome if outcome.is_good => "installed",
                outcome if outcome.is_wrong => "took wrong bytes",
                outcome if outcome.is_late => "still trying when the time was up",
                _ => "not installed",
            };
            format!("{what}, {extra:+.1} s")
        }
    }
}
