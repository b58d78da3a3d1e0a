//! The signed URL under which a volunteer serves a blob: `/b/<expiry>-<signature>/<sha256>/<file name>`, or
//! `/b/<expiry>-<signature>/<sha256>-<modified>/<file name>` where `Last-Modified` is another than the bytes
//! give: what stands under the client's path was replaced (both numbers are seconds since 1970).
//!
//! HMAC-SHA-256 (RFC 2104) under a key that the server shares with that one volunteer, over blob, size,
//! expiry and date, cut to 128 bits as RFC 2104 section 5 allows. The expiry bounds when a download may start, not
//! how long it may take. No query string: some proxies and web-seed rules drop URLs that have one.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model::{Blob, BlobId, VolunteerId};

/// Seconds from signing within which a download must start (DESIGN.md section 7).
pub const LIFETIME_SECS: u64 = 120;

const SIGNATURE_LEN: usize = 16;

/// Longest proof: a name of 63 characters, a ticket's 120, and a file name of 255 bytes, percent-encoded.
const MAX_PROOF: usize = 1000;

/// The secret of one volunteer, keyed once so that signing costs only two hash blocks.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    pub fn new(secret: &[u8; 32]) -> Self {
        // HMAC takes keys of any length, so this cannot fail.
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// The path under which the holder of this key serves `blob` until `expiry` (seconds since 1970), with the
    /// date that its bytes give. `file_name` is already percent-encoded.
    pub fn sign(&self, blob: Blob, expiry: u64, file_name: &str) -> String {
        self.sign_dated(blob, None, expiry, file_name)
    }

    /// The same with this `Last-Modified` (seconds since 1970).
    pub fn sign_dated(&self, blob: Blob, modified_secs: Option<u64>, expiry: u64, file_name: &str) -> String {
        use fmt::Write;
        // Most URLs need none, and stay short.
        let modified_secs = modified_secs.filter(|secs| *secs != blob.id.last_modified_secs());
        let mut path = String::with_capacity(130 + file_name.len());
        let signature = self.signature(blob, modified_secs, expiry);
        let _ = write!(path, "/b/{expiry}-{:032x}/", u128::from_be_bytes(signature));
        push_place(&mut path, blob.id, modified_secs, file_name);
        path
    }

    /// Whether this key signed the ticket for a blob of this size. Takes constant time.
    pub fn verifies(&self, ticket: &Ticket<'_>, size: u64) -> bool {
        let mut mac = self.0.clone();
        update(&mut mac, Blob { id: ticket.blob, size }, ticket.modified_secs, ticket.expiry);
        mac.verify_truncated_left(&ticket.signature).is_ok()
    }

    /// Proof of having this key: a code over a nonce, hexadecimal.
    pub fn proof(&self, nonce: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(b"manyhands/who/1");
        mac.update(nonce.as_bytes());
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        BlobId(full).to_string()
    }

    fn signature(&self, blob: Blob, modified_secs: Option<u64>, expiry: u64) -> [u8; SIGNATURE_LEN] {
        let mut mac = self.0.clone();
        update(&mut mac, blob, modified_secs, expiry);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut cut = [0; SIGNATURE_LEN];
        cut.copy_from_slice(&full[..SIGNATURE_LEN]);
        cut
    }
}

fn update(mac: &mut Hmac<Sha256>, blob: Blob, modified_secs: Option<u64>, expiry: u64) {
    mac.update(b"manyhands/b/1");
    mac.update(&blob.id.0);
    mac.update(&blob.size.to_be_bytes());
    mac.update(&expiry.to_be_bytes());
    // The lengths tell a ticket with a date from one without.
    if let Some(secs) = modified_secs {
        mac.update(&secs.to_be_bytes());
    }
}

/// `<sha256>/<file name>` or `<sha256>-<modified>/<file name>`: the end of a ticket, and where the server has
/// the same blob with the same date (below `/_blob/`).
fn push_place(out: &mut String, blob: BlobId, modified_secs: Option<u64>, file_name: &str) {
    use fmt::Write;
    blob.push_hex(out);
    if let Some(secs) = modified_secs {
        let _ = write!(out, "-{secs}");
    }
    out.push('/');
    out.push_str(file_name);
}

/// Reads `<sha256>` or `<sha256>-<modified>`.
pub fn parse_blob(segment: &str) -> Option<(BlobId, Option<u64>)> {
    match segment.split_once('-') {
        None => Some((segment.parse().ok()?, None)),
        Some((blob, secs)) => Some((blob.parse().ok()?, Some(number(secs)?))),
    }
}

/// Digits and nothing else, in their shortest form.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// A ticket as a request carries it; only [`Key::verifies`] says whether it is authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket<'a> {
    pub blob: BlobId,
    /// `Last-Modified`, where it is not the one that the bytes give.
    pub modified_secs: Option<u64>,
    pub expiry: u64,
    /// As it stands in the URL, percent-encoded.
    pub file_name: &'a str,
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> Ticket<'a> {
    /// Reads a request path; `None` if it does not have the form of a ticket.
    pub fn parse(path: &'a str) -> Option<Self> {
        let mut segments = path.strip_prefix("/b/")?.splitn(3, '/');
        let (expiry, signature) = segments.next()?.split_once('-')?;
        let (blob, modified_secs) = parse_blob(segments.next()?)?;
        let file_name = segments.next().filter(|name| !name.is_empty() && !name.contains('/'))?;
        let is_plain = |text: &str, len| text.len() == len && text.bytes().all(|c| c.is_ascii_hexdigit());
        if !is_plain(signature, 2 * SIGNATURE_LEN) || !expiry.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let signature = u128::from_str_radix(signature, 16).ok()?.to_be_bytes();
        Some(Self { blob, modified_secs, expiry: expiry.parse().ok()?, file_name, signature })
    }

    /// What the server has under `/_blob/` for this ticket.
    pub fn place(&self) -> String {
        let mut place = String::with_capacity(90 + self.file_name.len());
        push_place(&mut place, self.blob, self.modified_secs, self.file_name);
        place
    }

    pub fn is_expired(&self, now_secs: u64) -> bool {
        self.expiry < now_secs
    }
}

/// What a volunteer that fetches on order shows the server: its name, a space, and a ticket that it signed itself, for
/// size 0. As a request carries it; only [`Key::verifies`] says whether it is authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncProof<'a> {
    pub id: VolunteerId,
    pub ticket: Ticket<'a>,
}

impl<'a> SyncProof<'a> {
    /// Reads a header's value; `None` if it is malformed, or longer than any volunteer's.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, path) = text.split_once(' ').filter(|_| text.len() <= MAX_PROOF)?;
        Some(Self { id: id.parse().ok()?, ticket: Ticket::parse(path)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: Blob = Blob { id: BlobId([7; 32]), size: 4096 };

    #[test]
    fn a_signed_path_verifies_and_every_change_is_seen() {
        let key = Key::new(&[1; 32]);
        let path = key.sign(BLOB, 1_800_000_000, "libhands++_1%253a2.deb");
        let ticket = Ticket::parse(&path).expect("own form");
        assert_eq!(
            (ticket.blob, ticket.expiry, ticket.file_name),
            (BLOB.id, 1_800_000_000, "libhands++_1%253a2.deb")
        );
        assert!(key.verifies(&ticket, BLOB.size));
        assert!(!key.verifies(&ticket, BLOB.size + 1), "size");
        assert!(!Key::new(&[2; 32]).verifies(&ticket, BLOB.size), "key");
        assert!(!key.verifies(&Ticket { expiry: 1_800_000_001, ..ticket.clone() }, BLOB.size), "expiry");
        assert!(!key.verifies(&Ticket { blob: BlobId([8; 32]), ..ticket.clone() }, BLOB.size), "blob");
        assert!(ticket.is_expired(1_800_000_001) && !ticket.is_expired(1_800_000_000));
    }

    #[test]
    fn a_date_is_signed_too() {
        let key = Key::new(&[1; 32]);
        let path = key.sign_dated(BLOB, Some(1_790_000_000), 1_800_000_000, "a.deb");
        let place = format!("{}-1790000000/a.deb", BLOB.id);
        assert!(path.ends_with(&format!("/{place}")), "{path}");
        let ticket = Ticket::parse(&path).expect("own form");
        assert_eq!((ticket.modified_secs, ticket.place()), (Some(1_790_000_000), place));
        assert!(key.verifies(&ticket, BLOB.size));
        for modified_secs in [None, Some(1_790_000_001)] {
            assert!(!key.verifies(&Ticket { modified_secs, ..ticket.clone() }, BLOB.size));
        }
        let plain = key.sign(BLOB, 1_800_000_000, "a.deb");
        let ticket = Ticket::parse(&plain).expect("own form");
        assert!(!key.verifies(&Ticket { modified_secs: Some(1_790_000_000), ..ticket.clone() }, BLOB.size));
        assert_eq!((ticket.modified_secs, ticket.place()), (None, format!("{}/a.deb", BLOB.id)));
        let default = Some(BLOB.id.last_modified_secs());
        assert_eq!(key.sign_dated(BLOB, default, 1_800_000_000, "a.deb"), plain);
    }

    #[test]
    fn refuses_other_forms() {
        let id = "07".repeat(32);
        let signature = "0".repeat(32);
        for bad in [
            "/".to_owned(),
            "/b/".to_owned(),
            format!("/b/1-{signature}/{id}"),
            format!("/b/1-{signature}/{id}/"),
            format!("/b/1-{signature}/{id}/a/b"),
            format!("/b/1-+{}/{id}/a", &signature[1..]),
            format!("/b/+1-{signature}/{id}/a"),
            format!("/b/99999999999999999999-{signature}/{id}/a"),
            format!("/b/1-{signature}/{}/a", &id[2..]),
            format!("/b/1-{signature}/{id}-/a"),
            format!("/b/1-{signature}/{id}-01/a"),
            format!("/b/1-{signature}/{id}-+1/a"),
            format!("/b/1-{signature}/{id}-1-1/a"),
            format!("/b/1-{signature}/{id}-99999999999999999999/a"),
        ] {
            assert_eq!(Ticket::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_a_proof_and_nothing_else() {
        let path = Key::new(&[1; 32]).sign(Blob { size: 0, ..BLOB }, 1_800_000_000, "a.deb");
        let text = format!("v1 {path}");
        let proof = SyncProof::parse(&text).expect("own form");
        assert_eq!(proof.id.as_str(), "v1");
        assert!(Key::new(&[1; 32]).verifies(&proof.ticket, 0));
        let long = format!("v1 {path}{}", "a".repeat(MAX_PROOF));
        for bad in
            ["", "v1", &path, &format!("V1 {path}"), &format!(" {path}"), &format!("v1  {path}"), &long]
        {
            assert_eq!(SyncProof::parse(bad), None, "{bad}");
        }
    }
}
