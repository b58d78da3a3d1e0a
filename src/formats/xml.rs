//! A cursor over rpm-md XML with everything hostile bounded: depth, the length of a tag or text, entities.
//!
//! Deliberately less than XML: a document type declaration must not declare anything, the five predefined
//! entities and character references are all there is to expand (so nothing can grow), and names are taken as they
//! are written, prefix and all, as librepo and libsolv take them. Well-formedness otherwise is quick-xml's.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion, escape};

use super::encoding::{Decoder, EncodingError};
use super::entry::{FormatError, excerpt};

/// Longest tag or run of text. Generous: the longest texts are descriptions of packages, which people wrote.
const MAX_EVENT: usize = 1 << 20;

/// Deepest nesting. rpm-md has 5 levels.
const MAX_DEPTH: usize = 256;

/// What the cursor came to. Depth 1 is the root element.
pub(super) enum Step<'a> {
    Open(usize, Tag<'a>),
    /// A part of the text of the innermost open element.
    Text(Cow<'a, str>),
    /// The element at that depth ends.
    Close(usize),
    /// A comment or an instruction.
    Other,
    /// The root element was closed and nothing follows.
    End,
}

/// A start tag.
pub(super) struct Tag<'a>(BytesStart<'a>);

impl Tag<'_> {
    /// The name with its prefix, if it has one.
    pub(super) fn name(&self) -> &str {
        self.0.name().into_inner()
    }

    /// The first attribute of that full name.
    pub(super) fn attribute(&self, name: &str) -> Result<Option<Cow<'_, str>>, &'static str> {
        // Without its own check for repeated names, which is quadratic.
        for attribute in self.0.attributes().with_checks(false) {
            let attribute = attribute.map_err(|_| "an attribute is malformed")?;
            if attribute.key.into_inner() == name {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                return value.map(Some).map_err(|_| "an attribute has an unknown entity");
            }
        }
        Ok(None)
    }
}

/// Reads a document step by step; memory is bounded by the longest tag or text.
pub(super) struct Cursor<R> {
    reader: Reader<Leash<Decoder<R>>>,
    buffer: Vec<u8>,
    depth: usize,
    ended: bool,
    format: &'static str,
    root: &'static str,
}

impl<R: BufRead> Cursor<R> {
    /// `root` is the name that the root element must have.
    pub(super) fn new(format: &'static str, root: &'static str, input: R) -> Self {
        let mut reader = Reader::from_reader(Leash { input: Decoder::new(input), left: MAX_EVENT });
        reader.config_mut().expand_empty_elements = true;
        Self { reader, buffer: Vec::new(), depth: 0, ended: false, format, root }
    }

    pub(super) fn next(&mut self) -> Result<Step<'_>, FormatError> {
        self.buffer.clear();
        self.reader.get_mut().left = MAX_EVENT;
        let offset = self.reader.buffer_position();
        let format = self.format;
        let fail = |problem: Cow<'static, str>| Err(FormatError::Byte { format, offset, problem });
        match self.reader.read_event_into(&mut self.buffer) {
            Err(error) => Err(failure(format, offset, error)),
            Ok(Event::Start(tag)) => {
                self.depth += 1;
                match check(self.depth, self.ended, self.root, &tag) {
                    Some(problem) => fail(problem),
                    None => Ok(Step::Open(self.depth, Tag(tag))),
                }
            }
            Ok(Event::End(_)) => {
                let depth = self.depth;
                self.depth = depth.saturating_sub(1);
                self.ended |= self.depth == 0;
                Ok(Step::Close(depth))
            }
            Ok(Event::Text(text)) if text.bytes().any(is_control) => fail("a control character".into()),
            Ok(Event::Text(text)) => Ok(Step::Text(text.into_inner())),
            Ok(Event::CData(text)) => Ok(Step::Text(text.into_inner())),
            Ok(Event::GeneralRef(name)) => match resolve(&name) {
                Some(text) => Ok(Step::Text(text)),
                None => fail(format!("'&{};' is no entity of XML itself", excerpt(&name)).into()),
            },
            Ok(Event::DocType(text)) if text.contains('[') => {
                fail("a document type with declarations is not accepted".into())
            }
            Ok(Event::Eof) if self.ended => Ok(Step::End),
            Ok(Event::Eof) => fail("the document ends too early".into()),
            Ok(Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {
                Ok(Step::Other)
            }
        }
    }
}

/// No character of XML (section 2.2).
fn is_control(byte: u8) -> bool {
    byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r')
}

fn check(depth: usize, ended: bool, root: &str, tag: &BytesStart<'_>) -> Option<Cow<'static, str>> {
    let name = tag.name().into_inner();
    match depth {
        1 if ended => Some("a second root element".into()),
        1 if name != root => Some(format!("the root element is <{}>, not <{root}>", excerpt(name)).into()),
        1..=MAX_DEPTH => None,
        _ => Some(format!("elements are nested more than {MAX_DEPTH} deep").into()),
    }
}

fn resolve(name: &BytesRef<'_>) -> Option<Cow<'static, str>> {
    if name.is_char_ref() {
        return name.resolve_char_ref().ok().flatten().map(|c| Cow::Owned(c.into()));
    }
    escape::resolve_predefined_entity(name).map(Cow::Borrowed)
}

fn failure(format: &'static str, offset: u64, error: quick_xml::Error) -> FormatError {
    match error {
        quick_xml::Error::Io(error) if is_leash(&error) => {
            let problem = format!("a tag or text is longer than {MAX_EVENT} bytes").into();
            FormatError::Byte { format, offset, problem }
        }
        quick_xml::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<EncodingError>()) => {
            FormatError::Byte { format, offset, problem: error.to_string().into() }
        }
        quick_xml::Error::Io(error) => FormatError::Read { format, source: unshare(error) },
        error => FormatError::Byte { format, offset, problem: excerpt(&error.to_string()).into() },
    }
}

fn unshare(error: Arc<io::Error>) -> io::Error {
    let kind = error.kind();
    Arc::try_unwrap(error).unwrap_or_else(|shared| io::Error::new(kind, shared))
}

/// Lets through `left` bytes, then fails: quick-xml would buffer a tag of any length.
struct Leash<R> {
    input: R,
    left: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("the leash is too short")]
struct TooLong;

fn is_leash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooLong>())
}

impl<R: BufRead> BufRead for Leash<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let available = self.input.fill_buf()?;
        let shown = available.len().min(self.left);
        if shown == 0 && !available.is_empty() {
            return Err(io::Error::other(TooLong));
        }
        Ok(&available[..shown])
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.input.consume(amount);
    }
}

impl<R: BufRead> Read for Leash<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(buffer)?;
        self.consume(amount);
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps in short, or the error.
    fn walk(input: impl BufRead) -> String {
        let mut cursor = Cursor::new("test", "r", input);
        let mut seen = String::new();
        loop {
            match cursor.next() {
                Ok(Step::Open(depth, tag)) => {
                    seen += &format!(
                        "<{depth}{}{:?}>",
                        tag.name(),
                        tag.attribute("a").map(|v| v.map(Cow::into_owned))
                    );
                }
                Ok(Step::Text(text)) => seen += &text,
                Ok(Step::Close(depth)) => seen += &format!("</{depth}>"),
                Ok(Step::Other) => {}
                Ok(Step::End) => return seen,
                Err(error) => return error.to_string(),
            }
        }
    }

    #[test]
    fn walks_and_refuses() {
        for (text, want) in [
            (
                "<?xml version='1.0'?>\n<r a='1&amp;&#50;'><!-- c --><p:x/></r>\n",
                "\n<1rOk(Some(\"1&2\"))><2p:xOk(None)></2></1>\n",
            ),
            ("<r>&lt;&#x41;<![CDATA[&b]]></r>", "<1rOk(None)><A&b</1>"),
            ("\u{feff}<r a='1' a='2'/>", "<1rOk(Some(\"1\"))></1>"),
            ("<r a='&b;' />", "<1rErr(\"an attribute has an unknown entity\")></1>"),
            ("<r a=1 />", "<1rErr(\"an attribute is malformed\")></1>"),
            (
                "<!DOCTYPE r [<!ENTITY a 'b'>]><r/>",
                "test, byte 0: a document type with declarations is not accepted",
            ),
            ("<r>&b;</r>", "test, byte 3: '&b;' is no entity of XML itself"),
            ("<r>&#0;</r>", "test, byte 3: '&#0;' is no entity of XML itself"),
            ("<!DOCTYPE r><r/>", "<1rOk(None)></1>"),
            ("<!DOCTYPE r><r>&b;</r>", "test, byte 15: '&b;' is no entity of XML itself"),
            ("<r>\u{1}</r>", "test, byte 3: a control character"),
            (
                "<?xml version='1.0' encoding='KOI8-R'?><r/>",
                "test, byte 0: its encoding is none of UTF-8, UTF-16, ISO-8859-1 and US-ASCII",
            ),
            ("<html/>", "test, byte 0: the root element is <html>, not <r>"),
            ("<r/><r/>", "test, byte 4: a second root element"),
            ("<r><x>", "test, byte 6: the document ends too early"),
            ("", "test, byte 0: the document ends too early"),
        ] {
            assert_eq!(walk(text.as_bytes()), want, "{text}");
        }
        for broken in ["<r></x>", "</r>", "<r", "<r>&", "<r><!-- ", "<r a='", "<r>\u{0}</r><"] {
            assert!(
                walk(broken.as_bytes()).starts_with("test, byte "),
                "{broken}: {}",
                walk(broken.as_bytes())
            );
        }
        assert!(walk(&b"<r>\xff</r>"[..]).starts_with("test, byte 3: "));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = "<r>".repeat(1_000_000);
        assert!(walk(deep.as_bytes()).ends_with("elements are nested more than 256 deep"));
        // Endless input: only a bound can end these.
        for start in ["<r>", "<", "<r a='", "<!--", "<r><![CDATA[", "<r>&", "<?x "] {
            let endless = io::BufReader::new(start.as_bytes().chain(io::repeat(b'x')));
            let message = walk(endless);
            assert!(message.ends_with("a tag or text is longer than 1048576 bytes"), "{start}: {message}");
        }
    }

    #[test]
    fn a_failing_input_is_told_apart() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("cable cut"))
            }
        }
        let mut cursor = Cursor::new("test", "r", io::BufReader::new(Broken));
        match cursor.next() {
            Err(FormatError::Read { source, .. }) => assert_eq!(source.to_string(), "cable cut"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("read from a broken input"),
        }
    }
}
