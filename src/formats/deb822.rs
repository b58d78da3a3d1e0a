//! deb822: stanzas of `Field: value` lines, as in Release, Packages and Sources (deb822(5), Debian Policy
//! section 5.1). Zero copy: everything borrows from the input, so memory does not grow with it.
//!
//! Follows apt where the documents leave a choice: a stanza ends at an empty line (carriage returns do not
//! count), and a line of blanks continues the field above. Deliberately knows no field by name, and does
//! not check that a field stands only once: the first one counts.

use super::entry::FormatError;

/// Goes through the stanzas of a document. Stanzas of comments alone are left out.
pub fn stanzas(bytes: &[u8]) -> Stanzas<'_> {
    Stanzas { lines: Lines::new(bytes, 1) }
}

/// Refuses a document whose first line that is neither empty nor a comment is no field: it is something
/// else, an error page perhaps, and not metadata with a flaw.
pub fn require_field(format: &'static str, bytes: &[u8]) -> Result<(), FormatError> {
    match stanzas(bytes).next().and_then(|stanza| stanza.fields().next()) {
        Some(Err(Malformed { line })) => {
            Err(FormatError::Line { format, line, problem: "not a 'Field: value' line".into() })
        }
        Some(Ok(_)) | None => Ok(()),
    }
}

/// See [`stanzas`].
#[derive(Clone, Debug)]
pub struct Stanzas<'a> {
    lines: Lines<'a>,
}

/// Fields without an empty line between them.
#[derive(Clone, Copy, Debug)]
pub struct Stanza<'a> {
    bytes: &'a [u8],
    line: u64,
}

/// One field with its folded lines.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    pub name: &'a str,
    /// Where the field begins; lines count from 1.
    pub line: u64,
    value: &'a [u8],
}

/// A line that is neither a field, nor the continuation of one, nor a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub line: u64,
}

impl<'a> Iterator for Stanzas<'a> {
    type Item = Stanza<'a>;

    fn next(&mut self) -> Option<Stanza<'a>> {
        loop {
            let (line, first) = self.lines.next()?;
            if is_empty(first) || is_comment(first) {
                continue;
            }
            let start = self.lines.offset - first.len();
            let mut end = self.lines.offset;
            for (_, text) in self.lines.by_ref() {
                if is_empty(text) {
                    break;
                }
                end += text.len();
            }
            return Some(Stanza { bytes: &self.lines.bytes[start..end], line });
        }
    }
}

impl<'a> Stanza<'a> {
    /// Where the stanza begins; lines count from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    pub fn fields(&self) -> Fields<'a> {
        Fields { lines: Lines::new(self.bytes, self.line) }
    }

    /// The first field of that name, in any case.
    pub fn get(&self, name: &str) -> Option<Field<'a>> {
        self.fields().flatten().find(|field| field.name.eq_ignore_ascii_case(name))
    }
}

impl<'a> Field<'a> {
    /// The first line of the value without blanks at its ends; `None` if it is not UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        let first = self.value.split(|&c| c == b'\n').next().unwrap_or_default();
        std::str::from_utf8(first.trim_ascii()).ok()
    }

    /// The lines that are not blank and no comment, without blanks at their ends, each with its number.
    pub fn lines(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        Lines::new(self.value, self.line)
            .filter(|(_, text)| !is_comment(text))
            .map(|(line, text)| (line, text.trim_ascii()))
            .filter(|(_, text)| !text.is_empty())
    }
}

/// See [`Stanza::fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    lines: Lines<'a>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (line, first) = self.lines.next()?;
            if is_comment(first) {
                continue;
            }
            let Some(name) = field_name(first) else { return Some(Err(Malformed { line })) };
            let start = self.lines.offset - first.len() + name.len() + 1;
            while self.lines.peek().is_some_and(|next| matches!(next, b' ' | b'\t' | b'#')) {
                self.lines.next();
            }
            return Some(Ok(Field { name, line, value: &self.lines.bytes[start..self.lines.offset] }));
        }
    }
}

/// Lines with their ends, so that neighbours can be joined again.
#[derive(Clone, Debug)]
struct Lines<'a> {
    bytes: &'a [u8],
    offset: usize,
    line: u64,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8], line: u64) -> Self {
        Self { bytes, offset: 0, line }
    }

    /// The first byte of the next line.
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.offset).copied()
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<(u64, &'a [u8])> {
        let rest = &self.bytes[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let len = rest.iter().position(|&c| c == b'\n').map_or(rest.len(), |at| at + 1);
        let line = self.line;
        self.offset += len;
        self.line += 1;
        Some((line, &rest[..len]))
    }
}

fn is_empty(line: &[u8]) -> bool {
    matches!(line[0], b'\n' | b'\r') && line.iter().all(|c| matches!(c, b'\n' | b'\r'))
}

fn is_comment(line: &[u8]) -> bool {
    line.starts_with(b"#")
}

/// Policy 5.1: printable ASCII without blanks and colons, not beginning with a hyphen.
fn field_name(line: &[u8]) -> Option<&str> {
    let end = line.iter().position(|&c| !(c.is_ascii_graphic() && c != b':'))?;
    if line[end] != b':' || end == 0 || line[0] == b'-' {
        return None;
    }
    std::str::from_utf8(&line[..end]).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<Vec<(u64, String)>> {
        let stanza = |s: Stanza<'_>| {
            s.fields()
                .map(|field| match field {
                    Ok(field) => (field.line, format!("{}={}", field.name, field.text().unwrap_or("?"))),
                    Err(Malformed { line }) => (line, "!".into()),
                })
                .collect()
        };
        stanzas(text.as_bytes()).map(stanza).collect()
    }

    #[test]
    fn stanzas_and_fields() {
        type Want = &'static [&'static [(u64, &'static str)]];
        let cases: [(&str, Want); 12] = [
            ("", &[]),
            ("\n\n\n", &[]),
            ("# only a comment\n", &[]),
            ("A: 1\nB: 2\n\nC: 3\n", &[&[(1, "A=1"), (2, "B=2")], &[(4, "C=3")]]),
            ("A: 1\r\nB:2\r\n\r\n\r\nC: 3", &[&[(1, "A=1"), (2, "B=2")], &[(5, "C=3")]]),
            ("A: 1\n folded\n B: not a field\nC: 3\n", &[&[(1, "A=1"), (4, "C=3")]]),
            ("A: 1\n# comment\nB: 2\n", &[&[(1, "A=1"), (3, "B=2")]]),
            ("# head\n\nA: 1\n", &[&[(3, "A=1")]]),
            ("A: 1\n \nB: 2\n", &[&[(1, "A=1"), (3, "B=2")]]),
            (
                "A: 1\nno colon\nB : 2\n: 3\n-D: 4\nE:\n",
                &[&[(1, "A=1"), (2, "!"), (3, "!"), (4, "!"), (5, "!"), (6, "E=")]],
            ),
            (" leading continuation\nA: 1\n", &[&[(1, "!"), (2, "A=1")]]),
            ("Package-é: 1\n", &[&[(1, "!")]]),
        ];
        for (text, want) in cases {
            let want: Vec<Vec<(u64, String)>> =
                want.iter().map(|s| s.iter().map(|(l, f)| (*l, (*f).to_owned())).collect()).collect();
            assert_eq!(names(text), want, "{text:?}");
        }
    }

    #[test]
    fn looks_fields_up_in_any_case() {
        let stanza = stanzas(b"Package: a\nSIZE: 1\nsize: 2\n").next().expect("one stanza");
        assert_eq!(stanza.get("Size").and_then(|f| f.text()), Some("1"));
        assert!(stanza.get("Siz").is_none());
    }

    #[test]
    fn folded_lines_have_numbers_and_no_comments() {
        let text = b"SHA256: first\n one\r\n# comment\n\ttwo  \n .\nNext: x";
        let field = stanzas(text).next().and_then(|s| s.get("sha256")).expect("the field");
        let lines: Vec<_> =
            field.lines().map(|(n, l)| (n, String::from_utf8_lossy(l).into_owned())).collect();
        let want = [(1, "first"), (2, "one"), (4, "two"), (5, ".")];
        assert_eq!(lines, want.map(|(n, l)| (n, l.to_owned())));
    }

    #[test]
    fn something_else_is_refused() {
        let error = require_field("Packages", b"\n<html>\n<p>A: b\n").expect_err("html");
        assert_eq!(error.to_string(), "Packages, line 2: not a 'Field: value' line");
        for good in ["", "\n", "# x\n", "A: b", "A: b\n<html>\n"] {
            assert!(require_field("Packages", good.as_bytes()).is_ok(), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for stanza in stanzas(&bytes) {
                for field in stanza.fields().flatten() {
                    let _ = (field.text(), field.lines().count());
                }
            }
        }

        #[test]
        fn any_lines(text in "([A-Z]{0,2}[:# \t.-]{0,2}x?\r?\n){0,12}") {
            let counted: usize = stanzas(text.as_bytes()).map(|s| s.bytes.len()).sum();
            prop_assert!(counted <= text.len());
        }

        #[test]
        fn round_trip(document in proptest::collection::vec(proptest::collection::vec(
            ("[A-Za-z][A-Za-z0-9-]{0,10}", "[!-~]([ -~é]{0,20}[!-~])?"), 1..6), 0..5))
        {
            let text: String = document.iter()
                .map(|stanza| stanza.iter().map(|(k, v)| format!("{k}: {v}\n")).collect::<String>() + "\n")
                .collect();
            let back: Vec<Vec<(String, String)>> = stanzas(text.as_bytes())
                .map(|stanza| stanza.fields().flatten()
                    .map(|f| (f.name.to_owned(), f.text().unwrap_or("?").to_owned())).collect())
                .collect();
            prop_assert_eq!(back, document);
        }
    }
}
