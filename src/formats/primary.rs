//! primary.xml: the packages of an rpm-md repository (createrepo_c's xml_dump_primary.c; the common schema
//! of yum).
//!
//! Streams: a distribution may have hundreds of MB of this, and only one package is in memory at a time.
//! Deliberately reads only what tells the file; the `<format>` part, the bulk of it, is passed over.

use std::io::BufRead;

use super::entry::{Entry, FormatError, MAX_VALUE, Package, Skipped, decimal, excerpt, rpm_algorithm};
use super::xml::{Cursor, Step, Tag};
use crate::model::{Algorithm, Digest, Expected};

const FORMAT: &str = "primary.xml";

/// Calls `each` for every package of the decompressed `input`. Paths are relative to the folder above
/// `repodata`. Packages whose location has a base elsewhere, or whose checksum is MD5 or none, are skipped and
/// counted. A checksum of an unknown type or a wrong length is fatal: libsolv refuses the repository for it.
///
/// # Errors
/// If the input cannot be read, is not well-formed, or its root is not `<metadata>`. Entries before the
/// error were given to `each` already.
pub fn primary(input: impl BufRead, each: &mut dyn FnMut(Entry<'_>)) -> Result<Skipped, FormatError> {
    let mut cursor = Cursor::new(FORMAT, "metadata", input);
    let mut skipped = Skipped::default();
    let mut draft = Draft::default();
    loop {
        match cursor.next()? {
            Step::Open(2, tag) => draft.begin(tag.name() == "package"),
            Step::Open(3, tag) => draft.open(&tag),
            Step::Text(text) => draft.push(&text),
            Step::Close(3) => draft.close(),
            Step::Close(2) if draft.active => match draft.entry() {
                Ok(entry) => each(entry),
                Err(problem) => {
                    let name = || excerpt(draft.values.name.trim());
                    match &draft.fatal {
                        Some(fatal) => skipped.note_fatal(|| format!("package {}: {fatal}", name())),
                        None => skipped.note(|| format!("package {}: {problem}", name())),
                    }
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
    Name,
    Architecture,
    Checksum,
}

/// One package while it is read; used again for the next, so that its strings keep their room.
#[derive(Default)]
struct Draft {
    /// Whether the element at depth 2 is a package.
    active: bool,
    capture: Option<Capture>,
    values: Values,
    algorithm: Option<Algorithm>,
    size: Option<u64>,
    problem: Option<&'static str>,
    fatal: Option<String>,
}

#[derive(Default)]
struct Values {
    name: String,
    architecture: String,
    version: String,
    checksum: String,
    location: String,
}

impl Draft {
    fn begin(&mut self, active: bool) {
        let mut values = std::mem::take(&mut self.values);
        for text in [
            &mut values.name,
            &mut values.architecture,
            &mut values.version,
            &mut values.checksum,
            &mut values.location,
        ] {
            text.clear();
        }
        *self = Self { active, values, ..Self::default() };
    }

    fn open(&mut self, tag: &Tag<'_>) {
        if !self.active {
            return;
        }
        let opened = match tag.name() {
            "name" => self.capture(Capture::Name),
            "arch" => self.capture(Capture::Architecture),
            "checksum" => self.open_checksum(tag),
            "version" => self.read_version(tag),
            "size" => self.read_size(tag),
            "location" => self.read_location(tag),
            _ => Ok(()),
        };
        if let Err(problem) = opened {
            self.fail(problem);
        }
    }

    fn capture(&mut self, what: Capture) -> Result<(), &'static str> {
        self.capture = Some(what);
        self.captured(what).clear();
        Ok(())
    }

    fn captured(&mut self, what: Capture) -> &mut String {
        match what {
            Capture::Name => &mut self.values.name,
            Capture::Architecture => &mut self.values.architecture,
            Capture::Checksum => &mut self.values.checksum,
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

    fn open_checksum(&mut self, tag: &Tag<'_>) -> Result<(), &'static str> {
        let name = tag.attribute("type")?.unwrap_or_default();
        self.algorithm = rpm_algorithm(&name);
        if self.algorithm.is_none() {
            self.fail_for_all(format!("a checksum of unknown type \"{}\"", excerpt(&name)));
        }
        self.capture(Capture::Checksum)
    }

    fn close(&mut self) {
        if matches!(self.capture.take(), Some(Capture::Checksum))
            && let Some(algorithm) = self.algorithm
            && Digest::from_hex(algorithm, &self.values.checksum).is_err()
        {
            self.fail_for_all(format!("\"{}\" is no checksum of its type", excerpt(&self.values.checksum)));
        }
    }

    /// What is wrong with this package makes clients refuse them all.
    fn fail_for_all(&mut self, fatal: String) {
        self.fail("its checksum cannot be read");
        self.fatal.get_or_insert(fatal);
    }

    /// `<version epoch="0" ver="2.12.1" rel="4.fc43"/>`
    fn read_version(&mut self, tag: &Tag<'_>) -> Result<(), &'static str> {
        let version = &mut self.values.version;
        version.clear();
        if let Some(epoch) = tag.attribute("epoch")?.filter(|epoch| !matches!(epoch.as_ref(), "" | "0")) {
            version.push_str(&epoch);
            version.push(':');
        }
        version.push_str(&tag.attribute("ver")?.unwrap_or_default());
        if let Some(release) = tag.attribute("rel")?.filter(|release| !release.is_empty()) {
            version.push('-');
            version.push_str(&release);
        }
        if version.len() > MAX_VALUE { Err("the version is too long") } else { Ok(()) }
    }

    /// `<size package="74283" installed="195421" archive="197920"/>`
    fn read_size(&mut self, tag: &Tag<'_>) -> Result<(), &'static str> {
        self.size = tag.attribute("package")?.and_then(|size| decimal(&size)).filter(|size| *size > 0);
        Ok(())
    }

    /// `<location href="Packages/h/hello-2.12.1-4.fc43.x86_64.rpm"/>`
    fn read_location(&mut self, tag: &Tag<'_>) -> Result<(), &'static str> {
        if tag.attribute("xml:base")?.is_some_and(|base| !matches!(base.as_ref(), "" | "." | "./")) {
            return Err("its location is elsewhere (xml:base)");
        }
        let location = tag.attribute("href")?.unwrap_or_default();
        if location.len() > MAX_VALUE {
            return Err("its location is too long");
        }
        self.values.location.clear();
        self.values.location.push_str(&location);
        Ok(())
    }

    fn fail(&mut self, problem: &'static str) {
        self.problem.get_or_insert(problem);
    }

    fn entry(&self) -> Result<Entry<'_>, &'static str> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if self.values.location.is_empty() {
            return Err("no location");
        }
        let algorithm = self.algorithm.ok_or("no checksum")?;
        if !algorithm.may_verify() {
            return Err("only MD5 names it");
        }
        let digest = Digest::from_hex(algorithm, &self.values.checksum).map_err(|_| "no checksum")?;
        let expected = Expected { digest, size: self.size };
        Ok(Entry { path: &self.values.location, expected, package: self.package() })
    }

    fn package(&self) -> Option<Package<'_>> {
        let Values { name, architecture, version, .. } = &self.values;
        let (name, architecture) = (name.trim(), architecture.trim());
        let complete = !name.is_empty() && !architecture.is_empty() && !version.is_empty();
        complete.then_some(Package { name, version, architecture })
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metadata \
        xmlns=\"http://linux.example/metadata/common\" \
        xmlns:rpm=\"http://linux.example/metadata/rpm\" packages=\"1\">\n";

    fn hello() -> String {
        format!(
            r#"<package type="rpm">
  <name>hello</name>
  <arch>x86_64</arch>
  <version epoch="0" ver="2.12.1" rel="4.fc43"/>
  <checksum type="sha256" pkgid="YES">{}</checksum>
  <summary>Prints a familiar, friendly greeting</summary>
  <description>The &lt;GNU&gt; hello program &amp; its name.</description>
  <packager>Fedora Project</packager>
  <url>https://www.gnu.org/software/hello/</url>
  <time file="1721280000" build="1721270000"/>
  <size package="74283" installed="195421" archive="197920"/>
  <location href="Packages/h/hello-2.12.1-4.fc43.x86_64.rpm"/>
  <format>
    <rpm:license>GPL-3.0-or-later</rpm:license>
    <rpm:header-range start="4504" end="19581"/>
    <rpm:provides><rpm:entry name="hello" flags="EQ" epoch="0" ver="2.12.1" rel="4.fc43"/></rpm:provides>
    <rpm:requires><rpm:entry name="libc.so.6()(64bit)"/></rpm:requires>
    <file>/usr/bin/hello</file><name>trap</name><size package="1"/><location href="trap"/>
  </format>
</package>
"#,
            "5".repeat(64)
        )
    }

    fn run(packages: &str) -> (Vec<String>, Skipped) {
        let text = format!("{HEAD}{packages}</metadata>\n");
        let mut seen = Vec::new();
        // A tiny buffer, so that every token is cut somewhere.
        let input = BufReader::with_capacity(7, text.as_bytes());
        let skipped = primary(input, &mut |entry| {
            let package = entry.package.map(|p| format!(" {} {} {}", p.name, p.version, p.architecture));
            let digest = entry.expected.digest.to_string();
            let size = entry.expected.size.unwrap_or_default();
            seen.push(format!("{} {size} {}{}", entry.path, &digest[..8], package.unwrap_or_default()));
        });
        (seen, skipped.expect("well-formed"))
    }

    #[test]
    fn a_fedora_package() {
        let (seen, skipped) = run(&hello().repeat(2));
        let want = "Packages/h/hello-2.12.1-4.fc43.x86_64.rpm 74283 sha256:5 hello 2.12.1-4.fc43 x86_64";
        assert_eq!((seen, skipped), (vec![want.to_owned(); 2], Skipped::default()));
    }

    #[test]
    fn variants() {
        let (sha1, sha512) = ("5".repeat(40), "5".repeat(128));
        let sha256 = "5".repeat(64);
        for (from, to, want) in [
            ("epoch=\"0\" ver", "epoch=\"2\" ver", "sha256:5 hello 2:2.12.1-4.fc43 x86_64"),
            ("epoch=\"0\" ver", "ver", "sha256:5 hello 2.12.1-4.fc43 x86_64"),
            ("<arch>x86_64<", "<arch><", "sha256:5"),
            ("<name>hello<", "<name> h&#101;llo\n<!-- c --><", "sha256:5 hello 2.12.1-4.fc43 x86_64"),
            (
                &format!("sha256\" pkgid=\"YES\">{sha256}"),
                &format!("sha\">{sha1}"),
                "sha1:555 hello 2.12.1-4.fc43 x86_64",
            ),
            (
                &format!("sha256\" pkgid=\"YES\">{sha256}"),
                &format!("sha512\">{}", sha512.replace('5', "&#53;")),
                "sha512:5 hello 2.12.1-4.fc43 x86_64",
            ),
            ("<location href", "<location xml:base=\"\" href", "sha256:5 hello 2.12.1-4.fc43 x86_64"),
        ] {
            assert!(hello().contains(from), "{from}");
            let (seen, skipped) = run(&hello().replacen(from, to, 1));
            let want = format!("Packages/h/hello-2.12.1-4.fc43.x86_64.rpm 74283 {want}");
            assert_eq!((seen, skipped), (vec![want], Skipped::default()), "{to}");
        }
    }

    #[test]
    fn flawed_packages_are_skipped() {
        let long = format!("<name>{}<", "x".repeat(MAX_VALUE + 1));
        let sha256 = format!("sha256\" pkgid=\"YES\">{}", "5".repeat(64));
        for (from, to, want) in [
            (
                "<location href",
                "<location xml:base=\"http://b.example\" href",
                "its location is elsewhere (xml:base)",
            ),
            ("<location href", "<location src", "no location"),
            (&format!("<checksum type=\"{sha256}</checksum>"), "", "no checksum"),
            (&sha256, &format!("md5\" pkgid=\"YES\">{}", "5".repeat(32)), "only MD5 names it"),
            ("href=\"Packages", "href=\"&nbsp;", "an attribute has an unknown entity"),
            ("<name>hello<", &long, "a text is too long"),
        ] {
            assert!(hello().contains(from), "{from}");
            let (seen, skipped) = run(&(hello().replacen(from, to, 1) + &hello()));
            assert_eq!((seen.len(), skipped.count), (1, 1), "{to}");
            assert_eq!(skipped.fatal, None, "{to}");
            let first = skipped.first.expect("a reason");
            assert!(first.ends_with(&format!(": {want}")), "{first}");
        }
        assert_eq!(run("<delta><name>x</name></delta>"), (vec![], Skipped::default()));
    }

    #[test]
    fn sizes_that_clients_forgive_are_unknown() {
        for (from, to) in [
            ("74283", "0x1"),
            ("74283", "18446744073709551616"),
            ("74283", ""),
            ("74283", "0"),
            ("<size package", "<size bytes"),
            ("<size package", "<extent package"),
        ] {
            let mut sizes = Vec::new();
            let text =
                format!("{HEAD}{}</metadata>", hello().replacen(from, to, 1).replace("/extent>", "/size>"));
            let skipped = primary(text.as_bytes(), &mut |entry| sizes.push(entry.expected.size));
            assert_eq!((sizes, skipped.expect("well-formed").count), (vec![None], 0), "{to}");
        }
    }

    #[test]
    fn a_checksum_that_libsolv_does_not_know_is_fatal() {
        for (from, to, want) in [
            ("sha256", "sha-256", "a checksum of unknown type \"sha-256\""),
            ("type=\"sha256\"", "", "a checksum of unknown type \"\""),
            ("5555", "55", "is no checksum of its type"),
            ("YES\">", "YES\"> ", "is no checksum of its type"),
        ] {
            let (seen, skipped) = run(&(hello().replacen(from, to, 1) + &hello()));
            assert_eq!((seen.len(), skipped.count), (1, 1), "{to}");
            assert!(skipped.fatal.is_some_and(|fatal| fatal.ends_with(want)), "{to}");
        }
    }

    #[test]
    fn other_documents_are_errors() {
        let cut = format!("{HEAD}{}", hello());
        for text in ["", "<html></html>", "<!DOCTYPE metadata [<!ENTITY a 'b'>]><metadata/>", &cut] {
            assert!(primary(text.as_bytes(), &mut |_| ()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = primary(bytes.as_slice(), &mut |_| ());
        }

        #[test]
        fn any_damage(at in 0usize..1400, byte: u8) {
            let mut bytes = format!("{HEAD}{}</metadata>", hello()).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let mut count = 0;
            let _ = primary(bytes.as_slice(), &mut |_| count += 1);
            prop_assert!(count <= 1);
        }
    }
}
