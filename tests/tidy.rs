//! The house rules that a compiler does not check: layers, headers, lengths, bans in the pure layers.
//!
//! DESIGN.md section 4 names the layers and STYLE.md the lengths. The reading of Rust here is approximate:
//! comments and literals are blanked, then text is searched and braces are counted. The last tests check
//! that the checks themselves can fail.

#[path = "tidy/circles.rs"]
mod circles;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use circles::Graph;

/// No file is longer than this.
const MAX_FILE_LINES: usize = 500;
/// No function is longer than this.
const MAX_FUNCTION_LINES: usize = 70;

/// Each layer with what it may import besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("formats", &["model"]),
    ("config", &["model", "formats"]),
    ("delta", &["model", "formats"]),
    ("catalog", &["model", "formats", "config", "delta"]),
    ("policy", &["model", "formats", "config", "delta"]),
    ("io", &["model", "formats", "config", "delta", "catalog"]),
    ("roles", &["model", "formats", "config", "delta", "catalog", "policy", "io"]),
    ("cli", &["model", "formats", "config", "delta", "catalog", "policy", "io", "roles"]),
];

/// Layers that are functions of their arguments: no clock, files, network, entropy or unordered iteration.
const PURE: &[&str] = &["model", "formats", "config", "delta", "catalog", "policy"];

/// What a pure layer must not name, and what to do instead.
const BANNED_IN_PURE: &[(&str, &str)] = &[
    ("tokio", "runtimes belong in io and roles"),
    ("hyper", "servers and clients belong in io and roles"),
    ("tracing", "pure layers return reasons instead of logging"),
    ("fs", "files belong in io"),
    ("TcpStream", "the network belongs in io"),
    ("TcpListener", "the network belongs in io"),
    ("UdpSocket", "the network belongs in io"),
    ("SystemTime", "take the time as an argument"),
    ("Instant", "take the time as an argument"),
    ("HashMap", "its order is random: BTreeMap"),
    ("HashSet", "its order is random: BTreeSet"),
    ("getrandom", "take the random generator as an argument"),
    ("ThreadRng", "take the random generator as an argument"),
    ("thread_rng", "take the random generator as an argument"),
    ("OsRng", "take the random generator as an argument"),
    ("SysRng", "take the random generator as an argument"),
];

/// What no source file may hold.
const BANNED_EVERYWHERE: &[(&str, &str)] = &[
    ("todo!", "write it"),
    ("unimplemented!", "write it"),
    ("dbg!", "use tracing"),
    ("#[ignore", "a test runs, or it goes"),
    ("thread::sleep", "wait for an event"),
];

/// Folders in which no files import each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &["model", "policy"];

/// One source file, read.
struct Source {
    /// Below `src/`, with slashes.
    name: String,
    text: String,
    /// The text with comments and literals blanked; the same lines.
    code: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The first folder, or the file's own stem at the top: the layer.
    fn layer(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or(&self.name);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test_file(&self) -> bool {
        let file = self.name.rsplit('/').next().unwrap_or(&self.name);
        file == "tests.rs" || file.ends_with("_tests.rs") || self.name.contains("/tests/")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "found only {} files below {}", files.len(), root.display());
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
        Source::new(&name, &fs::read_to_string(path).expect("a source file is UTF-8"))
    };
    files.iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Fails with all findings at once.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn over_all(check: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    sources().iter().flat_map(check).collect()
}

// ---- the checks -------------------------------------------------------------------------------------

fn header(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        vec![]
    } else {
        vec![format!("{}: does not open with //!", source.name)]
    }
}

fn file_length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= MAX_FILE_LINES { vec![] } else { vec![format!("{}: {lines} lines", source.name)] }
}

fn function_lengths(source: &Source) -> Vec<String> {
    if source.is_test_file() {
        return Vec::new();
    }
    let code = without_test_modules(&source.code);
    let mut found = Vec::new();
    for at in words(&code, "fn") {
        let rest = &code[at + 2..];
        let name: String =
            rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // A function pointer type has no name, a trait's method may have no body.
        let (Some(open), stop) = (rest.find('{'), rest.find(';').unwrap_or(usize::MAX)) else { continue };
        if name.is_empty() || semicolon_outside_brackets(&rest[..open], stop) {
            continue;
        }
        let body = block_end(&rest[open..]);
        let lines = rest[..open + body].lines().count();
        if lines > MAX_FUNCTION_LINES {
            let line = code[..at].lines().count();
            found.push(format!("{}:{line}: fn {name} has {lines} lines", source.name));
        }
    }
    found
}

fn imports(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return Vec::new();
    };
    let depth = source.name.matches('/').count();
    let mut found = Vec::new();
    for (line, target) in crate_paths(&source.code, depth) {
        let known = LAYERS.iter().any(|(name, _)| *name == target);
        if known && target != layer && !allowed.contains(&target.as_str()) {
            found.push(format!("{}:{line}: {layer} must not import {target}", source.name));
        }
    }
    found
}

fn roles_apart(source: &Source) -> Vec<String> {
    let Some(role) = source.name.strip_prefix("roles/").and_then(|rest| rest.split('/').next()) else {
        return Vec::new();
    };
    let role = role.strip_suffix(".rs").unwrap_or(role);
    if role == "mod" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for at in words(&source.code, "roles") {
        let rest = source.code[at + "roles".len()..].trim_start();
        let Some(rest) = rest.strip_prefix("::") else { continue };
        for other in first_names(rest) {
            if other != role {
                let line = source.code[..at].lines().count();
                found.push(format!("{}:{line}: role {role} must not import role {other}", source.name));
            }
        }
    }
    found
}

fn pure_bans(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.layer()) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (word, reason) in BANNED_IN_PURE {
        for at in words(&source.code, word) {
            found.push(format!("{}:{}: {word}: {reason}", source.name, source.code[..at].lines().count()));
        }
    }
    found
}

fn bans(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (text, reason) in BANNED_EVERYWHERE {
        for (at, _) in source.code.match_indices(text) {
            found.push(format!("{}:{}: {text}: {reason}", source.name, source.code[..at].lines().count()));
        }
    }
    found
}

// ---- reading Rust -----------------------------------------------------------------------------------

/// Replaces comments and the insides of string and character literals by blanks; lines stay.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = literal_or_comment(rest, out.chars().next_back());
        if skipped == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let (gone, kept) = rest.split_at(skipped);
            out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = kept;
        }
    }
    out
}

/// The length of the comment or literal that `text` begins with, else 0.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = text.strip_prefix('b').unwrap_or(text).strip_prefix('r');
    if let (false, Some(raw)) = (in_word, raw) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let head = text.len() - raw.len() + hashes + 1;
            return text[head..].find(&close).map_or(text.len(), |end| head + end + close.len());
        }
    }
    if text.starts_with('\'') {
        let mut chars = text.chars().skip(1);
        let (first, second) = (chars.next(), chars.next());
        // Else it is a lifetime.
        if first == Some('\\') || second == Some('\'') {
            return quoted(text, '\'');
        }
    }
    0
}

/// The length of a literal between `quote`s, with backslash escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Where `word` stands alone.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !code[..at].ends_with(part_of_word) && !code[at + word.len()..].starts_with(part_of_word)
    })
}

/// The length of the block that `code` begins with.
fn block_end(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    code.len()
}

/// Whether a signature ends in a semicolon before its block; `[u8; 4]` has one too.
fn semicolon_outside_brackets(signature: &str, first: usize) -> bool {
    let mut depth = 0i32;
    first < signature.len()
        && signature.chars().any(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            c == ';' && depth == 0
        })
}

/// The code with `#[cfg(test)] mod ... { ... }` blanked.
fn without_test_modules(code: &str) -> String {
    let mut out = code.to_owned();
    for (at, mark) in code.match_indices("#[cfg(test)]") {
        let rest = &code[at..];
        let Some(open) = rest.find('{') else { continue };
        if rest[mark.len()..open].contains(';') {
            continue;
        }
        let end = at + open + block_end(&rest[open..]);
        let blanked: String = code[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        if blanked.len() == end - at {
            out.replace_range(at..end, &blanked);
        }
    }
    out
}

/// Every first segment after `crate::`, or after as many `super::` as lead to the crate's root.
fn crate_paths(code: &str, depth: usize) -> Vec<(usize, String)> {
    let up = "super::".repeat(depth + 1);
    let mut found = Vec::new();
    for prefix in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let line = code[..at].lines().count();
            found.extend(first_names(&code[at + prefix.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    found
}

/// The first segments of a path or of a braced group of paths.
fn first_names(path: &str) -> Vec<String> {
    let name =
        |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    if !path.starts_with('{') {
        return vec![name(path)];
    }
    let group = &path[1..block_end(path).saturating_sub(1).max(1)];
    let (mut depth, mut names, mut part) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&std::mem::take(&mut part))),
            _ if depth == 0 => part.push(c),
            _ => {}
        }
    }
    names.push(name(&part));
    names.retain(|name| !name.is_empty());
    names
}

// ---- the tests --------------------------------------------------------------------------------------

#[test]
fn every_file_opens_with_its_purpose() {
    report("every file opens with //! and says what it is", &over_all(header));
}

#[test]
fn files_and_functions_are_short() {
    report("no file is longer than 500 lines", &over_all(file_length));
    report("no function is longer than 70 lines", &over_all(function_lengths));
}

#[test]
fn layers_import_only_from_below() {
    report("a layer imports only from lower ones (DESIGN.md section 4)", &over_all(imports));
    report("roles do not import each other", &over_all(roles_apart));
}

#[test]
fn every_folder_of_the_source_is_a_known_layer() {
    let top = ["main", "lib"];
    let unknown = |s: &Source| {
        let known = top.contains(&s.layer()) || LAYERS.iter().any(|(name, _)| *name == s.layer());
        if known { vec![] } else { vec![format!("{}: {} is no layer of this test", s.name, s.layer())] }
    };
    report("every folder of src/ is a layer", &over_all(unknown));
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let graph = Graph::new(&sources());
    let found = WITHOUT_CIRCLES.iter().flat_map(|folder| graph.circles(folder));
    let found: Vec<String> = found.map(|circle| circle.join(", ")).collect();
    report("files do not import each other in a circle", &found);
    let rooms = graph.circles_of_rooms("policy").into_iter().map(|circle| circle.join(", "));
    report("nor do the rooms of the policy", &rooms.collect::<Vec<_>>());
}

#[test]
fn pure_layers_have_no_clock_files_network_or_entropy() {
    report("layers 0 to 2 are functions of their arguments", &over_all(pure_bans));
}

#[test]
fn nothing_is_left_undone() {
    report("no placeholder, no ignored test, no sleep", &over_all(bans));
}

/// Runs one check on one made-up file.
fn findings(check: impl Fn(&Source) -> Vec<String>, name: &str, text: &str) -> usize {
    check(&Source::new(name, text)).len()
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(findings(header, "a.rs", "use x;\n"), 1);
    assert_eq!(findings(file_length, "a.rs", &"\n".repeat(MAX_FILE_LINES + 1)), 1);
    let mut long = String::from("impl T for [u8; 4] {\nfn long(a: [u8; 4]) -> usize {\n");
    for i in 0..MAX_FUNCTION_LINES {
        let _ = writeln!(long, "let _ = \"{{ {i}\"; // }}");
    }
    long.push_str("0 }\n fn next() {} }\n");
    assert_eq!(findings(function_lengths, "a.rs", &long), 1);
    assert_eq!(findings(function_lengths, "a.rs", &format!("#[cfg(test)]\nmod t {{\n{long}}}\n")), 0);
    assert_eq!(findings(function_lengths, "a.rs", "trait T { fn a(&self); fn b() { } }"), 0);
    for (name, text, want) in [
        ("model/a.rs", "use crate::formats::X;", 1),
        ("model/a.rs", "use crate::{model::Y, io::{A, B}, policy};", 2),
        ("model/a.rs", "use super::super::io::X;", 1),
        ("model/a.rs", "// use crate::io::X;", 0),
        ("policy/a.rs", "use crate::model::X; use crate::config::Y;", 0),
        ("policy/a.rs", "fn f() { crate::io::x() }", 1),
        ("io/a.rs", "use crate::policy::X;", 1),
        ("roles/serve/a.rs", "use crate::policy::X;", 0),
    ] {
        assert_eq!(findings(imports, name, text), want, "{name}: {text}");
    }
    assert_eq!(findings(roles_apart, "roles/serve/a.rs", "use crate::roles::volunteer::X;"), 1);
    assert_eq!(findings(roles_apart, "roles/serve/a.rs", "use crate::roles::serve::X;"), 0);
    assert_eq!(findings(roles_apart, "roles/demo.rs", "use super::super::roles::{serve, demo};"), 1);
    assert_eq!(findings(pure_bans, "model/a.rs", "use std::{fs, time::Instant};\nlet x: HashMap<A, B>;"), 3);
    assert_eq!(findings(pure_bans, "io/a.rs", "use std::fs;"), 0);
    assert_eq!(findings(bans, "io/a.rs", "fn a() { todo!() } #[ignore = \"x\"]"), 2);
}

#[test]
fn comments_and_literals_do_not_count() {
    let text =
        "let a = \"}\\\" crate::io\"; let b = '{'; let c = r#\"\"{\"#; /* { */ fn f<'a>(x: &'a str) {} // }";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!((code.matches('{').count(), code.matches('}').count()), (1, 1), "{code}");
    assert!(!code.contains("crate::io") && code.contains("<'a>"), "{code}");
}
