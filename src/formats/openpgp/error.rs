//! Why a keyring cannot be read and why a signature does not count, in words for an administrator.

use super::super::entry::FormatError;

/// Why a file is not a keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("this is a GnuPG keybox: export it with gpg --no-default-keyring --keyring FILE --export")]
    Keybox,
    #[error("it holds no OpenPGP public key (gpg --export KEY writes one)")]
    Empty,
    #[error("it holds no usable OpenPGP public key: {problem}")]
    Unusable { problem: String },
    #[error("its ASCII armor is broken: {problem}")]
    Armor { problem: String },
    #[error("it has more than {limit} bytes: export only the archive's keys")]
    TooLarge { limit: usize },
    #[error("it has more than {limit} certificates: export only the archive's keys")]
    TooMany { limit: usize },
}

/// Why a file does not count as signed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("there is no signature")]
    NotSigned,
    #[error(transparent)]
    Frame(#[from] FormatError),
    #[error("the text has a line of blanks, which signatures and readers treat differently")]
    BlankLine,
    #[error("the signature cannot be read: {problem}")]
    Unreadable { problem: String },
    #[error("the signature has more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("there are more than {limit} signatures")]
    TooMany { limit: usize },
    /// Each signature with its reason, in the file's order; never empty.
    #[error("{}", list(refusals))]
    Refused { refusals: Vec<Refusal> },
}

/// One signature that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Fingerprint or key id in upper-case hexadecimal, as the signature or the keyring names the key.
    pub key: String,
    pub reason: Reason,
}

/// Why a signature does not count. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("the key is not in the keyring")]
    UnknownKey,
    #[error("the signature does not match the text")]
    Bad,
    #[error("the key was revoked")]
    KeyRevoked,
    #[error("the key expired on {}", date(*since))]
    KeyExpired { since: u64 },
    /// It lacks a valid self-signature, a subkey its binding in both directions.
    #[error("the key is not bound to its certificate")]
    KeyUnbound,
    #[error("the key is not meant for signing")]
    KeyNotForSigning,
    #[error("the signature was made in the future, on {}: check the clocks", date(*created))]
    Future { created: u64 },
    #[error("the signature was made before its key")]
    BeforeKey,
    #[error("the signature expired on {}", date(*since))]
    Expired { since: u64 },
    #[error("its digest {digest} is too weak")]
    WeakDigest { digest: String },
    #[error("{problem}")]
    Unsupported { problem: String },
}

fn list(refusals: &[Refusal]) -> String {
    if refusals.iter().all(|refusal| refusal.reason == Reason::UnknownKey) {
        let keys: Vec<&str> = refusals.iter().map(|refusal| refusal.key.as_str()).collect();
        return format!("signed only by keys that are not in the keyring: {}", keys.join(", "));
    }
    let each: Vec<String> =
        refusals.iter().map(|refusal| format!("signature by {}: {}", refusal.key, refusal.reason)).collect();
    each.join("; ")
}

fn date(secs: u64) -> String {
    let timestamp = i64::try_from(secs).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    timestamp.map_or_else(|| format!("{secs} s after 1970"), |timestamp| timestamp.to_string())
}
