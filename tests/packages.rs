//! The packages: `packaging/build.sh` packs the program under test as `make deb` and `make rpm` do with a release, and
//! what the distributions have for judging packages judges them. Both are unpacked and looked into.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{BINARY, DEADLINE, Scratch, files, run, run_ok};

const DOC: &str = "usr/share/doc/manyhands";

/// A command from the folder of the sources.
fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Builds the packages of this form into a folder, with these variables set; in the order of their names.
fn build(form: &str, to: &Path, variables: &[(&str, &str)]) -> Vec<PathBuf> {
    let mut build = command("packaging/build.sh", &[form, BINARY]);
    run_ok(build.arg(to).env("PACKED", "fast").envs(variables.iter().copied()));
    let found: Vec<PathBuf> = files(to).iter().map(|name| to.join(name)).collect();
    assert_eq!(found.len(), 2, "the program and its symbols: {found:?}");
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The program runs without its symbols, and a debugger finds them by its build id.
fn is_stripped(root: &Path, symbols: &Path) {
    let program = root.join("usr/bin/manyhands");
    assert!(run_ok(Command::new(&program).arg("--version")).starts_with("manyhands "));
    let readelf =
        |path: &Path| run_ok(Command::new("readelf").args(["--wide", "--sections", "--notes"]).arg(path));
    let shown = readelf(&program);
    assert!(
        !shown.contains(".symtab") && !shown.contains(".debug_info") && shown.contains(".gnu_debuglink"),
        "{shown}"
    );
    let (_, id) = shown.split_once("Build ID: ").expect("a build id");
    let id = id.split_whitespace().next().expect("a build id");
    let (folder, file) = id.split_at(2);
    let shown = readelf(&symbols.join(format!("usr/lib/debug/.build-id/{folder}/{file}.debug")));
    assert!(shown.contains(".debug_line") && shown.contains(id), "{shown}");
}

/// Relative links of a page, without what they name inside the other page.
fn links(markdown: &str) -> Vec<&str> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let files = targets.filter(|target| !target.contains("://")).map(|target| target.split('#').next());
    files.flatten().filter(|file| !file.is_empty()).collect()
}

/// Every page that one can reach from README is in the package.
fn links_lead_somewhere(root: &Path) {
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![root.join(DOC).join("README.md")]);
    while let Some(page) = ahead.pop() {
        let found = page.canonicalize().ok().filter(|page| page.is_file());
        let page = found.unwrap_or_else(|| panic!("{} is linked and not in the package", page.display()));
        if page.extension().is_none_or(|e| e != "md") || !seen.insert(page.clone()) {
            continue;
        }
        let folder = page.parent().expect("a folder");
        ahead.extend(links(&read(&page)).iter().map(|link| folder.join(link)));
    }
    assert!(seen.iter().any(|page| page.ends_with("docs/configuration.md")), "{seen:?}");
}

/// Pages of commands and of configuration files render without warnings, and have what such pages have.
fn man_pages_are_whole(root: &Path) {
    let man = root.join("usr/share/man");
    for name in files(&man) {
        let path = man.join(&name);
        let mut render = Command::new("man");
        render.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(&path);
        let (status, page, err) = run(render.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8"), DEADLINE);
        assert!(status.success() && err.is_empty(), "{}: {err}", name.display());
        let of_command = ["EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"].as_slice();
        let sections = if name.starts_with("man1") { of_command } else { &["FILES", "EXAMPLES", "SEE ALSO"] };
        for section in sections {
            assert!(page.lines().any(|line| line == *section), "{} has no {section}\n{page}", name.display());
        }
    }
    assert!(man.join("man1/manyhands.1.gz").is_file());
    for file in files(&root.join("etc/manyhands")) {
        let page = format!("man5/manyhands-{}.5.gz", file.display());
        assert!(man.join(&page).is_file(), "there is no page {page}");
    }
}

/// logrotate empties a log that the server holds open, as the user to whom it belongs. That user and its folder are
/// made in a namespace; in one without root there is no other user than that.
const ROTATE: &str = r#"
    set -eu
    mount --bind passwd /etc/passwd
    mount --bind group /etc/group
    mount -t tmpfs none /var/log
    install -d -o manyhands -g manyhands /var/log/manyhands
    cd /var/log/manyhands
    exec 3>>access.log
    chown manyhands:manyhands access.log
    echo before >&3
    logrotate --debug "$1"
    logrotate --force --state "$2/state" "$1"
    echo after >&3
    grep . access.log.1 access.log
"#;

fn logs_rotate(root: &Path, scratch: &Path) {
    let is_root = rustix::process::geteuid().is_root();
    let (id, namespace) = if is_root { (4711, "-m") } else { (0, "-Urm") };
    let user = format!("root:x:0:0::/root:/bin/sh\nmanyhands:x:{id}:{id}::/:/bin/sh\n");
    fs::write(scratch.join("passwd"), user).expect("the scratch folder is writable");
    fs::write(scratch.join("group"), format!("root:x:0:\nmanyhands:x:{id}:\n"))
        .expect("it is still writable");
    let mut rotate = Command::new("unshare");
    rotate
        .args([namespace, "sh", "-c", ROTATE, "sh"])
        .arg(root.join("etc/logrotate.d/manyhands"))
        .arg(scratch);
    let out = run_ok(rotate.current_dir(scratch));
    assert!(out.ends_with("access.log.1:before\naccess.log:after\n"), "{out}");
}

/// What both forms have in common.
fn look_into(root: &Path, symbols: &Path, scratch: &Scratch) {
    is_stripped(root, symbols);
    links_lead_somewhere(root);
    man_pages_are_whole(root);
    logs_rotate(root, &scratch.dir("logs"));
    let unit = read(&root.join("usr/lib/systemd/system/manyhands-serve.service"));
    assert_eq!(unit, read(Path::new("systemd/manyhands-serve.service")));
}

#[test]
fn the_deb() {
    let scratch = Scratch::new();
    let packages = build("deb", &scratch.dir("deb"), &[]);
    let again = build("deb", &scratch.dir("again"), &[]);
    for (one, other) in packages.iter().zip(&again) {
        assert!(
            fs::read(one).expect("a package") == fs::read(other).expect("a package"),
            "{one:?} is not reproducible"
        );
    }
    println!("{}", run_ok(Command::new("lintian").args(["--fail-on", "error"]).args(&packages)));
    let field = |name: &str| run_ok(Command::new("dpkg-deb").arg("--field").arg(&packages[1]).arg(name));
    assert_eq!(field("Package").trim(), "manyhands");
    assert_eq!(field("Maintainer").trim(), env!("CARGO_PKG_AUTHORS"));
    let roots = [scratch.dir("symbols"), scratch.dir("root")];
    for (package, root) in packages.iter().zip(&roots) {
        run_ok(Command::new("dpkg-deb").arg("--extract").args([package, root]));
    }
    let [symbols, root] = roots;
    look_into(&root, &symbols, &scratch);
}

/// A home with a key to sign packages with, and a database of rpm's that knows it: to rpmlint a package without a known
/// signature is an error.
fn signing_home(scratch: &Scratch) -> PathBuf {
    let home = scratch.dir("home");
    let keys = home.join(".gnupg");
    run_ok(Command::new("install").args(["-d", "-m", "700"]).arg(&keys));
    fs::write(home.join(".rpmmacros"), format!("%_dbpath {}\n", scratch.dir("database").display()))
        .expect("a home");
    let gpg = |arguments: &[&str]| {
        let mut gpg = Command::new("gpg");
        run_ok(
            gpg.arg("--homedir").arg(&keys).args(["--batch", "--quiet", "--passphrase", ""]).args(arguments),
        )
    };
    gpg(&["--quick-gen-key", "Tests", "rsa2048"]);
    let key = scratch.path("key.asc");
    fs::write(&key, gpg(&["--armor", "--export", "Tests"])).expect("the scratch folder is writable");
    run_ok(Command::new("rpmkeys").env("HOME", &home).arg("--import").arg(key));
    home
}

#[test]
fn the_rpm() {
    let scratch = Scratch::new();
    let home = signing_home(&scratch);
    let home = home.to_str().expect("a path in UTF-8");
    let packages = build("rpm", &scratch.dir("rpm"), &[("RPM_SIGN_KEY", "Tests"), ("HOME", home)]);
    let mut rpmlint = command("rpmlint", &["-c", "packaging/rpm/rpmlint.toml"]);
    println!("{}", run_ok(rpmlint.env("HOME", home).args(&packages)));
    let mut query = Command::new("rpm");
    query.env("HOME", home).args(["-qp", "--qf", "%{NAME} %{PACKAGER}"]).arg(&packages[0]);
    assert_eq!(run_ok(&mut query), format!("manyhands {}", env!("CARGO_PKG_AUTHORS")));
    let root = scratch.dir("root");
    let mut install = Command::new("unshare");
    install
        .args(["-Ur", "rpm", "--install", "--nodeps", "--noscripts", "--force-debian", "--root"])
        .arg(&root);
    run_ok(install.args(&packages));
    look_into(&root, &root, &scratch);
}

/// The keys that a configuration may have in this place, by the program's own complaint about another one.
fn keys(scratch: &Scratch, table: &str) -> Vec<String> {
    let path = scratch.path("configuration.toml");
    fs::write(scratch.dir("distros").join("other.toml"), "no-such-key = 1\n").expect("a profile");
    let text = table.replace("DISTROS", &scratch.path("distros").display().to_string());
    fs::write(&path, text).expect("a configuration");
    let (_, _, err) = run(Command::new(BINARY).args(["check", "--config"]).arg(path), DEADLINE);
    let (_, keys) = err.split_once("`no-such-key`, expected ").unwrap_or_else(|| panic!("{table}: {err}"));
    keys.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_pages_name_every_key() {
    let scratch = Scratch::new();
    let pages = scratch.dir("man");
    run_ok(Command::new(BINARY).arg("man").arg(&pages));
    let repo = "[[repo]]\nname = \"a\"\ndistro = \"debian\"\n";
    let with = |table: &str| format!("{repo}{table}\nno-such-key = 1\n");
    for (page, text) in [
        ("serve", with("[server]")),
        ("serve", with("[cache]")),
        ("serve", with("[proxy]")),
        ("serve", with("[[network]]")),
        ("serve", with("[[volunteer]]")),
        ("serve", with("")),
        ("volunteer", "no-such-key = 1\n".to_owned()),
        ("profile", format!("{repo}[server]\ndistros_dir = \"DISTROS\"\n")),
    ] {
        let source = read(&pages.join(format!("manyhands-{page}.toml.5")));
        for key in keys(&scratch, &text) {
            assert!(source.contains(&format!("\\fB{key}\\fR")), "the page of {page} does not name {key}");
        }
    }
}
