//! Digests of equal parts of one file, with which a client that fetches from several places notices at once which
//! of them sends wrong bytes.
//!
//! Both SHA-1 and SHA-256: libzypp reads pieces of SHA-1 only, and checks the whole file besides; aria2 takes the
//! strongest pieces and then does not check the whole.

use super::Digests;

/// The shortest piece: below it a request costs more than the bytes.
const MIN_LEN: u64 = 256 << 10;
/// Maximum number of pieces of one file: bounds what is kept about it to 13 KB.
const MAX_PIECES: u64 = 256;

const SHA1: usize = 20;
const SHA256: usize = 32;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Bytes of each piece but the last, a power of two.
    pub len: u64,
    pub sha1: Vec<[u8; SHA1]>,
    pub sha256: Vec<[u8; SHA256]>,
}

impl Pieces {
    /// The length of the pieces of a file: the least power of two that makes few enough.
    pub fn len_for(size: u64) -> u64 {
        let mut len = MIN_LEN;
        while size.div_ceil(len) > MAX_PIECES {
            len *= 2;
        }
        len
    }

    /// None yet, of a file of this size.
    pub fn of_size(size: u64) -> Self {
        Self { len: Self::len_for(size), sha1: Vec::new(), sha256: Vec::new() }
    }

    /// A file that is one piece has nothing that its digests do not say.
    pub fn is_one(size: u64) -> bool {
        size <= MIN_LEN
    }

    /// The only piece of such a file.
    pub fn whole(digests: &Digests) -> Self {
        Self { len: MIN_LEN, sha1: vec![digests.sha1], sha256: vec![digests.sha256] }
    }

    /// Whether these are the pieces of a file of this size.
    pub fn are_of(&self, size: u64) -> bool {
        self.len == Self::len_for(size) && self.sha256.len() as u64 == size.div_ceil(self.len)
    }

    /// The stored form: binary logarithm of the length, then the digests of each piece.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.sha1.len() * (SHA1 + SHA256));
        out.push(self.len.trailing_zeros() as u8);
        for (sha1, sha256) in self.sha1.iter().zip(&self.sha256) {
            out.extend_from_slice(sha1);
            out.extend_from_slice(sha256);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&log, rest) = bytes.split_first()?;
        let len = 1_u64.checked_shl(u32::from(log))?;
        let mut pieces = Self { len, sha1: Vec::new(), sha256: Vec::new() };
        for piece in rest.chunks(SHA1 + SHA256) {
            let (sha1, sha256) = piece.split_first_chunk()?;
            pieces.sha1.push(*sha1);
            pieces.sha256.push(sha256.try_into().ok()?);
        }
        Some(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pieces_of_any_size() {
        for (size, len) in [
            (0, MIN_LEN),
            (1, MIN_LEN),
            (MIN_LEN * MAX_PIECES, MIN_LEN),
            (MIN_LEN * MAX_PIECES + 1, 2 * MIN_LEN),
            (4 << 30, 16 << 20),
            (u64::MAX, 1 << 56),
        ] {
            assert_eq!(Pieces::len_for(size), len, "{size}");
        }
    }

    #[test]
    fn stored_form_round_trip() {
        let pieces = Pieces { len: MIN_LEN, sha1: vec![[1; 20], [2; 20]], sha256: vec![[3; 32], [4; 32]] };
        let stored = pieces.encode();
        assert_eq!(Pieces::decode(&stored).as_ref(), Some(&pieces));
        assert!(pieces.are_of(2 * MIN_LEN) && pieces.are_of(MIN_LEN + 1));
        assert!(!pieces.are_of(MIN_LEN) && !pieces.are_of(2 * MIN_LEN + 1));
        assert_eq!(Pieces::decode(&stored[..stored.len() - 1]), None);
        assert_eq!(Pieces::decode(&[64]), None, "longer than any file");
        assert_eq!(Pieces::decode(&[]), None);
    }
}
