//! Decisions carried out: a client's request decided, and the copies that the policy wants made ordered.

use std::sync::Arc;

use super::fleet::{Choice, Decided};
use super::orders;
use crate::io::clock;
use crate::model::{Blob, Time};
use crate::policy::{Decision, Release, ReleaseNo, Request};
use crate::roles::serve::state::Server;

/// Decides who answers, and has missing copies made. `repo` and `path` are for the log.
pub fn choose(server: &Arc<Server>, request: &Request, repo: &str, path: &str) -> Choice {
    // Logging can be slow: it happens after the lock, from a copy.
    let is_logged = tracing::enabled!(tracing::Level::DEBUG);
    let Decided { choice, decision, chosen, orders } = server.fleet.decide(request, is_logged, clock::now());
    match (decision, chosen) {
        (Decision::Volunteer { candidates, cost_micros, .. }, Some(volunteer)) => {
            tracing::debug!(repo, path, %volunteer, candidates, cost_ms = cost_micros / 1000, "redirect");
        }
        (Decision::Origin(reason), _) => {
            tracing::debug!(repo, path, reason = reason.name(), "served here")
        }
        (Decision::Volunteer { .. }, None) => {}
    }
    orders::send(server, &orders);
    choice
}

/// Has copies made of a blob whose bytes have just become known.
pub fn place(server: &Arc<Server>, blob: Blob) {
    orders::send(server, &server.fleet.place(blob, clock::now()));
}

/// Orders missing copies of what was requested recently.
pub fn tend(server: &Arc<Server>) {
    orders::send(server, &server.fleet.tend(clock::now()));
}

/// Has copies made of a new generation's files.
pub fn release(server: &Arc<Server>, release: &Release, now: Time) -> ReleaseNo {
    let (no, orders) = server.fleet.released(release, now);
    orders::send(server, &orders);
    no
}

/// Has those copies made that generations are still waiting for.
pub fn seed(server: &Arc<Server>, now: Time) {
    orders::send(server, &server.fleet.seed(now));
}
