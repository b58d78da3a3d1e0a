//! multipart/byteranges (RFC 9110 section 14.6, RFC 2046 section 5.1): what stands around the parts of a file.
//!
//! zchunk's reader (its multipart.c) wants a boundary of letters and digits without quotes, and numbers in
//! `Content-Range`. The boundary follows from the entity tag, so that every holder answers alike.

use std::ops::Range;

/// The text around the parts of one file.
#[derive(Clone, Debug)]
pub struct Framing {
    boundary: String,
    content_type: &'static str,
    size: u64,
}

impl Framing {
    /// `tag` is the entity tag of the file, `size` its size.
    pub fn new(tag: &str, content_type: &'static str, size: u64) -> Self {
        let boundary = tag.chars().filter(char::is_ascii_alphanumeric).collect();
        Self { boundary, content_type, size }
    }

    /// The `Content-Type` of the whole answer.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What stands before a part.
    pub fn head(&self, part: &Range<u64>) -> String {
        let Self { boundary, content_type, size } = self;
        let (first, last) = (part.start, part.end.saturating_sub(1));
        format!(
            "\r\n--{boundary}\r\nContent-Type: {content_type}\r\n\
             Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
        )
    }

    /// What stands after the last part.
    pub fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// The bytes of the whole answer. `parts` lie within the file and are no longer than it together.
    pub fn len(&self, parts: &[Range<u64>]) -> u64 {
        let part = |part: &Range<u64>| self.head(part).len() as u64 + (part.end - part.start);
        parts.iter().map(part).sum::<u64>() + self.tail().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::range::MAX_FRAMING;

    #[test]
    fn as_rfc_9110_shows_it() {
        let framing = Framing::new("\"5f-THIS\"", "application/pdf", 8000);
        assert_eq!(framing.content_type(), "multipart/byteranges; boundary=5fTHIS");
        let want = "\r\n--5fTHIS\r\nContent-Type: application/pdf\r\n\
                    Content-Range: bytes 500-999/8000\r\n\r\n";
        assert_eq!(framing.head(&(500..1000)), want);
        assert_eq!(framing.tail(), "\r\n--5fTHIS--\r\n");
        assert_eq!(framing.len(&[500..1000, 0..1]), 2 * want.len() as u64 - 4 + 501 + 14);
    }

    #[test]
    fn two_parts_or_more_have_less_around_them_than_was_reckoned() {
        let longest = Framing::new(&"x".repeat(32), "application/vnd.debian.binary-package", u64::MAX);
        let (first, last) = (u64::MAX - 2..u64::MAX - 1, u64::MAX - 1..u64::MAX);
        assert!(longest.len(&[first, last]) - 2 < 2 * MAX_FRAMING);
    }
}
