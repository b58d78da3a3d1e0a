//! Metadata that is never mixed: stock apt and dnf against a mirror that publishes twice a second in the
//! worst orders, over HTTP and over a local tree.
//!
//! Short by default, hundreds of rounds with `make soak`. The same visit measures peers in
//! `bench/coherence.rs`.

mod support;

use std::time::Duration;

use support::coherence::{Tally, Until, table, visit_apt, visit_dnf};
use support::generation::Signer;
use support::{GENTLE, HOSTILE, Order, Publisher, Scratch, Server, ServerConfig, Upstream, report, scaled};

/// Two repositories of one tree: one reads the files, one asks for them.
fn serve(scratch: &Scratch, upstream: &Upstream) -> Server {
    let tree = scratch.path("mirror");
    let deb = "suites = [\"stable\"]\npoll_secs = 1";
    let rpm = "suites = [\"\"]\npoll_secs = 1";
    let config = ServerConfig::default()
        .upstream("apt-far", "generic-deb", &upstream.url("apt"), deb)
        .tree("apt-near", "generic-deb", &tree.join("apt"), deb)
        .upstream("rpm-far", "generic-rpm", &upstream.url("rpm"), rpm)
        .tree("rpm-near", "generic-rpm", &tree.join("rpm"), rpm);
    Server::start(scratch, &config)
}

/// All clients side by side; what each met.
fn visit(scratch: &Scratch, server: &Server, clients: &[&str], until: Until) -> Vec<(String, Tally)> {
    std::thread::scope(|scope| {
        let start = |name: &&str| {
            let (root, base, is_apt) =
                (scratch.dir(&format!("client-{name}")), server.url(name), name.starts_with("apt"));
            scope.spawn(
                move || if is_apt { visit_apt(&root, &base, until) } else { visit_dnf(&root, &base, until) },
            )
        };
        let threads: Vec<_> = clients.iter().map(start).collect();
        let names = clients.iter().map(|name| (*name).to_owned());
        names.zip(threads.into_iter().map(|thread| thread.join().expect("no client panics"))).collect()
    })
}

fn check(rows: &[(String, Tally)], least: usize) {
    for (name, tally) in rows {
        let first = tally.failed_updates.iter().chain(&tally.failed_downloads).next();
        assert_eq!(tally.failures(), 0, "{name}, first of all: {}", first.map_or("", String::as_str));
        assert!(tally.generations.len() >= least, "{name} saw only {:?}", tally.generations);
    }
}

/// A mirror that changes, a server over it, and clients.
fn run(name: &str, by_hash: bool, orders: &'static [Order], clients: &[&str]) {
    let scratch = Scratch::new();
    let publisher = Publisher::start(&scratch.path("mirror"), Signer::new(&scratch), by_hash, orders);
    let upstream = Upstream::start(&scratch.path("mirror"));
    let server = serve(&scratch, &upstream);
    let short = Until { rounds: 6, generations: 2, limit: Duration::from_secs(50) };
    let until = scaled(short, Until { rounds: 300, generations: 10, limit: Duration::from_secs(900) });
    let rows = visit(&scratch, &server, clients, until);
    let head = format!("{name}: {} generations published", publisher.finish());
    report(&format!("coherence-{}", name.replace([',', ' '], "-")), &format!("{head}\n{}", table(&rows)));
    check(&rows, until.generations);
}

#[test]
fn clients_follow_a_well_kept_mirror() {
    run("well kept", true, GENTLE, &["apt-far", "apt-near", "rpm-far", "rpm-near"]);
}

#[test]
fn apt_never_sees_two_generations_mixed() {
    run("apt, bad orders", true, HOSTILE, &["apt-far", "apt-near"]);
}

#[test]
fn apt_never_sees_two_generations_mixed_without_by_hash() {
    run("apt, bad orders, no by-hash", false, HOSTILE, &["apt-far", "apt-near"]);
}

#[test]
fn dnf_never_sees_two_generations_mixed() {
    run("dnf, bad orders", true, HOSTILE, &["rpm-far", "rpm-near"]);
}
