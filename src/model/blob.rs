//! A blob: the bytes of one package, whatever it is called and wherever it stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Algorithm, Digest, ParseDigestError, hexcode};

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
