//! A network of a test's own: addresses and ports as on separate hosts, a resolver, files of /etc covered.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::run_ok;

/// Set where a test runs in namespaces of its own.
const INSIDE: &str = "MANYHANDS_TEST_NETWORK";

/// Packets to this address vanish there.
pub const NOWHERE: &str = "10.99.0.1";

/// Runs a test in a network namespace that has these addresses and no way out, and in a mount namespace, by
/// running this test program again in them (namespaces(7)). Who is not root becomes it (user_namespaces(7)).
/// Everything goes with the last process in them.
pub fn with_network(name: &str, addresses: &[&str], test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        let ip = |arguments: &[&str]| drop(run_ok(Command::new("ip").args(arguments)));
        ip(&["link", "set", "lo", "up"]);
        addresses.iter().for_each(|address| ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]));
        // A line at whose other end nobody is at home.
        ip(&["link", "add", "line", "type", "veth", "peer", "name", "end"]);
        ip(&["link", "set", "line", "up"]);
        ip(&["link", "set", "end", "up"]);
        ip(&["neighbour", "add", NOWHERE, "lladdr", "02:00:00:00:00:01", "dev", "line", "nud", "permanent"]);
        ip(&["route", "add", NOWHERE, "dev", "line", "src", addresses[0]]);
        return test();
    }
    let program = std::env::current_exe().expect("a test program has a path");
    let mut command = Command::new("unshare");
    command.args(if rustix::process::geteuid().is_root() { &["-nm"] } else { &["-Urnm"] });
    command.arg(program).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    let out = run_ok(&mut command);
    assert!(out.contains("1 passed"), "{name} did not run: {out}");
    println!("{out}");
}

/// Puts a text in the place of a file, which must exist; only inside [`with_network`].
pub fn cover(file: &str, folder: &Path, text: &str) {
    assert!(Path::new(file).exists(), "{file} is missing (Debian's package of services: netbase)");
    let by = folder.join(file.replace('/', "_"));
    fs::write(&by, text).expect("the scratch folder is writable");
    run_ok(Command::new("mount").arg("--bind").arg(&by).arg(file));
}
