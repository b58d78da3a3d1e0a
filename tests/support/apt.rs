//! apt in a private root, with nothing of the machine's own configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{debian13, package_files, run_ok};

/// One private apt client.
#[derive(Debug)]
pub struct Apt {
    root: PathBuf,
    /// Whose apt it is, where it is not this machine's.
    usr: Option<&'static Path>,
}

impl Apt {
    /// A client with an empty package database. `sources` are lines of sources.list.
    pub fn new(root: &Path, sources: &[String]) -> Self {
        for folder in ["lists/partial", "cache/archives/partial", "state", "log", "downloads"] {
            fs::create_dir_all(root.join(folder)).expect("the scratch folder is writable");
        }
        for folder in ["info", "updates", "triggers"] {
            fs::create_dir_all(root.join("root/var/lib/dpkg").join(folder))
                .expect("the scratch folder is writable");
        }
        let write = |name: &str, text: &str| {
            fs::write(root.join(name), text).expect("the scratch folder is writable")
        };
        write("root/var/lib/dpkg/status", "");
        write("sources.list", &(sources.join("\n") + "\n"));
        // Named by APT_CONFIG, which apt reads before the machine's own files and so can turn those off.
        let settings = r#"
            Dir::Etc::main "/dev/null";
            Dir::Etc::parts "/dev/null";
            Dir::Etc::sourcelist "@/sources.list";
            Dir::Etc::sourceparts "/dev/null";
            Dir::Etc::preferences "/dev/null";
            Dir::Etc::preferencesparts "/dev/null";
            Dir::State "@/state";
            Dir::State::Lists "@/lists";
            Dir::State::status "@/root/var/lib/dpkg/status";
            Dir::Cache "@/cache";
            Dir::Log "@/log";
            APT::Sandbox::User "root";
            APT::Get::Assume-Yes "true";
            DPkg::Options { "--root=@/root"; "--force-script-chrootless"; };
        "#;
        write("apt.conf", &settings.replace('@', &root.display().to_string()));
        Self { root: root.to_owned(), usr: None }
    }

    /// The same with the programs of another system ([`super::debian13`]).
    pub fn with_usr(self, usr: &'static Path) -> Self {
        Self { usr: Some(usr), ..self }
    }

    /// Replaces the sources.
    pub fn set_sources(&self, sources: &[String]) {
        fs::write(self.root.join("sources.list"), sources.join("\n") + "\n")
            .expect("the scratch folder is writable");
    }

    /// Adds lines to its configuration.
    pub fn configure(&self, lines: &str) {
        let path = self.root.join("apt.conf");
        let old = fs::read_to_string(&path).expect("written before");
        fs::write(&path, format!("{old}{lines}\n")).expect("the scratch folder is writable");
    }

    /// What makes programs that start apt's own see this client only.
    pub fn environment(&self) -> (&'static str, PathBuf) {
        ("APT_CONFIG", self.root.join("apt.conf"))
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let (name, value) = self.environment();
        command.env(name, value).env("LC_ALL", "C");
        command.current_dir(self.root.join("downloads"));
        match self.usr {
            Some(usr) => debian13::within(usr, &command),
            None => command,
        }
    }

    /// Runs apt-get, which must succeed.
    pub fn get(&self, arguments: &[&str]) -> String {
        self.try_get(arguments).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Runs apt-get; warnings count as failures, since they hide lost indexes.
    pub fn try_get(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command("apt-get");
        command.args(arguments);
        let (status, out, err) = super::run(&mut command, 10 * super::DEADLINE);
        let clean = !err.lines().any(|line| line.starts_with("W:") || line.starts_with("E:"));
        let problem = || format!("apt-get {}: {status}\n{out}\n{err}", arguments.join(" "));
        if status.success() && clean { Ok(out) } else { Err(problem()) }
    }

    pub fn update(&self) -> String {
        self.get(&["update"])
    }

    /// Every package name in the lists.
    pub fn names(&self) -> Vec<String> {
        let out = run_ok(self.command("apt-cache").arg("pkgnames"));
        let mut names: Vec<String> = out.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Updates and installs everything there is.
    pub fn install_all(&self) {
        self.update();
        let names = self.names();
        assert!(!names.is_empty(), "the lists name no package");
        let arguments = ["install"].into_iter().chain(names.iter().map(String::as_str));
        self.get(&arguments.collect::<Vec<_>>());
        let installed = self.installed();
        for name in &names {
            assert!(installed.contains_key(name), "{name} is not installed: {installed:?}");
        }
    }

    /// Installed packages with their versions.
    pub fn installed(&self) -> BTreeMap<String, String> {
        let admin = self.root.join("root/var/lib/dpkg");
        let out = run_ok(Command::new("dpkg-query").arg("--admindir").arg(admin).args([
            "-W",
            "-f",
            "${db:Status-Status} ${Package} ${Version}\n",
        ]));
        let installed = out.lines().filter_map(|line| line.strip_prefix("installed "));
        installed.filter_map(|l| l.split_once(' ')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    /// The packages that were downloaded to be installed.
    pub fn archives(&self) -> Vec<PathBuf> {
        package_files(&self.root.join("cache/archives"))
    }

    /// Where `apt-get download` and `apt-get source` put files.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }
}
