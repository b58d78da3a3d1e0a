//! prestodelta.xml: the delta packages of an rpm-md repository (createrepo_c's deltarpms.c and
//! xml_dump_deltapackage.c).
//!
//! Streams like [`primary`](super::primary). Deliberately does not say which package an entry is: a delta
//! has its name and version, but is no package.

use std::io::BufRead;

use super::entry::{Entry, FormatError, MAX_VALUE, Skipped, decimal, digest, excerpt};
use super::xml::{Cursor, Step, Tag};
use crate::model::{Algorithm, Expected};

const FORMAT: &str = "prestodelta.xml";

/// Calls `each` for every delta of the decompressed `input`. Paths are relative to the folder above
/// `repodata`. Deltas without name or size, or whose checksum proves nothing, are skipped and counted.
///
/// # Errors
/// If the input cannot be read, is not well-formed, or its root is not `<prestodelta>`. Entries before the
/// error were given to `each` already.
pub fn prestodelta(input: impl BufRead, each: &mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError> {
    let mut cursor = Cursor::new(FORMAT, "prestodelta", input);
    let mut skipped = Skipped::default();
    let mut in_package = false;
    let mut draft = Draft::default();
    loop {
        match cursor.next()? {
            Step::Open(2, tag) => in_package = tag.name() == "newpackage",
            Step::Open(3, tag) => draft.begin(in_package && tag.name() == "delta"),
            Step::Open(4, tag) => draft.open(&tag),
            Step::Text(text) => draft.push(&text),
            Step::Close(4) => draft.capture = None,
            Step::Close(3) if draft.active => match draft.entry() {
                Ok(entry) => each(entry),
                Err(problem) => {
                    skipped.note(|| format!("delta {}: {problem}", excerpt(draft.filename.trim())));
                }
            },
            Step::End => return Ok(skipped),
            Step::Open(..) | Step::Close(_) | Step::Other => {}
        }
    }
}

/// The element whose text is being collected.
#[derive(Clone, Copy)]
enum Capture {
    Filename,
    Size,
    Checksum,
}

/// One delta while it is read; used again for the next, so that its strings keep their room.
#[derive(Default)]
struct Draft {
    /// Whether the element at depth 3 is a delta.
    active: bool,
    capture: Option<Capture>,
    filename: String,
    size: String,
    checksum: String,
    algorithm: Option<Algorithm>,
    problem: Option<&'static str>,
}

impl Draft {
    fn begin(&mut self, active: bool) {
        self.active = active;
        (self.capture, self.algorithm, self.problem) = (None, None, None);
        for text in [&mut self.filename, &mut self.size, &mut self.checksum] {
            text.clear();
        }
    }

    fn open(&mut self, tag: &Tag<'_>) {
        let what = match tag.name() {
            "filename" => Capture::Filename,
            "size" => Capture::Size,
            "checksum" => Capture::Checksum,
            _ => return,
        };
        if matches!(what, Capture::Checksum) {
            match tag.attribute("type") {
                Ok(name) => self.algorithm = name.and_then(|name| Algorithm::from_name(&name)),
                Err(problem) => self.fail(problem),
            }
        }
        self.capture = self.active.then_some(what);
        self.captured(what).clear();
    }

    fn captured(&mut self, what: Capture) -> &mut String {
        match what {
            Capture::Filename => &mut self.filename,
            Capture::Size => &mut self.size,
            Capture::Checksum => &mut self.checksum,
        }
    }

    fn push(&mut self, text: &str) {
        let Some(what) = self.capture else { return };
        let captured = self.captured(what);
        if captured.len() + text.len() <= MAX_VALUE {
            captured.push_str(text);
        } else {
            self.fail("a text is too long");
        }
    }

    fn fail(&mut self, problem: &'static str) {
        self.problem.get_or_insert(problem);
    }

    fn entry(&self) -> Result<Entry<'_>, &'static str> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let path = self.filename.trim();
        if path.is_empty() {
            return Err("no filename");
        }
        let algorithm = self.algorithm.ok_or("no checksum of a known type")?;
        let digest = digest(algorithm, self.checksum.trim()).ok_or("no usable checksum")?;
        let size = decimal(self.size.trim()).ok_or("no usable size")?;
        Ok(Entry { path, expected: Expected { digest, size: Some(size) }, package: None })
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn delta(old: &str) -> String {
        format!(
            r#"    <delta oldepoch="0" oldversion="{old}" oldrelease="2.fc23">
      <filename>drpms/cmake-fedora-{old}-2.fc23_2.6.0-1.fc23.noarch.drpm</filename>
      <sequence>cmake-fedora-{old}-2.fc23-84bdd3315d4caddf8245e82cb83de4e301d5</sequence>
      <size>51194</size>
      <checksum type="sha256">{}</checksum>
    </delta>
"#,
            "6".repeat(64)
        )
    }

    fn document(deltas: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<prestodelta>\n  <newpackage name=\"cmake-fedora\" \
             epoch=\"0\" version=\"2.6.0\" release=\"1.fc23\" arch=\"noarch\">\n{deltas}  </newpackage>\n\
             </prestodelta>\n"
        )
    }

    fn run(text: &str) -> (Vec<String>, Skipped) {
        let mut seen = Vec::new();
        // A tiny buffer, so that every token is cut somewhere.
        let skipped = prestodelta(BufReader::with_capacity(7, text.as_bytes()), &mut |entry| {
            let digest = entry.expected.digest.to_string();
            seen.push(format!("{} {} {}", entry.path, entry.expected.size.unwrap_or_default(), &digest[..8]));
        });
        (seen, skipped.expect("well-formed"))
    }

    #[test]
    fn deltas_of_a_fedora_package() {
        let (seen, skipped) = run(&document(&(delta("2.3.4") + &delta("2.5.1"))));
        let want = [
            "drpms/cmake-fedora-2.3.4-2.fc23_2.6.0-1.fc23.noarch.drpm 51194 sha256:6",
            "drpms/cmake-fedora-2.5.1-2.fc23_2.6.0-1.fc23.noarch.drpm 51194 sha256:6",
        ];
        assert_eq!((seen.as_slice(), skipped), (want.map(str::to_owned).as_slice(), Skipped::default()));
        assert_eq!(run("<prestodelta>\n</prestodelta>"), (vec![], Skipped::default()));
    }

    #[test]
    fn flawed_deltas_are_skipped() {
        let long = format!("<filename>{}", "x".repeat(MAX_VALUE));
        for (from, to, want) in [
            ("filename>", "file>", "no filename"),
            ("<size>51194", "<size>", "no usable size"),
            ("<size>51194", "<size>-1", "no usable size"),
            ("<size>51194", "<size>18446744073709551616", "no usable size"),
            ("type=\"sha256\"", "", "no checksum of a known type"),
            ("type=\"sha256\"", "type=\"md5\"", "no usable checksum"),
            ("type=\"sha256\"", "type=\"&x;\"", "an attribute has an unknown entity"),
            ("6666", "66", "no usable checksum"),
            ("<filename>", &long, "a text is too long"),
        ] {
            assert!(delta("1").contains(from), "{from}");
            let (seen, skipped) = run(&document(&(delta("1").replace(from, to) + &delta("2"))));
            assert_eq!((seen.len(), skipped.count), (1, 1), "{to}");
            let first = skipped.first.expect("a reason");
            assert!(first.ends_with(&format!(": {want}")), "{first}");
        }
    }

    #[test]
    fn only_deltas_of_packages_count() {
        for text in [
            document(&delta("1")).replace("newpackage", "oldpackage"),
            document(&delta("1").replace("delta", "other")),
            document(&format!("<x>{}</x>", delta("1"))),
        ] {
            assert_eq!(run(&text), (vec![], Skipped::default()), "{text}");
        }
    }

    #[test]
    fn other_documents_are_errors() {
        let cut = document(&delta("1")).replace("</prestodelta>", "");
        for text in [
            "",
            "<html></html>",
            "<metadata/>",
            "<!DOCTYPE prestodelta [<!ENTITY a 'b'>]><prestodelta/>",
            &cut,
        ] {
            assert!(prestodelta(text.as_bytes(), &mut |_| ()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = prestodelta(bytes.as_slice(), &mut |_| ());
        }

        #[test]
        fn any_damage(at in 0usize..1000, byte: u8) {
            let mut bytes = document(&delta("1")).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let mut count = 0;
            let _ = prestodelta(bytes.as_slice(), &mut |_| count += 1);
            prop_assert!(count <= 1);
        }
    }
}
