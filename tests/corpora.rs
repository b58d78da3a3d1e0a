//! Every committed seed of the fuzz targets through the parsers, without a fuzzer: what was found once stays
//! found, and the seeds stay documents that the parsers read.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod feed;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries.map(|e| name(e).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: Vec<String> = feed::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let programs: Vec<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
    assert_eq!(names(&fuzz().join("corpus")), targets);
}

/// Seeds named `bad-...` are what broke a parser, or must be refused; the others are read.
#[test]
fn every_seed_is_read_or_refused_as_its_name_says() {
    let mut unread = Vec::new();
    for (target, feed) in feed::TARGETS {
        let folder = fuzz().join("corpus").join(target);
        let seeds = names(&folder);
        assert!(seeds.iter().any(|seed| !seed.starts_with("bad-")), "{target} has no good seed");
        for seed in seeds {
            let count = feed(&fs::read(folder.join(&seed)).expect("a readable seed"));
            if count == 0 && !seed.starts_with("bad-") {
                unread.push(format!("{target}/{seed}"));
            }
        }
    }
    assert!(unread.is_empty(), "not read: {unread:?}");
}

#[test]
fn the_corpus_is_small() {
    let folders = feed::TARGETS.map(|(name, _)| fuzz().join("corpus").join(name));
    let size = |file: PathBuf| fs::metadata(file).expect("a seed").len();
    let all = folders.iter().flat_map(|folder| names(folder).into_iter().map(|seed| size(folder.join(seed))));
    assert!(all.sum::<u64>() <= 200 << 10, "keep what the fuzzer grows out of the repository");
}
