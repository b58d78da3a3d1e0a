//! Clients that install all the time while volunteers, their lines and the server fail at random, and clients
//! whose volunteers are all dead.

mod support;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use support::net::goods::{DEB, Goods, RPM};
use support::net::patron::{Kind, Patron};
use support::net::strike::Fault;
use support::net::{Bed, Host, Plan, alone};
use support::{DEADLINE, Scratch, debian13, poll, report, scaled, wrong_blobs};

/// Enough packages that no client asks for one again while the server remembers that it has.
const PACKAGES: usize = 60;
const SIZE: usize = 300_000;
/// Who installs: the clients with what docs/clients.md recommends for them.
const CLIENTS: [Kind; 4] = [Kind::DnfBase, Kind::DnfList, Kind::ZypperBase, Kind::ZypperList];
const VOLUNTEERS: u8 = 10;
/// Faults that last at a time, and how long each does, in milliseconds.
const AT_A_TIME: usize = 3;
const LASTS: std::ops::Range<u64> = 500..6000;
/// A client that is not done after this long has failed.
const LIMIT: Duration = Duration::from_secs(120);

/// What the clients have seen.
#[derive(Default)]
struct Tally {
    installs: AtomicUsize,
    failures: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
    is_over: AtomicBool,
}

impl Tally {
    fn fail(&self, what: String) {
        self.failures.lock().expect("no client panics").push(what);
    }
}

/// Installs one package after the other, in a fresh root when all are installed.
fn install_on(bed: &Bed, goods: &Goods, kind: Kind, host: &Host, tally: &Tally) {
    for round in 0.. {
        let root = bed.scratch.path(&format!("{}-{round}", host.address));
        let patron = match Patron::try_new(kind, bed, host, &root, true) {
            Ok(patron) => patron,
            Err(problem) => {
                tally.fail(format!("{}: no metadata: {problem}", kind.name()));
                return;
            }
        };
        for number in 0..goods.count {
            if tally.is_over.load(Ordering::SeqCst) {
                return;
            }
            let outcome = patron.install(goods, number, LIMIT);
            tally.installs.fetch_add(1, Ordering::SeqCst);
            if !outcome.is_good {
                let what = if outcome.is_wrong { "WRONG BYTES" } else { "not installed" };
                tally.fail(format!("{}, package {number}: {what}\n{}", kind.name(), outcome.text));
            }
            let mut slowest = tally.slowest.lock().expect("no client panics");
            *slowest = outcome.took.max(*slowest);
        }
    }
}

/// Has volunteers fail and recover, until there were so many faults of these; what was done.
fn rage(bed: &Bed, faults: &[Fault], count: usize, tally: &Tally) -> Vec<String> {
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let (mut running, mut log): (Vec<(usize, Fault, Instant)>, Vec<String>) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while log.len() < count || !running.is_empty() {
        // The next one that is over.
        let now = Instant::now();
        if let Some(at) = running.iter().position(|(_, _, until)| *until <= now) {
            let (worker, fault, _) = running.remove(at);
            fault.mend(bed, &bed.workers[worker]);
            continue;
        }
        if running.len() < AT_A_TIME && log.len() < count {
            let worker = rng.random_range(0..bed.workers.len());
            let fault = faults[rng.random_range(0..faults.len())];
            if running.iter().all(|(busy, ..)| *busy != worker) {
                fault.strike(bed, &bed.workers[worker]);
                let lasts = Duration::from_millis(rng.random_range(LASTS));
                running.push((worker, fault, Instant::now() + lasts));
                let failed = tally.failures.lock().expect("no client panics").len();
                let (second, installs) = (begin.elapsed().as_secs(), tally.installs.load(Ordering::SeqCst));
                log.push(format!(
                    "{second:4} s: {} at v{}; {installs} installs, {failed} failed",
                    fault.name(),
                    worker + 1
                ));
            }
            continue;
        }
        let next = running.iter().map(|(_, _, until)| *until).min();
        poll(DEADLINE, || next.is_none_or(|next| next <= Instant::now()).then_some(()));
    }
    log
}

#[test]
fn a_storm_of_faults_fails_no_install() {
    // Alone there is no network to make it from.
    debian13::usr();
    alone("a_storm_of_faults_fails_no_install", || {
        // Older apt has no way out of wrong bytes: where there is no other, there are none.
        let is_new = Kind::NewAptList.is_here();
        let apt = if is_new { Kind::NewAptList } else { Kind::AptList };
        let kinds: Vec<Kind> = CLIENTS.into_iter().chain([apt]).collect();
        let faults: Vec<Fault> = Fault::ALL.into_iter().filter(|f| is_new || *f != Fault::Wrong).collect();
        let scratch = Scratch::new();
        let goods = Goods::make(&scratch, scaled(12, PACKAGES), SIZE);
        let plan = Plan { volunteers: VOLUNTEERS, clients: kinds.len() as u8, ..Plan::new(goods.config()) };
        let bed = Bed::start(&Plan {
            has_lines: true,
            is_activated: true,
            disk: Some("96m"),
            donate: "2MiB/s",
            ..plan
        });
        let paths = [DEB, RPM].map(|repo| (0..goods.count).map(move |number| (repo, number)));
        let paths: Vec<String> =
            paths.into_iter().flatten().map(|(repo, number)| goods.path(repo, number)).collect();
        bed.place(&paths);
        let tally = Tally::default();
        let count = scaled(20, 500);
        let log = std::thread::scope(|scope| {
            for (kind, host) in kinds.iter().copied().zip(&bed.clients) {
                let (bed, goods, tally) = (&bed, &goods, &tally);
                scope.spawn(move || install_on(bed, goods, kind, host, tally));
            }
            let log = rage(&bed, &faults, count, &tally);
            tally.is_over.store(true, Ordering::SeqCst);
            log
        });
        let failures = tally.failures.into_inner().expect("no client panics");
        let mut text = format!(
            "{} faults at {VOLUNTEERS} volunteers, {} installs by {} clients: {} failed; slowest {:.1} s",
            log.len(),
            tally.installs.into_inner(),
            kinds.len(),
            failures.len(),
            tally.slowest.into_inner().expect("no client panics").as_secs_f64()
        );
        report("storm", &text);
        let wrong: Vec<_> = bed.workers.iter().flat_map(|w| wrong_blobs(&w.options.store)).collect();
        assert!(wrong.is_empty(), "stores hold wrong {wrong:?}");
        let _ = write!(text, "\n{}\n{}", log.join("\n"), failures.join("\n"));
        assert!(failures.is_empty(), "{text}");
    });
}

#[test]
fn with_all_volunteers_dead_the_server_serves_everything() {
    debian13::usr();
    alone("with_all_volunteers_dead_the_server_serves_everything", || {
        let scratch = Scratch::new();
        let kinds: Vec<Kind> = Kind::all().collect();
        let goods = Goods::make(&scratch, kinds.len(), SIZE);
        let plan = Plan { clients: kinds.len() as u8, has_zone: true, ..Plan::new(goods.config()) };
        let bed = Bed::start(&plan);
        let paths = |repo| (0..goods.count).map(|number| goods.path(repo, number)).collect::<Vec<_>>();
        bed.place(&[paths(DEB), paths(RPM)].concat());
        for worker in &bed.workers {
            worker.keeper.end();
        }
        bed.wait_within("no volunteer is up", DEADLINE, |status| {
            bed.workers.iter().all(|worker| status.state(worker.id()) != "up")
        });
        let before = bed.wait_within("the server is there", DEADLINE, |_| true).offload("redirects");
        std::thread::scope(|scope| {
            for ((number, kind), host) in kinds.into_iter().enumerate().zip(&bed.clients) {
                let (bed, goods) = (&bed, &goods);
                scope.spawn(move || {
                    let root = bed.scratch.path(&format!("client{number}"));
                    let outcome = Patron::new(kind, bed, host, &root, false).install(goods, number, LIMIT);
                    assert!(outcome.is_good, "{}: {}", kind.name(), outcome.text);
                });
            }
        });
        let after = bed.wait_within("the server is there", DEADLINE, |_| true).offload("redirects");
        assert_eq!(after, before, "nobody is sent anywhere");
    });
}
