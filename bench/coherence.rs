//! The clients of `tests/coherence.rs` against peers: the changing mirror itself, apt-cacher-ng and manyhands,
//! side by side over the same generations. Run by `bench/run.sh`; see README.md.
//!
//! Environment: ROUNDS_EACH (30), rounds of update and download per client.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use support::coherence::{Tally, Until, table, visit_apt, visit_dnf};
use support::generation::Signer;
use support::{DEADLINE, HOSTILE, Process, Publisher, Scratch, Server, ServerConfig, Upstream, wait_for};

/// What a peer is called and where it serves the two repositories.
struct Subject {
    name: &'static str,
    apt: String,
    rpm: String,
}

/// apt-cacher-ng neither binds nor asks ports above 32767, where the system picks free ones.
fn low_port() -> TcpListener {
    let bind = |port| TcpListener::bind(("127.0.0.1", port)).ok();
    (20_000..32_000).find_map(bind).expect("a free port")
}

/// The real program in the foreground, with a cache and a configuration of its own.
fn apt_cacher_ng(scratch: &Scratch) -> (Process, String) {
    let port = low_port().local_addr().expect("a bound address").port();
    let (cache, logs, conf) = (scratch.dir("acng-cache"), scratch.dir("acng-log"), scratch.dir("acng-conf"));
    let text = format!(
        "CacheDir: {}\nLogDir: {}\nPort: {port}\nBindAddress: 127.0.0.1\nForeGround: 1\nReportPage:\n\
         AllowUserPorts: 0\nSupportDir: /usr/lib/apt-cacher-ng\n",
        cache.display(),
        logs.display()
    );
    fs::write(conf.join("acng.conf"), text).expect("the scratch folder is writable");
    let mut command = Command::new("/usr/sbin/apt-cacher-ng");
    command.arg("-c").arg(&conf);
    let process = Process::spawn("apt-cacher-ng", &mut command);
    let address = format!("127.0.0.1:{port}");
    wait_for("apt-cacher-ng listens", DEADLINE, || TcpStream::connect(&address).is_ok());
    (process, address)
}

fn visit(scratch: &Scratch, subjects: &[Subject], until: Until) -> Vec<(String, Tally)> {
    let rows = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for subject in subjects {
            let folder = |client: &str| scratch.dir(&format!("{}-{client}", subject.name.replace(' ', "-")));
            let (apt, dnf) = (folder("apt"), folder("dnf"));
            threads.push((
                format!("{}, apt", subject.name),
                scope.spawn(move || visit_apt(&apt, &subject.apt, until)),
            ));
            threads.push((
                format!("{}, dnf", subject.name),
                scope.spawn(move || visit_dnf(&dnf, &subject.rpm, until)),
            ));
        }
        let join = |(name, thread): (String, std::thread::ScopedJoinHandle<Tally>)| {
            (name, thread.join().expect("no client panics"))
        };
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    let (apt, dnf): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(name, _)| name.ends_with("apt"));
    apt.into_iter().chain(dnf).collect()
}

fn main() {
    let rounds = std::env::var("ROUNDS_EACH").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let scratch = Scratch::new();
    let publisher = Publisher::start(&scratch.path("mirror"), Signer::new(&scratch), true, HOSTILE);
    let upstream = Upstream::start_on(low_port(), &scratch.path("mirror"));
    let config = ServerConfig::default()
        .upstream("apt", "generic-deb", &upstream.url("apt"), "suites = [\"stable\"]\npoll_secs = 1")
        .upstream("rpm", "generic-rpm", &upstream.url("rpm"), "suites = [\"\"]\npoll_secs = 1");
    let server = Server::start(&scratch, &config);
    let (_peer, address) = apt_cacher_ng(&scratch);
    let through = |path: &str| format!("http://{address}/{}", upstream.url(path).replace("http://", ""));
    let subjects = [
        Subject { name: "the mirror itself", apt: upstream.url("apt"), rpm: upstream.url("rpm") },
        Subject { name: "apt-cacher-ng", apt: through("apt"), rpm: through("rpm") },
        Subject { name: "manyhands", apt: server.url("apt"), rpm: server.url("rpm") },
    ];
    let until = Until { rounds, generations: 2, limit: Duration::from_secs(120) };
    let rows = visit(&scratch, &subjects, until);
    println!("coherence: {} generations published in bad orders, one each 0.5 s", publisher.finish());
    println!("{}", table(&rows));
    for (name, tally) in &rows {
        let first = tally.failed_updates.iter().chain(&tally.failed_downloads).next();
        if let Some(text) = first {
            let lines = text.lines().filter(|line| !line.is_empty()).take(6).collect::<Vec<_>>();
            eprintln!("first failure of {name}: {}", lines.join(" | "));
        }
    }
}
