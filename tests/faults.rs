//! What an upstream can do wrong, and what becomes of it: every fault, in every kind of file, with and
//! without a second upstream that is well.
//!
//! The promises: no wrong byte is ever kept or completed; with a good upstream left the client gets the right
//! file, at its second try at the latest; an outage is 5xx, 404 is for what is absent. `EXPECTED` says it for
//! each case: what the client saw at its first and second try, and whether the right file was kept.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::cell::{Cell, KINDS, Kind};
use support::generation::Signer;
use support::{Fault, Scratch, Server, ServerConfig, Upstream, is_soak, report, test_key, wrong_blobs};

/// Cases that run at a time; the slow ones wait most of their time.
const SIDE_BY_SIDE: usize = 48;

/// Enough that an answer begins before its file is whole.
const PACKAGE_BYTES: usize = 400_000;

/// Name, fault, and what each kind of file comes to (root, index, member, package) with one upstream and
/// with a second good one: first try, second try, whether it is kept. `fail` is 5xx or a broken answer; `any`
/// is for roots whose signature the server has no key for, so that only the client can tell.
type Row = (&'static str, Fault, [&'static str; 4], [&'static str; 4]);

const GOOD: &str = "right,right kept";
/// Nothing was sent yet.
const OUTAGE: &str = "5xx,5xx -";
/// The answer may have begun.
const FAIL: &str = "fail,fail -";
/// Bytes that were sent cannot be taken back: then the second try is right.
const LATE: &str = "late,right kept";
const ABSENT: &str = "404,404 -";
const ANY: &str = "any,any any";
const OUT: [&str; 4] = [OUTAGE; 4];

const EXPECTED: &[Row] = &[
    ("reset in mid-file", Fault::Reset, [OUTAGE, OUTAGE, OUTAGE, FAIL], [GOOD; 4]),
    ("cut, length right", Fault::Cut, [OUTAGE, OUTAGE, OUTAGE, FAIL], [GOOD; 4]),
    ("cut, length of the half", Fault::Short, OUT, [GOOD; 4]),
    ("wrong bytes", Fault::Damaged, [ANY, OUTAGE, OUTAGE, FAIL], [ANY, GOOD, GOOD, LATE]),
    ("stalled", Fault::Held, [OUTAGE, OUTAGE, OUTAGE, FAIL], [LATE; 4]),
    ("1 KB/s", Fault::Rate(1000), [GOOD; 4], [GOOD; 4]),
    // A Release without its lists is an update, or a broken mirror: not the absence of a suite.
    ("404 always", Fault::Status(404), [ABSENT, OUTAGE, ABSENT, ABSENT], [GOOD; 4]),
    // That there is no such suite is believed for some seconds. The member is held with its generation, so
    // the one 404 meets the client or the server's own look, whichever comes first.
    ("404 once", Fault::Once(404), [ABSENT, GOOD, "any,right kept", "404,right kept"], [GOOD; 4]),
    ("500", Fault::Status(500), OUT, [GOOD; 4]),
    ("503", Fault::Status(503), OUT, [GOOD; 4]),
    ("403", Fault::Status(403), OUT, [GOOD; 4]),
    ("redirect to another path", Fault::Moved, [GOOD; 4], [GOOD; 4]),
    ("redirect loop", Fault::Loop, OUT, [GOOD; 4]),
    ("another file of that name", Fault::Changed, OUT, [GOOD; 4]),
    ("chunked, no length", Fault::Chunked, [GOOD; 4], [GOOD; 4]),
    ("chunked, cut", Fault::ChunkedCut, [OUTAGE, OUTAGE, OUTAGE, FAIL], [GOOD; 4]),
    ("two lengths", Fault::TwoLengths, OUT, [GOOD; 4]),
    ("gzip on the way", Fault::Gzip, OUT, [GOOD; 4]),
    ("a page with 200", Fault::Page { same_length: false }, OUT, [GOOD; 4]),
];

/// One case: a fault in a kind of file, with one upstream or two.
struct Case {
    row: usize,
    kind: Kind,
    upstreams: usize,
    cell: Cell,
}

fn cases(signer: &Signer) -> Vec<Case> {
    let mut all = Vec::new();
    for (row, (_, fault, ..)) in EXPECTED.iter().enumerate() {
        for kind in KINDS {
            for upstreams in [1, 2] {
                // What is slow must end within seconds.
                let is_slow = matches!(fault, Fault::Rate(_));
                let size = if is_slow { 3000 } else { PACKAGE_BYTES };
                let cell = Cell::new(signer, all.len() as u64, size, "");
                all.push(Case { row, kind, upstreams, cell });
            }
        }
    }
    all
}

#[test]
fn no_fault_of_an_upstream_gets_through() {
    let scratch = Scratch::new();
    let signer = Signer::new(&scratch);
    let cases = cases(&signer);
    let tree = scratch.dir("mirror");
    let (faulty, good) = (Upstream::start(&tree), Upstream::start(&tree));
    let mut config = ServerConfig::default();
    for case in &cases {
        let name = &case.cell.name;
        case.cell.write(&tree);
        faulty.set_fault(&format!("{name}/{}", case.kind.path()), Some(EXPECTED[case.row].1));
        let urls = [faulty.url(name), good.url(name)];
        config = config.upstreams(name, "generic-deb", &urls[..case.upstreams], "");
    }
    let server = Server::start(&scratch, &config);
    let seen = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    // Half a minute of silence is what a server allows.
                    let is_slow = EXPECTED[case.row].1 == Fault::Held;
                    let tries = if is_slow && !is_soak() { 1 } else { 2 };
                    let walks: Vec<String> =
                        (0..tries).map(|_| case.cell.walk(&server.base(), case.kind)).collect();
                    let kept = case.cell.is_kept(&scratch.path("server-state"), case.kind);
                    let outcome = format!("{} {}", walks.join(","), if kept { "kept" } else { "-" });
                    let key = (case.row, case.upstreams, KINDS.iter().position(|k| *k == case.kind));
                    seen.lock().expect("no case panics").insert(key, outcome);
                }
            });
        }
    });
    for part in ["cache", "metadata"] {
        let wrong = wrong_blobs(&scratch.path("server-state").join(part));
        assert!(wrong.is_empty(), "{part} holds wrong {wrong:?}");
    }
    let seen = seen.into_inner().expect("no case panics");
    let (table, wrong) = compare(&seen);
    report("faults", &table);
    assert!(wrong.is_empty(), "not as expected:\n{wrong}");
}

type Outcomes = BTreeMap<(usize, usize, Option<usize>), String>;

/// Whether an outcome is one of those that are expected; the short form makes no second try of what is slow.
fn fits(outcome: &str, want: &str) -> bool {
    let is_failure = |seen: &str| seen.starts_with('5') && seen.len() == 3;
    let fits = |(seen, want): (&str, &str)| match want {
        "any" => true,
        "5xx" => is_failure(seen),
        "fail" => is_failure(seen) || seen == "broken",
        // Right at once, or at the next try.
        "late" => seen == "right" || is_failure(seen) || seen == "broken",
        want => seen == want,
    };
    let seen: Vec<&str> = outcome.split([',', ' ']).collect();
    let mut wanted: Vec<&str> = want.split([',', ' ']).collect();
    if seen.len() == 2 {
        wanted.truncate(1);
    }
    wanted.len() <= seen.len() && seen.into_iter().zip(wanted).all(fits)
}

/// All outcomes as a table, and those that are not as expected.
fn compare(seen: &Outcomes) -> (String, String) {
    let mut table = format!("{:<26} {:>2}", "fault; upstreams", "");
    for kind in ["root", "index", "member", "package"] {
        let _ = write!(table, " {kind:<20}");
    }
    let mut wrong = String::new();
    for (row, (name, _, one, two)) in EXPECTED.iter().enumerate() {
        for (upstreams, expected) in [(1, one), (2, two)] {
            let _ = write!(table, "\n{:<26} {upstreams:>2}", if upstreams == 1 { name } else { "" });
            for (at, want) in expected.iter().enumerate() {
                let outcome = seen.get(&(row, upstreams, Some(at))).map_or("", String::as_str);
                let _ = write!(table, " {outcome:<20}");
                if !fits(outcome, want) {
                    let kind = KINDS[at];
                    let _ = writeln!(wrong, "{name}, {kind:?}, {upstreams} upstreams: {outcome}, not {want}");
                }
            }
        }
    }
    (table, wrong)
}

/// A root that a keyring or the calendar rules out, and lines of the repository's configuration.
struct Refused {
    what: &'static str,
    bad: Cell,
    good: Cell,
    more: String,
    /// What becomes of it.
    fate: Fate,
}

/// What becomes of a root.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Served,
    /// Where no upstream has a better one: clients judge it.
    LastResort,
    Refused,
}

fn refused(scratch: &Scratch) -> Vec<Refused> {
    let (signer, stranger) = (Signer::new(scratch), Signer::stranger(scratch));
    let past = "Valid-Until: Sun, 02 Nov 2025 12:00:00 UTC\n";
    let keyring = format!("keyring = {:?}", test_key().display().to_string());
    let mut all = Vec::new();
    for (what, signer_of_bad, bad_lines, more, fate) in [
        ("no key, no check", &stranger, "", String::new(), Fate::Served),
        ("another key", &stranger, "", keyring.clone(), Fate::Refused),
        ("a wrong byte", &signer, "", keyring.clone(), Fate::Refused),
        ("expired", &signer, past, String::new(), Fate::LastResort),
        ("expired, signed", &signer, past, keyring.clone(), Fate::LastResort),
        ("expired, allowed", &signer, past, "check_valid_until = false".to_owned(), Fate::Served),
    ] {
        let number = 1000 + all.len() as u64;
        let bad = Cell::new(signer_of_bad, number, 3000, bad_lines);
        let good = Cell::new(&signer, number, 3000, "");
        all.push(Refused { what, bad, good, more, fate });
    }
    all
}

#[test]
fn what_is_badly_signed_or_expired_is_not_adopted() {
    let scratch = Scratch::new();
    let all = refused(&scratch);
    let (bad, good) = (scratch.dir("bad"), scratch.dir("good"));
    let (bad_upstream, good_upstream) = (Upstream::start(&bad), Upstream::start(&good));
    let mut config = ServerConfig::default();
    for Refused { what, bad: bad_cell, good: good_cell, more, .. } in &all {
        bad_cell.write(&bad);
        good_cell.write(&good);
        let name = &good_cell.name;
        if *what == "a wrong byte" {
            bad_upstream.set_fault(&format!("{name}/{}", Kind::Root.path()), Some(Fault::Damaged));
        }
        let urls = [bad_upstream.url(name), good_upstream.url(name)];
        config = config.upstreams(&format!("{name}-one"), "generic-deb", &urls[..1], more);
        config = config.upstreams(&format!("{name}-two"), "generic-deb", &urls, more);
    }
    let server = Server::start(&scratch, &config);
    let state = scratch.path("server-state");
    let mut table = format!("{:<20} {:<12} {:<12}", "root; upstreams", "1", "2");
    let mut wrong = String::new();
    let is_bad_kept = |what: &str, bad: &Cell| {
        if what != "a wrong byte" {
            return bad.is_kept(&state, Kind::Root);
        }
        let mut damaged = bad.bytes(Kind::Root).to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        support::is_kept(&state, &damaged)
    };
    for Refused { what, bad, good, fate, .. } in &all {
        let url = |number: &str| format!("{}/{}-{number}", server.base(), good.name);
        // What is not refused comes from the first upstream.
        let (of_one, of_two) = match fate {
            Fate::Served => (bad, bad),
            Fate::LastResort => (bad, good),
            Fate::Refused => (good, good),
        };
        let is_refused = *fate == Fate::Refused;
        let one = of_one.walk_at(&url("one"), Kind::Package);
        let two = of_two.walk_at(&url("two"), Kind::Package);
        let _ = write!(table, "\n{what:<20} {one:<12} {two:<12}");
        let want = if is_refused { "5xx" } else { "right" };
        if !fits(&one, want) || two != "right" || (is_refused && is_bad_kept(what, bad)) {
            let _ = writeln!(wrong, "{what}: {one} and {two}, not {want} and right; or the bad root is kept");
        }
    }
    report("faults-signatures", &table);
    assert!(wrong.is_empty(), "not as expected:\n{wrong}");
}
