//! What `manyhands status --dedup` says of the committed repositories, against the hashes of their files.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{
    BINARY, Scratch, Server, ServerConfig, Upstream, fetch, poll, run_ok, sha256_file, test_repos,
};

const REPOS: [(&str, &str); 6] = [
    ("alder", "generic-deb"),
    ("birch", "generic-deb"),
    ("flat", "generic-deb"),
    ("cedar", "generic-rpm"),
    ("elder", "generic-rpm"),
    ("dogwood", "generic-rpm"),
];
/// SHA-512 and SHA-1.
const UNHASHED: [&str; 2] = ["dogwood", "elder"];
const SUFFIXES: [&str; 6] = [".deb", ".rpm", ".dsc", ".tar.gz", ".tar.xz", ".udeb"];
/// As the report has it.
const LARGE: u64 = 1 << 20;

/// Packages and sources below a folder: path to SHA-256 and size.
fn packages(root: &Path, folder: &Path) -> BTreeMap<String, (String, u64)> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry").path())
    {
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        if path.is_dir() {
            found.extend(packages(root, &path));
        } else if SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) && !name.starts_with("dists/") {
            let size = fs::metadata(&path).expect("a file").len();
            found.insert(name, (sha256_file(&path), size));
        }
    }
    found
}

/// Files and bytes as the report counts them.
fn count<'a>(sizes: impl Iterator<Item = &'a u64> + Clone) -> Value {
    let large = sizes.clone().filter(|size| **size >= LARGE);
    json!({
        "files": sizes.clone().count(), "bytes": sizes.sum::<u64>(),
        "large_files": large.clone().count(), "large_bytes": large.sum::<u64>(),
    })
}

/// The report as it should be; `unhashed` repositories have nothing in common with others yet.
fn expected(unhashed: &[&str]) -> Value {
    let mut paths = Vec::new();
    let mut own: Vec<(&str, BTreeMap<String, u64>)> = Vec::new();
    for (repo, _) in REPOS {
        let root = test_repos("t0").join(repo);
        let files = packages(&root, &root);
        assert!(!files.is_empty(), "{repo} has packages");
        paths.extend(files.values().map(|(_, size)| *size));
        let mark = if unhashed.contains(&repo) { repo } else { "" };
        own.push((
            repo,
            files.into_values().map(|(sha256, size)| (format!("{sha256}{mark}"), size)).collect(),
        ));
    }
    let all: BTreeMap<&String, &u64> = own.iter().flat_map(|(_, blobs)| blobs).collect();
    let mut pairs = Vec::new();
    for (i, (a, blobs)) in own.iter().enumerate() {
        for (b, others) in &own[i + 1..] {
            let shared =
                blobs.iter().filter(|(sha256, _)| others.contains_key(*sha256)).map(|(_, size)| size);
            if shared.clone().next().is_some() {
                pairs.push(json!({"repos": [a, b], "identical": count(shared)}));
            }
        }
    }
    json!({
        "large_from_bytes": LARGE,
        "paths": count(paths.iter()),
        "blobs": count(all.values().copied()),
        "repos": own.iter().map(|(repo, blobs)| json!([repo, count(blobs.values())])).collect::<Vec<_>>(),
        "pairs": pairs,
    })
}

fn ask(server: &Server, more: &[&str]) -> String {
    let admin = format!("http://{}", server.admin);
    run_ok(Command::new(BINARY).args(["status", "--dedup", "--admin", &admin]).args(more))
}

fn wait_report(server: &Server, what: &str, wanted: &Value) {
    let report = || serde_json::from_str::<Value>(&ask(server, &["--json"])).expect("the report is JSON");
    let found = poll(support::DEADLINE, || (report() == *wanted).then_some(()));
    assert!(found.is_some(), "{what}: {:#}\nexpected {wanted:#}", report());
}

#[test]
fn the_report_on_identical_files_is_right() {
    let scratch = Scratch::new();
    let upstream = Upstream::start(&test_repos("t0"));
    let mut config = ServerConfig::default();
    for (repo, distro) in REPOS {
        config = match repo {
            // Their metadata gives no SHA-256, and nothing is fetched unasked.
            repo if UNHASHED.contains(&repo) => {
                config.upstream(repo, distro, &upstream.url(repo), "suites = [\"\"]")
            }
            _ => config.tree(repo, distro, &test_repos("t0").join(repo), ""),
        };
    }
    let server = Server::start(&scratch, &config);
    wait_report(&server, "before their files are hashed", &expected(&UNHASHED));
    for repo in UNHASHED {
        let root = test_repos("t0").join(repo);
        for path in packages(&root, &root).keys() {
            fetch(&server.url(&format!("{repo}/{}", path.replace('^', "%5E"))));
        }
    }
    let wanted = expected(&[]);
    assert!(wanted["pairs"].as_array().is_some_and(|pairs| {
        let repos: BTreeSet<&str> =
            pairs.iter().filter_map(|p| p["repos"].as_array()).flatten().filter_map(Value::as_str).collect();
        UNHASHED.iter().all(|repo| repos.contains(repo))
    }));
    wait_report(&server, "once all bytes were hashed", &wanted);

    let text = ask(&server, &[]);
    println!("{text}");
    let number = |field: &str| wanted[field]["files"].as_u64().expect("a number");
    let (paths, blobs) = (number("paths"), number("blobs"));
    let share = 100.0 * (paths - blobs) as f64 / paths as f64;
    for needle in [format!("{paths} "), format!("{blobs} "), format!("{share:.1} %")] {
        assert!(text.contains(&needle), "{needle:?} in {text}");
    }
    for pair in wanted["pairs"].as_array().expect("pairs") {
        let (a, b) = (pair["repos"][0].as_str().expect("a name"), pair["repos"][1].as_str().expect("a name"));
        let line = text.lines().find(|line| line.starts_with(&format!("{a} + {b} ")));
        let line = line.unwrap_or_else(|| panic!("no line of {a} + {b}: {text}"));
        let files = pair["identical"]["files"].as_u64();
        assert!(line.split_whitespace().any(|word| word.parse().ok() == files), "{line}");
    }
}
