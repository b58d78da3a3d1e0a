//! The testbed: small networks in namespaces (namespaces(7)), each host with an address of its own.
//!
//! A test runs [`alone`]: this test program once more, in network, mount and process namespaces of its own.
//! There it is the switch that all hosts hang on, so it reaches every one of them by address. The kernel takes
//! the namespaces and every process in them away with the program, however that ends, so nothing can be left
//! behind, and tests side by side never meet.
//!
//! [`Network`] and [`Host`] are cables and addresses, [`Keeper`] is a service manager in miniature, [`Line`] a
//! line that lies or is ill, [`Bed`] all of it with a server, volunteers and clients.

mod bed;
pub mod edition;
pub mod goods;
mod host;
mod keeper;
mod line;
pub mod matrix;
pub mod page;
pub mod patron;
pub mod strike;

pub use bed::{Bed, CLIENT, Plan, RATE, VOLUNTEER_PORT, Worker};
pub use host::{Host, Network};
pub use keeper::Keeper;
pub use line::{Ill, Line};

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{is_soak, run, run_ok};

/// Set where a program runs on a machine of its own.
const INSIDE: &str = "MANYHANDS_TEST_ALONE";
/// Longer than any test takes that `cargo test` runs.
const LIMIT: Duration = Duration::from_secs(900);

/// Whether this program has namespaces of its own.
pub fn is_alone() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A command that runs a program with namespaces of its own, which end with it. Who is not root becomes root in a
/// user namespace (user_namespaces(7)).
pub fn machine(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("-Ur");
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // The first process of a machine has to see every orphan off: a shell does.
    command.args(["sh", "-c", "\"$@\"; exit $?", "sh"]).arg(program).env(INSIDE, "1");
    command
}

/// This program once more, on a machine of its own.
pub fn again() -> Command {
    machine(&std::env::current_exe().expect("a test program has a path"))
}

/// What a program does first on its machine.
pub fn prepare() {
    run_ok(Command::new("ip").args(["link", "set", "lo", "up"]));
}

/// Runs a test on a machine of its own; `name` is that of the test function.
pub fn alone(name: &str, test: impl FnOnce()) {
    if is_alone() {
        prepare();
        return test();
    }
    let mut command = again();
    command.args(["--exact", name, "--nocapture"]);
    let (passed, out, err) = if is_soak() {
        // Long ones show how far they are.
        let status = command.stdin(Stdio::null()).status().expect("setpriv runs");
        (status.success(), "1 passed".to_owned(), String::new())
    } else {
        let (status, out, err) = run(&mut command, LIMIT);
        (status.success(), out, err)
    };
    let could_not = "unshare: unshare failed";
    assert!(
        !err.contains(could_not),
        "the testbed needs namespaces: run the tests as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, or allow user \
         namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)\n{err}"
    );
    println!("{out}");
    assert!(passed && out.contains("1 passed"), "{name} failed on its machine\n{err}");
}
