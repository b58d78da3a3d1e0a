//! What the tests of the real binary share: scratch folders, processes, clients, a counting upstream.
//!
//! Every test makes its own [`Scratch`], servers and volunteers on ports the system picks, so tests run in
//! any order and side by side. Nothing waits for a fixed time: [`poll`] is the only pause, and every wait
//! has a condition and a deadline.
#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(unused_imports, reason = "each test file uses its part of this")]

mod apt;
pub mod booted;
pub mod cell;
pub mod coherence;
pub mod debian13;
mod digests;
mod fault;
mod fixture;
mod flat;
pub mod generation;
mod held;
mod http;
pub mod members;
mod mount;
pub mod net;
mod nginx;
mod pool;
mod process;
mod publisher;
mod report;
mod rpm;
pub mod sources;
mod status;
pub mod strictness;
mod upstream;

pub use apt::Apt;
pub use cell::is_kept;
pub use digests::{base64_of_hex, hex, random_bytes, sha256_file, sha256_hex};
pub use fault::Fault;
pub use fixture::{
    DebRepo, Scratch, copy_tree, files, overlay_tree, package_files, test_key, test_repos, tree_digest,
};
pub use flat::{locations, package, serve_sizes, serve_sizes_by, spread};
pub use held::{Held, Stream, Successor, detached};
pub use http::{Conn, Response, fetch, fetch_following, get, get_as, head, request, split_url, try_get};
pub use mount::{SmallDisk, with_mounts};
pub use nginx::Nginx;
pub use pool::{By, Pool};
pub use process::{
    BINARY, Process, Server, ServerConfig, Volunteer, VolunteerOptions, free_port, issue_token, run, run_ok,
    run_within, wrap,
};
pub use publisher::{GENTLE, HOSTILE, Order, Publisher};
pub use report::{peak_memory, report, wrong_blobs};
pub use rpm::{Dnf, Zypper};
pub use status::Status;
pub use upstream::Upstream;

use std::time::{Duration, Instant};

/// Whether the long forms run: `make soak`.
pub fn is_soak() -> bool {
    std::env::var_os("MANYHANDS_SOAK").is_some_and(|value| !value.is_empty() && value != "0")
}

/// A count of the short form, and of the long one.
pub fn scaled<T>(short: T, soak: T) -> T {
    if is_soak() { soak } else { short }
}

/// How long anything may take that should take a moment; generous, for a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until there is an answer; `None` when the deadline has passed.
pub fn poll<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if begin.elapsed() > deadline {
            return None;
        }
        pause();
    }
}

/// Waits for a condition, or fails with what was waited for.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let met = poll(deadline, || condition().then_some(()));
    assert!(met.is_some(), "waited {} s in vain: {what}", deadline.as_secs());
}

/// The pause between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "the one pause of the tests, bounded by poll's deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(25));
}
