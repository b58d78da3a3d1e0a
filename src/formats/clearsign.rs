//! The cleartext signature framework of OpenPGP (RFC 9580 section 7), as InRelease and Fedora's CHECKSUM
//! files use it: takes the signed text out of its frame.
//!
//! Deliberately verifies no signature: `openpgp` does, over the text that is taken out here, so that reader
//! and verifier cannot see different texts. Text outside of the frame, which no signature covers, is refused.

use std::borrow::Cow;

use super::entry::FormatError;

const FORMAT: &str = "cleartext signature";
const MESSAGE: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &[u8] = b"-----BEGIN PGP SIGNATURE-----";
const END: &[u8] = b"-----END PGP SIGNATURE-----";

/// The two parts of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// Without dash-escapes; borrowed if nothing was escaped. Line ends stay as they are. The last one, which
    /// the signature does not cover, is kept, so that the text of an InRelease equals the Release beside it.
    pub text: Cow<'a, [u8]>,
    /// The armored signature, from its first line to its last.
    pub signature: &'a [u8],
}

/// The signed text; input that is not clearsigned is returned as it is.
///
/// # Errors
/// Those of [`split`].
pub fn cleartext(bytes: &[u8]) -> Result<Cow<'_, [u8]>, FormatError> {
    Ok(split(bytes)?.map_or(Cow::Borrowed(bytes), |signed| signed.text))
}

/// The same of an InRelease, as apt reads it: not even an empty line follows the signature.
///
/// # Errors
/// Those of [`split`].
pub fn release_text(bytes: &[u8]) -> Result<Cow<'_, [u8]>, FormatError> {
    let Some(signed) = split(bytes)? else { return Ok(Cow::Borrowed(bytes)) };
    if bytes.ends_with(signed.signature) {
        Ok(signed.text)
    } else {
        Err(problem(1, "empty lines follow the signature"))
    }
}

/// Takes the frame apart; `None` if the input is not clearsigned.
///
/// # Errors
/// If the frame is not complete, has armor headers other than `Hash`, or has text before or after it.
pub fn split(bytes: &[u8]) -> Result<Option<Signed<'_>>, FormatError> {
    let mut lines = lines(bytes);
    match lines.next() {
        Some(first) if first.is(MESSAGE) => {}
        _ => return unsigned(bytes),
    }
    let Some(start) = headers(&mut lines)? else {
        return Err(problem(1, "the frame ends within its headers"));
    };
    let mut escaped = false;
    for line in lines.by_ref() {
        if line.is(SIGNATURE) {
            let text = &bytes[start..line.offset];
            let text = if escaped { Cow::Owned(unescape(text)) } else { Cow::Borrowed(text) };
            let end = frame_ends(&mut lines)?;
            return Ok(Some(Signed { text, signature: &bytes[line.offset..end] }));
        }
        match line.text {
            [b'-', b' ', ..] => escaped = true,
            [b'-', ..] => return Err(problem(line.number, "a line begins with a dash that is not escaped")),
            _ => {}
        }
    }
    Err(problem(1, "the frame has no signature"))
}

/// A signed message further down would be verified, and the text above it be believed.
fn unsigned(bytes: &[u8]) -> Result<Option<Signed<'_>>, FormatError> {
    match lines(bytes).find(|line| line.is(MESSAGE)) {
        Some(line) => Err(problem(line.number, "a signed message begins below text that is not signed")),
        None => Ok(None),
    }
}

/// Passes over the armor's headers and the empty line; gives the offset of the text. RFC 9580 knows `Hash:` alone, apt
/// takes others too. They are not signed, and nobody reads them.
fn headers(lines: &mut Lines<'_>) -> Result<Option<usize>, FormatError> {
    for line in lines.by_ref() {
        let text = line.text.trim_ascii_end();
        if text.is_empty() {
            return Ok(Some(line.offset + line.text.len()));
        }
        if text.starts_with(b"-") {
            return Err(problem(line.number, "there is no empty line above the signed text"));
        }
        // gpg then reads the lines as they are, and others unescape them.
        if text.starts_with(b"NotDashEscaped") {
            return Err(problem(line.number, "the signed text is said not to be escaped"));
        }
    }
    Ok(None)
}

/// Reads the armored signatures to their end, after which nothing may follow; gives the offset of that end. apt takes
/// several blocks, one right after the other.
fn frame_ends(lines: &mut Lines<'_>) -> Result<usize, FormatError> {
    loop {
        let Some(last) = lines.by_ref().find(|line| line.is(END)) else {
            return Err(problem(1, "the signature has no end"));
        };
        match lines.find(|line| !line.text.trim_ascii().is_empty()) {
            Some(line) if line.is(SIGNATURE) => {}
            Some(line) => return Err(problem(line.number, "text follows the signature")),
            None => return Ok(last.offset + last.text.len()),
        }
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&c| c == b'\n') {
        plain.extend_from_slice(line.strip_prefix(b"- ").unwrap_or(line));
    }
    plain
}

fn problem(line: u64, problem: &'static str) -> FormatError {
    FormatError::Line { format: FORMAT, line, problem: problem.into() }
}

/// A line with its end.
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    pub(super) offset: usize,
    number: u64,
}

impl Line<'_> {
    /// RFC 9580 section 6.2: blanks may follow an armor line, nothing may precede it.
    pub(super) fn is(&self, armor: &[u8]) -> bool {
        self.text.strip_prefix(armor).is_some_and(|rest| rest.trim_ascii().is_empty())
    }
}

pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    offset: usize,
    number: u64,
}

pub(super) fn lines(bytes: &[u8]) -> Lines<'_> {
    Lines { bytes, offset: 0, number: 0 }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let text = self.bytes[self.offset..].split_inclusive(|&c| c == b'\n').next()?;
        let offset = self.offset;
        self.offset += text.len();
        self.number += 1;
        Some(Line { text, offset, number: self.number })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(text: &str) -> String {
        format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}-----BEGIN PGP SIGNATURE-----\n\n\
             iQIzBAEBCAAdFiEE\n=abcd\n-----END PGP SIGNATURE-----\n"
        )
    }

    fn shown(input: &str) -> String {
        match cleartext(input.as_bytes()) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn takes_the_text_out() {
        for (input, want) in [
            (frame("Origin: Debian\nSuite: stable\n"), "Origin: Debian\nSuite: stable\n"),
            (frame("a\n").replace('\n', "\r\n"), "a\r\n"),
            (frame("a\n").replace("Hash: SHA256\n", ""), "a\n"),
            (frame("a\n").replace("Hash: SHA256", "Hash: SHA256\nHash: SHA512 "), "a\n"),
            (frame("- -----BEGIN\n- \n- - list\nb - c\n"), "-----BEGIN\n\n- list\nb - c\n"),
            (frame("\n\na\n"), "\n\na\n"),
            (frame(""), ""),
            (frame("a\n") + "\n \n", "a\n"),
            ("Origin: Debian\n".into(), "Origin: Debian\n"),
            (String::new(), ""),
        ] {
            assert_eq!(shown(&input), want, "{input}");
        }
    }

    #[test]
    fn the_signature_is_its_armor_alone() {
        let framed = frame("- -----BEGIN PGP SIGNATURE-----\na\n") + "\n";
        let signed = split(framed.as_bytes()).expect("good").expect("signed");
        let signature = String::from_utf8_lossy(signed.signature);
        assert_eq!(
            signature,
            "-----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCAAdFiEE\n=abcd\n-----END PGP SIGNATURE-----\n"
        );
        assert_eq!(split(b"Origin: Debian\n").expect("good"), None);
    }

    #[test]
    fn passes_over_headers() {
        let other = frame("a\n").replace("Hash: SHA256\n", "Hash: SHA256\nFoo: bar\nwhat\n");
        assert_eq!(&*cleartext(other.as_bytes()).expect("good"), b"a\n");
        let none = frame("a\n").replace("Hash: SHA256\n\n", "Hash: SHA256\n-----BEGIN PGP SIGNATURE-----\n");
        assert_eq!(shown(&none), "cleartext signature, line 3: there is no empty line above the signed text");
    }

    #[test]
    fn borrows_where_nothing_is_escaped() {
        assert!(matches!(cleartext(frame("a\n").as_bytes()), Ok(Cow::Borrowed(_))));
        assert!(matches!(cleartext(frame("- a\n").as_bytes()), Ok(Cow::Owned(_))));
    }

    #[test]
    fn refuses_what_readers_could_see_differently() {
        let good = frame("a\n");
        let nested = frame(&frame("a\n"));
        for (input, want) in [
            (
                format!("Origin: evil\n\n{good}"),
                "line 3: a signed message begins below text that is not signed",
            ),
            (format!("{good}Origin: evil\n"), "line 10: text follows the signature"),
            (format!("{good}{good}"), "line 10: text follows the signature"),
            (nested, "line 4: a line begins with a dash that is not escaped"),
            (frame("-a\n"), "line 4: a line begins with a dash that is not escaped"),
            (
                good.replace("Hash: SHA256", "NotDashEscaped: yes"),
                "line 2: the signed text is said not to be escaped",
            ),
            (good.replace("-----END", "----"), "line 1: the signature has no end"),
            (
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: X".into(),
                "line 1: the frame ends within its headers",
            ),
            ("-----BEGIN PGP SIGNED MESSAGE-----\n\nabc\n".into(), "line 1: the frame has no signature"),
        ] {
            assert_eq!(shown(&input), format!("cleartext signature, {want}"), "{input}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = cleartext(&bytes);
            let _ = cleartext(&[MESSAGE, b"\n\n", &bytes, SIGNATURE, b"\n", END].concat());
        }

        #[test]
        fn round_trip(lines in proptest::collection::vec("(- )?-{0,5}[ -~]{0,20}", 0..10)) {
            let plain: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let escaped: String = lines.iter()
                .map(|line| if line.starts_with('-') { format!("- {line}\n") } else { format!("{line}\n") })
                .collect();
            prop_assert_eq!(shown(&frame(&escaped)), plain);
        }
    }
}
