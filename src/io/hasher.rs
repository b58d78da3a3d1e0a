//! All published digests in one pass, and those of pieces where the size is known beforehand.

use md4::Md4;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use std::fs::File;
use std::io::{self, Read};

use crate::model::{Algorithm, Digest, Digests, Pieces};

/// What hashing gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    pub digests: Digests,
    /// For files of several pieces.
    pub pieces: Option<Pieces>,
}

/// Feeds every algorithm with the same bytes.
#[derive(Clone, Default)]
pub struct Hasher {
    pieces: Option<PieceHasher>,
    hashed: u64,
    md4: Md4,
    md5: Md5,
    sha1: Sha1,
    sha256: Sha256,
    sha512: Sha512,
    also: Option<Also>,
}

/// An algorithm that only some files need.
#[derive(Clone)]
enum Also {
    Sha224(Sha224),
    Sha384(Sha384),
}

/// The pieces so far and the digests of the one that has begun.
#[derive(Clone)]
struct PieceHasher {
    size: u64,
    done: Pieces,
    /// Bytes of the piece that has begun.
    begun: u64,
    sha1: Sha1,
    sha256: Sha256,
}

impl PieceHasher {
    fn new(size: u64) -> Self {
        let (sha1, sha256) = (Sha1::new(), Sha256::new());
        Self { size, done: Pieces::of_size(size), begun: 0, sha1, sha256 }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        // A file that is longer than it was said to be has no pieces, and must not fill the memory.
        while !bytes.is_empty() && !self.done.are_of(self.size) {
            let left = usize::try_from(self.done.len - self.begun).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(left.min(bytes.len()));
            self.sha1.update(part);
            self.sha256.update(part);
            self.begun += part.len() as u64;
            if self.begun == self.done.len {
                self.end_piece();
            }
            bytes = rest;
        }
    }

    fn end_piece(&mut self) {
        self.done.sha1.push(self.sha1.finalize_reset().into());
        self.done.sha256.push(self.sha256.finalize_reset().into());
        self.begun = 0;
    }

    fn finish(mut self, hashed: u64) -> Option<Pieces> {
        if self.begun > 0 {
            self.end_piece();
        }
        (hashed == self.size && self.done.are_of(hashed)).then_some(self.done)
    }
}

impl Hasher {
    /// Pieces too, of a file that is said to have this size.
    pub fn with_pieces(size: Option<u64>) -> Self {
        let pieces = size.filter(|size| !Pieces::is_one(*size)).map(PieceHasher::new);
        Self { pieces, ..Self::default() }
    }

    /// The same with the digest of `algorithm`, should it not be one that every file has.
    #[must_use]
    pub fn with(self, algorithm: Algorithm) -> Self {
        let also = match algorithm {
            Algorithm::Sha224 => Some(Also::Sha224(Sha224::default())),
            Algorithm::Sha384 => Some(Also::Sha384(Sha384::default())),
            _ => self.also,
        };
        Self { also, ..self }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        // Slices that stay in the first-level cache, so that the later algorithms do not read memory again.
        for slice in bytes.chunks(16 << 10) {
            self.md4.update(slice);
            self.md5.update(slice);
            self.sha1.update(slice);
            self.sha256.update(slice);
            self.sha512.update(slice);
            match &mut self.also {
                Some(Also::Sha224(also)) => also.update(slice),
                Some(Also::Sha384(also)) => also.update(slice),
                None => {}
            }
            if let Some(pieces) = &mut self.pieces {
                pieces.update(slice);
            }
        }
        self.hashed += bytes.len() as u64;
    }

    /// SHA-256 digests of the pieces that are whole so far; none of a file whose pieces are not hashed. The last one,
    /// if it is shorter, is not known to be whole before the end.
    pub fn whole_pieces(&self) -> &[[u8; 32]] {
        self.pieces.as_ref().map_or(&[], |pieces| &pieces.done.sha256)
    }

    pub fn finish(self) -> Hashes {
        let also = self.also.map(|also| match also {
            Also::Sha224(also) => Digest::new(Algorithm::Sha224, &also.finalize()),
            Also::Sha384(also) => Digest::new(Algorithm::Sha384, &also.finalize()),
        });
        let digests = Digests {
            md4: self.md4.finalize().into(),
            md5: self.md5.finalize().into(),
            sha1: self.sha1.finalize().into(),
            sha256: self.sha256.finalize().into(),
            sha512: self.sha512.finalize().into(),
            also,
        };
        Hashes { digests, pieces: self.pieces.and_then(|pieces| pieces.finish(self.hashed)) }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

/// Reads to the end and returns the digests and the length.
pub fn hash(input: impl Read) -> io::Result<(Digests, u64)> {
    let (hashes, size) = read(input, Hasher::default())?;
    Ok((hashes.digests, size))
}

/// The same with pieces, for a whole file.
pub fn hash_file(file: &File) -> io::Result<(Hashes, u64)> {
    hash_file_with(file, Algorithm::Sha256)
}

/// The same with the digest of an algorithm that not every file has.
pub fn hash_file_with(file: &File, algorithm: Algorithm) -> io::Result<(Hashes, u64)> {
    let size = file.metadata()?.len();
    read(file, Hasher::with_pieces(Some(size)).with(algorithm))
}

fn read(mut input: impl Read, mut hasher: Hasher) -> io::Result<(Hashes, u64)> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => {
                let size = hasher.hashed;
                return Ok((hasher.finish(), size));
            }
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (algorithm, want) in [
            (Algorithm::Sha224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            (Algorithm::Sha384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"),
        ] {
            let mut hasher = Hasher::default().with(algorithm);
            hasher.update(b"abc");
            let digests = hasher.finish().digests;
            assert!(digests.also.is_some_and(|also| also.to_hex().starts_with(want)), "{algorithm}");
            assert_eq!(digests.get(algorithm).algorithm(), algorithm);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(32))]
        /// However the bytes arrive: the pieces are what hashing each part alone gives.
        #[test]
        fn pieces_are_digests_of_the_parts(
            size in 0_usize..1_200_000, told in proptest::option::of(0_u64..2_000_000), step in 1_usize..300_000,
        ) {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for told in [Some(size as u64), told] {
                let mut hasher = Hasher::with_pieces(told);
                bytes.chunks(step).for_each(|chunk| hasher.update(chunk));
                let hashes = hasher.finish();
                proptest::prop_assert_eq!(hashes.digests, hash(&*bytes).expect("memory").0);
                let is_told = told == Some(size as u64) && size > 256 << 10;
                proptest::prop_assert_eq!(hashes.pieces.is_some(), is_told);
                let Some(pieces) = hashes.pieces else { continue };
                let parts: Vec<Digests> =
                    bytes.chunks(256 << 10).map(|part| hash(part).expect("memory").0).collect();
                proptest::prop_assert!(pieces.sha1.iter().eq(parts.iter().map(|part| &part.sha1)));
                proptest::prop_assert!(pieces.sha256.iter().eq(parts.iter().map(|part| &part.sha256)));
            }
        }
    }
}
