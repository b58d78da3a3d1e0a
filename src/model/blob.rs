//! A blob: the bytes of one package, whatever it is called and wherever it stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Algorithm, Digest, Digests, ParseDigestError, hexcode};

/// SHA-256 of the bytes. The only identity a package has here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    pub const LEN: usize = 32;

    pub fn digest(&self) -> Digest {
        Digest::new(Algorithm::Sha256, &self.0)
    }

    /// A 64-bit projection, for hashing and for deterministic choices.
    pub fn prefix(&self) -> u64 {
        let (head, _) = self.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
        u64::from_be_bytes(*head)
    }

    /// Strong entity tag (RFC 9110 section 8.8.3): the same wherever the blob is served.
    pub fn etag(&self) -> String {
        let mut tag = String::with_capacity(34);
        tag.push('"');
        hexcode::encode_into(&self.0[..16], &mut tag);
        tag.push('"');
        tag
    }

    /// The `Last-Modified` of a blob, in seconds since 1970: a date between 2000 and 2021 that only
    /// depends on the bytes. apt resumes with `If-Range: <date>`, perhaps at another holder that never
    /// saw the upstream's date; equal bytes must have equal dates, other bytes another.
    pub fn last_modified_secs(&self) -> u64 {
        const YEAR_2000: u64 = 946_684_800;
        const SPAN: u64 = 21 * 365 * 86_400;
        YEAR_2000 + self.prefix() % SPAN
    }

    pub fn push_hex(&self, out: &mut String) {
        hexcode::encode_into(&self.0, out);
    }
}

impl FromStr for BlobId {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hexcode::decode(text).map(Self).ok_or_else(|| ParseDigestError {
            algorithm: Algorithm::Sha256,
            text: text.chars().take(140).collect(),
        })
    }
}

impl TryFrom<String> for BlobId {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        self.push_hex(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A blob and its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Blob {
    pub id: BlobId,
    pub size: u64,
}

/// What metadata says a file must be. `size` is absent where the format has none (checksum files).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expected {
    pub digest: Digest,
    pub size: Option<u64>,
}

impl Expected {
    /// The blob, if the metadata names it by SHA-256. Otherwise real bytes must be hashed first.
    pub fn blob_id(&self) -> Option<BlobId> {
        (self.digest.algorithm() == Algorithm::Sha256)
            .then(|| self.digest.as_bytes().try_into().ok().map(BlobId))
            .flatten()
    }
}

impl From<Blob> for Expected {
    fn from(blob: Blob) -> Self {
        Self { digest: blob.id.digest(), size: Some(blob.size) }
    }
}

impl Expected {
    /// Whether a file of this size and these digests is the one.
    pub fn is(&self, digests: &Digests, size: u64) -> bool {
        self.may_have(size) && digests.matches(&self.digest)
    }

    pub fn may_have(&self, size: u64) -> bool {
        self.size.is_none_or(|own| own == size)
    }

    /// Whether one file can be both. Two algorithms can mean the same bytes, but nothing says so yet.
    pub fn agrees(&self, other: &Self) -> bool {
        self.digest == other.digest
            && (self.size.is_none() || other.size.is_none() || self.size == other.size)
    }
}

/// What a file may be, best first: never empty, and usually just one. Suites that share a pool can name one path
/// with different digests when one of them is stale; whichever the file has, it is a good file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternatives {
    first: Expected,
    others: Vec<Expected>,
}

impl Alternatives {
    /// Hostile metadata could name one path with many digests. Real archives have two, and some generations of
    /// each.
    pub const MAX: usize = 16;

    /// Adds another, unless it says nothing new or there are [`Self::MAX`] of them.
    pub fn push(&mut self, expected: Expected) {
        for known in std::iter::once(&mut self.first).chain(&mut self.others) {
            if known.agrees(&expected) {
                known.size = known.size.or(expected.size);
                return;
            }
        }
        if self.others.len() < Self::MAX - 1 {
            self.others.push(expected);
        }
    }

    pub fn first(&self) -> Expected {
        self.first
    }

    pub fn iter(&self) -> impl Iterator<Item = &Expected> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The only one, if it is the only one.
    pub fn only(&self) -> Option<Expected> {
        self.others.is_empty().then_some(self.first)
    }

    /// The size that each of them has.
    pub fn size(&self) -> Option<u64> {
        self.first.size.filter(|size| self.others.iter().all(|other| other.size == Some(*size)))
    }

    /// The size that none of them exceeds.
    pub fn max_size(&self) -> Option<u64> {
        self.iter().map(|expected| expected.size).try_fold(0, |max, size| Some(size?.max(max)))
    }

    /// Those that a file of this size can be.
    pub fn of_size(&self, size: u64) -> Option<Self> {
        self.filtered(|expected| expected.may_have(size))
    }

    /// Those that `keep` is true for.
    pub fn filtered(&self, keep: impl FnMut(&Expected) -> bool) -> Option<Self> {
        let mut kept = self.iter().copied().filter(keep);
        Some(Self { first: kept.next()?, others: kept.collect() })
    }

    /// The one that a file of this size and these digests is.
    pub fn matching(&self, digests: &Digests, size: u64) -> Option<Expected> {
        self.iter().find(|expected| expected.is(digests, size)).copied()
    }
}

impl From<Expected> for Alternatives {
    fn from(first: Expected) -> Self {
        Self { first, others: Vec::new() }
    }
}

impl From<Blob> for Alternatives {
    fn from(blob: Blob) -> Self {
        Expected::from(blob).into()
    }
}

/// Their digests: `sha256:<hex> or sha512:<hex>`.
impl fmt::Display for Alternatives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first.digest)?;
        self.others.iter().try_for_each(|other| write!(f, " or {}", other.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(digest: u8, size: Option<u64>) -> Expected {
        Expected { digest: BlobId([digest; 32]).digest(), size }
    }

    #[test]
    fn alternatives_are_few_and_distinct() {
        let mut all = Alternatives::from(expected(1, None));
        assert_eq!((all.only(), all.size(), all.max_size()), (Some(expected(1, None)), None, None));
        all.push(expected(1, Some(5)));
        assert_eq!(all.only(), Some(expected(1, Some(5))), "another file of the metadata gives the size");
        all.push(expected(2, Some(5)));
        all.push(expected(2, Some(5)));
        assert_eq!((all.iter().count(), all.only(), all.size()), (2, None, Some(5)));
        all.push(expected(2, Some(7)));
        assert_eq!((all.iter().count(), all.size(), all.max_size()), (3, None, Some(7)));
        for digest in 3..100 {
            all.push(expected(digest, Some(9)));
        }
        assert_eq!(all.iter().count(), Alternatives::MAX);
    }

    #[test]
    fn size_and_digest_choose() {
        let digests = |sha256| Digests {
            md4: [0; 16],
            md5: [0; 16],
            sha1: [0; 20],
            sha256,
            sha512: [0; 64],
            also: None,
        };
        let mut all = Alternatives::from(expected(1, Some(5)));
        all.push(expected(2, Some(5)));
        all.push(expected(3, Some(7)));
        all.push(expected(4, None));
        assert_eq!(all.of_size(7).map(|some| some.iter().count()), Some(2), "of that size, and of any");
        assert_eq!(all.of_size(1).and_then(|some| some.only()), Some(expected(4, None)));
        assert_eq!(all.matching(&digests([2; 32]), 5), Some(expected(2, Some(5))));
        assert_eq!(all.matching(&digests([2; 32]), 7), None, "the digest of one and the size of another");
        assert_eq!(all.matching(&digests([4; 32]), 7), Some(expected(4, None)));
        assert_eq!(Alternatives::from(expected(1, Some(5))).of_size(7), None);
        assert!(all.to_string().starts_with("sha256:0101") && all.to_string().contains(" or sha256:0202"));
    }
}
