//! A crowd for a file that no volunteer has yet, at a server with a thin line: one copy leaves it, and volunteers pass
//! on what they have of it, to each other and to clients.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::net::edition::Editions;
use support::net::{Bed, Plan, alone};
use support::{DEADLINE, Scratch, report, run_within, sha256_file};

const SIZE: usize = 5_000_000;
const CLIENTS: u8 = 40;
const RATE: &str = "4MiB/s";
/// The server's line, as tc(8) and as the configuration say it.
const LINE: (&str, &str) = ("8mbit", "uplink = \"976KiB/s\"");
/// One that is not done by then has failed: alone, the server would send for 200 s.
const LIMIT: Duration = Duration::from_secs(100);

#[test]
fn forty_who_come_at_once_wait_little_longer_than_one_copy_takes() {
    alone("forty_who_come_at_once_wait_little_longer_than_one_copy_takes", || {
        let goods = Scratch::new();
        let editions = Editions::new(&goods, 1, SIZE);
        let packages = editions.publish(1);
        let config = editions.config("").server_lines(LINE.1);
        let plan = Plan { volunteers: 4, clients: CLIENTS, donate: RATE, ..Plan::new(config) };
        let bed = Bed::start(&plan);
        bed.server_host.limit(LINE.0);

        let url = bed.url(&packages[0].path);
        let mut took: Vec<f64> = std::thread::scope(|scope| {
            let client = |(number, host)| {
                let (url, file) = (&url, bed.scratch.path(&format!("client-{number}")));
                let wanted = &packages[0].sha256;
                scope.spawn(move || {
                    let mut curl = Command::new("curl");
                    curl.args(["--fail", "--silent", "--show-error", "--location", "--output"])
                        .arg(&file)
                        .arg(url);
                    let begin = Instant::now();
                    let (status, _, err) = run_within(&mut support::net::Host::enter(host, &curl), LIMIT);
                    let took = begin.elapsed().as_secs_f64();
                    assert!(status.is_some_and(|status| status.success()), "curl: {err}");
                    assert_eq!(&sha256_file(&file), wanted, "other bytes");
                    took
                })
            };
            let all: Vec<_> = bed.clients.iter().enumerate().map(client).collect();
            all.into_iter().map(|client| client.join().expect("a client gets its file")).collect()
        });
        took.sort_by(f64::total_cmp);
        let (p50, p90, last) = (took[20], took[36], took[39]);
        let status = bed.wait_within("reports of all bytes", DEADLINE, |status| {
            status.sum("served_bytes") + status.offload("served_bytes") >= u64::from(CLIENTS) * SIZE as u64
        });
        let offload = status.sum("served_bytes") as f64 / f64::from(CLIENTS) / SIZE as f64;
        report(
            "thin-line",
            &format!(
                "{CLIENTS} clients at once, {SIZE} bytes, server {}, four volunteers of {RATE}\n\
                 seconds: p50 {p50:.1}, p90 {p90:.1}, last {last:.1}; by volunteers {:.0} %\n",
                LINE.0,
                100.0 * offload
            ),
        );
        assert!(p90 <= 40.0, "p50 {p50:.1}, p90 {p90:.1}\n{}", status.pretty());
        assert!(offload >= 0.8, "{offload}\n{}", status.pretty());
        // Copies do not cross the thin line one by one.
        let copies = status.0["sync_bytes"].as_u64().or(status.0["offload"]["sync_bytes"].as_u64());
        assert!(copies.is_some_and(|bytes| bytes <= 2 * SIZE as u64), "{}", status.pretty());
    });
}
