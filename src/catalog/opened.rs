//! What a compressed member decompresses to, checked while it is read: metadata gives size and digest of that
//! too (`open-checksum` in rpm-md, the uncompressed file's own line in a Release).

use std::io::{self, Read};

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha512};

use crate::model::{Algorithm, Digest, Expected};

/// Reads on, and hashes what passes.
pub struct Opened<R> {
    inner: R,
    hasher: Option<Box<dyn DynDigest>>,
    len: u64,
}

impl<R> std::fmt::Debug for Opened<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<R: Read> Opened<R> {
    /// `expected` says by which algorithm to hash; without it only the length is counted.
    pub fn new(inner: R, expected: Option<&Expected>) -> Self {
        let hasher = expected.and_then(|expected| -> Option<Box<dyn DynDigest>> {
            match expected.digest.algorithm() {
                Algorithm::Sha1 => Some(Box::new(Sha1::default())),
                Algorithm::Sha256 => Some(Box::new(Sha256::default())),
                Algorithm::Sha512 => Some(Box::new(Sha512::default())),
                Algorithm::Md4 | Algorithm::Md5 => None,
            }
        });
        Self { inner, hasher, len: 0 }
    }

    /// Reads what is left, and says whether all of it is as expected.
    pub fn is(mut self, expected: &Expected) -> io::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        while self.read(&mut buffer)? > 0 {}
        let is_size = expected.size.is_none_or(|size| size == self.len);
        let algorithm = expected.digest.algorithm();
        let is_digest = self.hasher.is_none_or(|hasher| {
            let sum = hasher.finalize();
            sum.len() == algorithm.digest_len() && Digest::new(algorithm, &sum) == expected.digest
        });
        Ok(is_size && is_digest)
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        self.len += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_digest_must_fit() {
        use sha2::Digest as _;
        let digest = |bytes: &[u8]| Digest::new(Algorithm::Sha256, &Sha256::digest(bytes));
        let is = |bytes: &[u8], expected: Expected| {
            let mut opened = Opened::new(bytes, Some(&expected));
            let mut first = [0; 2];
            let _ = opened.read(&mut first).expect("memory");
            opened.is(&expected).expect("memory")
        };
        assert!(is(b"right", Expected { digest: digest(b"right"), size: Some(5) }));
        assert!(is(b"right", Expected { digest: digest(b"right"), size: None }));
        assert!(!is(b"right", Expected { digest: digest(b"right"), size: Some(6) }));
        assert!(!is(b"wrong", Expected { digest: digest(b"right"), size: Some(5) }));
    }
}
