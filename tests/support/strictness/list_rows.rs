//! Rows: what is wrong with lists that a Release file names, asked for or not.

use super::Row;
use super::deb::{
    CONTENTS, DEP11, Deb, LIST, Line, OTHER_ARCHITECTURE, OTHER_COMPONENT, SOURCES, TRANSLATION, UDEBS,
};

/// How apt is told to read Contents and DEP-11, as apt-file and appstream tell it.
pub const TARGETS: &str = r#"
    Acquire::IndexTargets::deb::Contents-deb {
        MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)";
        ShortDescription "Contents-$(ARCHITECTURE)";
        Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents (deb)";
    };
    Acquire::IndexTargets::deb::DEP-11 {
        MetaKey "$(COMPONENT)/dep11/Components-$(NATIVE_ARCHITECTURE).yml";
        ShortDescription "Components-$(NATIVE_ARCHITECTURE)";
        Description "$(RELEASE)/$(COMPONENT) $(NATIVE_ARCHITECTURE) DEP-11 Metadata";
    };
"#;
/// More than anybody keeps.
const HUGE: &str = "90000000000";

/// Spoils a list by its path.
type SpoilList = fn(&mut Deb, &str);
/// Spoils one line of a Release file.
type SpoilLine = fn(&mut Line);

/// What may be wrong with a list.
const DEFECTS: [(&str, SpoilList); 4] = [
    ("stale", |deb, path| deb.make_stale(path)),
    ("missing", |deb, path| drop(deb.members.remove(path))),
    ("corrupt", |deb, path| deb.corrupt(path)),
    ("listed as 90 GB", |deb, path| deb.edit_lines(path, |line| HUGE.clone_into(&mut line.size))),
];

/// Lists by their names on the page.
const LISTS: [(&str, &str); 8] = [
    ("Packages", LIST),
    ("list of udebs", UDEBS),
    ("Sources", SOURCES),
    ("Packages of another architecture", OTHER_ARCHITECTURE),
    ("Packages of another component", OTHER_COMPONENT),
    ("Translation-en", TRANSLATION),
    ("Contents", CONTENTS),
    ("DEP-11", DEP11),
];

/// A client that asks for a list that apt does not ask for by itself.
fn asked(row: Row, path: &str) -> Option<Row> {
    let row = row.optional();
    match path {
        SOURCES => Some(row.sources()),
        OTHER_ARCHITECTURE => Some(row.option("arch=amd64,arm64")),
        OTHER_COMPONENT => Some(row.components("main contrib")),
        CONTENTS | DEP11 => Some(row.settings(TARGETS)),
        _ => None,
    }
}

/// A name of letters, digits and `-`.
fn slug(text: &str) -> String {
    text.replace(' ', "-").replace(['(', ')', ',', ':'], "").to_lowercase()
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::deb("good", "none", |_| {}),
        Row::deb("good-all", "none, every list is asked for", |_| {})
            .sources()
            .option("arch=amd64,arm64")
            .components("main contrib")
            .settings(TARGETS),
        Row::flat("flat-good", "none, flat", |_| {}),
        Row::deb("by-hash-only", "lists only in by-hash folders", |deb| {
            deb.only(&["MD5Sum", "SHA256"]);
            deb.move_to_by_hash();
        }),
        Row::deb("by-hash-promised", "Acquire-By-Hash without by-hash folders", |deb| {
            deb.set("Acquire-By-Hash", Some("yes"));
        }),
        Row::flat("flat-stale-sources", "flat: Sources stale", |deb| deb.make_stale("Sources.xz")),
        Row::flat("flat-stale-packages", "flat: Packages stale", |deb| deb.make_stale("Packages.xz")),
        Row::flat("flat-missing-packages", "flat: Packages missing", |deb| {
            deb.members.clear();
        }),
    ];
    for (list, path) in LISTS {
        for (defect, spoil) in DEFECTS {
            let text = format!("{list} {defect}");
            rows.push(Row::deb(slug(&text), text.clone(), move |deb| spoil(deb, path)));
            let text = format!("{text}, and asked for");
            rows.extend(asked(Row::deb(slug(&text), text.clone(), move |deb| spoil(deb, path)), path));
        }
    }
    rows.extend(listings());
    rows.extend(lines());
    rows.extend(digests());
    rows
}

/// What a Release file lists, and how.
fn listings() -> Vec<Row> {
    let without = |deb: &mut Deb, path: &str| {
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem).to_owned();
        for (_, lines) in &mut deb.sections {
            lines.retain(|line| !line.path.starts_with(&stem));
        }
    };
    vec![
        Row::deb("unlisted", "Release does not list Packages", move |deb| without(deb, LIST)),
        Row::deb("unlisted-translation", "Release does not list Translation-en", move |deb| {
            without(deb, TRANSLATION);
        }),
        Row::deb("lists-nothing", "Release lists no file", |deb| deb.sections.clear()),
        Row::deb("other-components", "Components does not name the component", |deb| {
            deb.set("Components", Some("extra"));
        }),
        Row::deb("no-components", "no Components", |deb| deb.set("Components", None)),
        Row::deb("other-architectures", "Architectures does not name the architecture", |deb| {
            deb.set("Architectures", Some("riscv64"));
        }),
        Row::deb("no-suite", "no Suite and no Codename", |deb| {
            deb.set("Suite", None);
            deb.set("Codename", None);
        }),
        Row::deb("listed-twice", "Packages listed twice", |deb| {
            deb.sections.iter_mut().for_each(|(_, lines)| *lines = [lines.clone(), lines.clone()].concat());
        }),
        Row::deb("wrong-then-right", "Packages listed twice, the right one last", |deb| {
            listed_twice(deb, false);
        }),
        Row::deb("right-then-wrong", "Packages listed twice, the right one first", |deb| {
            listed_twice(deb, true);
        }),
        Row::deb("size-wrong", "Packages: wrong size", |deb| deb.edit_lines(LIST, one_more)),
        Row::deb("size-wrong-once", "Packages: wrong size below MD5Sum", |deb| {
            deb.lines("MD5Sum", LIST).for_each(one_more);
        }),
        Row::deb("size-no-number", "Packages: size is no number", |deb| {
            deb.edit_lines(LIST, |line| "big".clone_into(&mut line.size));
        }),
        Row::deb("size-no-number-elsewhere", "Sources: size is no number", |deb| {
            deb.edit_lines(SOURCES, |line| "big".clone_into(&mut line.size));
        }),
    ]
}

/// Lines of a Release file that are short, or name their file in an unusual way.
fn lines() -> Vec<Row> {
    vec![
        Row::deb("short-line", "Release lists a file without digest and size", |deb| {
            deb.sections.iter_mut().for_each(|(_, lines)| lines.push(line_of("", "", "main/else")));
        }),
        Row::deb("path-up", "Release lists a file above its folder", |deb| {
            let digest = "0".repeat(64);
            deb.sections.iter_mut().for_each(|(_, lines)| lines.push(line_of(&digest, "5", "../../../else")));
        }),
        Row::deb("path-absolute", "Release lists a file by its absolute path", |deb| {
            let digest = "0".repeat(64);
            deb.sections.iter_mut().for_each(|(_, lines)| lines.push(line_of(&digest, "5", "/etc/else")));
        }),
        Row::deb("path-dot", "Release lists files with a leading ./", |deb| {
            let lines = deb.sections.iter_mut().flat_map(|(_, lines)| lines);
            lines.for_each(|line| line.path.insert_str(0, "./"));
        }),
        Row::flat("flat-path-dot", "flat: Release lists files with a leading ./", |deb| {
            let lines = deb.sections.iter_mut().flat_map(|(_, lines)| lines);
            lines.for_each(|line| line.path.insert_str(0, "./"));
        }),
        Row::deb("short-line-first", "Release lists a file without digest and size first", |deb| {
            deb.sections.iter_mut().for_each(|(_, lines)| lines.insert(0, line_of("", "", "main/else")));
        }),
        Row::deb("short-line-two", "Release lists a digest and a size without a file", |deb| {
            let digest = "0".repeat(64);
            deb.sections.iter_mut().for_each(|(_, lines)| lines.push(line_of(&digest, "5", "")));
        }),
        Row::deb("short-line-one", "Release lists a file without digest and size below MD5Sum", |deb| {
            let lines = deb.sections.iter_mut().filter(|(name, _)| *name == "MD5Sum");
            lines.for_each(|(_, lines)| lines.push(line_of("", "", "main/else")));
        }),
    ]
}

fn line_of(digest: &str, size: &str, path: &str) -> Line {
    Line { digest: digest.to_owned(), size: size.to_owned(), path: path.to_owned() }
}

fn one_more(line: &mut Line) {
    let size: u64 = line.size.parse().expect("not spoilt yet");
    line.size = (size + 1).to_string();
}

fn listed_twice(deb: &mut Deb, right_first: bool) {
    for (_, lines) in &mut deb.sections {
        let wrong = lines.iter().map(|line| Line { digest: shifted(&line.digest), ..line.clone() });
        let wrong: Vec<Line> = wrong.collect();
        *lines = if right_first { [lines.clone(), wrong].concat() } else { [wrong, lines.clone()].concat() };
    }
}

/// Another digest of the same form.
fn shifted(digest: &str) -> String {
    let (first, rest) = digest.split_at(1);
    format!("{rest}{first}")
}

/// What may be wrong with one digest of several.
const SPOILT: [(&str, SpoilLine); 6] = [
    ("wrong", |line| line.digest = shifted(&line.digest)),
    ("cut to half", |line| line.digest.truncate(line.digest.len() / 2)),
    ("not hexadecimal", |line| line.digest = "z".repeat(line.digest.len())),
    ("too long", |line| line.digest.push_str("00")),
    ("empty", |line| line.digest = "-".to_owned()),
    ("in capitals", |line| line.digest = line.digest.to_uppercase()),
];

fn digests() -> Vec<Row> {
    let mut rows = Vec::new();
    for section in ["MD5Sum", "SHA1", "SHA256", "SHA512"] {
        for (defect, spoil) in SPOILT {
            let text = format!("Packages: {section} {defect}, others right");
            rows.push(Row::deb(slug(&text), text.clone(), move |deb| {
                deb.lines(section, LIST).for_each(spoil);
            }));
        }
        rows.push(Row::deb(slug(&format!("only {section}")), format!("only {section}"), move |deb| {
            deb.only(&[section]);
        }));
    }
    rows.extend([
        Row::deb("only-weak", "only MD5Sum and SHA1", |deb| deb.only(&["MD5Sum", "SHA1"])),
        Row::deb("only-weak-trusted", "only MD5Sum, trusted=yes", |deb| deb.only(&["MD5Sum"]))
            .trust(super::Trust::Blind),
        Row::deb("sha256-wrong-elsewhere", "Sources: SHA256 not hexadecimal, others right", |deb| {
            deb.lines("SHA256", SOURCES).for_each(SPOILT[2].1);
        }),
    ]);
    rows
}
