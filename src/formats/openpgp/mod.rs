//! OpenPGP signatures over repository metadata (RFC 9580): who signed an InRelease, a Release with its
//! Release.gpg, a repomd.xml with its repomd.xml.asc.
//!
//! Packets, keys and arithmetic are the crate `pgp`'s; which signature counts is decided here, as apt's
//! gpgv and librepo decide it: one valid signature by a known key is enough, since archives sign with
//! several keys and a client may know only one of them. One by a known key that does not fit the text spoils
//! it: for apt anywhere, for librepo before the first that counts. Deliberately knows no trust beyond "the key is in
//! the keyring", no user ids and no designated revokers.

mod armor;
mod certificate;
mod error;
mod signature;

use pgp::composed::{Deserializable, SignedPublicKey};
use pgp::types::{KeyDetails, KeyVersion};

use super::clearsign;
use super::entry::Skipped;
pub use error::{KeyringError, Reason, Refusal, SignatureError};

/// Debian's archive keyring has 60 KB; that of all its developers does not belong here.
pub const MAX_KEYRING_BYTES: usize = 8 << 20;
/// An archive has some ten keys.
const MAX_CERTIFICATES: usize = 1000;
/// Debian signs three times, in 4 KB.
const MAX_SIGNATURE_BYTES: usize = 256 << 10;
/// Bounds the work for one file: each signature costs one pass over the text.
const MAX_SIGNATURES: usize = 32;
/// Clocks differ; a signature from further ahead is refused.
const CLOCK_DIFFERENCE_SECS: u64 = 24 * 60 * 60;

/// Who signed, by a signature that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// Of the key or subkey that made the signature; upper-case hexadecimal.
    pub fingerprint: String,
    /// Of the certificate's primary key.
    pub primary: String,
    /// The certificate's first user id, fit for a log; empty if it has none.
    pub user: String,
    /// When the signature was made, in seconds since 1970.
    pub created: u64,
}

/// The certificates whose signatures count.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
    /// Certificates that were left out: broken, or of a kind that is not supported.
    pub skipped: Skipped,
}

impl Keyring {
    /// Reads certificates one after the other, binary or as ASCII armor, in any number of armor blocks.
    ///
    /// # Errors
    /// If there is no usable certificate, or too much of everything.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyringError> {
        if bytes.len() > MAX_KEYRING_BYTES {
            return Err(KeyringError::TooLarge { limit: MAX_KEYRING_BYTES });
        }
        if bytes.get(8..12) == Some(b"KBXf") {
            return Err(KeyringError::Keybox);
        }
        let mut keyring = Self::default();
        for block in armor::blocks(bytes, armor::Kind::PublicKey) {
            let packets = block.map_err(|problem| KeyringError::Armor { problem })?;
            keyring.read(&packets)?;
        }
        match keyring.skipped.first {
            _ if !keyring.certificates.is_empty() => Ok(keyring),
            Some(problem) => Err(KeyringError::Unusable { problem }),
            None => Err(KeyringError::Empty),
        }
    }

    fn read(&mut self, packets: &[u8]) -> Result<(), KeyringError> {
        let found = SignedPublicKey::from_bytes_many(packets)
            .map_err(|error| KeyringError::Armor { problem: error.to_string() })?;
        for certificate in found {
            match certificate {
                Err(error) => self.skipped.note(|| super::entry::excerpt(&error.to_string())),
                Ok(certificate) if !supported(certificate.primary_key.version()) => {
                    self.skipped.note(|| "keys before version 4 are not supported".into());
                }
                Ok(_) if self.certificates.len() == MAX_CERTIFICATES => {
                    return Err(KeyringError::TooMany { limit: MAX_CERTIFICATES });
                }
                Ok(certificate) => self.add(certificate),
            }
        }
        Ok(())
    }

    /// Adds the certificates of another file. Of two copies of one, all that either says counts, above all
    /// its revocation.
    pub fn merge(&mut self, other: Self) {
        for certificate in other.certificates {
            self.add(certificate);
        }
        self.skipped.count = self.skipped.count.saturating_add(other.skipped.count);
        self.skipped.first = self.skipped.first.take().or(other.skipped.first);
    }

    fn add(&mut self, new: SignedPublicKey) {
        let fingerprint = new.primary_key.fingerprint();
        match self.certificates.iter_mut().find(|known| known.primary_key.fingerprint() == fingerprint) {
            None => self.certificates.push(new),
            Some(known) => certificate::merge(known, new),
        }
    }

    /// How many certificates there are.
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Checks a clearsigned file, such as an InRelease: the text that
    /// [`clearsign::cleartext`](super::clearsign::cleartext) takes out of the same bytes is what was signed,
    /// but for blanks at the ends of lines and the kind of line end, which such signatures do not cover. A
    /// line of nothing but blanks is refused: to a signature it is empty, to deb822 an empty line ends a
    /// stanza and a blank one does not.
    ///
    /// # Errors
    /// If no signature counts at `now_secs` (seconds since 1970), with the reason for each.
    pub fn verify_clearsigned(&self, bytes: &[u8], now_secs: u64) -> Result<Vec<Signer>, SignatureError> {
        let signed = clearsign::split(bytes)?.ok_or(SignatureError::NotSigned)?;
        if signed.text.split(|&c| c == b'\n').any(is_blank) {
            return Err(SignatureError::BlankLine);
        }
        self.verify(&canonical(&signed.text), signed.signature, now_secs, Reader::Apt)
    }

    /// Checks a Release.gpg as apt does.
    ///
    /// # Errors
    /// If it is more than armored signatures, one of them by a known key does not fit, or none counts at
    /// `now_secs` (seconds since 1970).
    pub fn verify_release(
        &self,
        release: &[u8],
        signature: &[u8],
        now_secs: u64,
    ) -> Result<Vec<Signer>, SignatureError> {
        armor::check_alone(signature)?;
        self.verify(release, signature, now_secs, Reader::Apt)
    }

    /// Checks a detached signature, armored or binary, such as repomd.xml.asc, as librepo does.
    ///
    /// # Errors
    /// If no signature counts at `now_secs` (seconds since 1970), or only after one by a known key that does
    /// not fit, with the reason for each.
    pub fn verify_detached(
        &self,
        data: &[u8],
        signature: &[u8],
        now_secs: u64,
    ) -> Result<Vec<Signer>, SignatureError> {
        self.verify(data, signature, now_secs, Reader::Librepo)
    }

    fn verify(
        &self,
        data: &[u8],
        signature: &[u8],
        now_secs: u64,
        reader: Reader,
    ) -> Result<Vec<Signer>, SignatureError> {
        let mut is_spoilt = false;
        let (mut signers, mut refusals) = (Vec::new(), Vec::new());
        for signature in signatures(signature)? {
            let judged = match &signature {
                Ok(signature) => signature::judge(&self.certificates, signature, data, now_secs, reader),
                Err(problem) => Err(Refusal {
                    key: "an unknown key".into(),
                    reason: Reason::Unsupported { problem: problem.to_string() },
                }),
            };
            match judged {
                Ok(signer) => signers.push(signer),
                Err(refusal) => {
                    let counts = reader == Reader::Apt || signers.is_empty();
                    is_spoilt |= refusal.reason == Reason::Bad && counts;
                    refusals.push(refusal);
                }
            }
        }
        match (signers.is_empty() || is_spoilt, refusals.is_empty()) {
            (false, _) => Ok(signers),
            (true, false) => Err(SignatureError::Refused { refusals }),
            (true, true) => Err(SignatureError::NotSigned),
        }
    }
}

/// Whose habits count where clients differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A signature by a known key that does not fit the text spoils all others. SHA-1 does not count.
    Apt,
    /// The same spoils those after it. dnf and zypper take SHA-1, by which many repositories are still signed.
    Librepo,
}

fn supported(version: KeyVersion) -> bool {
    matches!(version, KeyVersion::V4 | KeyVersion::V6)
}

/// All signatures of a file.
fn signatures(bytes: &[u8]) -> Result<Vec<signature::Read>, SignatureError> {
    if bytes.len() > MAX_SIGNATURE_BYTES {
        return Err(SignatureError::TooLarge { limit: MAX_SIGNATURE_BYTES });
    }
    let mut found = Vec::new();
    for block in armor::blocks(bytes, armor::Kind::Signature) {
        let packets = block.map_err(|problem| SignatureError::Unreadable { problem })?;
        signature::read(&packets, &mut found)?;
        if found.len() > MAX_SIGNATURES {
            return Err(SignatureError::TooMany { limit: MAX_SIGNATURES });
        }
    }
    Ok(found)
}

/// Whether a signature can be one over the data beside it, whoever made it: false if it certainly is that of
/// something else, such as an earlier generation. Of several signatures one may be of something else: a client may
/// not know its key. Says nothing of who signed.
pub fn detached_fits(data: &[u8], signature: &[u8]) -> bool {
    if is_cut(signature) {
        return false;
    }
    let found = signatures(signature).unwrap_or_default();
    found.is_empty()
        || found
            .iter()
            .any(|one| one.as_ref().map_or(true, |signature| signature::fits(signature, data) != Some(false)))
}

/// Whether a Release.gpg is armored signatures and nothing else, which is all that apt takes.
///
/// # Errors
/// Says which line is too much.
pub fn check_release_gpg(signature: &[u8]) -> Result<(), SignatureError> {
    armor::check_alone(signature)
}

/// Whether it is only the beginning of a signature, or nothing at all: it is being written.
fn is_cut(signature: &[u8]) -> bool {
    let has = |marker: &[u8]| signature.windows(marker.len()).any(|window| window == marker);
    signature.trim_ascii().is_empty() || (has(b"-----BEGIN PGP") && !has(b"-----END PGP"))
}

/// The same for a clearsigned file: false if it was damaged.
pub fn clearsigned_fits(bytes: &[u8]) -> bool {
    match clearsign::split(bytes) {
        Ok(Some(signed)) => detached_fits(&canonical(&signed.text), signed.signature),
        _ => true,
    }
}

/// Whether a line is not empty, but has only blanks.
fn is_blank(line: &[u8]) -> bool {
    line.iter().any(|c| matches!(c, b' ' | b'\t')) && line.iter().all(|c| matches!(c, b' ' | b'\t' | b'\r'))
}

/// What a signature in the cleartext framework covers (RFC 9580 section 7.2): lines without blanks at their
/// ends, joined by CR LF, without the last line end. Like GnuPG, any number of CR counts as blanks.
fn canonical(text: &[u8]) -> Vec<u8> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut canonical = Vec::with_capacity(text.len() + text.len() / 16);
    for (i, line) in text.split(|&c| c == b'\n').enumerate() {
        if i > 0 {
            canonical.extend_from_slice(b"\r\n");
        }
        let end = line.iter().rposition(|c| !matches!(c, b' ' | b'\t' | b'\r')).map_or(0, |last| last + 1);
        canonical.extend_from_slice(&line[..end]);
    }
    canonical
}

#[cfg(test)]
mod tests;
