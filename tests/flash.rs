//! A flash crowd for one cold package: one upstream fetch, everyone streams while it arrives, memory stays
//! bounded.

mod support;

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use support::{
    Conn, DebRepo, Fault, Scratch, Server, ServerConfig, Upstream, get, hex, peak_memory, random_bytes,
    report, scaled, sha256_hex, split_url,
};

/// What the upstream's line carries, bytes a second.
const LINE: u64 = 100_000_000;
/// The server's memory, whatever the size of the package and of the crowd.
const MEMORY: u64 = 200 << 20;

/// What one client saw.
struct Seen {
    first_byte: Duration,
    whole: Duration,
    sha256: String,
}

/// Reads to the end without keeping anything.
fn download(url: &str) -> io::Result<Seen> {
    let begin = Instant::now();
    let (address, target) = split_url(url);
    let mut connection = Conn::try_open(address)?;
    let text = connection.request_text("GET", target, &[("Connection", "close")]);
    connection.send(text.as_bytes())?;
    let (status, _) = connection.read_head()?;
    let mut buffer = vec![0; 64 << 10];
    let mut hasher = Sha256::new();
    let mut first_byte = None;
    loop {
        let read = connection.read_some(&mut buffer)?;
        if read == 0 {
            break;
        }
        first_byte.get_or_insert_with(|| begin.elapsed());
        hasher.update(&buffer[..read]);
    }
    let first_byte =
        first_byte.filter(|_| status == 200).ok_or_else(|| io::Error::other(status.to_string()))?;
    Ok(Seen { first_byte, whole: begin.elapsed(), sha256: hex(&hasher.finalize()) })
}

#[test]
fn a_crowd_for_a_cold_package_costs_one_fetch_and_little_memory() {
    let (crowd, size) = scaled((60, 30_000_000), (200, 200_000_000));
    let scratch = Scratch::new();
    let mut repo = DebRepo::new(&scratch.path("repo"));
    let bytes = random_bytes(5, size);
    let (file, wanted) = (repo.add("big", &bytes), sha256_hex(&bytes));
    drop(bytes);
    repo.publish();
    let upstream = Upstream::start(&repo.root);
    upstream.set_fault(&file, Some(Fault::Rate(LINE)));
    let config = ServerConfig::default().upstream(
        "flat",
        "generic-deb",
        upstream.url("").trim_end_matches('/'),
        "suites = [\"./\"]",
    );
    let server = Server::start(&scratch, &config);
    get(&server.url("flat/Release")).expect(200);

    let url = server.url(&format!("flat/{file}"));
    let begin = Instant::now();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..crowd).map(|_| scope.spawn(|| download(&url))).collect();
        clients.into_iter().map(|c| c.join().expect("no client panics").expect("a whole answer")).collect()
    });
    let took = begin.elapsed().as_secs_f64();
    let peak = peak_memory(server.process.pid());

    let mut firsts: Vec<Duration> = seen.iter().map(|seen| seen.first_byte).collect();
    firsts.sort();
    let slowest = seen.iter().map(|seen| seen.whole).max().expect("a crowd");
    let mut text = format!("a crowd of {crowd} for a cold package of {} MB\n", size / 1_000_000);
    let _ = writeln!(text, "{:<36}{:>10}", "upstream GETs", upstream.gets(&file));
    let _ = writeln!(text, "{:<36}{:>10}", "first byte, median, ms", firsts[firsts.len() / 2].as_millis());
    let _ = writeln!(text, "{:<36}{:>10}", "first byte, slowest, ms", firsts[firsts.len() - 1].as_millis());
    let _ = writeln!(text, "{:<36}{:>10.1}", "slowest whole, s", slowest.as_secs_f64());
    let _ = writeln!(text, "{:<36}{:>10.0}", "sent in all, MB/s", (crowd * size) as f64 / 1e6 / took);
    let _ = write!(text, "{:<36}{:>10.1}", "server's peak memory, MiB", peak as f64 / 1_048_576.0);
    report("flash", &text);

    assert_eq!(upstream.gets(&file), 1);
    assert!(seen.iter().all(|seen| seen.sha256 == wanted), "a client got other bytes");
    assert!(peak < MEMORY, "the server took {peak} bytes");
    let patience = scaled(Duration::from_secs(5), Duration::from_secs(1));
    assert!(firsts[firsts.len() - 1] < patience, "a first byte after {:?}", firsts[firsts.len() - 1]);
}
