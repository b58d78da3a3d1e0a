//! Collects `distros/*.toml` into the binary, so that adding a distribution is adding a file.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=distros");
    let root = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let mut names: Vec<String> = fs::read_dir(Path::new(&root).join("distros"))
        .expect("the distros folder is part of the source")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    let entries: String = names
        .iter()
        .map(|name| format!("    ({name:?}, include_str!({:?})),\n", format!("{root}/distros/{name}.toml")))
        .collect();
    let code = format!("pub const BUILT_IN: &[(&str, &str)] = &[\n{entries}];\n");
    let out = env::var("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&out).join("profiles.rs"), code).expect("the output folder is writable");
}
