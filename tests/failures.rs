//! The matrix of failures: every kind of client, every fault of a volunteer, before the client connects and in the
//! middle of a transfer. Each cell has a bed of its own (see `support::net::matrix`).
//!
//! `cargo test` measures some cells; `make faults` measures all and writes `docs/failures.md`. Either fails when
//! a cell that must hold does not: [`demand`] says which those are, and why others may fail.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::net::alone;
use support::net::goods::Goods;
use support::net::matrix::{Cell, MOMENTS, Moment, SIZE, Seen};
use support::net::page::{self, Results};
use support::net::patron::Kind;
use support::net::strike::Fault;
use support::{Scratch, debian13, is_soak};

/// Cells at a time: they wait most of their time.
const SIDE_BY_SIDE: usize = 30;
/// What is still not done then counts as not installed. A trickle of 1 KB/s needs most of it.
const LIMIT: Duration = Duration::from_secs(700);
/// The most that a fault may cost, in seconds, where the client sees it; and where it learns of it by its timeouts,
/// with the settings that docs/clients.md recommends.
const SEEN: f64 = 10.0;
const QUIET: f64 = 20.0;

/// What is asked of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    Must,
    /// May fail, for this reason.
    May(&'static str),
}

/// Which cells must hold.
fn demand(cell: &Cell) -> Demand {
    const NO_SOURCE: &str = "apt has one URL, the volunteer's, and a file of wrong bytes or another size ends it: \
                             it has no other source";
    const LOST: &str = "apt never returns to the server that redirected it: with the host, or the network to it, lost, \
                        so is the download";
    const LIST: &str = "apt before 2.9.14 takes the next URL of its list after errors, not after wrong bytes";
    const WGET: &str = "wget repeats only the volunteer's URL: nothing is promised";
    const DEBOOTSTRAP: &str = "debootstrap asks the server again after wrong bytes; where its wget gives up, which may \
                               take that hours, so does it";
    match (cell.kind, cell.fault) {
        (Kind::Debootstrap, Fault::LinkDown | Fault::Silent | Fault::Reset) => Demand::May(DEBOOTSTRAP),
        (Kind::Wget, _) => Demand::May(WGET),
        (kind, Fault::Wrong | Fault::Short) if kind.is_apt() && !kind.is_apt_list() => Demand::May(NO_SOURCE),
        (Kind::AptList, Fault::Wrong) => Demand::May(LIST),
        (Kind::AptBase | Kind::NewAptBase, Fault::LinkDown | Fault::Silent | Fault::Reset) => {
            Demand::May(LOST)
        }
        _ => Demand::Must,
    }
}

/// The longest that a cell's fault may cost.
fn patience(cell: &Cell) -> Option<f64> {
    match (cell.fault.is_quiet(), cell.is_recommended) {
        (false, _) => Some(SEEN),
        (true, true) => Some(QUIET),
        // What its own settings take.
        (true, false) => None,
    }
}

type Result = std::result::Result<Seen, String>;

/// What is wrong with a cell, if something is.
fn problem(cell: &Cell, result: &Result) -> Option<String> {
    match result {
        Err(problem) => Some(problem.clone()),
        Ok(seen) if seen.outcome.is_wrong => Some("took wrong bytes for good".to_owned()),
        Ok(seen) if !seen.outcome.is_good => Some("not installed".to_owned()),
        Ok(seen) => patience(cell)
            .filter(|most| seen.extra > *most)
            .map(|most| format!("{:.0} s more, {most:.0} are allowed", seen.extra)),
    }
}

/// Whether a cell is what is demanded of it. Wrong bytes nobody may take.
fn is_met(cell: &Cell, result: &Result) -> bool {
    let is_wrong = result.as_ref().is_ok_and(|seen| seen.outcome.is_wrong);
    let is_measured = result.is_ok();
    match demand(cell) {
        Demand::Must => problem(cell, result).is_none(),
        // wget looks at no checksum, which is left to who runs it.
        Demand::May(_) => is_measured && (!is_wrong || cell.kind == Kind::Wget),
    }
}

/// Measures cells side by side.
fn measure(cells: &[Cell], limit: Duration) -> Results {
    let scratch = Scratch::new();
    let goods = Goods::make(&scratch, 2, SIZE);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
                    // A bed that does not come up is that cell's failure, not that of all.
                    let measured = std::panic::catch_unwind(|| cell.measure(&goods, true, limit));
                    let result = measured.unwrap_or_else(|_| Err("the bed failed".to_owned()));
                    let seen = describe(&result);
                    println!("{:4} s  {}: {seen}", begin.elapsed().as_secs(), cell.name());
                    results.lock().expect("no cell panics here").insert(*cell, result);
                }
            });
        }
    });
    results.into_inner().expect("no cell panics here")
}

fn describe(result: &Result) -> String {
    let server = result.as_ref().map_or("", |seen| seen.server.as_str());
    format!("{}; {server}", page::words(result))
}

/// Fails with every cell that is not as demanded, and what its client said.
fn judge(results: &Results) {
    let mut bad = String::new();
    for (cell, result) in results.iter().filter(|(cell, result)| !is_met(cell, result)) {
        let _ = write!(bad, "\n{}: {}", cell.name(), problem(cell, result).unwrap_or_default());
        if let Ok(seen) = result {
            let text = &seen.outcome.text;
            let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let _ =
                write!(bad, " ({})\n  {}", seen.server, last[last.len().saturating_sub(6)..].join("\n  "));
        }
    }
    assert!(bad.is_empty(), "cells that do not hold:{bad}");
}

/// All cells: the stock settings everywhere, the recommended ones where a client learns of a fault by its timeouts.
fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for fault in Fault::ALL {
        for kind in Kind::all() {
            for moment in MOMENTS {
                let cell = Cell { kind, fault, moment, is_recommended: false };
                cells.push(cell);
                // Nothing can be recommended to apt with a base URL alone.
                if fault.is_quiet() && (kind.is_dnf() || kind.is_apt_list() || kind.has_zone()) {
                    cells.push(Cell { is_recommended: true, ..cell });
                }
            }
        }
    }
    // Those that wait longest begin first.
    let is_long = |cell: &Cell| cell.fault == Fault::Trickle || cell.kind == Kind::Wget;
    cells.sort_by_key(|cell| (!(cell.fault.is_quiet() && is_long(cell)), !cell.fault.is_quiet()));
    cells
}

/// Cells that show every way out of a failure once, without long timeouts.
const SOME: &[(Kind, Fault, Moment)] = &[
    (Kind::AptBase, Fault::Killed, Moment::Connect),
    (Kind::AptBase, Fault::Killed, Moment::Transfer),
    (Kind::AptBase, Fault::Restarted, Moment::Transfer),
    (Kind::AptBase, Fault::Drained, Moment::Transfer),
    (Kind::AptBase, Fault::StoreGone, Moment::Connect),
    (Kind::AptBase, Fault::DiskFull, Moment::Connect),
    (Kind::AptBase, Fault::ServerRestarted, Moment::Connect),
    (Kind::AptList, Fault::Short, Moment::Connect),
    (Kind::AptList, Fault::Reset, Moment::Connect),
    (Kind::NewAptList, Fault::Wrong, Moment::Connect),
    (Kind::NewAptList, Fault::Killed, Moment::Transfer),
    (Kind::NewAptZone, Fault::Killed, Moment::Connect),
    (Kind::Debootstrap, Fault::Wrong, Moment::Connect),
    (Kind::AptZone, Fault::LinkDown, Moment::Connect),
    (Kind::AptZone, Fault::ResetOnce, Moment::Transfer),
    (Kind::DnfBase, Fault::Killed, Moment::Transfer),
    (Kind::DnfBase, Fault::Wrong, Moment::Connect),
    (Kind::DnfList, Fault::Reset, Moment::Transfer),
    (Kind::ZypperBase, Fault::Killed, Moment::Connect),
    (Kind::ZypperList, Fault::Short, Moment::Connect),
    (Kind::AptBase, Fault::ResetOnce, Moment::Connect),
    (Kind::AptBase, Fault::ClosesOnce, Moment::Transfer),
    (Kind::AptBase, Fault::ServerRestarted, Moment::Transfer),
    (Kind::AptList, Fault::Killed, Moment::Transfer),
    (Kind::AptList, Fault::LinkDown, Moment::Connect),
    (Kind::AptList, Fault::ClosesOnce, Moment::Transfer),
    (Kind::AptZone, Fault::Silent, Moment::Connect),
    (Kind::AptZone, Fault::Killed, Moment::Transfer),
    (Kind::DnfBase, Fault::LinkDown, Moment::Connect),
    (Kind::DnfBase, Fault::Drained, Moment::Connect),
    (Kind::DnfList, Fault::ServerRestarted, Moment::Transfer),
    (Kind::DnfList, Fault::StoreGone, Moment::Connect),
    (Kind::ZypperBase, Fault::ClosesOnce, Moment::Transfer),
    (Kind::ZypperBase, Fault::Reset, Moment::Connect),
    (Kind::ZypperList, Fault::Restarted, Moment::Transfer),
    (Kind::ZypperList, Fault::DiskFull, Moment::Connect),
];

#[test]
fn what_volunteers_do_wrong_fails_no_install() {
    // Alone there is no network to make it from.
    debian13::usr();
    alone("what_volunteers_do_wrong_fails_no_install", || {
        if is_soak() {
            let wanted = std::env::var("MANYHANDS_CELLS").unwrap_or_default();
            let cells: Vec<Cell> = all().into_iter().filter(|cell| cell.name().contains(&wanted)).collect();
            let results = measure(&cells, LIMIT);
            if wanted.is_empty() {
                write_page(&results);
            }
            return judge(&results);
        }
        let one = |&(kind, fault, moment): &_| Cell { kind, fault, moment, is_recommended: false };
        let cells: Vec<Cell> = SOME.iter().map(one).filter(|cell| cell.kind.is_here()).collect();
        judge(&measure(&cells, Duration::from_secs(60)));
    });
}

/// `docs/failures.md`.
fn write_page(results: &Results) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/failures.md");
    let reason = |cell: &Cell| match demand(cell) {
        Demand::May(reason) => Some(reason),
        Demand::Must => None,
    };
    fs::write(path, page::page(results, reason)).expect("the working tree is writable");
}
