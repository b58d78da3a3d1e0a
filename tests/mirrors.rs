//! Programs that copy repositories: each mirrors from the server, and through it from a volunteer, what it would
//! mirror from the origin.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{
    Dnf, Scratch, Server, ServerConfig, Upstream, Volunteer, VolunteerOptions, copy_tree, files,
    package_files, run_ok, sha256_file, test_repos,
};

/// A server over two repositories, each from a tree and from an upstream, and two volunteers that have all
/// packages: who asks for the same again is sent to the other one, and then served directly.
struct Mirrored {
    server: Server,
    origin: PathBuf,
    _upstream: Upstream,
    _volunteers: [Volunteer; 2],
}

impl Mirrored {
    fn new(scratch: &Scratch) -> Self {
        Self::listening(scratch, &["127.0.0.1:0"])
    }

    fn listening(scratch: &Scratch, addresses: &[&str]) -> Self {
        let origin = scratch.path("origin");
        for repo in ["alder", "cedar"] {
            copy_tree(&test_repos("t0").join(repo), &origin.join(repo));
        }
        fs::create_dir_all(origin.join("alder/doc")).expect("the scratch folder is writable");
        fs::write(origin.join("alder/doc/READ ME+~.txt"), "no metadata names this").expect("writable");
        let upstream = Upstream::start(&origin);
        let (deb, rpm) = ("suites = [\"stable\", \"testing\"]", "suites = [\"os\", \"updates\"]");
        let config = ServerConfig::default()
            .listen(addresses)
            .tree("alder", "generic-deb", &origin.join("alder"), deb)
            .tree("cedar", "generic-rpm", &origin.join("cedar"), rpm)
            .upstream("far-alder", "generic-deb", &upstream.url("alder"), deb)
            .upstream("far-cedar", "generic-rpm", &upstream.url("cedar"), rpm);
        let server = Server::start(scratch, &config);
        let volunteers = [1, 2].map(|number| {
            let mut options = VolunteerOptions::new(scratch, &server, number);
            options.adopt = vec![origin.join("alder"), origin.join("cedar")];
            Volunteer::join(&server, options)
        });
        server.wait_redirect("alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb");
        server.wait_redirect("cedar/os/Packages/hands-data-1.0-1.noarch.rpm");
        server.wait_until("everything is adopted", |status| {
            ["v1", "v2"].iter().all(|id| status.of(id, "holdings") >= 12)
        });
        Self { server, origin, _upstream: upstream, _volunteers: volunteers }
    }

    /// Runs a program that must be redirected.
    fn run(&self, what: &str, command: &mut Command) -> String {
        let before = self.server.status().offload("redirects");
        let output = run_ok(command);
        assert!(self.server.status().offload("redirects") > before, "{what} was never redirected");
        output
    }

    /// SHA-256 of all packages that the lists of `stable` for amd64 name.
    fn packages(&self) -> Vec<String> {
        let mut digests: Vec<String> = Vec::new();
        for component in ["main", "contrib"] {
            let list = self.origin.join(format!("alder/dists/stable/{component}/binary-amd64/Packages.gz"));
            let text = run_ok(Command::new("gzip").arg("-dc").arg(list));
            digests.extend(text.lines().filter_map(|l| l.strip_prefix("SHA256: ")).map(str::to_owned));
        }
        digests.sort();
        digests.dedup();
        digests
    }
}

fn digests_of(paths: Vec<PathBuf>) -> Vec<String> {
    let mut digests: Vec<String> = paths.iter().map(|path| sha256_file(path)).collect();
    digests.sort();
    digests.dedup();
    digests
}

/// Every file below a folder with its SHA-256.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    files(root).into_iter().map(|path| (path.clone(), sha256_file(&root.join(path)))).collect()
}

/// Fails unless every file of the copy is the origin's, and every package of the origin is there.
fn assert_part_of(copy: &Path, origin: &Path, is_own: impl Fn(&Path) -> bool) {
    let (copied, original) = (tree(copy), tree(origin));
    for (path, digest) in copied.iter().filter(|(path, _)| !is_own(path)) {
        assert_eq!(Some(digest), original.get(path), "{}", path.display());
    }
    for path in original.keys().filter(|path| path.extension().is_some_and(|e| e == "deb" || e == "rpm")) {
        assert!(copied.contains_key(path), "{} is missing", path.display());
    }
}

/// What tests/setup.sh unpacks and does not install.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools")
}

fn wget(url: &str, dest: &Path) -> Command {
    let mut wget = Command::new("wget");
    wget.args(["-m", "-np", "-nH", "--cut-dirs=1", "-nv", "-e", "robots=off", "-R", "index.html*", "-P"]);
    wget.arg(dest).arg(url);
    wget
}

#[test]
fn wget_and_lftp_copy_a_whole_tree() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    for repo in ["alder", "cedar"] {
        let (url, origin) = (mirrored.server.url(&format!("{repo}/")), mirrored.origin.join(repo));
        let dest = scratch.path(&format!("wget-{repo}"));
        mirrored.run("wget", &mut wget(&url, &dest));
        assert_eq!(tree(&dest), tree(&origin), "wget {repo}");
        let dest = scratch.path(&format!("lftp-{repo}"));
        let script = format!("set net:max-retries 2; mirror {url} {}", dest.display());
        mirrored.run("lftp", Command::new("lftp").args(["--norc", "-c", &script]));
        assert_eq!(tree(&dest), tree(&origin), "lftp {repo}");
    }
}

#[test]
fn a_crawl_of_an_upstream_finds_what_metadata_names() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    for repo in ["alder", "cedar"] {
        let dest = scratch.path(repo);
        mirrored.run("wget", &mut wget(&mirrored.server.url(&format!("far-{repo}/")), &dest));
        assert_part_of(&dest, &mirrored.origin.join(repo), |_| false);
    }
    for root in ["alder/dists/stable/InRelease", "cedar/os/repodata/repomd.xml"] {
        assert!(scratch.path(root).is_file(), "{root}");
    }
}

#[test]
fn debmirror_copies_suites() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    for repo in ["alder", "far-alder"] {
        let origin = mirrored.origin.join("alder");
        let dest = scratch.path(&format!("debmirror-{repo}"));
        let mut debmirror = Command::new("debmirror");
        debmirror.args(["--method=http", "--dist=stable,testing", "--section=main,contrib", "--arch=amd64"]);
        debmirror.args(["--no-check-gpg", "--rsync-extra=none", "--diff=none", "--omit-suite-symlinks"]);
        debmirror.arg(format!("--host={}", mirrored.server.address())).arg(format!("--root={repo}"));
        debmirror.env("HOME", scratch.dir("home"));
        mirrored.run("debmirror", debmirror.arg(&dest));
        assert_part_of(&dest, &origin, |path| path.starts_with(".temp") || path.starts_with("project"));
    }
}

#[test]
fn apt_mirror_copies_suites() {
    // It looks without the port for what wget wrote with it.
    const HOST: &str = "127.0.80.1";
    let scratch = Scratch::new();
    let mirrored = Mirrored::listening(&scratch, &["127.0.0.1:0", &format!("{HOST}:80")]);
    for repo in ["alder", "far-alder"] {
        let base = scratch.dir(&format!("apt-mirror-{repo}"));
        for folder in ["mirror", "skel", "var"] {
            fs::create_dir_all(base.join(folder)).expect("the scratch folder is writable");
        }
        let url = format!("http://{HOST}/{repo}");
        let list = format!(
            "set base_path {}\nset nthreads 2\nset _tilde 0\nset run_postmirror 0\nset defaultarch amd64\n\
             deb {url} stable main contrib\ndeb-src {url} stable main contrib\n\
             deb {url} testing main contrib\n",
            base.display()
        );
        fs::write(base.join("mirror.list"), list).expect("the scratch folder is writable");
        mirrored.run("apt-mirror", Command::new("apt-mirror").arg(base.join("mirror.list")));
        let copy = base.join("mirror").join(HOST).join(repo);
        // It unpacks lists beside what it fetched.
        assert_part_of(&copy, &mirrored.origin.join("alder"), |path| {
            path.ends_with("Packages") || path.ends_with("Sources")
        });
    }
}

#[test]
fn reposync_copies_a_repository() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    let modules = tools().join("usr/lib/python3/dist-packages");
    assert!(modules.join("dnf-plugins").is_dir(), "{} is missing: run tests/setup.sh", modules.display());
    for repo in ["cedar", "far-cedar"] {
        let dnf = Dnf::new(
            &scratch.dir(&format!("dnf-{repo}")),
            &[("os", mirrored.server.url(&format!("{repo}/os")))],
        );
        let dest = scratch.path(&format!("reposync-{repo}"));
        let mut reposync = dnf.command();
        reposync.env("PYTHONPATH", &modules);
        reposync.arg(format!("--setopt=pluginpath={}", modules.join("dnf-plugins").display()));
        reposync.args(["reposync", "--repoid=os", "--download-metadata", "--norepopath", "-p"]);
        mirrored.run("reposync", reposync.arg(&dest));
        assert_part_of(&dest, &mirrored.origin.join("cedar/os"), |_| false);
        assert!(dest.join("repodata/repomd.xml").is_file());
    }
}

#[test]
fn aptly_takes_what_a_suite_has() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    for repo in ["alder", "far-alder"] {
        let url = mirrored.server.url(repo);
        let root = scratch.dir(&format!("aptly-{repo}"));
        let config = root.join("aptly.conf");
        let text = format!("{{\"rootDir\": \"{}\", \"architectures\": [\"amd64\"]}}", root.display());
        fs::write(&config, text).expect("the scratch folder is writable");
        let aptly = |arguments: &[&str]| {
            let mut command = Command::new("aptly");
            command.arg(format!("-config={}", config.display())).args(arguments);
            command
        };
        let create = ["mirror", "create", "-ignore-signatures", "copy", &url, "stable", "main", "contrib"];
        run_ok(&mut aptly(&create));
        mirrored.run("aptly", &mut aptly(&["mirror", "update", "-ignore-signatures", "copy"]));
        assert_eq!(digests_of(package_files(&root.join("pool"))), mirrored.packages(), "aptly {repo}");
    }
}

#[test]
fn reprepro_takes_what_a_suite_has() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    for repo in ["alder", "far-alder"] {
        let base = scratch.dir(&format!("reprepro-{repo}"));
        fs::create_dir_all(base.join("conf")).expect("the scratch folder is writable");
        let conf = |name: &str, text: &str| {
            fs::write(base.join("conf").join(name), text).expect("the scratch folder is writable");
        };
        conf(
            "distributions",
            "Codename: stable\nArchitectures: amd64\nComponents: main contrib\nUpdate: far\n",
        );
        let url = mirrored.server.url(repo);
        conf("updates", &format!("Name: far\nMethod: {url}\nVerifyRelease: blindtrust\n"));
        let mut reprepro = Command::new("reprepro");
        mirrored.run("reprepro", reprepro.arg("-b").arg(&base).args(["--noskipold", "update"]));
        assert_eq!(digests_of(package_files(&base.join("pool"))), mirrored.packages(), "reprepro {repo}");
    }
}

#[test]
fn mmdebstrap_unpacks_packages() {
    let scratch = Scratch::new();
    let mirrored = Mirrored::new(&scratch);
    for repo in ["alder", "far-alder"] {
        let package = mirrored.origin.join("alder/pool/main/h/hands-data/hands-data_1.0-1_all.deb");
        let dest = scratch.path(&format!("mmdebstrap-{repo}"));
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args([
            "--mode=root",
            "--variant=extract",
            "--include=hands-data",
            "--architectures=amd64",
        ]);
        mmdebstrap.args(["--skip=check/empty", "stable"]).arg(&dest);
        mmdebstrap.arg(format!("deb [trusted=yes] {} stable main", mirrored.server.url(repo)));
        mirrored.run("mmdebstrap", &mut mmdebstrap);
        let listed = run_ok(Command::new("dpkg-deb").arg("-c").arg(&package));
        let file = listed
            .lines()
            .filter_map(|line| line.split(" ./").nth(1))
            .find(|path| !path.is_empty() && !path.ends_with('/'));
        assert!(dest.join(file.expect("a file in the package")).is_file(), "{listed}");
    }
}
