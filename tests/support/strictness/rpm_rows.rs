//! Rows: repomd.xml, its lists, its signature.

use super::Row;
use super::clients::Outcome;
use super::rpm::{Packing, Rpm, digest};

pub fn rows() -> Vec<Row> {
    let mut rows = vec![Row::rpm("rpm-good", "none", |_| {})];
    rows.extend([sizes(), checksums(), missing(), packings(), encodings()].into_iter().flatten());
    rows.extend([primaries(), places(), repomds(), signatures()].into_iter().flatten());
    rows
}

fn sizes() -> Vec<Row> {
    let all = |rpm: &mut Rpm, change: fn(&mut super::rpm::Data)| rpm.data.iter_mut().for_each(change);
    vec![
        Row::rpm("rpm-no-size", "no size", move |rpm| all(rpm, |data| data.size = None)),
        Row::rpm("rpm-no-open-size", "no open-size", move |rpm| all(rpm, |data| data.open_size = None)),
        Row::rpm("rpm-size-wrong", "primary: wrong size", |rpm| {
            rpm.at("primary").size = Some("77".to_owned());
        }),
        Row::rpm("rpm-size-large", "primary: size of 90 GB", |rpm| {
            rpm.at("primary").size = Some("90000000000".to_owned());
        }),
        Row::rpm("rpm-size-zero", "primary: size of 0", |rpm| {
            rpm.at("primary").size = Some("0".to_owned());
        }),
        Row::rpm("rpm-size-no-number", "primary: size is no number", |rpm| {
            rpm.at("primary").size = Some("big".to_owned());
        }),
        Row::rpm("rpm-other-size-wrong", "other: wrong size", |rpm| {
            rpm.at("other").size = Some("77".to_owned());
        }),
        Row::rpm("rpm-other-size-large", "other: size of 90 GB", |rpm| {
            rpm.at("other").size = Some("90000000000".to_owned());
        }),
        Row::rpm("rpm-open-size-wrong", "primary: wrong open-size", |rpm| {
            rpm.at("primary").open_size = Some("77".to_owned());
        }),
        Row::rpm("rpm-open-size-large", "primary: open-size of 90 GB", |rpm| {
            rpm.at("primary").open_size = Some("90000000000".to_owned());
        }),
    ]
}

/// Types of digests that repomd.xml or primary may name.
const TYPES: [&str; 8] = ["md5", "sha", "sha1", "sha224", "sha256", "sha384", "sha512", "crc32"];

fn checksums() -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in TYPES {
        rows.push(Row::rpm(format!("rpm-sum-{kind}"), format!("checksums of type {kind}"), move |rpm| {
            rpm.pack(Packing::Gzip, kind);
        }));
        let defect = format!("the package's checksum of type {kind}");
        rows.push(Row::rpm(format!("rpm-package-sum-{kind}"), defect, move |rpm| rpm.sum_packages(kind)));
    }
    rows.extend([
        Row::rpm("rpm-no-sum", "primary: no checksum", |rpm| rpm.at("primary").checksum = None),
        Row::rpm("rpm-sum-capitals", "primary: checksum in capitals", |rpm| {
            let sum = rpm.at("primary").checksum.as_mut().expect("not spoilt yet");
            sum.1 = sum.1.to_uppercase();
        }),
        Row::rpm("rpm-sum-type-capitals", "primary: checksum of type SHA256", |rpm| {
            rpm.at("primary").checksum.as_mut().expect("not spoilt yet").0 = "SHA256".to_owned();
        }),
        Row::rpm("rpm-sum-wrong", "primary: wrong checksum", |rpm| {
            rpm.at("primary").checksum = Some(("sha256".to_owned(), "0".repeat(64)));
        }),
        Row::rpm("rpm-sum-cut", "primary: checksum cut to half", |rpm| {
            rpm.at("primary").checksum.as_mut().expect("not spoilt yet").1.truncate(32);
        }),
        Row::rpm("rpm-sum-white", "primary: checksum with white space around", |rpm| {
            let sum = rpm.at("primary").checksum.as_mut().expect("not spoilt yet");
            sum.1 = format!("\n {} \n", sum.1);
        }),
        Row::rpm("rpm-no-open-sum", "primary: no open-checksum", |rpm| {
            rpm.at("primary").open_checksum = None;
        }),
        Row::rpm("rpm-open-sum-wrong", "primary: wrong open-checksum", |rpm| {
            rpm.at("primary").open_checksum = Some(("sha256".to_owned(), "0".repeat(64)));
        }),
        Row::rpm("rpm-open-sum-unknown", "primary: open-checksum of type crc32", |rpm| {
            rpm.at("primary").open_checksum = Some(("crc32".to_owned(), "01234567".to_owned()));
        }),
        Row::rpm("rpm-other-sum-unknown", "other: checksum of type crc32", |rpm| {
            rpm.at("other").checksum = Some(("crc32".to_owned(), "01234567".to_owned()));
        }),
        Row::rpm("rpm-updateinfo-sum-wrong", "updateinfo: wrong checksum", |rpm| {
            rpm.at("updateinfo").checksum = Some(("sha256".to_owned(), "0".repeat(64)));
        }),
    ]);
    rows
}

fn missing() -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in ["primary", "filelists", "other", "updateinfo", "group"] {
        rows.push(Row::rpm(format!("rpm-missing-{kind}"), format!("{kind}: file missing"), move |rpm| {
            rpm.at(kind).is_there = false;
        }));
        rows.push(Row::rpm(
            format!("rpm-stale-{kind}"),
            format!("{kind}: file of another generation"),
            move |rpm| {
                rpm.make_stale(kind);
            },
        ));
        rows.push(Row::rpm(
            format!("rpm-unlisted-{kind}"),
            format!("{kind}: not in repomd.xml"),
            move |rpm| {
                rpm.drop_data(kind);
            },
        ));
    }
    rows.extend([
        Row::rpm("rpm-nothing-listed", "repomd.xml lists nothing", |rpm| rpm.data.clear()),
        Row::rpm("rpm-listed-twice", "primary listed twice", |rpm| {
            let again = rpm.at("primary").clone();
            rpm.data.push(again);
        }),
        Row::rpm("rpm-unknown-kind", "a list of a kind that nobody knows, missing", |rpm| {
            let other = rpm.at("other").clone();
            rpm.data.push(super::rpm::Data {
                kind: "hands",
                href: "repodata/hands.xml.gz".to_owned(),
                is_there: false,
                ..other
            });
        }),
    ]);
    rows
}

fn packings() -> Vec<Row> {
    let mut rows = Vec::new();
    for (packing, name) in [
        (Packing::None, "as plain XML"),
        (Packing::Bzip2, "packed by bzip2"),
        (Packing::Xz, "packed by xz"),
        (Packing::Zstd, "packed by zstd"),
    ] {
        let slug = name.rsplit(' ').next().unwrap_or(name).to_lowercase();
        rows.push(Row::rpm(format!("rpm-packed-{slug}"), format!("lists {name}"), move |rpm| {
            rpm.pack(packing, "sha256");
        }));
    }
    rows.extend([
        Row::rpm("rpm-packed-otherwise", "primary: named .gz, packed by xz", |rpm| {
            rpm.pack(Packing::Xz, "sha256");
            rpm.at("primary").href = "repodata/primary.xml.gz".to_owned();
        }),
        Row::rpm("rpm-packed-unnamed", "primary: packed by gzip, named .xml", |rpm| {
            rpm.at("primary").href = "repodata/primary.xml".to_owned();
        }),
        Row::rpm("rpm-cut", "primary: gzip cut short, listed so", |rpm| {
            let data = rpm.at("primary");
            data.bytes.truncate(data.bytes.len() / 2);
            data.size = Some(data.bytes.len().to_string());
            data.checksum = Some(("sha256".to_owned(), digest("sha256", &data.bytes)));
        }),
    ]);
    rows
}

/// The declaration of an XML document in another encoding.
fn declared(text: &str, encoding: &str) -> String {
    text.replacen("UTF-8", encoding, 1)
}

/// With a letter outside ASCII where people put them.
fn accented(text: &str) -> String {
    text.replace("<packager></packager>", "<packager>Zoë</packager>").replace("<summary>A ", "<summary>À ")
}

fn latin_1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a letter of Latin-1")).collect()
}

fn utf_16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

fn encodings() -> Vec<Row> {
    vec![
        Row::rpm("rpm-accents", "primary: UTF-8 beyond ASCII", |rpm| rpm.edit("primary", accented)),
        Row::rpm("rpm-latin-1", "primary: ISO-8859-1, declared", |rpm| {
            let text = declared(&accented(rpm.says("primary")), "ISO-8859-1");
            rpm.set("primary", &latin_1(&text));
        }),
        Row::rpm("rpm-latin-1-undeclared", "primary: ISO-8859-1, declared as UTF-8", |rpm| {
            let text = accented(rpm.says("primary"));
            rpm.set("primary", &latin_1(&text));
        }),
        Row::rpm("rpm-utf-16", "primary: UTF-16, declared", |rpm| {
            let text = declared(rpm.says("primary"), "UTF-16");
            rpm.set("primary", &utf_16(&text));
        }),
        Row::rpm("rpm-utf-16-undeclared", "primary: declared as UTF-16, is UTF-8", |rpm| {
            rpm.edit("primary", |text| declared(text, "UTF-16"));
        }),
        Row::rpm("rpm-unknown-encoding", "primary: declared in an encoding that nobody knows", |rpm| {
            rpm.edit("primary", |text| declared(text, "HANDS-1"));
        }),
        Row::rpm("rpm-ascii", "primary: declared as US-ASCII", |rpm| {
            rpm.edit("primary", |text| declared(text, "US-ASCII"));
        }),
        Row::rpm("rpm-bom", "primary: with a byte order mark", |rpm| {
            rpm.edit("primary", |text| format!("\u{feff}{text}"));
        }),
        Row::rpm("rpm-no-declaration", "primary: no XML declaration", |rpm| {
            rpm.edit("primary", |text| text.split_once("?>\n").map_or(text, |(_, rest)| rest).to_owned());
        }),
        Row::rpm("rpm-control", "primary: a control character", |rpm| {
            rpm.edit("primary", |text| text.replace("<summary>A ", "<summary>\u{1}A "));
        }),
        Row::rpm("rpm-repomd-latin-1", "repomd.xml: ISO-8859-1, declared", |rpm| {
            rpm.text = |text| latin_1(&declared(&text.replace("<revision>", "<revision>ë"), "ISO-8859-1"));
        }),
        Row::rpm("rpm-repomd-latin-1-undeclared", "repomd.xml: ISO-8859-1, declared as UTF-8", |rpm| {
            rpm.text = |text| latin_1(&text.replace("<revision>", "<revision>ë"));
        }),
        Row::rpm("rpm-repomd-utf-16", "repomd.xml: UTF-16, declared", |rpm| {
            rpm.text = |text| utf_16(&declared(&text, "UTF-16"));
        }),
        Row::rpm("rpm-repomd-bom", "repomd.xml: with a byte order mark", |rpm| {
            rpm.text = |text| format!("\u{feff}{text}").into_bytes();
        }),
        Row::rpm("rpm-updateinfo-latin-1", "updateinfo: ISO-8859-1, declared as UTF-8", |rpm| {
            let text = rpm.says("updateinfo").replace("<title>test", "<title>tést");
            rpm.set("updateinfo", &latin_1(&text));
        }),
    ]
}

/// What primary may say of a package.
fn primaries() -> Vec<Row> {
    vec![
        Row::rpm("rpm-package-no-size", "primary: the package without size", |rpm| {
            rpm.edit("primary", |text| without_line(text, "<size "));
        }),
        Row::rpm("rpm-package-size-wrong", "primary: a wrong size of the package", |rpm| {
            rpm.edit("primary", |text| text.replace("size package=\"2", "size package=\"3"));
        }),
        Row::rpm("rpm-package-sum-wrong", "primary: a wrong checksum of the package", |rpm| {
            rpm.edit("primary", |text| {
                let at = text.find("pkgid=\"YES\">").expect("it has one") + "pkgid=\"YES\">".len();
                format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..])
            });
        })
        .package(),
        Row::rpm("rpm-package-no-sum", "primary: the package without checksum", |rpm| {
            rpm.edit("primary", |text| without_line(text, "<checksum "));
        }),
        Row::rpm("rpm-package-no-location", "primary: another package without location", |rpm| {
            rpm.edit("primary", |text| another(text, |entry| without_line(entry, "<location ")));
        }),
        Row::rpm("rpm-package-twice", "primary: the package twice", |rpm| {
            rpm.edit("primary", |text| another(text, str::to_owned));
        }),
        Row::rpm("rpm-count-wrong", "primary: says that it has 7 packages", |rpm| {
            rpm.edit("primary", |text| text.replace("packages=\"1\"", "packages=\"7\""));
        }),
        Row::rpm("rpm-empty", "primary: no package", |rpm| {
            for (list, root) in [("primary", "metadata"), ("filelists", "filelists"), ("other", "otherdata")]
            {
                let end = format!("</{root}>");
                rpm.edit(list, |text| {
                    let at = text.find("<package ").expect("it has one");
                    format!("{}{end}\n", &text[..at]).replace("packages=\"1\"", "packages=\"0\"")
                });
            }
        })
        .package(),
        Row::rpm("rpm-primary-cut", "primary: XML cut short", |rpm| {
            rpm.edit("primary", |text| text[..text.len() / 2].to_owned());
        }),
        Row::rpm("rpm-primary-unclosed", "primary: XML without its last end tag", |rpm| {
            rpm.edit("primary", |text| text.replace("</metadata>", ""));
        }),
        Row::rpm("rpm-primary-html", "primary: HTML, listed so", |rpm| {
            rpm.set("primary", b"<html><body>Please log in.</body></html>\n");
        }),
        Row::rpm("rpm-primary-entity", "primary: an entity that nobody knows", |rpm| {
            rpm.edit("primary", |text| text.replace("<summary>A ", "<summary>&nbsp;A "));
        }),
        Row::rpm("rpm-primary-doctype", "primary: with a DOCTYPE", |rpm| {
            rpm.edit("primary", |text| text.replace("?>\n", "?>\n<!DOCTYPE metadata>\n"));
        }),
        Row::rpm("rpm-updateinfo-bad", "updateinfo: not well-formed", |rpm| {
            rpm.set("updateinfo", b"<updates><update></updates>");
        }),
        Row::rpm("rpm-group-bad", "group: not well-formed", |rpm| {
            rpm.set("group", b"<comps><group></comps>")
        }),
        Row::rpm("rpm-filelists-bad", "filelists: not well-formed", |rpm| {
            rpm.set("filelists", b"<filelists><package></filelists>");
        }),
        Row::rpm("rpm-other-bad", "other: not well-formed", |rpm| rpm.set("other", b"<otherdata><package>")),
    ]
}

fn without_line(text: &str, mark: &str) -> String {
    text.lines().filter(|line| !line.contains(mark)).map(|line| format!("{line}\n")).collect()
}

/// The same with a second entry, changed.
fn another(text: &str, change: impl Fn(&str) -> String) -> String {
    let at = text.find("<package ").expect("it has one");
    let end = text.find("</metadata>").expect("it has one");
    format!("{}{}{}", &text[..end], change(&text[at..end]), &text[end..])
        .replace("packages=\"1\"", "packages=\"2\"")
}

/// Where lists and packages are.
fn places() -> Vec<Row> {
    let locate = |rpm: &mut Rpm, location: &str| {
        rpm.edit("primary", |text| {
            text.replace("<location href=\"Packages/hands-tiny-1.0-1.noarch.rpm\"", location)
        });
    };
    vec![
        Row::rpm("rpm-base", "primary: xml:base of the package, on the origin", move |rpm| {
            let base = format!("<location xml:base=\"{}\" href=\"{}\"", rpm.url, rpm.file);
            locate(rpm, &base);
        }),
        Row::rpm("rpm-absolute", "primary: href of the package is a URL on the origin", move |rpm| {
            let href = format!("<location href=\"{}{}\"", rpm.url, rpm.file);
            locate(rpm, &href);
        }),
        Row::rpm("rpm-up", "primary: href of the package leads out of the repository", move |rpm| {
            rpm.file = "../rpm-up-packages/hands-tiny-1.0-1.noarch.rpm".to_owned();
            let href = format!("<location href=\"{}\"", rpm.file);
            locate(rpm, &href);
        })
        .differs(Outcome::Refuses, "nothing outside of the repository is served"),
        Row::rpm("rpm-inner-up", "primary: href of the package with .. inside the repository", move |rpm| {
            let href = format!("<location href=\"repodata/../{}\"", rpm.file);
            locate(rpm, &href);
        }),
        Row::rpm("rpm-dot", "primary: href of the package begins with ./", move |rpm| {
            let href = format!("<location href=\"./{}\"", rpm.file);
            locate(rpm, &href);
        }),
        Row::rpm("rpm-slash", "primary: href of the package begins with /", move |rpm| {
            let href = format!("<location href=\"/{}\"", rpm.file);
            locate(rpm, &href);
        }),
        Row::rpm("rpm-list-base", "repomd.xml: xml:base of primary, on the origin", |rpm| {
            let base = rpm.url.clone();
            rpm.at("primary").base = Some(base);
        }),
        Row::rpm("rpm-list-elsewhere", "repomd.xml: lists outside of repodata", |rpm| {
            for data in &mut rpm.data {
                data.href = data.href.replace("repodata/", "lists/");
            }
        }),
        Row::rpm("rpm-list-below", "repomd.xml: lists in a folder of repodata", |rpm| {
            for data in &mut rpm.data {
                data.href = data.href.replace("repodata/", "repodata/lists/");
            }
        }),
        Row::rpm("rpm-list-beside", "repomd.xml: lists in the repository's own folder", |rpm| {
            for data in &mut rpm.data {
                data.href = data.href.replace("repodata/", "");
            }
        }),
        Row::rpm("rpm-other-elsewhere", "repomd.xml: other outside of repodata", |rpm| {
            rpm.at("other").href = "lists/other.xml.gz".to_owned();
        }),
        Row::rpm("rpm-filelists-elsewhere", "repomd.xml: filelists outside of repodata", |rpm| {
            rpm.at("filelists").href = "lists/filelists.xml.gz".to_owned();
        }),
        Row::rpm("rpm-list-up", "repomd.xml: other above the repository", |rpm| {
            rpm.at("other").href = "../rpm-list-up-lists/other.xml.gz".to_owned();
        }),
    ]
}

/// Forms of repomd.xml.
fn repomds() -> Vec<Row> {
    vec![
        Row::rpm("rpm-repomd-doctype", "repomd.xml: with a DOCTYPE", |rpm| {
            rpm.text = |text| text.replace("?>\n", "?>\n<!DOCTYPE repomd>\n").into_bytes();
        }),
        Row::rpm("rpm-repomd-entities", "repomd.xml: a DOCTYPE with an entity, used", |rpm| {
            rpm.text = |text| {
                let text = text.replace("?>\n", "?>\n<!DOCTYPE repomd [<!ENTITY r \"1\">]>\n");
                text.replace("<revision>", "<revision>&r;").into_bytes()
            };
        }),
        Row::rpm("rpm-repomd-no-namespace", "repomd.xml: no namespaces", |rpm| {
            rpm.text = |text| {
                let at = text.find("<repomd").expect("its root");
                let end = at + text[at..].find('>').expect("its end");
                format!("{}<repomd{}", &text[..at], &text[end..]).into_bytes()
            };
        }),
        Row::rpm("rpm-repomd-prefix", "repomd.xml: elements with a prefix", |rpm| {
            rpm.text = |text| {
                let text = text.replace("xmlns=", "xmlns:r=");
                let text = text.replace("</", "</r:").replace('<', "<r:").replace("<r:/r:", "</r:");
                text.replace("<r:?", "<?").into_bytes()
            };
        }),
        Row::rpm("rpm-repomd-no-revision", "repomd.xml: no revision", |rpm| {
            rpm.text = |text| without_line(&text, "<revision>").into_bytes();
        }),
        Row::rpm("rpm-repomd-cut", "repomd.xml: cut short", |rpm| {
            rpm.text = |text| text.as_bytes()[..text.len() - 20].to_vec();
        }),
        Row::rpm("rpm-repomd-html", "repomd.xml: an HTML page", |rpm| {
            rpm.text = |_| b"<html><body>Please log in.</body></html>\n".to_vec();
        }),
        Row::rpm("rpm-repomd-empty", "repomd.xml: empty", |rpm| rpm.text = |_| Vec::new()),
        Row::rpm("rpm-repomd-comment", "repomd.xml: comments and processing instructions", |rpm| {
            rpm.text = |text| text.replace("<data ", "<!-- list --><?hands x?><data ").into_bytes();
        }),
        Row::rpm("rpm-repomd-more", "repomd.xml: elements that nobody knows", |rpm| {
            rpm.text = |text| text.replace("</data>", "<hands a=\"b\"><c/></hands></data>").into_bytes();
        }),
        Row::rpm("rpm-repomd-cdata", "repomd.xml: checksums in CDATA", |rpm| {
            rpm.text = |text| {
                let text = text.replace("type=\"sha256\">", "type=\"sha256\"><![CDATA[");
                text.replace("</checksum>", "]]></checksum>")
                    .replace("</open-checksum>", "]]></open-checksum>")
                    .into_bytes()
            };
        }),
    ]
}

const COMMENT: &[u8] = b"# signed by the tests\n";

fn signatures() -> Vec<Row> {
    vec![
        Row::rpm("rpm-unsigned", "repomd.xml.asc missing", |rpm| rpm.signature = |_, _| None),
        Row::rpm("rpm-stranger", "repomd.xml.asc by an unknown key", |rpm| {
            rpm.signature = |kit, repomd| Some(kit.stranger.detached(repomd));
        }),
        Row::rpm("rpm-signature-of-other", "repomd.xml.asc of another file", |rpm| {
            rpm.signature = |kit, _| Some(kit.signer.detached(b"other"));
        }),
        Row::rpm("rpm-signature-text-before", "repomd.xml.asc: text before the signature", |rpm| {
            rpm.signature = |kit, repomd| Some([COMMENT, &kit.signer.detached(repomd)].concat());
        }),
        Row::rpm("rpm-signature-text-after", "repomd.xml.asc: text after the signature", |rpm| {
            rpm.signature = |kit, repomd| Some([&kit.signer.detached(repomd), COMMENT].concat());
        }),
        Row::rpm("rpm-signature-two", "repomd.xml.asc: two blocks, the good one first", |rpm| {
            rpm.signature =
                |kit, repomd| Some([kit.signer.detached(repomd), kit.stranger.detached(repomd)].concat());
        }),
        Row::rpm("rpm-signature-two-last", "repomd.xml.asc: two blocks, the good one last", |rpm| {
            rpm.signature =
                |kit, repomd| Some([kit.stranger.detached(repomd), kit.signer.detached(repomd)].concat());
        }),
        Row::rpm("rpm-signature-empty", "repomd.xml.asc: empty", |rpm| {
            rpm.signature = |_, _| Some(Vec::new());
        }),
    ]
}
