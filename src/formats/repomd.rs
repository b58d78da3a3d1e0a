//! repomd.xml: the root of an rpm-md repository (createrepo_c's xml_dump_repomd.c; the repo schema of yum).
//!
//! Deliberately does not resolve `location`: a base elsewhere is shown as it is, for the caller to refuse.

use super::entry::{FormatError, MAX_VALUE, Skipped, decimal, excerpt, lower_digest, rpm_algorithm};
use super::xml::{Cursor, Step, Tag};
use crate::model::{Algorithm, Digest, Expected};

const FORMAT: &str = "repomd.xml";

/// The list of a repository's metadata files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repomd {
    /// Usually seconds since 1970, but any text is allowed.
    pub revision: Option<String>,
    pub records: Vec<Record>,
    /// Records without kind or location. A checksum of an unknown type or a wrong length is fatal: libsolv
    /// reads all records, and refuses the repository.
    pub skipped: Skipped,
}

/// One metadata file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `primary`, `filelists`, `primary_zck`, ...
    pub kind: String,
    /// Relative to the folder above `repodata`; not validated.
    pub location: String,
    /// `xml:base`, if it is there and not empty: the file is somewhere else.
    pub base: Option<String>,
    /// The last checksum of the record. MD5 may be the only one, and clients do without any.
    pub digest: Option<Digest>,
    /// A hint: dnf does not compare it, and zypper only refuses what is longer.
    pub size: Option<u64>,
    /// The file after decompression. No client looks at it.
    pub open: Option<Expected>,
    /// The header of a zchunk file.
    pub header: Option<Expected>,
}

impl Repomd {
    /// # Errors
    /// If the document is not well-formed or its root is not `<repomd>`. Flaws of single records are
    /// counted in `skipped`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(FORMAT, "repomd", bytes);
        let mut repomd = Self::default();
        let mut draft = Draft::default();
        loop {
            match cursor.next()? {
                Step::Open(2, tag) => draft.open_record(&tag),
                Step::Open(3, tag) => draft.open_value(&tag),
                Step::Text(text) => draft.push(&text),
                Step::Close(3) => draft.close_value(),
                Step::Close(2) => repomd.close_record(&mut draft),
                Step::End => return Ok(repomd),
                Step::Open(..) | Step::Close(_) | Step::Other => {}
            }
        }
    }

    fn close_record(&mut self, draft: &mut Draft) {
        let draft = std::mem::take(draft);
        match draft.element {
            Element::Revision => self.revision = Some(draft.text.trim().to_owned()),
            Element::Data => {
                if let Some(fatal) = draft.fatal.as_ref() {
                    self.skipped.note_fatal(|| format!("record \"{}\": {fatal}", excerpt(&draft.kind)));
                }
                self.add(draft);
            }
            Element::Other => {}
        }
    }

    fn add(&mut self, draft: Draft) {
        match draft.record() {
            Ok(record) => self.records.push(record),
            Err((kind, problem)) => {
                self.skipped.note(|| format!("record \"{}\": {problem}", excerpt(&kind)));
            }
        }
    }
}

/// The element at depth 2.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Element {
    Revision,
    Data,
    #[default]
    Other,
}

/// The element at depth 3 whose text is wanted.
#[derive(Clone, Copy)]
enum Value {
    Checksum(Side, Option<Algorithm>),
    Size(Side),
}

#[derive(Clone, Copy)]
enum Side {
    File,
    Open,
    Header,
}

/// A digest and a size on their way to an [`Expected`].
#[derive(Clone, Copy, Default)]
struct Half {
    digest: Option<Digest>,
    size: Option<u64>,
}

#[derive(Default)]
struct Draft {
    element: Element,
    value: Option<Value>,
    text: String,
    kind: String,
    location: Option<String>,
    base: Option<String>,
    halves: [Half; 3],
    problem: Option<&'static str>,
    fatal: Option<String>,
}

impl Draft {
    fn open_record(&mut self, tag: &Tag<'_>) {
        *self = Self::default();
        match tag.name() {
            "revision" => self.element = Element::Revision,
            "data" => {
                self.element = Element::Data;
                self.kind = self.attribute(tag, "type").unwrap_or_default();
            }
            _ => {}
        }
    }

    fn open_value(&mut self, tag: &Tag<'_>) {
        if self.element != Element::Data {
            return;
        }
        self.text.clear();
        self.value = match tag.name() {
            "checksum" => Some(Value::Checksum(Side::File, self.algorithm(tag))),
            "open-checksum" => Some(Value::Checksum(Side::Open, self.algorithm(tag))),
            "header-checksum" => Some(Value::Checksum(Side::Header, self.algorithm(tag))),
            "size" => Some(Value::Size(Side::File)),
            "open-size" => Some(Value::Size(Side::Open)),
            "header-size" => Some(Value::Size(Side::Header)),
            "location" => {
                self.location = self.attribute(tag, "href");
                self.base = self.attribute(tag, "xml:base").filter(|base| !base.is_empty());
                None
            }
            _ => None,
        };
    }

    fn algorithm(&mut self, tag: &Tag<'_>) -> Option<Algorithm> {
        let name = self.attribute(tag, "type").unwrap_or_default();
        let algorithm = rpm_algorithm(&name);
        if algorithm.is_none() {
            self.fatal.get_or_insert_with(|| format!("a checksum of unknown type \"{}\"", excerpt(&name)));
        }
        algorithm
    }

    fn attribute(&mut self, tag: &Tag<'_>, name: &str) -> Option<String> {
        match tag.attribute(name) {
            Ok(Some(value)) if value.len() <= MAX_VALUE => Some(value.into_owned()),
            Ok(Some(_)) => self.fail("an attribute is too long"),
            Ok(None) => None,
            Err(problem) => self.fail(problem),
        }
    }

    fn fail(&mut self, problem: &'static str) -> Option<String> {
        self.problem.get_or_insert(problem);
        None
    }

    fn push(&mut self, text: &str) {
        if self.value.is_none() && self.element != Element::Revision {
            return;
        }
        if self.text.len() + text.len() <= MAX_VALUE {
            self.text.push_str(text);
        } else {
            self.fail("a text is too long");
        }
    }

    fn close_value(&mut self) {
        match self.value.take() {
            Some(Value::Checksum(side, algorithm)) => {
                let digest = algorithm.and_then(|algorithm| lower_digest(algorithm, &self.text));
                if algorithm.is_some() && digest.is_none() {
                    let text = excerpt(&self.text);
                    self.fatal.get_or_insert_with(|| format!("\"{text}\" is no checksum of its type"));
                }
                self.halves[side as usize].digest = digest;
            }
            Some(Value::Size(side)) => {
                self.halves[side as usize].size = decimal(self.text.trim()).filter(|size| *size > 0);
            }
            None => {}
        }
    }

    fn record(self) -> Result<Record, (String, &'static str)> {
        let [file, open, header] = self.halves;
        match (self.problem, self.location) {
            (Some(problem), _) => Err((self.kind, problem)),
            (None, None) => Err((self.kind, "no location")),
            (None, Some(_)) if self.kind.is_empty() => Err((self.kind, "no type")),
            (None, Some(location)) => Ok(Record {
                kind: self.kind,
                location,
                base: self.base,
                digest: file.digest,
                size: file.size,
                open: open.expected(),
                header: header.expected(),
            }),
        }
    }
}

impl Half {
    fn expected(self) -> Option<Expected> {
        self.digest.map(|digest| Expected { digest, size: self.size })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> String {
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(40));
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.example/metadata/repo" xmlns:rpm="http://linux.example/metadata/rpm">
  <revision>1697743527</revision>
  <tags><distro cpeid="cpe:/o:fedoraproject:fedora:39">Fedora &amp; friends</distro></tags>
  <data type="primary">
    <checksum type="sha256">{a}</checksum>
    <open-checksum type="sha256">{b}</open-checksum>
    <header-checksum type="sha1">{c}</header-checksum>
    <location href="repodata/{a}-primary.xml.zst"/>
    <timestamp>1697743000</timestamp>
    <size>17652321</size>
    <open-size>171234567</open-size>
    <header-size>131</header-size>
  </data>
  <data type="group">
    <checksum type="sha">{c}</checksum>
    <location xml:base="http://other.example/" href="repodata/comps&#46;xml"/>
  </data>
  <data type="strange">
    <checksum type="crc32">{c}</checksum>
    <location href="repodata/strange.xml"/>
  </data>
</repomd>
"#
        )
    }

    #[test]
    fn a_fedora_repomd() {
        let repomd = Repomd::parse(sample().as_bytes()).expect("good");
        assert_eq!(repomd.revision.as_deref(), Some("1697743527"));
        let listed = |r: &Record| r.digest.map(|digest| Expected { digest, size: r.size });
        let shown = |e: Option<Expected>| {
            e.map(|e| format!("{} {:?}", &e.digest.to_string()[..8], e.size)).unwrap_or_default()
        };
        let records: Vec<_> = repomd
            .records
            .iter()
            .map(|r| [r.kind.clone(), shown(listed(r)), shown(r.open), shown(r.header)])
            .collect();
        let primary =
            ["primary", "sha256:a Some(17652321)", "sha256:b Some(171234567)", "sha1:ccc Some(131)"];
        assert_eq!(records, [primary, ["group", "sha1:ccc None", "", ""], ["strange", "", "", ""]]);
        assert_eq!(repomd.records[0].location, format!("repodata/{}-primary.xml.zst", "a".repeat(64)));
        assert_eq!(repomd.records[0].base, None);
        assert_eq!(repomd.records[1].location, "repodata/comps.xml");
        assert_eq!(repomd.records[1].base.as_deref(), Some("http://other.example/"));
        assert_eq!(repomd.skipped.count, 1);
        let fatal = Some("record \"strange\": a checksum of unknown type \"crc32\"");
        assert_eq!(repomd.skipped.fatal.as_deref(), fatal);
    }

    #[test]
    fn flawed_records_are_skipped() {
        let sum = format!("<checksum type='sha256'>{}</checksum>", "a".repeat(64));
        let long = "x".repeat(MAX_VALUE + 1);
        for (data, want) in [
            (format!("<data type='x'>{sum}</data>"), "record \"x\": no location"),
            (format!("<data>{sum}<location href='y'/></data>"), "record \"\": no type"),
            (
                format!("<data type='x'>{sum}<location href='{long}'/></data>"),
                "record \"x\": an attribute is too long",
            ),
            (
                format!("<data type='x'>{sum}<location href='y'/><size>{long}</size></data>"),
                "record \"x\": a text is too long",
            ),
            (
                format!("<data type='x'>{sum}<location href='&evil;'/></data>"),
                "record \"x\": an attribute has an unknown entity",
            ),
        ] {
            let repomd = Repomd::parse(format!("<repomd>{data}</repomd>").as_bytes()).expect("well-formed");
            assert_eq!(repomd.records, []);
            assert_eq!(repomd.skipped, Skipped { count: 1, first: Some(want.into()), fatal: None });
        }
    }

    /// What dnf 4 and zypper 1.14 made of each.
    #[test]
    fn what_clients_forgive_and_what_they_do_not() {
        let (sha256, sha384) = ("a".repeat(64), "b".repeat(96));
        let sum = |kind: &str, text: &str| format!("<checksum type='{kind}'>{text}</checksum>");
        let good = sum("sha256", &sha256);
        for (values, want) in [
            (good.clone(), Ok("sha256 None")),
            (String::new(), Ok("none None")),
            (format!("{good}<size>12</size>"), Ok("sha256 Some(12)")),
            (format!("{good}<size></size>"), Ok("sha256 None")),
            (format!("{good}<size>0</size>"), Ok("sha256 None")),
            (format!("{good}<size>1x</size><open-size>-1</open-size>"), Ok("sha256 None")),
            (sum("md5", &"c".repeat(32)), Ok("md5 None")),
            (sum("SHA384", &sha384), Ok("sha384 None")),
            (sum("sha224", &"c".repeat(56)), Ok("sha224 None")),
            (good.clone() + &sum("sha384", &sha384), Ok("sha384 None")),
            (sum("sha-256", &sha256), Err("a checksum of unknown type \"sha-256\"")),
            (format!("<checksum>{sha256}</checksum>"), Err("a checksum of unknown type \"\"")),
            (sum("sha1", "abc"), Err("\"abc\" is no checksum of its type")),
            (sum("md5", &"C".repeat(32)), Err("is no checksum of its type")),
            (sum("sha256", &format!(" {sha256}")), Err("is no checksum of its type")),
            (
                good + "<open-checksum type='crc32'>01234567</open-checksum>",
                Err("a checksum of unknown type \"crc32\""),
            ),
        ] {
            let text = format!("<repomd><data type='x'>{values}<location href='y'/></data></repomd>");
            let repomd = Repomd::parse(text.as_bytes()).expect("well-formed");
            let record = repomd.records.first().expect("it has a location");
            let algorithm = record.digest.map_or("none", |digest| digest.algorithm().name());
            match (want, &repomd.skipped.fatal) {
                (Ok(want), None) => assert_eq!(format!("{algorithm} {:?}", record.size), want, "{values}"),
                (Err(want), Some(fatal)) => assert!(fatal.ends_with(want), "{values}: {fatal}"),
                (_, fatal) => panic!("{values}: {fatal:?}"),
            }
        }
    }

    #[test]
    fn other_documents_are_errors() {
        let cut = &sample()[..400];
        let bomb = "<!DOCTYPE repomd [<!ENTITY a 'aaaa'>]><repomd/>";
        for text in ["", "<html></html>", "Suite: x\n", cut, bomb] {
            assert!(Repomd::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Repomd::parse(&bytes);
        }

        #[test]
        fn any_tags(parts in proptest::collection::vec(
            "</?(data|size|location|checksum)( (type|href)=\"[a-z&;#0-9]{0,8}\")?/?>|[0-9a-f ]{0,8}|&[a-z#0-9]{0,4};",
            0..20))
        {
            let text = parts.concat();
            let _ = Repomd::parse(text.as_bytes());
            let _ = Repomd::parse(format!("<repomd><data>{text}</data></repomd>").as_bytes());
        }
    }
}
