//! The parsers against documents that the tools of the archives write: what an entry promises is so.

mod support;

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;

use manyhands::formats::compress::{Compression, decompress, reader};
use manyhands::formats::pdiff::pdiff_index;
use manyhands::formats::prestodelta::prestodelta;
use manyhands::io::hasher;
use manyhands::model::Expected;
use support::{Scratch, package_files, run_ok, test_repos};

/// More than any document here has when it is decompressed.
const LIMIT: u64 = 1 << 20;

fn bytes_of(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn decompressed(path: &Path) -> Vec<u8> {
    let kind = Compression::of(&path.to_string_lossy());
    decompress(kind, &bytes_of(path), LIMIT).expect("decompresses")
}

fn assert_is(bytes: &[u8], expected: Expected, name: &str) {
    let (digests, size) = hasher::hash(bytes).expect("memory reads");
    assert_eq!(digests.get(expected.digest.algorithm()), expected.digest, "{name}");
    assert_eq!(Some(size), expected.size, "{name}");
}

#[test]
fn deltas_of_createrepo() {
    let scratch = Scratch::new();
    let repo = scratch.dir("repo");
    for package in package_files(&test_repos("t1").join("cedar/updates")) {
        fs::copy(&package, repo.join(package.file_name().expect("a file"))).expect("the scratch folder");
    }
    let old = test_repos("t0").join("cedar/os/Packages");
    run_ok(Command::new("createrepo_c").args(["-q", "--deltas", "--oldpackagedirs"]).arg(&old).arg(&repo));
    let names = fs::read_dir(repo.join("repodata")).expect("createrepo_c makes repodata");
    let mut paths = names.map(|entry| entry.expect("an entry").path());
    let list = paths.find(|path| path.to_string_lossy().contains("-prestodelta.xml")).expect("a list");

    let input = fs::File::open(&list).expect("a file opens");
    let input = BufReader::new(reader(Compression::of(&list.to_string_lossy()), Box::new(input)));
    let mut seen = Vec::new();
    let skipped = prestodelta(input, &mut |entry| {
        assert_is(&bytes_of(&repo.join(entry.path)), entry.expected, entry.path);
        seen.push(entry.path.to_owned());
    });
    assert_eq!(skipped.expect("prestodelta.xml").count, 0);
    assert!(seen.contains(&"drpms/hands-tools-1.0-1_1.0-2.x86_64.drpm".to_owned()), "{seen:?}");
}

#[test]
fn patches_of_reprepro() {
    let scratch = Scratch::new();
    let folder = scratch.dir("binary-amd64");
    let write = |name: &str, version: &str| {
        let text = format!("Package: a\nVersion: {version}\n\nPackage: b\nVersion: 1\n");
        fs::write(folder.join(name), text).expect("the scratch folder is writable");
    };
    write("Packages", "1");
    write("Packages.new", "2");
    // As reprepro calls its hook: the names of the new files go to descriptor 3.
    let hook = "exec rredtool \"$0\" Packages.new Packages change 3>/dev/null";
    run_ok(Command::new("sh").args(["-c", hook]).arg(&folder).current_dir(&folder));
    let diffs = folder.join("Packages.diff");
    let index = bytes_of(&diffs.join("Index.new"));

    let mut count = 0;
    let skipped = pdiff_index(&index, &mut |entry| {
        let stored = diffs.join(format!("{}.gz.new", entry.path));
        let target = diffs.join(format!("{}.gz", entry.path));
        fs::rename(&stored, &target).unwrap_or_else(|e| panic!("{}: {e}", stored.display()));
        assert_is(&decompressed(&target), entry.expected, entry.path);
        count += 1;
    });
    assert_eq!(skipped.expect("an index").count, 0);
    assert_eq!(count, 2, "{}", String::from_utf8_lossy(&index));
}
