//! dnf and zypper in private roots.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DEADLINE, package_files, run, run_ok, test_key};

/// One private dnf client.
#[derive(Debug)]
pub struct Dnf {
    root: PathBuf,
    repos: Vec<(String, String)>,
}

impl Dnf {
    /// A client with an empty root; `repos` are (id, base URL).
    pub fn new(root: &Path, repos: &[(&str, String)]) -> Self {
        fs::create_dir_all(root.join("root")).expect("the scratch folder is writable");
        let repos = repos.iter().map(|(id, url)| ((*id).to_owned(), url.clone())).collect();
        Self { root: root.to_owned(), repos }
    }

    /// The same by another key than `baseurl`: `mirrorlist` or `metalink`.
    pub fn with_key(root: &Path, key: &str, repos: &[(&str, String)]) -> Self {
        let dnf = Self::new(root, &[]);
        fs::create_dir_all(root.join("repos.d")).expect("the scratch folder is writable");
        for (id, url) in repos {
            let text = format!("[{id}]\nname={id}\nenabled=1\n{key}={url}\n");
            fs::write(root.join(format!("repos.d/{id}.repo")), text).expect("the scratch folder is writable");
        }
        dnf
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("dnf");
        let root = self.root.display();
        command.env("LC_ALL", "C.UTF-8").arg("-y");
        command.arg(format!("--installroot={root}/root"));
        command.args(["--releasever=1", "--forcearch=x86_64"]);
        command.arg(format!("--setopt=reposdir={root}/repos.d"));
        command.arg(format!("--setopt=cachedir={root}/cache"));
        command.args([
            "--setopt=varsdir=/dev/null",
            "--setopt=pluginpath=/nonexistent",
            "--setopt=keepcache=1",
        ]);
        for (id, url) in &self.repos {
            command.arg(format!("--repofrompath={id},{url}"));
        }
        command.args(["--setopt=*.gpgcheck=1", "--setopt=*.repo_gpgcheck=1"]);
        command.arg(format!("--setopt=*.gpgkey=file://{}", test_key().display()));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run_ok(self.command().args(arguments))
    }

    /// The same for what may fail.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        let (status, out, err) = run(self.command().args(arguments), 3 * DEADLINE);
        let problem = || format!("dnf {}: {status}\n{out}\n{err}", arguments.join(" "));
        if status.success() { Ok(out) } else { Err(problem()) }
    }

    /// Where it keeps metadata and packages.
    pub fn cache(&self) -> PathBuf {
        let cache = self.root.join("cache");
        // Some versions take the cache folder as one inside the root.
        if cache.is_dir() {
            cache
        } else {
            self.root.join("root").join(cache.strip_prefix("/").unwrap_or(&cache))
        }
    }

    /// The next run begins with an empty cache.
    pub fn forget_metadata(&self) {
        fs::remove_dir_all(self.cache()).expect("a cache of ours");
    }

    pub fn install_all(&self) {
        self.run(&["install", "hands-*", "libhands*"]);
        assert!(self.installed().len() > 1, "nothing installed: {:?}", self.installed());
    }

    pub fn installed(&self) -> BTreeMap<String, String> {
        installed(&self.root.join("root"))
    }

    pub fn archives(&self) -> Vec<PathBuf> {
        let kept = package_files(&self.root.join("cache"));
        // Where dnf takes the cache folder as one inside the root.
        if kept.is_empty() { package_files(&self.root.join("root/var/cache")) } else { kept }
    }
}

/// One private zypper client.
#[derive(Debug)]
pub struct Zypper {
    root: PathBuf,
}

impl Zypper {
    pub fn new(root: &Path, repos: &[(&str, String)]) -> Self {
        Self::with_key(root, "baseurl", repos)
    }

    /// The same by another key than `baseurl`: `mirrorlist` or `metalink`.
    pub fn with_key(root: &Path, key: &str, repos: &[(&str, String)]) -> Self {
        let folder = root.join("etc/zypp/repos.d");
        fs::create_dir_all(&folder).expect("the scratch folder is writable");
        run_ok(Command::new("rpm").arg("--root").arg(root).arg("--import").arg(test_key()));
        for (id, url) in repos {
            let text = format!(
                "[{id}]\n{key}={url}\ntype=rpm-md\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\npkg_gpgcheck=1\n\
                 keeppackages=1\ngpgkey=file://{}\n",
                test_key().display()
            );
            fs::write(folder.join(format!("{id}.repo")), text).expect("the scratch folder is writable");
        }
        Self { root: root.to_owned() }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("zypper");
        command.env("LC_ALL", "C.UTF-8").env("ZYPP_LOCKFILE_ROOT", &self.root);
        command.arg("--root").arg(&self.root).arg("--non-interactive");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        run_ok(self.command().args(arguments))
    }

    pub fn install_all(&self) {
        self.run(&["refresh", "--force"]);
        self.run(&["install", "--no-recommends", "hands-*", "libhands*"]);
        assert!(self.installed().len() > 1, "nothing installed: {:?}", self.installed());
    }

    pub fn installed(&self) -> BTreeMap<String, String> {
        installed(&self.root)
    }

    pub fn archives(&self) -> Vec<PathBuf> {
        package_files(&self.root.join("var/cache/zypp/packages"))
    }
}

/// Installed packages with epoch, version and release, without imported keys.
fn installed(root: &Path) -> BTreeMap<String, String> {
    let format = "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}\n";
    let out = run_ok(Command::new("rpm").arg("--root").arg(root).args(["-qa", "--qf", format]));
    let pairs = out.lines().filter_map(|line| line.split_once(' '));
    pairs.filter(|(name, _)| *name != "gpg-pubkey").map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}
