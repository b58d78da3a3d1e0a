//! One cell of the matrix of failures: a kind of client, a fault, a moment, on a bed of its own.
//!
//! Two volunteers hold two packages of one size. The client installs one without a fault, which gives the time
//! that it needs, then the other, while the volunteer that it is sent to has the fault from the moment on. So the
//! same bed tells what the fault costs, and the server has seen no failure of this client before.

use std::fmt::Write as _;
use std::time::Duration;

use super::goods::Goods;
use super::patron::{Kind, Outcome, Patron};
use super::strike::Fault;
use super::{Bed, Plan, Worker};
use crate::support::{DEADLINE, poll};

/// When the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The client has its redirect and has not reached the volunteer.
    Connect,
    /// Some of the body has come.
    Transfer,
}

pub const MOMENTS: [Moment; 2] = [Moment::Connect, Moment::Transfer];

/// Bytes of a package, and how many of them have come when the fault comes in mid-transfer. At [`super::RATE`] the
/// whole takes less than two seconds.
pub const SIZE: usize = 450_000;
const HIT: u64 = 100_000;
/// Longer than any client needs without a fault.
const WELL: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub kind: Kind,
    pub fault: Fault,
    pub moment: Moment,
    /// With the settings that docs/clients.md recommends in place of stock ones.
    pub is_recommended: bool,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    pub outcome: Outcome,
    /// Longer than without the fault.
    pub extra: f64,
    /// What the server did after the fault.
    pub server: String,
}

impl Cell {
    pub fn name(&self) -> String {
        let moment = if self.moment == Moment::Connect { "before connect" } else { "mid-transfer" };
        let settings = if self.is_recommended { ", recommended settings" } else { "" };
        format!("{}, {}, {moment}{settings}", self.kind.name(), self.fault.name())
    }

    /// Measures it; `limit` is for the client with the fault.
    pub fn measure(&self, goods: &Goods, is_activated: bool, limit: Duration) -> Result<Seen, String> {
        let bed = Bed::start(&Plan {
            has_lines: self.fault.ill().is_some(),
            has_zone: self.kind.has_zone(),
            disk: (self.fault == Fault::DiskFull).then_some("32m"),
            is_activated,
            ..Plan::new(goods.config())
        });
        bed.spread(&[0, 1].map(|number| goods.path(self.kind.repo(), number)));
        let client = &bed.clients[0];
        let patron = Patron::new(self.kind, &bed, client, &bed.scratch.path("client"), self.is_recommended);
        bed.wait_quiet();
        let (well, _) = self.install(&bed, &patron, goods, 0, None, WELL);
        if !well.is_good {
            return Err(format!("not installed without a fault\n{}", well.text));
        }
        bed.wait_quiet();
        let (outcome, hit) = self.install(&bed, &patron, goods, 1, Some(self.fault), limit);
        let hit = hit.ok_or_else(|| format!("no volunteer was hit\n{}", outcome.text))?;
        let server = self.story(&bed, &goods.path(self.kind.repo(), 1), &hit);
        let extra = outcome.took.as_secs_f64() - well.took.as_secs_f64();
        Ok(Seen { outcome, extra, server })
    }

    /// One install with the fault in its moment; which volunteer was hit.
    fn install(
        &self,
        bed: &Bed,
        patron: &Patron<'_>,
        goods: &Goods,
        number: usize,
        fault: Option<Fault>,
        limit: Duration,
    ) -> (Outcome, Option<String>) {
        let path = goods.path(self.kind.repo(), number);
        let before: Vec<u64> = bed.workers.iter().map(|w| bed.network.bytes_from(&w.host)).collect();
        if self.moment == Moment::Connect {
            set_gates(bed, true);
        }
        std::thread::scope(|scope| {
            let installing = scope.spawn(|| patron.install(goods, number, limit));
            let hit = poll(DEADLINE, || {
                let target = match self.moment {
                    Moment::Connect => redirected(bed, &path, self.kind),
                    Moment::Transfer => under_way(bed, &before),
                };
                match target {
                    None if installing.is_finished() => Some(None),
                    target => target.map(Some),
                }
            });
            let hit = hit.flatten();
            if let (Some(worker), Some(fault)) = (hit, fault) {
                fault.strike(bed, worker);
            }
            if self.moment == Moment::Connect {
                set_gates(bed, false);
            }
            let outcome = installing.join().expect("clients are run to their end");
            (outcome, hit.map(|worker| worker.id().to_owned()))
        })
    }

    /// What the server did: the volunteer's state, and how it answered the client after the first redirect.
    fn story(&self, bed: &Bed, path: &str, hit: &str) -> String {
        let state = bed.try_status().map_or("server away".to_owned(), |status| status.state(hit).to_owned());
        let file = path.rsplit('/').next().unwrap_or(path);
        let asked = bed.asked(&bed.clients[0]);
        let mut answers = asked.iter().filter(|(path, _)| path.ends_with(file)).map(|(path, status)| {
            let is_direct = path.contains("/direct/");
            match status {
                300..400 => "redirected",
                200..300 if is_direct => "served directly",
                200..300 => "served",
                _ => "failed",
            }
        });
        // The redirect into the fault.
        answers.next();
        let mut story = format!("volunteer {state}; ");
        let rest: Vec<&str> = answers.collect();
        let _ = match rest.len() {
            0 => write!(story, "not asked again"),
            1..=3 => write!(story, "asked again: {}", rest.join(", ")),
            n => write!(story, "asked again {n} times, last: {}", rest[n - 1]),
        };
        story
    }
}

/// Shuts or opens the client's ways to all volunteers.
fn set_gates(bed: &Bed, is_shut: bool) {
    for worker in &bed.workers {
        bed.clients[0].set_gate(&worker.host, is_shut);
    }
}

/// The volunteer that the server's last redirect of a path names, to a client: those of [`Bed::spread`] were before.
fn redirected<'a>(bed: &'a Bed, path: &str, kind: Kind) -> Option<&'a Worker> {
    let client = bed.asked(&bed.clients[0]);
    // zypper may be given a metalink in place of a redirect.
    let statuses = if kind.is_zypper() { 200..400 } else { 300..400 };
    let (repo, below) = path.split_once('/')?;
    client.iter().find(|(asked, status)| asked.ends_with(path) && statuses.contains(status))?;
    let redirects = bed.messages("redirect");
    let last = redirects.iter().rev().find(|fields| fields["repo"] == repo && fields["path"] == below)?;
    Some(bed.worker(last["volunteer"].as_str()?))
}

/// The volunteer that has sent enough since.
fn under_way<'a>(bed: &'a Bed, before: &[u64]) -> Option<&'a Worker> {
    let is_under_way =
        |(worker, before): &(&Worker, &u64)| bed.network.bytes_from(&worker.host) - *before > HIT;
    bed.workers.iter().zip(before).find(is_under_way).map(|(worker, _)| worker)
}
