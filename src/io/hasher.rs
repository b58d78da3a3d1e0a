//! All five digests in one pass.

use md4::Md4;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use std::io::{self, Read};

use crate::model::Digests;

/// Feeds every algorithm with the same bytes.
#[derive(Clone, Default)]
pub struct Hasher {
    md4: Md4,
    md5: Md5,
    sha1: Sha1,
    sha256: Sha256,
    sha512: Sha512,
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        // Slices that stay in the first-level cache, so that the later algorithms do not read memory again.
        for slice in bytes.chunks(16 << 10) {
            self.md4.update(slice);
            self.md5.update(slice);
            self.sha1.update(slice);
            self.sha256.update(slice);
            self.sha512.update(slice);
        }
    }

    pub fn finish(self) -> Digests {
        Digests {
            md4: self.md4.finalize().into(),
            md5: self.md5.finalize().into(),
            sha1: self.sha1.finalize().into(),
            sha256: self.sha256.finalize().into(),
            sha512: self.sha512.finalize().into(),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

/// Reads to the end and returns the digests and the length.
pub fn hash(mut input: impl Read) -> io::Result<(Digests, u64)> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), total)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Algorithm;

    #[test]
    fn digests_of_abc() {
        // Test vectors of RFC 1320, RFC 1321 and FIPS 180-4.
        let (digests, len) = hash(&b"abc"[..]).expect("memory is readable");
        assert_eq!(len, 3);
        for (algorithm, want) in [
            (Algorithm::Md4, "a448017aaf21d8525fc10ae87aa6729d"),
            (Algorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Algorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            assert_eq!(digests.get(algorithm).to_hex(), want);
        }
        assert!(digests.get(Algorithm::Sha512).to_hex().starts_with("ddaf35a193617abacc417349ae204131"));
    }
}
