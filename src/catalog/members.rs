//! The files that root files name: what is known of each, and whether bytes are what clients take for it.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

use crate::formats::{release, repomd};
use crate::model::{Algorithm, Digest, Expected, Size};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Absent where only MD5 is listed, or nothing: then no bytes can be proven to be the file.
    pub(super) expected: Option<Expected>,
    /// Every digest listed, for `by-hash` look-ups too. Clients compare each of them.
    pub(super) digests: Vec<Digest>,
    /// A digest is listed that no file can have.
    malformed: Option<Algorithm>,
    /// What clients compare.
    size: Option<u64>,
    /// What some clients take no more bytes than.
    most: Option<u64>,
}

impl Member {
    pub(super) fn of_release(listed: release::Member) -> Self {
        let (expected, size) = (listed.expected(), Some(listed.size));
        Self { expected, digests: listed.digests, malformed: listed.malformed, size, most: None }
    }

    pub(super) fn of_record(record: &repomd::Record) -> Self {
        let digest = record.digest.filter(|digest| digest.algorithm().may_verify());
        Self {
            expected: digest.map(|digest| Expected { digest, size: None }),
            digests: record.digest.into_iter().collect(),
            malformed: None,
            size: None,
            most: record.size,
        }
    }

    /// Why clients refuse these bytes for the member; `None` if they take them.
    pub(super) fn flaw(&self, bytes: &[u8]) -> Option<String> {
        if let Some(algorithm) = self.malformed {
            return Some(format!("the {algorithm} listed for it is no digest"));
        }
        let len = bytes.len() as u64;
        if let Some(size) = self.size.filter(|size| *size != len) {
            return Some(format!("{len} bytes instead of {size}"));
        }
        let wrong = self.digests.iter().find(|digest| digest_of(digest.algorithm(), bytes) != **digest)?;
        Some(format!("it does not have the digest {wrong} that is listed for it"))
    }

    /// Why some clients refuse bytes that others take.
    pub(super) fn objection(&self, bytes: &[u8]) -> Option<String> {
        let most = self.most.filter(|most| bytes.len() as u64 > *most)?;
        Some(format!("it is longer than the {} that are listed, which zypper refuses", Size(most)))
    }

    /// Takes what was read for the member: whatever else comes later is not what this generation was made of.
    pub(super) fn pin(&mut self, bytes: &[u8]) {
        let digest = digest_of(Algorithm::Sha256, bytes);
        self.expected = Some(Expected { digest, size: Some(bytes.len() as u64) });
    }

    /// What an origin may give for it, verified as far as clients do.
    pub(super) fn unproven(&self) -> Unproven {
        Unproven { digest: self.digests.first().copied(), size: self.size }
    }
}

/// A member that nothing proves: clients take what comes, if it is this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproven {
    /// MD5, or nothing.
    pub digest: Option<Digest>,
    pub size: Option<u64>,
}

impl Unproven {
    /// Whether clients take these bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.size.is_none_or(|size| size == bytes.len() as u64)
            && self.digest.is_none_or(|digest| digest_of(digest.algorithm(), bytes) == digest)
    }
}

/// Bytes that a list of this length may decompress to.
pub(super) fn open_limit(compressed: u64) -> u64 {
    /// Package lists compress to about a fifth; 200 leaves room for repetitive ones.
    const RATIO: u64 = 200;
    /// The largest lists known are some hundred MB.
    const MAX_OPEN: u64 = 1 << 30;
    const FLOOR: u64 = 16 << 20;
    compressed.saturating_mul(RATIO).clamp(FLOOR, MAX_OPEN)
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Md4 => Digest::new(algorithm, &md4::Md4::digest(bytes)),
        Algorithm::Md5 => Digest::new(algorithm, &Md5::digest(bytes)),
        Algorithm::Sha1 => Digest::new(algorithm, &Sha1::digest(bytes)),
        Algorithm::Sha224 => Digest::new(algorithm, &Sha224::digest(bytes)),
        Algorithm::Sha256 => Digest::new(algorithm, &Sha256::digest(bytes)),
        Algorithm::Sha384 => Digest::new(algorithm, &Sha384::digest(bytes)),
        Algorithm::Sha512 => Digest::new(algorithm, &Sha512::digest(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digest_listed_counts() {
        let bytes = b"abc";
        let right = |algorithm| digest_of(algorithm, bytes);
        let wrong = |algorithm| digest_of(algorithm, b"abd");
        let member = |digests: Vec<Digest>, malformed, size| {
            Member::of_release(release::Member { size, digests, malformed })
        };
        let sha256 = right(Algorithm::Sha256);
        for algorithm in Algorithm::ALL {
            assert_eq!(member(vec![sha256, right(algorithm)], None, 3).flaw(bytes), None, "{algorithm}");
            assert!(member(vec![sha256, wrong(algorithm)], None, 3).flaw(bytes).is_some(), "{algorithm}");
            assert!(member(vec![sha256], Some(algorithm), 3).flaw(bytes).is_some(), "{algorithm}");
        }
        assert!(member(vec![sha256], None, 4).flaw(bytes).is_some());
        let weak = member(vec![right(Algorithm::Md5)], None, 3);
        assert_eq!((weak.expected, weak.flaw(bytes)), (None, None));
        assert!(weak.unproven().is(bytes) && !weak.unproven().is(b"abd") && !weak.unproven().is(b"abcd"));
        let mut pinned = weak;
        pinned.pin(bytes);
        assert_eq!(pinned.expected, Some(Expected { digest: sha256, size: Some(3) }));
    }
}
