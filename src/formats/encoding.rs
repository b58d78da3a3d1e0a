//! XML in the encodings that rpm-md's clients read (expat, Appendix A of its manual: UTF-8, UTF-16, ISO-8859-1 and
//! US-ASCII), as UTF-8. Any other is an error there too.

use std::io::{self, BufRead, Read};

/// Longest XML declaration that is looked at; longer ones are read as UTF-8.
const MAX_DECLARATION: usize = 1024;
/// Bytes decoded at a time.
const CHUNK: usize = 16 << 10;

/// Why text cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EncodingError {
    #[error("its encoding is none of UTF-8, UTF-16, ISO-8859-1 and US-ASCII")]
    Unknown,
    #[error("bytes that are not of its encoding")]
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Latin1,
    Ascii,
    Utf16Le,
    Utf16Be,
}

/// Reads a document of any of the encodings as UTF-8. Text that is UTF-8 already is left alone.
#[derive(Debug)]
pub(super) struct Decoder<R> {
    input: R,
    /// Known once the document's start was read.
    encoding: Option<Encoding>,
    /// UTF-8: the start. Else the text decoded last.
    ready: Vec<u8>,
    /// How much of `ready` was given away.
    at: usize,
    /// A part of a character.
    rest: Vec<u8>,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, encoding: None, ready: Vec::new(), at: 0, rest: Vec::new() }
    }

    /// Reads the XML declaration, which says what follows.
    fn begin(&mut self) -> io::Result<Encoding> {
        let mut start = Vec::new();
        while start.len() < MAX_DECLARATION && !start.contains(&b'>') {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                break;
            }
            let taken = available.len().min(MAX_DECLARATION);
            start.extend_from_slice(&available[..taken]);
            self.input.consume(taken);
        }
        let encoding = detect(&start).ok_or_else(|| io::Error::other(EncodingError::Unknown))?;
        self.encoding = Some(encoding);
        match encoding {
            Encoding::Utf8 => self.ready = start,
            _ => self.decode(encoding, &start)?,
        }
        Ok(encoding)
    }

    fn decode(&mut self, encoding: Encoding, bytes: &[u8]) -> io::Result<()> {
        let malformed = || io::Error::other(EncodingError::Malformed);
        self.ready.clear();
        self.at = 0;
        match encoding {
            Encoding::Utf8 => self.ready.extend_from_slice(bytes),
            Encoding::Ascii if !bytes.is_ascii() => return Err(malformed()),
            Encoding::Ascii => self.ready.extend_from_slice(bytes),
            Encoding::Latin1 => {
                let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
                self.ready = text.into_bytes();
            }
            Encoding::Utf16Le | Encoding::Utf16Be => {
                self.rest.extend_from_slice(bytes);
                let number =
                    if encoding == Encoding::Utf16Le { u16::from_le_bytes } else { u16::from_be_bytes };
                let mut units: Vec<u16> = self.rest.as_chunks().0.iter().map(|pair| number(*pair)).collect();
                // The second half of a pair may come with the next bytes.
                units.pop_if(|last| (0xd800..0xdc00).contains(last));
                self.rest.drain(..2 * units.len());
                self.ready = String::from_utf16(&units).map_err(|_| malformed())?.into_bytes();
            }
        }
        Ok(())
    }
}

/// What the start of a document says of its encoding (XML 1.0, Appendix F).
fn detect(start: &[u8]) -> Option<Encoding> {
    match start {
        [0xff, 0xfe, ..] | [b'<', 0, ..] => return Some(Encoding::Utf16Le),
        [0xfe, 0xff, ..] | [0, b'<', ..] => return Some(Encoding::Utf16Be),
        _ => {}
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let Some(end) = text.iter().position(|&c| c == b'>').filter(|_| text.starts_with(b"<?xml")) else {
        return Some(Encoding::Utf8);
    };
    let declaration = String::from_utf8_lossy(&text[..end]);
    let Some((_, value)) = declaration.split_once("encoding") else { return Some(Encoding::Utf8) };
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let name = value[1..].split(quote).next()?;
    let names = [("utf-8", Encoding::Utf8), ("iso-8859-1", Encoding::Latin1), ("us-ascii", Encoding::Ascii)];
    names.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, encoding)| encoding)
}

impl<R: BufRead> BufRead for Decoder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let encoding = match self.encoding {
            Some(encoding) => encoding,
            None => self.begin()?,
        };
        while self.at == self.ready.len() {
            if encoding == Encoding::Utf8 {
                return self.input.fill_buf();
            }
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                let is_cut = !self.rest.is_empty();
                return if is_cut { Err(io::Error::other(EncodingError::Malformed)) } else { Ok(&[]) };
            }
            let bytes = available[..available.len().min(CHUNK)].to_vec();
            self.input.consume(bytes.len());
            self.decode(encoding, &bytes)?;
        }
        Ok(&self.ready[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        if self.at < self.ready.len() {
            self.at += amount;
        } else {
            self.input.consume(amount);
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(buffer)?;
        self.consume(amount);
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Through buffers so small that every character is cut.
    fn read(bytes: &[u8]) -> Result<String, String> {
        let mut text = String::new();
        let mut decoder = Decoder::new(io::BufReader::with_capacity(1, bytes));
        decoder.read_to_string(&mut text).map(|_| text).map_err(|error| error.to_string())
    }

    fn latin_1(text: &str) -> Vec<u8> {
        text.chars().map(|c| u8::try_from(u32::from(c)).expect("a letter of Latin-1")).collect()
    }

    fn utf_16(text: &str, number: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(number).collect()
    }

    #[test]
    fn each_encoding() {
        let declared = |name: &str| format!("<?xml version='1.0' encoding=\"{name}\"?>\n<r>Zoë</r>");
        let wide = declared("UTF-16").replace('ë', "ë\u{1f980}");
        for (bytes, want) in [
            (declared("UTF-8").into_bytes(), Ok(declared("UTF-8"))),
            (declared("ISO-8859-1").into_bytes(), Ok(declared("ISO-8859-1").replace('ë', "Ã«"))),
            (latin_1(&declared("iso-8859-1")), Ok(declared("iso-8859-1"))),
            (declared("US-ASCII").replace('ë', "e").into_bytes(), Ok(declared("US-ASCII").replace('ë', "e"))),
            (declared("US-ASCII").into_bytes(), Err(EncodingError::Malformed)),
            (utf_16(&format!("\u{feff}{wide}"), u16::to_le_bytes), Ok(format!("\u{feff}{wide}"))),
            (utf_16(&wide, u16::to_be_bytes), Ok(wide.clone())),
            (declared("UTF-16").into_bytes(), Err(EncodingError::Unknown)),
            (latin_1(&declared("ISO-8859-15")), Err(EncodingError::Unknown)),
            (latin_1(&declared("windows-1252")), Err(EncodingError::Unknown)),
            (utf_16(&wide, u16::to_le_bytes)[..51].to_vec(), Err(EncodingError::Malformed)),
            (b"<?xml version='1.0'?><r/>".to_vec(), Ok("<?xml version='1.0'?><r/>".to_owned())),
            (b"".to_vec(), Ok(String::new())),
        ] {
            assert_eq!(read(&bytes), want.map_err(|error| error.to_string()), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), name in "(UTF-16|US-ASCII|ISO-8859-1)?") {
            let _ = read(&bytes);
            let _ = read(&[format!("<?xml encoding='{name}'?>").as_bytes(), &bytes].concat());
        }
    }
}
