//! Circles of imports: files that import each other, straight or by way of others.
//!
//! A file imports the file that defines what it names: `use crate::...` and `use super::...`, such paths within
//! code, and in a file with `mod child;` paths that begin with `child::`. A re-export hands on, so that whoever
//! uses it imports what is behind it; neither it nor a `mod` line is an import itself. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, block_end, without_test_modules, words};

/// Segments of a path from the crate's root.
type Path = Vec<String>;

/// What one file says.
#[derive(Default)]
struct Module {
    /// `pub use` by the name that it gives; globs by `*`.
    handed_on: Vec<(String, Path)>,
    imports: Vec<Path>,
    /// What is defined at any depth, roughly.
    defined: BTreeSet<String>,
}

/// The source's files with what each imports; names as below `src/`.
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    pub fn new(sources: &[Source]) -> Self {
        let sources = sources.iter().filter(|source| !source.is_test_file());
        let sources: BTreeMap<Path, &Source> =
            sources.map(|source| (module_path(&source.name), source)).collect();
        let modules: BTreeMap<&Path, Module> =
            sources.iter().map(|(path, source)| (path, read(path, source))).collect();
        let edges = |(path, module): (&&Path, &Module)| {
            let targets = module.imports.iter().filter_map(|import| resolve(&modules, import, 0));
            let targets = targets.filter(|target| target != path).map(|target| sources[target].name.clone());
            (sources[*path].name.clone(), targets.collect())
        };
        Self(modules.iter().map(edges).collect())
    }

    /// The circles among files below a folder of `src/`, each with its files in order.
    pub fn circles(&self, folder: &str) -> Vec<Vec<String>> {
        let prefix = format!("{folder}/");
        self.circles_by(|name| name.starts_with(&prefix).then(|| name.to_owned()))
    }

    /// The circles among a folder's rooms: its folders and single files. The folder's own `mod.rs` is none.
    pub fn circles_of_rooms(&self, folder: &str) -> Vec<Vec<String>> {
        let prefix = format!("{folder}/");
        self.circles_by(|name| {
            let room = name.strip_prefix(&prefix)?.split('/').next()?;
            (room != "mod.rs").then(|| format!("{prefix}{room}"))
        })
    }

    fn circles_by(&self, node: impl Fn(&str) -> Option<String>) -> Vec<Vec<String>> {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in &self.0 {
            let Some(from) = node(from) else { continue };
            let to = to.iter().filter_map(|name| node(name)).filter(|to| *to != from);
            graph.entry(from.clone()).or_default().extend(to);
        }
        let reached: BTreeMap<&String, BTreeSet<&String>> =
            graph.keys().map(|from| (from, reachable(&graph, from))).collect();
        let mut circles = BTreeSet::new();
        for (from, to) in &reached {
            let both = to.iter().filter(|to| reached.get(*to).is_some_and(|back| back.contains(from)));
            let circle: Vec<String> = both.map(|name| (*name).clone()).collect();
            circles.extend((!circle.is_empty()).then_some(circle));
        }
        circles.into_iter().collect()
    }
}

fn reachable<'a>(graph: &'a BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = graph[from].iter().collect();
    while let Some(name) = next.pop() {
        if seen.insert(name) {
            next.extend(graph.get(name).into_iter().flatten());
        }
    }
    seen
}

/// `policy/fleet/mod.rs` is `[policy, fleet]`, `lib.rs` the root.
fn module_path(name: &str) -> Path {
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    let mut path: Path = stem.split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod" || (path.len() == 1 && last == "lib")) {
        path.pop();
    }
    path
}

/// The file that defines what a path names, through re-exports.
fn resolve<'a>(modules: &BTreeMap<&'a Path, Module>, path: &Path, depth: usize) -> Option<&'a Path> {
    let length = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length].to_vec()))?;
    let (file, module) = modules.get_key_value(&path[..length].to_vec())?;
    let Some(name) = path.get(length) else { return Some(file) };
    // A re-export of a re-export, and no further: a file that hands on from itself would be followed for ever.
    if depth > 8 || module.defined.contains(name) {
        return Some(file);
    }
    let named = module.handed_on.iter().find(|(given, _)| given == name).map(|(_, to)| to.clone());
    let through = |to: &Path| [to.as_slice(), &path[length + 1..]].concat();
    if let Some(to) = named {
        return resolve(modules, &through(&to), depth + 1);
    }
    let globs = module.handed_on.iter().filter(|(given, _)| given == "*");
    let mut behind = globs.filter_map(|(_, to)| modules.get_key_value(to));
    let defines = behind.find(|(_, module)| module.defined.contains(name));
    Some(defines.map_or(*file, |(file, _)| *file))
}

fn read(path: &Path, source: &Source) -> Module {
    let code = without_test_modules(&source.code);
    let mut module = Module::default();
    let children: Vec<String> = words(&code, "mod").filter_map(|at| child(&code[at + 3..])).collect();
    for keyword in ["fn", "struct", "enum", "trait", "type", "const", "static", "union"] {
        module
            .defined
            .extend(words(&code, keyword).map(|at| first_word(code[at + keyword.len()..].trim_start())));
    }
    let mut rest = code.clone();
    for at in words(&code, "use") {
        let before = code[..at].trim_end();
        // `impl Iterator + use<>` says what is captured.
        if code[at + 3..].starts_with('<') {
            continue;
        }
        let end = code[at..].find(';').map_or(code.len(), |end| at + end);
        rest.replace_range(at..end, &" ".repeat(end - at));
        if before.ends_with("#[cfg(test)]") {
            continue;
        }
        let mut paths = Vec::new();
        expand(&code[at + 3..end], &[], &mut paths);
        let is_handed_on = before.ends_with("pub") || before.ends_with(')');
        for (name, segments) in paths {
            let Some(full) = absolute(path, &children, &segments) else { continue };
            if is_handed_on {
                module.handed_on.push((name, full));
            } else {
                module.imports.push(full);
            }
        }
    }
    // Paths in the code itself.
    let starts = ["crate", "super"].into_iter().chain(children.iter().map(String::as_str));
    for start in starts {
        for at in words(&rest, start) {
            // Within a longer path, or the `pub(in crate::x)` of a visibility.
            let is_other = rest[..at].ends_with("::") || rest[..at].ends_with("(in ");
            if is_other || !rest[at + start.len()..].starts_with("::") {
                continue;
            }
            let end = rest[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let text = &rest[at..end.map_or(rest.len(), |end| at + end)];
            let segments: Path =
                text.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
            module.imports.extend(absolute(path, &children, &segments));
        }
    }
    module
}

/// The name in ` name;` after `mod`.
fn child(rest: &str) -> Option<String> {
    let name = first_word(rest.trim_start());
    rest.trim_start()[name.len()..].starts_with(';').then_some(name)
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// A path from the crate's root; none of another crate.
fn absolute(here: &Path, children: &[String], segments: &[String]) -> Option<Path> {
    let (first, rest) = segments.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([here.as_slice(), rest].concat()),
        "super" => absolute_up(here.split_last()?.1, rest),
        name if children.iter().any(|child| child == name) => Some([here.as_slice(), segments].concat()),
        _ => None,
    }
}

fn absolute_up(here: &[String], segments: &[String]) -> Option<Path> {
    match segments.split_first() {
        Some((first, rest)) if first == "super" => absolute_up(here.split_last()?.1, rest),
        _ => Some([here, segments].concat()),
    }
}

/// The paths of a `use` tree, each with the name that it gives.
fn expand(tree: &str, before: &[String], paths: &mut Vec<(String, Path)>) {
    let tree = tree.trim();
    let open = tree.find('{');
    let head = &tree[..open.unwrap_or(tree.len())];
    let (head, alias) = match head.split_once(" as ") {
        Some((head, alias)) => (head, Some(alias.trim().to_owned())),
        None => (head, None),
    };
    let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty());
    let mut path: Path = before.iter().cloned().chain(parts.map(str::to_owned)).collect();
    let Some(open) = open else {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
        if name == "*" {
            path.pop();
        }
        paths.push((name, path));
        return;
    };
    let inner = &tree[open + 1..open + block_end(&tree[open..]) - 1];
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &inner[from..at];
                if !part.trim().is_empty() {
                    expand(part, &path, paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

#[test]
fn circles_are_seen_through_re_exports_groups_and_parents() {
    let circles = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files.iter().map(|(name, text)| Source::new(name, text)).collect();
        Graph::new(&sources).circles("p").len()
    };
    let parent = ("p/mod.rs", "mod a; mod b; pub use a::A; pub use b::{self, B as C}; pub(crate) use b::*;");
    let (a, b) = (("p/a.rs", "use super::b::B; struct A;"), ("p/b.rs", "struct B; struct D;"));
    assert_eq!(circles(&[parent, a, b]), 0);
    for back in [
        "use super::a::A; struct B;",
        "use super::A; struct B;",
        "use crate::{p::{A}, q}; struct B;",
        "fn f() -> crate::p::A {} struct B;",
        "use super::{b, a::{self}}; struct B;",
    ] {
        assert_eq!(circles(&[parent, a, ("p/b.rs", back)]), 1, "{back}");
    }
    for none in [
        "// use super::a::A;\nstruct B;",
        "struct B; #[cfg(test)] mod tests { use super::super::a::A; }",
        "struct B; #[cfg(test)] use super::a::A;",
        "pub(in crate::p) struct B; fn f() -> impl Sized + use<> {}",
        "use crate::q::A; use a::A; struct B;",
    ] {
        assert_eq!(circles(&[parent, a, ("p/b.rs", none)]), 0, "{none}");
    }
    for renamed in ["C", "D"] {
        let a = ("p/a.rs", format!("use super::{renamed}; struct A;"));
        let b = ("p/b.rs", "use super::A; struct B; struct D;");
        assert_eq!(circles(&[parent, (a.0, &a.1), b]), 1, "{renamed}");
    }
    let user = ("p/mod.rs", "mod a; mod b; struct P; fn f() { a::g() }");
    assert_eq!(circles(&[user, ("p/a.rs", "use super::P; fn g() {}"), b]), 1);
    assert_eq!(circles(&[user, ("p/a.rs", "fn g() {}"), ("p/b.rs", "use super::P;")]), 0);
}
