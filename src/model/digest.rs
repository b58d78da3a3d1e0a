//! Digests: which algorithms exist, one value of one of them, and all of them of one file.
//!
//! SHA-256 identifies (see [`BlobId`](super::BlobId)). The others are published because clients and
//! upstream metadata ask for them. MD4 and MD5 never decide anything. Sources: RFC 1320, RFC 1321, FIPS 180-4.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::hexcode;

/// A digest algorithm, weakest first, so that `max` picks the one to trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Md4,
    Md5,
    Sha1,
    /// Nobody publishes it; repositories made by `createrepo_c --checksum` have it, like SHA-384.
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 7] =
        [Self::Md4, Self::Md5, Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];
    /// Computed of every file, see [`Digests`].
    pub const PUBLISHED: [Self; 5] = [Self::Md4, Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// The suffix of a manifest (`PATH.sha256`) and the name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md4 => "md4",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of a digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md4 | Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Reads the names that archives use: `SHA256`, `sha-256`, rpm-md's `sha` for SHA-1, apt's `MD5Sum`.
    pub fn from_name(name: &str) -> Option<Self> {
        let is = |candidates: &[&str]| candidates.iter().any(|c| name.eq_ignore_ascii_case(c));
        match () {
            () if is(&["sha256", "sha-256", "Checksums-Sha256"]) => Some(Self::Sha256),
            () if is(&["sha512", "sha-512", "Checksums-Sha512"]) => Some(Self::Sha512),
            () if is(&["sha224"]) => Some(Self::Sha224),
            () if is(&["sha384"]) => Some(Self::Sha384),
            () if is(&["sha1", "sha", "sha-1", "Checksums-Sha1"]) => Some(Self::Sha1),
            () if is(&["md5", "md5sum"]) => Some(Self::Md5),
            () if is(&["md4"]) => Some(Self::Md4),
            () => None,
        }
    }

    /// Whether a match proves anything about a hostile file. SHA-1 is kept because old rpm-md
    /// repositories know nothing better, and their clients accept it.
    pub fn may_verify(self) -> bool {
        self >= Self::Sha1
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One digest with its algorithm. Text form: `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    // Unused bytes are zero, so that the derived comparisons are right.
    bytes: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {algorithm} digest: {} hexadecimal digits are expected", 2 * .algorithm.digest_len())]
pub struct ParseDigestError {
    pub algorithm: Algorithm,
    pub text: String,
}

impl Digest {
    /// # Panics
    /// If `bytes` does not have the length of `algorithm`: only a hasher or a parser calls this.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), algorithm.digest_len(), "length of a {algorithm} digest");
        let mut own = [0; 64];
        own[..bytes.len()].copy_from_slice(bytes);
        Self { algorithm, bytes: own }
    }

    pub fn from_hex(algorithm: Algorithm, text: &str) -> Result<Self, ParseDigestError> {
        fn part<const N: usize>(text: &str) -> Option<[u8; 64]> {
            let mut own = [0; 64];
            own[..N].copy_from_slice(&hexcode::decode::<N>(text)?);
            Some(own)
        }
        let bytes = match algorithm.digest_len() {
            16 => part::<16>(text),
            20 => part::<20>(text),
            28 => part::<28>(text),
            32 => part::<32>(text),
            48 => part::<48>(text),
            _ => part::<64>(text),
        };
        let bytes =
            bytes.ok_or_else(|| ParseDigestError { algorithm, text: text.chars().take(140).collect() })?;
        Ok(Self { algorithm, bytes })
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    pub fn to_hex(&self) -> String {
        let mut text = String::with_capacity(2 * self.algorithm.digest_len());
        hexcode::encode_into(self.as_bytes(), &mut text);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digests of one file, as one pass over its bytes gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    pub md4: [u8; 16],
    pub md5: [u8; 16],
    pub sha1: [u8; 20],
    pub sha256: [u8; 32],
    pub sha512: [u8; 64],
    /// The one of SHA-224 or SHA-384 by which metadata names the file. Not computed of other files: it takes
    /// as long as SHA-256 or SHA-512.
    pub also: Option<Digest>,
}

impl Digests {
    /// Length of the five digests that every file has, one after the other.
    const ENCODED_LEN: usize = 16 + 16 + 20 + 32 + 64;

    /// The digest of that algorithm; of one that was not computed, the SHA-256.
    pub fn get(&self, algorithm: Algorithm) -> Digest {
        let bytes: &[u8] = match algorithm {
            Algorithm::Md4 => &self.md4,
            Algorithm::Md5 => &self.md5,
            Algorithm::Sha1 => &self.sha1,
            Algorithm::Sha512 => &self.sha512,
            Algorithm::Sha224 | Algorithm::Sha256 | Algorithm::Sha384 => {
                let also = self.also.filter(|also| also.algorithm() == algorithm);
                return also.unwrap_or_else(|| Digest::new(Algorithm::Sha256, &self.sha256));
            }
        };
        Digest::new(algorithm, bytes)
    }

    /// Those besides SHA-256 by which metadata may name the file and that may verify it.
    pub fn aliases(&self) -> impl Iterator<Item = Digest> {
        [Algorithm::Sha512, Algorithm::Sha1].map(|algorithm| self.get(algorithm)).into_iter().chain(self.also)
    }

    /// Whether the digest of this algorithm is among them.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        Algorithm::PUBLISHED.contains(&algorithm)
            || self.also.is_some_and(|also| also.algorithm() == algorithm)
    }

    pub fn matches(&self, digest: &Digest) -> bool {
        self.get(digest.algorithm()) == *digest
    }

    /// The five digests one after the other, then SHA-224 or SHA-384 where there is one: their lengths tell
    /// which.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::ENCODED_LEN + Algorithm::Sha384.digest_len());
        for algorithm in Algorithm::PUBLISHED {
            out.extend_from_slice(self.get(algorithm).as_bytes());
        }
        out.extend(self.also.iter().flat_map(Digest::as_bytes));
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (md4, rest) = bytes.split_first_chunk()?;
        let (md5, rest) = rest.split_first_chunk()?;
        let (sha1, rest) = rest.split_first_chunk()?;
        let (sha256, rest) = rest.split_first_chunk()?;
        let (sha512, rest) = rest.split_first_chunk()?;
        let also = match rest.len() {
            0 => None,
            len => {
                let algorithm =
                    [Algorithm::Sha224, Algorithm::Sha384].into_iter().find(|a| a.digest_len() == len)?;
                Some(Digest::new(algorithm, rest))
            }
        };
        Some(Self { md4: *md4, md5: *md5, sha1: *sha1, sha256: *sha256, sha512: *sha512, also })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        let text = "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824";
        let digest = Digest::from_hex(Algorithm::Sha256, text).expect("valid");
        assert_eq!(digest.to_hex(), text.to_ascii_lowercase());
        for bad in ["", "00", "zz", &text[1..], &format!("{text}00"), "é"] {
            assert!(Digest::from_hex(Algorithm::Sha256, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stored_form_round_trip() {
        let plain = Digests {
            md4: [1; 16],
            md5: [2; 16],
            sha1: [3; 20],
            sha256: [4; 32],
            sha512: [5; 64],
            also: None,
        };
        assert_eq!(plain.encode().len(), Digests::ENCODED_LEN);
        for also in [None, Some((Algorithm::Sha224, 28)), Some((Algorithm::Sha384, 48))] {
            let also = also.map(|(algorithm, len)| Digest::new(algorithm, &vec![6; len]));
            let digests = Digests { also, ..plain };
            assert_eq!(Digests::decode(&digests.encode()), Some(digests));
            assert!(also.is_none_or(|also| digests.matches(&also) && !plain.matches(&also)));
        }
        assert_eq!(Digests::decode(&[0; 10]), None);
        assert_eq!(Digests::decode(&[0; Digests::ENCODED_LEN + 1]), None);
    }

    #[test]
    fn names_of_archives() {
        for (name, want) in [
            ("SHA256", Some(Algorithm::Sha256)),
            ("sha", Some(Algorithm::Sha1)),
            ("MD5Sum", Some(Algorithm::Md5)),
            ("sha-512", Some(Algorithm::Sha512)),
            ("sha384", Some(Algorithm::Sha384)),
            ("SHA224", Some(Algorithm::Sha224)),
            ("crc32", None),
        ] {
            assert_eq!(Algorithm::from_name(name), want, "{name}");
        }
    }
}
