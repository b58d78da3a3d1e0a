//! How fast package lists are read, on one core: `bench-parse`.
//!
//! A Packages file and a primary.xml of 63,000 entries each, like those of a distribution's main repository,
//! made in memory; every entry reaches the table that requests are answered from. Best of five. With `BENCH=short` they
//! are small, and the figures mean nothing.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use manyhands::catalog::{PathTable, PathTableBuilder};
use manyhands::formats::{Entry, packages, primary};

const ENTRIES: usize = 63_000;
const SHORT_ENTRIES: usize = 1000;
const ROUNDS: usize = 5;

fn main() {
    let is_short = std::env::var("BENCH").is_ok_and(|form| form == "short");
    let entries = if is_short { SHORT_ENTRIES } else { ENTRIES };
    let (packages, primary) = (packages_text(entries), primary_text(entries));
    report("Packages", &packages, entries, |bytes, each| drop(packages::packages(bytes, each)));
    report("primary.xml", &primary, entries, |bytes, each| drop(primary::primary(bytes, each)));
}

fn report(name: &str, text: &str, entries: usize, read: impl Fn(&[u8], &mut dyn FnMut(Entry<'_>))) {
    let mut parsing = Duration::MAX;
    let mut whole = Duration::MAX;
    let mut paths = 0;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut count = 0;
        read(text.as_bytes(), &mut |_| count += 1);
        parsing = parsing.min(begin.elapsed());
        assert_eq!(count, entries, "entries of {name}");

        let begin = Instant::now();
        let mut builder = PathTableBuilder::default();
        read(text.as_bytes(), &mut |entry| builder.push(entry.path, entry.expected));
        let table: PathTable = builder.build();
        whole = whole.min(begin.elapsed());
        paths = table.len();
    }
    let megabytes = text.len() as f64 / 1e6;
    println!(
        "{name:<12} {megabytes:>6.1} MB, {paths} entries: read in {:.3} s ({:.0} MB/s), with its table {:.3} s",
        parsing.as_secs_f64(),
        megabytes / parsing.as_secs_f64(),
        whole.as_secs_f64()
    );
}

/// Stands for a digest.
fn hex(n: usize) -> String {
    format!("{:016x}", (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4)
}

fn packages_text(entries: usize) -> String {
    let mut text = String::new();
    let filler =
        "libthing (>= 2.34), libother1 (>= 3.0), debconf (>= 0.5) | debconf-2.0, python3:any ".repeat(4);
    for n in 0..entries {
        let _ = write!(
            text,
            "Package: thing-{n}\nVersion: 1.{n}-1\nInstalled-Size: {n}\nMaintainer: Some Team <team@lists.example>\n\
             Architecture: amd64\nDepends: {filler}\nDescription: does what thing {n} does\nHomepage: https://thing.example/\n\
             Tag: implemented-in::c, interface::commandline, role::program\nSection: utils\nPriority: optional\n\
             Filename: pool/main/t/thing-{n}/thing-{n}_1.{n}-1_amd64.deb\nSize: {n}\nMD5sum: {}\nSHA256: {}\n\n",
            &hex(n)[..32],
            hex(n)
        );
    }
    text
}

fn primary_text(entries: usize) -> String {
    let mut text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metadata packages=\"{entries}\">\n");
    let requires = "<rpm:entry name=\"libc.so.6(GLIBC_2.34)(64bit)\"/>".repeat(14);
    for n in 0..entries {
        let _ = writeln!(
            text,
            "<package type=\"rpm\">\n  <name>thing-{n}</name>\n  <arch>x86_64</arch>\n  <version epoch=\"0\" ver=\"1.{n}\" rel=\"1\"/>\n  \
             <checksum type=\"sha256\" pkgid=\"YES\">{}</checksum>\n  <summary>Does what it does</summary>\n  \
             <description>What thing {n} does, in the usual two or three lines of text.</description>\n  \
             <url>https://thing.example/</url>\n  <time file=\"1\" build=\"2\"/>\n  <size package=\"{n}\" installed=\"3\" archive=\"4\"/>\n  \
             <location href=\"Packages/t/thing-{n}-1.{n}-1.x86_64.rpm\"/>\n  <format>\n    <rpm:license>MIT</rpm:license>\n    \
             <rpm:requires>{requires}</rpm:requires>\n    <file>/usr/bin/thing-{n}</file>\n  </format>\n</package>",
            hex(n)
        );
    }
    text.push_str("</metadata>\n");
    text
}
