//! Real packages of random bytes in a signed apt and a signed rpm-md repository, made on the spot.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::generation::{Signer, gzip};
use crate::support::{Scratch, ServerConfig, random_bytes, run_ok, sha256_file, sha256_hex};

/// Where the repositories are served.
pub const DEB: &str = "deb";
pub const RPM: &str = "rpm";

/// Both repositories; every package is called `hands-N` and is in both.
#[derive(Debug)]
pub struct Goods {
    tree: PathBuf,
    pub count: usize,
}

/// The name of package N.
pub fn name(number: usize) -> String {
    format!("hands-{number:02}")
}

impl Goods {
    /// Makes `count` packages of `size` bytes each, below `scratch`.
    pub fn make(scratch: &Scratch, count: usize, size: usize) -> Self {
        let goods = Self { tree: scratch.dir("goods"), count };
        let signer = Signer::new(scratch);
        let payloads = scratch.dir("payloads");
        for number in 0..count {
            fs::write(payloads.join(name(number)), random_bytes(number as u64, size))
                .expect("the scratch folder is writable");
        }
        goods.make_deb(&signer, scratch, &payloads);
        goods.make_rpm(&signer, scratch, &payloads);
        goods
    }

    /// A server of both, which sends clients to volunteers however much faster it is itself.
    pub fn config(&self) -> ServerConfig {
        let server = ServerConfig::default().server_lines("min_share = \"0B/s\"");
        server.tree(DEB, "generic-deb", &self.tree.join(DEB), "suites = [\"stable\"]").tree(
            RPM,
            "generic-rpm",
            &self.tree.join(RPM),
            "suites = [\"./\"]",
        )
    }

    /// The path of a package on the server.
    pub fn path(&self, repo: &str, number: usize) -> String {
        match repo {
            DEB => format!("{DEB}/pool/{}_1_all.deb", name(number)),
            _ => format!("{RPM}/{}-1-1.noarch.rpm", name(number)),
        }
    }

    /// The bytes that everybody must get.
    pub fn sha256(&self, repo: &str, number: usize) -> String {
        sha256_file(&self.tree.join(self.path(repo, number)))
    }

    fn make_deb(&self, signer: &Signer, scratch: &Scratch, payloads: &Path) {
        let mut packages = String::new();
        let root = scratch.dir("deb-root");
        fs::create_dir_all(self.tree.join(DEB).join("pool")).expect("the scratch folder is writable");
        for number in 0..self.count {
            let name = name(number);
            let control = format!(
                "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: Tests <tests@example.org>\n\
                 Description: random bytes\n"
            );
            let share = root.join("usr/share/hands");
            let _ = fs::remove_dir_all(&share);
            fs::create_dir_all(root.join("DEBIAN"))
                .and_then(|()| fs::create_dir_all(&share))
                .and_then(|()| fs::write(root.join("DEBIAN/control"), &control))
                .and_then(|()| fs::copy(payloads.join(&name), share.join(&name)))
                .expect("the scratch folder is writable");
            let path = self.path(DEB, number);
            let mut build = Command::new("dpkg-deb");
            build.args(["--root-owner-group", "-Znone", "--build"]).arg(&root).arg(self.tree.join(&path));
            run_ok(&mut build);
            let size = fs::metadata(self.tree.join(&path)).expect("dpkg-deb made it").len();
            let _ = write!(
                packages,
                "{control}Filename: {}\nSize: {size}\nSHA256: {}\n\n",
                path.trim_start_matches("deb/"),
                self.sha256(DEB, number)
            );
        }
        self.publish_deb(signer, packages.as_bytes());
    }

    fn publish_deb(&self, signer: &Signer, packages: &[u8]) {
        let suite = self.tree.join(DEB).join("dists/stable");
        let mut release = String::from(
            "Origin: Tests\nLabel: Tests\nSuite: stable\nCodename: stable\nDate: Sat, 01 Nov 2025 12:00:00 UTC\n\
             Architectures: amd64 all\nComponents: main\nSHA256:\n",
        );
        for (file, bytes) in [("Packages", packages.to_vec()), ("Packages.gz", gzip(packages))] {
            let path = format!("main/binary-amd64/{file}");
            let _ = writeln!(release, " {} {} {path}", sha256_hex(&bytes), bytes.len());
            let path = suite.join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder"))
                .and_then(|()| fs::write(path, bytes))
                .expect("the scratch folder is writable");
        }
        fs::write(suite.join("InRelease"), signer.clearsign(release.as_bytes()))
            .expect("the scratch folder is writable");
    }

    fn make_rpm(&self, signer: &Signer, scratch: &Scratch, payloads: &Path) {
        let root = scratch.dir("rpm-root");
        let mut spec = String::from(
            "Name: hands\nVersion: 1\nRelease: 1\nSummary: random bytes\nLicense: MIT\nBuildArch: noarch\n\
             AutoReqProv: no\n\n%description\nRandom bytes.\n\n",
        );
        let mut install = String::from("%install\n");
        for number in 0..self.count {
            let name = name(number);
            let file = format!("/usr/share/hands/{name}");
            let _ = writeln!(install, "install -D {}/{name} %{{buildroot}}{file}", payloads.display());
            let _ = write!(
                spec,
                "%package -n {name}\nSummary: random bytes\n\n%description -n {name}\nRandom bytes.\n\n\
                 %files -n {name}\n{file}\n\n"
            );
        }
        let path = root.join("hands.spec");
        fs::write(&path, spec + &install).expect("the scratch folder is writable");
        let repo = self.tree.join(RPM);
        let mut build = Command::new("rpmbuild");
        build.args(["-bb", "--quiet", "--define", &format!("_topdir {}", root.display())]);
        build.args(["--define", &format!("_rpmdir {}", repo.display())]);
        build.args(["--define", "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"]);
        run_ok(build.args(["--define", "_binary_payload w.ufdio"]).arg(&path));
        let mut sign = Command::new("rpmsign");
        sign.env("GNUPGHOME", signer.home()).args(["--addsign", "--define", "__gpg /usr/bin/gpg"]);
        sign.args(["--define", &format!("_gpg_name {}", signer.fingerprint())]);
        run_ok(sign.args((0..self.count).map(|number| self.tree.join(self.path(RPM, number)))));
        run_ok(Command::new("createrepo_c").arg("--quiet").arg(&repo));
        let repomd = repo.join("repodata/repomd.xml");
        let signature = signer.detached(&fs::read(&repomd).expect("createrepo_c made it"));
        fs::write(repo.join("repodata/repomd.xml.asc"), signature).expect("the scratch folder is writable");
    }
}
