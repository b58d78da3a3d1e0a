//! Stock clients that update and download again and again from a mirror that changes all the time, and what
//! became of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Apt, Dnf, generation, sha256_file, sha256_hex, test_key};

/// What one client met.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub updates: Vec<Duration>,
    pub downloads: Vec<Duration>,
    /// What each failed update said.
    pub failed_updates: Vec<String>,
    pub failed_downloads: Vec<String>,
    pub generations: BTreeSet<u32>,
}

impl Tally {
    pub fn failures(&self) -> usize {
        self.failed_updates.len() + self.failed_downloads.len()
    }

    /// How many failures the client called a wrong hash or size: two generations mixed.
    pub fn mismatches(&self) -> usize {
        let words = ["Hash Sum mismatch", "unexpected size", "doesn't match", "wrong checksum", "mixed"];
        let all = self.failed_updates.iter().chain(&self.failed_downloads);
        all.filter(|text| words.iter().any(|word| text.contains(word))).count()
    }

    /// One line of [`table`].
    fn row(&self, name: &str) -> String {
        let percentile = |times: &[Duration], part: f64| {
            let mut sorted = times.to_vec();
            sorted.sort();
            let at = (sorted.len() as f64 * part) as usize;
            sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0, Duration::as_millis)
        };
        format!(
            "{name:<32} {:>7} {:>6} {:>9} {:>6} {:>10} {:>11} {:>9} {:>8} {:>9} {:>8}",
            self.updates.len() + self.failed_updates.len(),
            self.failed_updates.len(),
            self.downloads.len() + self.failed_downloads.len(),
            self.failed_downloads.len(),
            self.mismatches(),
            self.generations.len(),
            percentile(&self.updates, 0.5),
            percentile(&self.updates, 0.95),
            percentile(&self.downloads, 0.5),
            percentile(&self.downloads, 0.95),
        )
    }
}

/// The figures of several clients, one a line; times in milliseconds.
pub fn table(rows: &[(String, Tally)]) -> String {
    let mut text = format!(
        "{:<32} {:>7} {:>6} {:>9} {:>6} {:>10} {:>11} {:>9} {:>8} {:>9} {:>8}",
        "client",
        "updates",
        "failed",
        "downloads",
        "failed",
        "mismatches",
        "generations",
        "update/ms",
        "p95",
        "downl./ms",
        "p95"
    );
    for (name, tally) in rows {
        text += "\n";
        text += &tally.row(name);
    }
    text
}

/// When a client has had enough.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// Rounds of update and download.
    pub rounds: u32,
    /// It goes on until it has seen this many generations, so that a fast machine proves something too,
    pub generations: usize,
    /// but no longer than this.
    pub limit: Duration,
}

impl Until {
    fn reached(self, round: u32, tally: &Tally, begin: Instant) -> bool {
        let is_late = begin.elapsed() > self.limit;
        round >= self.rounds && (tally.generations.len() >= self.generations || is_late)
    }
}

/// apt-get, again and again; `base` is the URL of the repository. Every third round begins with no lists.
pub fn visit_apt(root: &Path, base: &str, until: Until) -> Tally {
    let source = format!(
        "deb [signed-by={}] {base} stable {}",
        test_key().display(),
        generation::COMPONENTS.join(" ")
    );
    let apt = Apt::new(root, &[source]);
    let mut tally = Tally::default();
    let mut round = 0;
    let first = Instant::now();
    while !until.reached(round, &tally, first) {
        if round % 3 == 2 {
            fs::remove_dir_all(root.join("lists")).expect("lists of ours");
            fs::create_dir_all(root.join("lists/partial")).expect("the scratch folder is writable");
        }
        round += 1;
        let begin = Instant::now();
        let updated = apt.try_get(&["update"]).and_then(|_| apt_generation(&root.join("lists")));
        let number = match updated {
            Ok(number) => number,
            Err(text) => {
                tally.failed_updates.push(text);
                continue;
            }
        };
        tally.updates.push(begin.elapsed());
        tally.generations.insert(number);
        let begin = Instant::now();
        let download = apt.try_get(&["install", "--download-only", "hands-extra"]).and_then(|_| {
            let path =
                |component: &str| root.join(format!("cache/archives/hands-{component}_{number}_all.deb"));
            check_packages(number, "", path)
        });
        match download {
            Ok(()) => tally.downloads.push(begin.elapsed()),
            Err(text) => tally.failed_downloads.push(text),
        }
    }
    tally
}

/// The generation of apt's lists; an error if there are several.
fn apt_generation(lists: &Path) -> Result<u32, String> {
    let mut numbers = BTreeSet::new();
    let mut files = 0;
    for entry in fs::read_dir(lists).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
        if !["_InRelease", "_Release", "_Packages"].iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        files += 1;
        let text = fs::read_to_string(&path).map_err(|e| format!("{name}: {e}"))?;
        numbers.extend(text.lines().filter_map(|line| line.strip_prefix("Version: ")?.parse::<u32>().ok()));
    }
    one_of(&numbers, files > generation::COMPONENTS.len())
}

fn one_of(numbers: &BTreeSet<u32>, complete: bool) -> Result<u32, String> {
    match numbers.first() {
        Some(number) if complete && numbers.len() == 1 => Ok(*number),
        Some(_) if complete => Err(format!("mixed generations on the client: {numbers:?}")),
        _ => Err(format!("metadata is missing on the client, which says it has it; generations {numbers:?}")),
    }
}

fn check_packages(number: u32, kind: &str, path: impl Fn(&str) -> PathBuf) -> Result<(), String> {
    for component in generation::COMPONENTS {
        let (path, name) = (path(component), format!("{component}{kind}"));
        if !path.is_file() {
            return Err(format!("{} is not there", path.display()));
        }
        if sha256_file(&path) != sha256_hex(&generation::package_bytes(&name, number)) {
            return Err(format!("{} has a wrong checksum", path.display()));
        }
    }
    Ok(())
}

/// dnf, again and again; `base` is the URL of the repository.
pub fn visit_dnf(root: &Path, base: &str, until: Until) -> Tally {
    let dnf = Dnf::new(root, &[("hands", base.to_owned())]);
    let mut tally = Tally::default();
    let mut round = 0;
    let first = Instant::now();
    while !until.reached(round, &tally, first) {
        if round % 3 == 2 {
            // Packages stay: only what is looked at below matters.
            dnf.forget_metadata();
        }
        round += 1;
        let begin = Instant::now();
        // A repository that cannot be read is a failure, whatever this dnf was built to think.
        let makecache = ["makecache", "--refresh", "--setopt=*.skip_if_unavailable=False"];
        let updated = dnf.try_run(&makecache).and_then(|_| dnf_generation(&dnf.cache()));
        let number = match updated {
            Ok(number) => number,
            Err(text) => {
                tally.failed_updates.push(text);
                continue;
            }
        };
        tally.updates.push(begin.elapsed());
        tally.generations.insert(number);
        let begin = Instant::now();
        // Signatures of packages are rpm's business: these are no rpm files. Hashes are checked.
        let install = ["install", "--downloadonly", "--setopt=*.gpgcheck=0", "hands-extra"];
        let download = dnf.try_run(&install).and_then(|_| {
            let name = |component: &str| format!("hands-{component}-{number}-1.noarch.rpm");
            let archives = dnf.archives();
            let find = |component: &str| {
                archives.iter().find(|path| path.ends_with(name(component))).cloned().unwrap_or_default()
            };
            check_packages(number, ".rpm", find)
        });
        match download {
            Ok(()) => tally.downloads.push(begin.elapsed()),
            Err(text) => tally.failed_downloads.push(text),
        }
    }
    tally
}

/// The generation of dnf's metadata; an error if there are several.
fn dnf_generation(cache: &Path) -> Result<u32, String> {
    let mut numbers = BTreeSet::new();
    let mut files = 0;
    for path in super::fixture::files(cache).into_iter().map(|path| cache.join(path)) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
        let bytes = || fs::read(&path).map_err(|e| format!("{}: {e}", path.display()));
        let (text, before) = match name.as_str() {
            "repomd.xml" => (String::from_utf8_lossy(&bytes()?).into_owned(), "<revision>"),
            name if name.ends_with("-primary.xml.gz") || name.ends_with("-filelists.xml.gz") => {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes()?[..]), &mut text)
                    .map_err(|e| format!("{name}: {e}"))?;
                (text, " ver=\"")
            }
            _ => continue,
        };
        files += 1;
        let number = |rest: &str| rest.split(['<', '"']).next().and_then(|n| n.parse::<u32>().ok());
        numbers.extend(text.split(before).skip(1).filter_map(number));
    }
    one_of(&numbers, files >= 2)
}
