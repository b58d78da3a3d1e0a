//! Upstreams that break off, stall, crawl, lie or answer oddly: clients get the right file all the same, or a
//! broken connection and the right file when they ask again; never a wrong one.

mod support;

use std::fs;

use support::{
    Conn, DebRepo, Fault, Scratch, Server, ServerConfig, Upstream, get, random_bytes, sha256_hex, wait_for,
};

/// Two upstreams over one repository, and a server that asks the first of them first.
struct World {
    first: Upstream,
    second: Upstream,
    server: Server,
    digests: Vec<String>,
    scratch: Scratch,
}

impl World {
    /// With packages of these sizes.
    fn new(sizes: &[usize]) -> Self {
        Self::begin(sizes, |_| ())
    }

    fn begin(sizes: &[usize], prepare: impl FnOnce(&Upstream)) -> Self {
        let scratch = Scratch::new();
        let mut repo = DebRepo::new(&scratch.path("repo"));
        let mut digests = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            let bytes = random_bytes(n as u64, *size);
            repo.add(&format!("p{n}"), &bytes);
            digests.push(sha256_hex(&bytes));
        }
        repo.publish();
        let (first, second) = (Upstream::start(&repo.root), Upstream::start(&repo.root));
        prepare(&first);
        let urls = [&first, &second].map(|upstream| upstream.url("").trim_end_matches('/').to_owned());
        let config = ServerConfig::default().upstreams("flat", "generic-deb", &urls, "suites = [\"./\"]");
        let server = Server::start(&scratch, &config);
        server.wait_until("metadata is read", |status| {
            status.0["snapshots"].as_array().is_some_and(|all| !all.is_empty())
        });
        Self { first, second, server, digests, scratch }
    }

    /// Whether package `n` comes whole; what comes whole must be right.
    fn comes_whole(&self, n: usize) -> bool {
        let answer = get(&self.server.url(&format!("flat/p{n}_1_all.deb")));
        let is_whole = answer.status == 200 && !answer.cut;
        assert!(!is_whole || sha256_hex(&answer.body) == self.digests[n], "p{n}: wrong bytes");
        is_whole
    }

    fn held(&self) -> u64 {
        self.server.status().number("/cache/blobs")
    }
}

const P0: &str = "p0_1_all.deb";

#[test]
fn a_connection_that_breaks_is_continued_where_it_broke() {
    for (fault, has_ranges) in
        [(Fault::ResetOnce, true), (Fault::CutOnce, true), (Fault::CutOnce, false), (Fault::ResetOnce, false)]
    {
        let world = World::new(&[3_000_000]);
        if has_ranges {
            world.first.give_ranges();
        }
        world.first.set_fault(P0, Some(fault));
        assert!(world.comes_whole(0), "{fault:?}");
        // What was under way when a connection is reset may be lost; some of it came.
        let starts = world.first.starts(P0);
        assert!(matches!(starts[..], [None, Some(1..=1_500_000)]), "{fault:?}: {starts:?}");
        assert_eq!(world.second.gets(P0), 0, "{fault:?}");
        assert_eq!(world.held(), 1);
    }
}

#[test]
fn what_breaks_again_is_continued_elsewhere() {
    let world = World::new(&[3_000_000]);
    world.second.give_ranges();
    world.first.set_fault(P0, Some(Fault::Cut));
    assert!(world.comes_whole(0));
    assert_eq!(world.first.gets(P0), 2, "once more, then no longer");
    assert_eq!(world.second.starts(P0), [Some(1_500_000)]);
}

#[test]
fn what_stalls_is_continued_elsewhere() {
    let world = World::new(&[1_000_000]);
    world.second.give_ranges();
    world.first.set_fault(P0, Some(Fault::Held));
    assert!(world.comes_whole(0));
    assert_eq!((world.first.starts(P0), world.second.starts(P0)), (vec![None], vec![Some(500_000)]));
}

#[test]
fn what_crawls_is_continued_elsewhere() {
    let world = World::new(&[100_000]);
    world.second.give_ranges();
    world.first.set_fault(P0, Some(Fault::Crawling));
    assert!(world.comes_whole(0));
    let starts = world.second.starts(P0);
    assert!(matches!(starts[..], [Some(50_001..)]), "{starts:?}");
    assert_eq!(world.first.gets(P0), 1);
}

#[test]
fn wrong_bytes_are_never_whole_and_the_next_request_goes_elsewhere() {
    let world = World::new(&[300_000, 300_000]);
    for (n, fault) in [(0, Fault::Damaged), (1, Fault::Page { same_length: true })] {
        let path = format!("p{n}_1_all.deb");
        world.first.set_fault(&path, Some(fault));
        let before = world.held();
        assert!(!world.comes_whole(n), "{fault:?}");
        assert_eq!(world.held(), before, "{fault:?}: nothing wrong is kept");
        assert!(world.comes_whole(n), "{fault:?}: the second time it comes from the other");
        assert_eq!((world.first.gets(&path), world.second.gets(&path)), (1, 1), "{fault:?}");
        assert_eq!(world.held(), before + 1);
    }
}

#[test]
fn wrong_metadata_is_taken_from_elsewhere_at_once() {
    let world = World::begin(&[1000], |first| first.set_fault("Packages", Some(Fault::Damaged)));
    assert!(world.comes_whole(0));
    assert!(world.first.gets("Packages") >= 1 && world.second.gets("Packages") >= 1);
}

#[test]
fn odd_answers_are_borne_or_passed_over() {
    let faults = [
        Fault::Chunked,
        Fault::Labelled,
        Fault::ShortChunked,
        Fault::Part,
        Fault::Page { same_length: false },
        Fault::TooLong,
        Fault::Status(204),
        Fault::Status(500),
        Fault::Status(429),
    ];
    // Each on a world of its own: an upstream that failed is asked last for a while.
    for fault in faults {
        let world = World::new(&[100_000]);
        world.first.set_fault(P0, Some(fault));
        assert!(world.comes_whole(0), "{fault:?}");
        let is_right = matches!(fault, Fault::Chunked | Fault::Labelled);
        assert_eq!(world.second.gets(P0), usize::from(!is_right), "{fault:?}");
        assert_eq!(world.held(), 1, "{fault:?}");
    }
}

#[test]
fn a_host_that_failed_is_asked_last() {
    let world = World::new(&[10_000, 10_000]);
    world.first.set_fault(P0, Some(Fault::Status(429)));
    assert!(world.comes_whole(0) && world.comes_whole(1));
    assert_eq!((world.first.gets(P0), world.second.gets(P0)), (1, 1));
    let second = "p1_1_all.deb";
    assert_eq!((world.first.gets(second), world.second.gets(second)), (0, 1));
}

#[test]
fn a_slow_host_holds_up_its_own_files_only() {
    // As many fetches as run at a time from one host, and one more.
    const AT_A_TIME: usize = 32;
    let world = World::new(&[50_000; AT_A_TIME + 1]);
    let mut slow = Vec::new();
    for n in 0..AT_A_TIME {
        world.first.set_fault(&format!("p{n}_1_all.deb"), Some(Fault::Crawling));
        let mut client = Conn::open(world.server.address());
        let text = client.request_text("GET", &format!("/flat/p{n}_1_all.deb"), &[]);
        client.send(text.as_bytes()).expect("a request fits");
        assert_eq!(client.read_head().expect("it begins").0, 200);
        slow.push(client);
    }
    assert!(world.comes_whole(AT_A_TIME));
    let last = format!("p{AT_A_TIME}_1_all.deb");
    assert_eq!((world.first.gets(&last), world.second.gets(&last)), (0, 1));
}

/// Most memory that a process ever used, in KiB (proc(5): VmHWM).
fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn two_hundred_clients_of_a_cold_package_cost_one_fetch_and_little_memory() {
    const CLIENTS: usize = 200;
    let world = World::new(&[8_000_000]);
    world.first.set_fault(P0, Some(Fault::Held));
    let before = peak_memory_kib(world.server.process.pid());
    let target = format!("/flat/{P0}");
    let mut clients: Vec<Conn> = (0..CLIENTS).map(|_| Conn::open(world.server.address())).collect();
    for client in &mut clients {
        let text = client.request_text("GET", &target, &[]);
        client.send(text.as_bytes()).expect("a request fits");
    }
    for client in &mut clients {
        assert_eq!(client.read_head().expect("an answer begins at once").0, 200);
    }
    // Nobody reads on: whatever the server holds for slow clients it holds now.
    world.first.set_fault(P0, None);
    wait_for("the blob is held", support::DEADLINE, || world.held() == 1);
    for client in &mut clients {
        let (mut left, mut buffer) = (8_000_000, vec![0; 64 << 10]);
        while left > 0 {
            let read = client.read_some(&mut buffer).expect("bytes stream");
            assert!(read > 0, "cut {left} bytes before the end");
            left -= read;
        }
    }
    assert_eq!((world.first.gets(P0), world.second.gets(P0)), (1, 0));
    let grown = (peak_memory_kib(world.server.process.pid()) - before) / CLIENTS as u64;
    println!("{grown} KiB a client");
    assert!(grown < 1024, "{grown} KiB a client");
}

#[test]
fn a_kill_leaves_whole_blobs_and_nothing_else() {
    let mut world = World::new(&[50_000, 60_000]);
    assert!(world.comes_whole(0));
    world.first.set_fault("p1_1_all.deb", Some(Fault::Held));
    let mut client = Conn::open(world.server.address());
    let text = client.request_text("GET", "/flat/p1_1_all.deb", &[]);
    client.send(text.as_bytes()).expect("a request fits");
    client.read_head().expect("it begins");
    world.server.process.kill();
    world.first.set_fault("p1_1_all.deb", None);
    let server = Server::start_file(&world.server.config);
    let temp = world.scratch.path("server-state/cache/tmp");
    assert_eq!(fs::read_dir(temp).expect("the store's").count(), 0, "nothing half is left");
    world.server = server;
    assert_eq!(world.held(), 1);
    assert!(world.comes_whole(0) && world.comes_whole(1));
    assert_eq!(world.first.gets(P0), 1);
}
