//! What a certificate says of its keys at a point in time: bound, revoked, expired, meant for signing.
//!
//! Follows GnuPG: the newest self-signature counts, one over the key alone before one over a user id; a
//! primary key that is bad makes its subkeys bad. User ids and their revocations do not matter. Bindings by
//! SHA-1 count, unlike metadata signed so: many keys in use have no others, and the file that holds them is
//! the administrator's own.

use pgp::composed::{SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, PublicKey, PublicSubkey, Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag};

use super::Reason;

/// A primary key or a subkey.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key<'a> {
    Primary(&'a PublicKey),
    Subkey(&'a SignedPublicSubKey),
}

impl<'a> Key<'a> {
    /// The primary key, then the subkeys.
    pub(super) fn all(certificate: &'a SignedPublicKey) -> impl Iterator<Item = Self> {
        let subkeys = certificate.public_subkeys.iter().map(Self::Subkey);
        std::iter::once(Self::Primary(&certificate.primary_key)).chain(subkeys)
    }

    pub(super) fn details(self) -> &'a dyn KeyDetails {
        match self {
            Self::Primary(key) => key,
            Self::Subkey(subkey) => &subkey.key,
        }
    }

    pub(super) fn verify(self, signature: &Signature, data: &[u8]) -> pgp::errors::Result<()> {
        match self {
            Self::Primary(key) => signature.verify(key, data),
            Self::Subkey(subkey) => signature.verify(&subkey.key, data),
        }
    }

    /// Whether signatures by this key count at a time, in seconds since 1970.
    pub(super) fn check(self, certificate: &SignedPublicKey, now: u64) -> Result<(), Reason> {
        let primary = &certificate.primary_key;
        let revoked = certificate.details.revocation_signatures.iter().any(|signature| {
            signature.typ() == Some(SignatureType::KeyRevocation) && signature.verify_key(primary).is_ok()
        });
        if revoked {
            return Err(Reason::KeyRevoked);
        }
        let selves = self_signatures(certificate, now);
        not_expired(primary, &selves, now)?;
        match self {
            Self::Primary(_) => for_signing(primary, &selves),
            Self::Subkey(subkey) => check_subkey(primary, subkey, now),
        }
    }
}

fn check_subkey(primary: &PublicKey, subkey: &SignedPublicSubKey, now: u64) -> Result<(), Reason> {
    // The two kinds cover the same bytes but for their own type.
    let of_type = |typ: SignatureType| {
        subkey.signatures.iter().filter(move |signature| {
            signature.typ() == Some(typ) && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
        })
    };
    if of_type(SignatureType::SubkeyRevocation).next().is_some() {
        return Err(Reason::KeyRevoked);
    }
    let binding: Vec<&Signature> = newest(of_type(SignatureType::SubkeyBinding), now).into_iter().collect();
    not_expired(&subkey.key, &binding, now)?;
    for_signing(&subkey.key, &binding)?;
    let agrees = binding.iter().any(|binding| agrees_to_be_bound(primary, &subkey.key, binding, now));
    if agrees { Ok(()) } else { Err(Reason::KeyUnbound) }
}

/// Without the subkey's own consent a certificate could claim a stranger's key as its subkey.
fn agrees_to_be_bound(primary: &PublicKey, subkey: &PublicSubkey, binding: &Signature, now: u64) -> bool {
    binding.embedded_signature().is_some_and(|back| {
        back.typ() == Some(SignatureType::KeyBinding)
            && may_bind(back, now)
            && back.verify_primary_key_binding(subkey, primary).is_ok()
    })
}

/// The newest valid signature by the primary key over itself, then the newest one over a user id.
fn self_signatures(certificate: &SignedPublicKey, now: u64) -> Vec<&Signature> {
    let (primary, details) = (&certificate.primary_key, &certificate.details);
    let direct = details.direct_signatures.iter().filter(|signature| {
        signature.typ() == Some(SignatureType::Key) && signature.verify_key(primary).is_ok()
    });
    let users = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && signature.typ() != Some(SignatureType::CertRevocation)
                && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
        })
    });
    newest(direct, now).into_iter().chain(newest(users, now)).collect()
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>, now: u64) -> Option<&'a Signature> {
    signatures.filter(|signature| may_bind(signature, now)).max_by_key(|signature| created(signature))
}

fn may_bind(signature: &Signature, now: u64) -> bool {
    let broken = matches!(signature.hash_alg(), None | Some(HashAlgorithm::Md5 | HashAlgorithm::Ripemd160));
    !broken && expiry(signature).is_none_or(|end| now < end)
}

/// A key without any valid self-signature is not bound.
fn not_expired(key: &impl KeyDetails, selves: &[&Signature], now: u64) -> Result<(), Reason> {
    if selves.is_empty() {
        return Err(Reason::KeyUnbound);
    }
    let lifetime = selves.iter().find_map(|signature| signature.key_expiration_time());
    let since = lifetime.and_then(|lifetime| end(key.created_at().as_secs(), lifetime.as_secs()));
    match since {
        Some(since) if since <= now => Err(Reason::KeyExpired { since }),
        _ => Ok(()),
    }
}

fn for_signing(key: &impl KeyDetails, selves: &[&Signature]) -> Result<(), Reason> {
    let flags = selves.iter().find_map(|signature| flags(signature));
    let signs = key.algorithm().can_sign() && flags.is_none_or(KeyFlags::sign);
    if signs { Ok(()) } else { Err(Reason::KeyNotForSigning) }
}

fn flags(signature: &Signature) -> Option<&KeyFlags> {
    signature.config()?.hashed_subpackets().find_map(|packet| match &packet.data {
        SubpacketData::KeyFlags(flags) => Some(flags),
        _ => None,
    })
}

/// When a signature was made, in seconds since 1970.
pub(super) fn created(signature: &Signature) -> Option<u64> {
    signature.created().map(|created| u64::from(created.as_secs()))
}

/// When a signature ceases to count, in seconds since 1970; `None` is never.
pub(super) fn expiry(signature: &Signature) -> Option<u64> {
    end(signature.created()?.as_secs(), signature.signature_expiration_time()?.as_secs())
}

/// RFC 9580 sections 5.2.3.13 and 5.2.3.18: zero is no expiry.
fn end(created: u32, lifetime: u32) -> Option<u64> {
    (lifetime != 0).then(|| u64::from(created) + u64::from(lifetime))
}

/// Adds what another copy of the same certificate says.
pub(super) fn merge(known: &mut SignedPublicKey, new: SignedPublicKey) {
    let (details, added) = (&mut known.details, new.details);
    extend(&mut details.revocation_signatures, added.revocation_signatures);
    extend(&mut details.direct_signatures, added.direct_signatures);
    for user in added.users {
        match details.users.iter_mut().find(|known| known.id == user.id) {
            Some(known) => extend(&mut known.signatures, user.signatures),
            None => details.users.push(user),
        }
    }
    for subkey in new.public_subkeys {
        match known.public_subkeys.iter_mut().find(|known| known.key == subkey.key) {
            Some(known) => extend(&mut known.signatures, subkey.signatures),
            None => known.public_subkeys.push(subkey),
        }
    }
}

fn extend(known: &mut Vec<Signature>, new: Vec<Signature>) {
    for signature in new {
        if !known.contains(&signature) {
            known.push(signature);
        }
    }
}
