//! One signature: read from its packet, and judged against the keyring.

use pgp::composed::SignedPublicKey;
use pgp::crypto::hash::HashAlgorithm;
use pgp::errors::Error;
use pgp::packet::{PacketParser, Signature, SignatureType, SignatureVersion, SubpacketData};
use pgp::types::{KeyDetails, Tag};

use super::super::entry::excerpt;
use super::certificate::{Key, created, expiry};
use super::{CLOCK_DIFFERENCE_SECS, Reader, Reason, Refusal, SignatureError, Signer};

/// Why a signature cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PacketError {
    #[error("the packet is longer than its signature")]
    TooLong,
    #[error("{problem}")]
    Malformed { problem: String },
}

/// A signature, or why its packet holds none that can be read, such as one of a newer version.
pub(super) type Read = Result<Signature, PacketError>;

/// Reads the signatures of a block. Other packets are refused: a signed message, say, carries its own text,
/// which is not the data beside it.
pub(super) fn read(packets: &[u8], found: &mut Vec<Read>) -> Result<(), SignatureError> {
    let unreadable = |problem: String| SignatureError::Unreadable { problem };
    let mut parser = PacketParser::new(packets);
    while let Some(body) = parser.next_ref() {
        let mut body = body.map_err(|error| unreadable(excerpt(&error.to_string())))?;
        let header = body.packet_header();
        if header.tag() != Tag::Signature {
            return Err(unreadable(format!("it holds a packet of type {}", u8::from(header.tag()))));
        }
        let signature = Signature::try_from_reader(header, &mut body);
        let rest =
            std::io::copy(&mut body, &mut std::io::sink()).map_err(|error| unreadable(error.to_string()))?;
        found.push(match signature {
            Ok(signature) if rest == 0 => Ok(signature),
            Ok(_) => Err(PacketError::TooLong),
            Err(error) => Err(PacketError::Malformed { problem: excerpt(&error.to_string()) }),
        });
    }
    Ok(())
}

/// Whether this can be a signature over `data`. That takes no key: a signature carries the first two bytes of
/// the digest that was signed (RFC 9580 section 5.2.3). `None` if it cannot be said.
pub(super) fn fits(signature: &Signature, data: &[u8]) -> Option<bool> {
    let config = signature.config().filter(|config| config.version() == SignatureVersion::V4)?;
    let mut hasher = config.hash_alg.new_hasher().ok()?;
    config.hash_data_to_sign(&mut hasher, data).ok()?;
    let len = config.hash_signature_data(&mut hasher).ok()?;
    hasher.update(&config.trailer(len).ok()?);
    Some(hasher.finalize()[..2] == signature.signed_hash_value()?)
}

/// Says who made a signature over `data`, or why it does not count.
pub(super) fn judge(
    certificates: &[SignedPublicKey],
    signature: &Signature,
    data: &[u8],
    now: u64,
    reader: Reader,
) -> Result<Signer, Refusal> {
    let keys: Vec<(&SignedPublicKey, Key<'_>)> = certificates
        .iter()
        .flat_map(|certificate| Key::all(certificate).map(move |key| (certificate, key)))
        .filter(|(_, key)| is_issuer(signature, key.details()))
        .collect();
    let refused = |reason| Refusal { key: issuer(signature), reason };
    let Some((first, others)) = keys.split_first() else {
        return Err(refused(Reason::UnknownKey));
    };
    let made = check_form(signature, reader).map_err(refused)?;
    // Several keys may share a key id, and one key may be a part of several certificates.
    let mut judged = judge_by(*first, signature, made, data, now);
    for other in others {
        judged = judged.or_else(|reason| match judge_by(*other, signature, made, data, now) {
            Err(Reason::Bad) => Err(reason),
            better => better,
        });
    }
    judged.map_err(|reason| Refusal { key: hex(first.1.details()), reason })
}

fn judge_by(
    (certificate, key): (&SignedPublicKey, Key<'_>),
    signature: &Signature,
    made: u64,
    data: &[u8],
    now: u64,
) -> Result<Signer, Reason> {
    match key.verify(signature, data) {
        Ok(()) => {}
        Err(Error::Unsupported { message, .. } | Error::Unimplemented { message, .. }) => {
            return Err(Reason::Unsupported { problem: excerpt(&message) });
        }
        Err(_) => return Err(Reason::Bad),
    }
    key.check(certificate, now)?;
    check_times(signature, made, u64::from(key.details().created_at().as_secs()), now)?;
    let user = certificate.details.users.first();
    Ok(Signer {
        fingerprint: hex(key.details()),
        primary: hex(&certificate.primary_key),
        user: user.map(|user| excerpt(&String::from_utf8_lossy(user.id.id()))).unwrap_or_default(),
        created: made,
    })
}

/// What can be said without a key; gives the time at which the signature was made.
fn check_form(signature: &Signature, reader: Reader) -> Result<u64, Reason> {
    let unsupported = |problem: &str| Err(Reason::Unsupported { problem: problem.into() });
    let Some(config) = signature.config() else {
        return unsupported("the version of the signature is not supported");
    };
    if !matches!(config.version(), SignatureVersion::V4 | SignatureVersion::V6) {
        return unsupported("the version of the signature is not supported");
    }
    if !matches!(config.typ(), SignatureType::Binary | SignatureType::Text) {
        return unsupported("it is not a signature over a file");
    }
    // RFC 9580 section 5.2.3.7: who does not understand a critical part must not accept the signature.
    let critical = |data: &SubpacketData| matches!(data, SubpacketData::Notation(_));
    if config.hashed_subpackets().any(|packet| packet.is_critical && critical(&packet.data)) {
        return unsupported("it has a critical notation");
    }
    match config.hash_alg {
        HashAlgorithm::Sha224
        | HashAlgorithm::Sha256
        | HashAlgorithm::Sha384
        | HashAlgorithm::Sha512
        | HashAlgorithm::Sha3_256
        | HashAlgorithm::Sha3_512 => {}
        HashAlgorithm::Sha1 if reader == Reader::Librepo => {}
        HashAlgorithm::Md5 | HashAlgorithm::Sha1 | HashAlgorithm::Ripemd160 => {
            return Err(Reason::WeakDigest { digest: config.hash_alg.to_string() });
        }
        _ => return unsupported("its digest is not supported"),
    }
    match created(signature) {
        Some(made) => Ok(made),
        None => unsupported("it does not say when it was made"),
    }
}

fn check_times(signature: &Signature, made: u64, key_made: u64, now: u64) -> Result<(), Reason> {
    if made < key_made {
        return Err(Reason::BeforeKey);
    }
    if made > now.saturating_add(CLOCK_DIFFERENCE_SECS) {
        return Err(Reason::Future { created: made });
    }
    match expiry(signature) {
        Some(since) if since <= now => Err(Reason::Expired { since }),
        _ => Ok(()),
    }
}

/// A signature that names no issuer is nobody's, as with GnuPG: trying every key would let one file cost
/// the work of hundreds.
fn is_issuer(signature: &Signature, key: &dyn KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        let id = key.legacy_key_id();
        return signature.issuer_key_id().contains(&&id);
    }
    fingerprints.contains(&&key.fingerprint())
}

fn issuer(signature: &Signature) -> String {
    if let Some(fingerprint) = signature.issuer_fingerprint().first() {
        return fingerprint.to_string().to_uppercase();
    }
    match signature.issuer_key_id().first() {
        Some(id) => id.to_string().to_uppercase(),
        None => "an unnamed key".to_owned(),
    }
}

fn hex(key: &(impl KeyDetails + ?Sized)) -> String {
    key.fingerprint().to_string().to_uppercase()
}
