//! HEAD requests at a fixed rate: `bench-load ADDRESS PATHS-FILE RATE SECONDS`.
//!
//! Open loop: a request is due at its time whether or not the one before was answered, and its latency
//! counts from then (so that a stall shows in every request that it delays). Prints one JSON line:
//! requests, errors, and latencies in milliseconds.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Connections, each with its own thread: enough that a stall of 50 ms does not run out of them.
const CONNECTIONS: usize = 64;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, address, paths, rate, seconds] = args.as_slice() else {
        return Err(std::io::Error::other("usage: bench-load ADDRESS PATHS-FILE RATE SECONDS"));
    };
    let number = |text: &String| text.parse::<f64>().map_err(std::io::Error::other);
    let (rate, seconds) = (number(rate)?, number(seconds)?);
    let paths: Arc<Vec<String>> =
        Arc::new(std::fs::read_to_string(paths)?.lines().map(str::to_owned).collect());
    let begin = Instant::now() + Duration::from_millis(100);
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            let (address, paths) = (address.clone(), paths.clone());
            thread::spawn(move || run(&address, &paths, index, rate, seconds, begin))
        })
        .collect();
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for thread in threads {
        match thread.join() {
            Ok(Ok(mut found)) => {
                errors += found.errors;
                latencies.append(&mut found.micros);
            }
            _ => errors += 1,
        }
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies.get((latencies.len() as f64 * share) as usize).map_or(0.0, |us| *us as f64 / 1e3)
    };
    println!(
        "{{\"requests\": {}, \"errors\": {errors}, \"p50_ms\": {:.2}, \"p99_ms\": {:.2}, \"p999_ms\": {:.2}, \"max_ms\": {:.2}}}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        latencies.last().map_or(0.0, |us| *us as f64 / 1e3)
    );
    Ok(())
}

#[derive(Default)]
struct Found {
    micros: Vec<u64>,
    /// Answers that are not 200 or 302.
    errors: u64,
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own that waits for a time, not for an event")]
fn run(
    address: &str,
    paths: &[String],
    index: usize,
    rate: f64,
    seconds: f64,
    begin: Instant,
) -> std::io::Result<Found> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut found, mut line) = (Found::default(), String::new());
    let every = Duration::from_secs_f64(CONNECTIONS as f64 / rate);
    let mut due = begin + every.mul_f64(index as f64 / CONNECTIONS as f64);
    let mut at = index;
    while due < begin + Duration::from_secs_f64(seconds) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let path = &paths[at % paths.len()];
        at += CONNECTIONS;
        write!(stream, "HEAD {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: bench\r\n\r\n")?;
        line.clear();
        reader.read_line(&mut line)?;
        let is_good = line.split(' ').nth(1).is_some_and(|status| status == "200" || status == "302");
        found.errors += u64::from(!is_good);
        while line.trim_end() != "" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        found.micros.push(due.elapsed().as_micros() as u64);
        due += every;
    }
    Ok(found)
}
