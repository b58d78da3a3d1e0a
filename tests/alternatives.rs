//! Suites that share a pool and name one path with different digests: one of them is stale, or the origin is being
//! changed. Whatever the origin has is good if any of them names it, and nobody else's file is spoilt by the stale one.

mod support;

use std::process::Command;

use support::{
    Apt, By, Pool, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions, base64_of_hex,
    fetch, get, head, poll, random_bytes, sha256_hex, try_get,
};

/// What two suites say of `pool/a_1_all.deb`, of which the pool has `fresh`.
struct Dispute {
    what: &'static str,
    fresh: Vec<u8>,
    stale: Vec<u8>,
    by: [By; 2],
}

fn disputes() -> Vec<Dispute> {
    let (fresh, stale) = (random_bytes(1, 100_000), random_bytes(2, 100_000));
    let longer = random_bytes(3, 130_000);
    let dispute =
        |what, stale: &[u8], by| Dispute { what, fresh: fresh.clone(), stale: stale.to_owned(), by };
    vec![
        dispute("of equal size", &stale, [By::Sha256, By::Sha256]),
        dispute("of other size", &longer, [By::Sha256, By::Sha256]),
        dispute("the fresh one by SHA-512", &stale, [By::Sha512, By::Sha256]),
        dispute("the stale one by SHA-512", &longer, [By::Sha256, By::Sha512]),
        dispute("none: the same file by two algorithms", &fresh, [By::Sha256, By::Sha512]),
    ]
}

/// A server over a pool, from a tree or from an upstream.
struct World {
    server: Server,
    pool: Pool,
    upstream: Upstream,
    scratch: Scratch,
}

impl World {
    fn new(is_tree: bool, set_up: impl FnOnce(&Pool)) -> Self {
        let scratch = Scratch::new();
        let pool = Pool::new(&scratch.path("pool"));
        set_up(&pool);
        let upstream = Upstream::start(&pool.root);
        let config = if is_tree {
            ServerConfig::default().tree("d", "generic-deb", &pool.root, "")
        } else {
            let url = upstream.url("");
            ServerConfig::default().upstream("d", "generic-deb", url.trim_end_matches('/'), "")
        };
        let server = Server::start(&scratch, &config);
        Self { server, pool, upstream, scratch }
    }

    /// Both suites, the stale one read last.
    fn of(is_tree: bool, dispute: &Dispute) -> Self {
        let world = Self::new(is_tree, |pool| {
            pool.put("a", &dispute.fresh);
            pool.publish("new", dispute.by[0], &[("a", &dispute.fresh)]);
            pool.publish("old", dispute.by[1], &[("a", &dispute.stale)]);
        });
        world.read("new");
        world.read("old");
        world
    }

    fn read(&self, suite: &str) {
        get(&self.server.url(&format!("d/dists/{suite}/Release"))).expect(200);
        let unit = format!("dists/{suite}");
        self.server.wait_until("the suite is read", |status| {
            let snapshots = status.0["snapshots"].as_array().cloned().unwrap_or_default();
            snapshots.iter().any(|s| s["unit"] == unit.as_str() && s["paths"].as_u64() == Some(1))
        });
    }

    fn url(&self) -> String {
        self.server.url(&format!("d/{}", Pool::path("a")))
    }
}

#[test]
fn the_file_that_the_origin_has_is_served_whatever_a_stale_suite_says() {
    for dispute in disputes() {
        for is_tree in [false, true] {
            let world = World::of(is_tree, &dispute);
            let what = format!("{}, tree: {is_tree}", dispute.what);
            let fresh = sha256_hex(&dispute.fresh);
            let fetches = || if is_tree { 0 } else { world.upstream.gets(&Pool::path("a")) };
            let again = || {
                let answer = get(&world.url()).expect(200);
                assert!(!answer.cut && answer.body == dispute.fresh, "{what}");
                fetches()
            };
            again();
            // What it was is noted a moment after it has come.
            let steady = poll(support::DEADLINE, || Some(fetches()).filter(|before| again() == *before));
            let fetched = steady.unwrap_or_else(|| panic!("{what}: fetched for every client"));
            let digest = format!("sha-256=:{}:", base64_of_hex(&fresh));
            let known = head(&world.url()).expect(200);
            assert!(known.must("repr-digest").starts_with(&digest), "{what}: {:?}", known.headers);
            let part = support::request("GET", &world.url(), &[("Range", "bytes=10-19")]).expect(206);
            assert_eq!(part.body, dispute.fresh[10..20], "{what}");
            let manifest = get(&format!("{}.sha256", world.url())).expect(200).text();
            assert!(manifest.starts_with(&fresh), "{what}: {manifest}");
            // By hash there is no other file that will do.
            let by_hash =
                |bytes: &[u8]| get(&world.server.url(&format!("_blob/{}/a.deb", sha256_hex(bytes))));
            assert_eq!(by_hash(&dispute.fresh).expect(200).body, dispute.fresh, "{what}");
            if dispute.stale != dispute.fresh {
                let other = by_hash(&dispute.stale);
                assert!(other.status >= 400 || other.cut, "{what}");
            }
            // The one more was for the stale file, by its hash.
            assert!(fetches() <= fetched + 1, "{what}: fetched {} times", fetches());
        }
    }
}

#[test]
fn apt_gets_its_file_and_the_stale_suites_apt_its_mismatch() {
    for dispute in disputes().into_iter().take(2) {
        let world = World::of(false, &dispute);
        let download = |suite: &str| {
            let line = format!("deb [trusted=yes] {} {suite} main", world.server.url("d/"));
            let apt = Apt::new(&world.scratch.path(suite), &[line]);
            apt.update();
            let mut command: Command = apt.command("apt-get");
            let (status, _, err) = support::run(command.args(["download", "a"]), support::DEADLINE);
            (status.success(), err)
        };
        for _ in 0..2 {
            let (is_good, err) = download("new");
            assert!(is_good, "{}: {err}", dispute.what);
            let (is_good, err) = download("old");
            let says_so = err.contains("Hash Sum mismatch") || err.contains("unexpected size");
            assert!(!is_good && says_so, "{}: {err}", dispute.what);
        }
    }
}

#[test]
fn what_is_held_of_a_stale_suite_does_not_stand_in_for_what_the_origin_has() {
    for stale in [random_bytes(2, 100_000), random_bytes(2, 90_000)] {
        let fresh = random_bytes(1, 100_000);
        let world = World::new(false, |pool| {
            pool.put("a", &stale);
            pool.publish("old", By::Sha256, &[("a", &stale)]);
        });
        world.read("old");
        assert!(fetch(&world.url()) == stale);
        world.pool.put("a", &fresh);
        world.pool.publish("new", By::Sha256, &[("a", &fresh)]);
        world.read("new");
        assert!(fetch(&world.url()) == fresh, "the newest names it, and the origin has it");
    }
}

#[test]
fn while_the_origin_gives_nothing_what_is_held_has_to_do() {
    let (fresh, stale) = (random_bytes(1, 100_000), random_bytes(2, 100_000));
    let world = World::new(false, |pool| {
        pool.put("a", &stale);
        pool.publish("old", By::Sha256, &[("a", &stale)]);
        pool.publish("new", By::Sha256, &[("a", &fresh)]);
    });
    world.read("old");
    assert!(fetch(&world.url()) == stale);
    world.read("new");
    for fault in [support::Fault::Status(503), support::Fault::Status(404)] {
        world.upstream.set_fault(&Pool::path("a"), Some(fault));
        assert!(fetch(&world.url()) == stale, "{fault:?}");
    }
}

#[test]
fn a_file_that_no_suite_names_is_refused() {
    let dispute = disputes().remove(1);
    for is_tree in [false, true] {
        let world = World::of(is_tree, &dispute);
        // It has the size of one and the digest of none.
        world.pool.put("a", &random_bytes(9, 100_000));
        // An upstream's may end before its first byte.
        let is_broken = match try_get(&world.url()) {
            Ok(answer) => answer.status == 502 || answer.cut,
            Err(_) => !is_tree,
        };
        assert!(is_broken, "tree: {is_tree}");
        world.pool.put("a", &random_bytes(9, 110_000));
        assert!(get(&world.url()).status >= 500, "tree: {is_tree}");
    }
}

#[test]
fn an_origin_that_lags_behind_its_metadata_gives_what_it_has_and_then_the_new() {
    let (before, after) = (random_bytes(1, 100_000), random_bytes(2, 100_000));
    let world = World::new(false, |pool| {
        pool.put("a", &before);
        pool.publish("stable", By::Sha256, &[("a", &before)]);
    });
    world.read("stable");
    world.pool.publish("stable", By::Sha256, &[("a", &after)]);
    world.server.wait_until("the new generation is adopted", |status| {
        get(&world.server.url("d/dists/stable/Release"));
        status.0["snapshots"][0]["generation"].as_u64() == Some(2)
    });
    assert!(fetch(&world.url()) == before, "what a retained generation names");
    world.pool.put("a", &after);
    let found = poll(support::DEADLINE, || (get(&world.url()).body == after).then_some(()));
    assert!(found.is_some(), "the new file never came");
}

#[test]
fn volunteers_copy_and_adopt_the_file_that_the_origin_has() {
    let dispute = disputes().remove(0);
    for is_tree in [false, true] {
        let world = World::of(is_tree, &dispute);
        let copies = Volunteer::join(&world.server, VolunteerOptions::new(&world.scratch, &world.server, 1));
        let location = world.server.wait_redirect(&format!("d/{}", Pool::path("a")));
        assert!(copies.serves(&location));
        assert!(fetch(&location) == dispute.fresh, "tree: {is_tree}");
        drop(copies);

        let mirror = world.scratch.path("mirror");
        support::copy_tree(&world.pool.root, &mirror);
        let mut options = VolunteerOptions::new(&world.scratch, &world.server, 2);
        options.adopt.push(mirror);
        let longer = Volunteer::join(&world.server, options);
        world.server.wait_until("the volunteer has it", |status| status.of("v2", "holdings") == 1);
        drop(longer);
    }
}

/// A file that is replaced under its own path, generation after generation, is always the one that the newest names.
#[test]
fn a_file_that_is_replaced_again_and_again_is_always_the_newest() {
    std::thread::scope(|scope| {
        for is_tree in [false, true] {
            scope.spawn(move || replaced_again_and_again(is_tree));
        }
    });
}

fn replaced_again_and_again(is_tree: bool) {
    let world = World::new(is_tree, |pool| {
        pool.put("a", b"first");
        pool.publish("new", By::Sha256, &[("a", b"first")]);
    });
    world.read("new");
    for generation in 2..=4_u64 {
        let bytes = random_bytes(generation, 50_000 + generation as usize);
        world.pool.put("a", &bytes);
        world.pool.publish("new", By::Sha256, &[("a", &bytes)]);
        let known = poll(support::DEADLINE, || {
            let release = get(&world.server.url("d/dists/new/Release")).expect(200);
            let published = std::fs::read(world.pool.root.join("dists/new/Release")).expect("just published");
            (release.body == published).then_some(())
        });
        assert!(known.is_some(), "generation {generation} is not adopted, tree: {is_tree}");
        let answer = get(&world.url()).expect(200);
        assert!(!answer.cut && answer.body == bytes, "generation {generation}, tree: {is_tree}: other bytes");
    }
}
