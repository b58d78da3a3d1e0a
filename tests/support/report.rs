//! Figures of a test, shown with its output and, in the long form, once more at the end of all.

use std::fs;
use std::path::{Path, PathBuf};

use super::is_soak;

/// Prints figures; `make soak` shows the files at its end.
pub fn report(name: &str, text: &str) {
    println!("{text}");
    if is_soak() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak");
        let written = fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(format!("{name}.txt")), format!("{text}\n")));
        written.expect("cargo's folder for tests is writable");
    }
}

/// The most memory a process has had, in bytes (proc(5), VmHWM).
pub fn peak_memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process of ours");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.trim().strip_suffix(" kB").and_then(|n| n.parse().ok()).expect("a number of kB");
    kib << 10
}

/// Files of a blob store whose bytes are not what their names say.
pub fn wrong_blobs(store: &Path) -> Vec<PathBuf> {
    let blobs = store.join("blobs");
    let all = if blobs.is_dir() { super::fixture::files(&blobs) } else { Vec::new() };
    let is_wrong = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        // A file that makes room in this moment is not wrong.
        fs::read(blobs.join(path)).is_ok_and(|bytes| super::sha256_hex(&bytes) != name)
    };
    all.into_iter().filter(is_wrong).collect()
}
