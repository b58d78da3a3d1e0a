//! File systems of a chosen size, in memory: for tests of full and failing disks.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run_ok;

/// Set where a test runs in a mount namespace of its own.
const INSIDE: &str = "MANYHANDS_TEST_MOUNTS";

/// A mounted tmpfs; dropping it unmounts, also after a failure. Make it before what uses it.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `size` (as for mount(8): `8m`) on a folder, which is created.
    pub fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).expect("the scratch folder is writable");
        let options = format!("size={size},mode=0755");
        run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "manyhands-test"]).arg(at));
        Self(at.to_owned())
    }

    pub fn set_read_only(&self, is_read_only: bool) {
        let how = if is_read_only { "remount,bind,ro" } else { "remount,bind,rw" };
        run_ok(Command::new("mount").args(["-o", how]).arg(&self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A failing test may leave files open: then it goes with their last user.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Runs a test that mounts. Only root may: who is not becomes root in a user namespace (user_namespaces(7)),
/// by running this test program again in one.
pub fn with_mounts(name: &str, test: impl FnOnce()) {
    let is_root = rustix::process::geteuid().is_root();
    if is_root || std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let program = std::env::current_exe().expect("a test program has a path");
    let mut command = Command::new("unshare");
    command.arg("-Urm").arg(program).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    let out = run_ok(&mut command);
    assert!(out.contains("1 passed"), "{name} did not run: {out}");
}
