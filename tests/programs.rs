//! What no run exercises rots: every measurement, scenario and fuzz target has a short form that `.ci/run` runs.
//! Here are those of scenarios and fuzz targets; measurements have theirs in `make bench-check`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{BINARY, run};

/// Of one scenario in its short form.
const LIMIT: Duration = Duration::from_secs(180);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Names of the files of a folder with one of these endings.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let names = entries.map(|entry| name(entry).into_string().expect("UTF-8"));
    let mut names: Vec<String> =
        names.filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect();
    names.sort();
    assert!(!names.is_empty(), "{folder} is empty");
    names
}

/// The recipe of a target of the Makefile.
fn recipe(makefile: &str, target: &str) -> String {
    let head = format!("{target}:");
    let lines = makefile.lines().skip_while(|line| !line.starts_with(&head)).skip(1);
    lines.take_while(|line| line.starts_with('\t')).collect::<Vec<_>>().join("\n")
}

/// The name of the bench or example whose source this is.
fn target_of(manifest: &str, path: &str) -> String {
    let manifest: toml::Table = toml::from_str(manifest).expect("Cargo.toml is TOML");
    let targets = ["bench", "example"].into_iter().filter_map(|kind| manifest[kind].as_array()).flatten();
    let is_it = |target: &&toml::Value| {
        let name = target["name"].as_str().expect("a name");
        target.get("path").and_then(|p| p.as_str()).unwrap_or(&format!("benches/{name}.rs")) == path
            || path == format!("bench/{name}.rs")
    };
    let target = targets.into_iter().find(is_it).unwrap_or_else(|| panic!("{path} is no target"));
    target["name"].as_str().expect("a name").to_owned()
}

#[test]
fn every_measurement_has_a_short_form_in_ci() {
    assert!(text(".ci/run").contains("make bench-check"), ".ci/run does not run the short forms");
    let check = recipe(&text("Makefile"), "bench-check");
    let bench = recipe(&text("Makefile"), "bench");
    let scripts = files("bench", &[".sh"]);
    for script in &scripts {
        assert!(check.contains(&format!("BENCH=short bench/{script}")), "bench-check does not run {script}");
        assert!(bench.contains(&format!("bench/{script}")), "bench does not run {script}");
    }
    let scripts: String = scripts.iter().map(|script| text(&format!("bench/{script}"))).collect();
    let (manifest, readme) = (text("Cargo.toml"), text("bench/README.md"));
    for source in files("bench", &[".rs"]) {
        let name = target_of(&manifest, &format!("bench/{source}"));
        let runs = [format!("--bench {name}\n"), format!("/examples/{name}\"")];
        assert!(runs.iter().any(|run| scripts.contains(run)), "no script runs {source}");
        assert!(readme.contains(&format!("`bench/{source}`")), "bench/README.md does not name {source}");
    }
}

#[test]
fn every_scenario_plays() {
    for name in files("scenarios", &[".toml"]) {
        let scenario = text(&format!("scenarios/{name}"));
        let mut command = Command::new(BINARY);
        command.arg("simulate").arg(root().join("scenarios").join(&name)).args(["--set", "duration=10s"]);
        for shape in ["flash", "within"].iter().filter(|shape| scenario.contains(&format!("{{ {shape} = {{")))
        {
            command.args(["--set", &format!("clients.shape.{shape}.clients=200")]);
        }
        let (status, out, err) = run(&mut command, LIMIT);
        assert!(status.success(), "{name}: {err}");
        assert!(out.contains("manyhands"), "{name}: {out}");
    }
}

/// Building them needs a nightly toolchain. What they call is built and run by `tests/corpora.rs`.
#[test]
fn every_fuzz_target_calls_its_function() {
    let feeds = text("fuzz/src/lib.rs");
    for name in files("fuzz/fuzz_targets", &[".rs"]) {
        let name = name.trim_end_matches(".rs");
        let program = format!(
            "//! See `manyhands_fuzz::TARGETS`.\n#![no_main]\n\n\
             libfuzzer_sys::fuzz_target!(|data: &[u8]| {{\n    manyhands_fuzz::{name}(data);\n}});\n"
        );
        assert_eq!(text(&format!("fuzz/fuzz_targets/{name}.rs")), program, "{name}");
        assert!(feeds.contains(&format!("(\"{name}\", {name}),")), "there is no manyhands_fuzz::{name}");
        assert!(text("fuzz/Cargo.toml").contains(&format!("fuzz_targets/{name}.rs")), "{name}");
    }
}
