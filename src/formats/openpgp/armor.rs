//! ASCII armor (RFC 9580 section 6.2): takes the packets out, or passes binary ones through.
//!
//! A file may hold several armor blocks in a row; text between them is nobody's. The checksum is not looked
//! at, as the RFC demands.

use std::borrow::Cow;
use std::io::Read;

use pgp::armor::Dearmor;

use super::super::clearsign;
use super::super::entry::FormatError;
use super::SignatureError;

/// What the armor says it holds; other blocks are passed over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    PublicKey,
    Signature,
}

impl Kind {
    fn frame(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::PublicKey => {
                (b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----")
            }
            Self::Signature => (b"-----BEGIN PGP SIGNATURE-----", b"-----END PGP SIGNATURE-----"),
        }
    }
}

/// The packets of each block; a binary file is one. The error describes the fault in the armor.
pub(super) fn blocks(bytes: &[u8], kind: Kind) -> Vec<Result<Cow<'_, [u8]>, String>> {
    // The first bit of every packet is set, and of no ASCII character.
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        return Vec::from([Ok(Cow::Borrowed(bytes))]);
    }
    let (begin, end) = kind.frame();
    let (mut found, mut start) = (Vec::new(), None);
    for line in clearsign::lines(bytes) {
        if line.is(begin) {
            start = Some(line.offset);
        } else if line.is(end)
            && let Some(start) = start.take()
        {
            found.push(dearmor(&bytes[start..line.offset + line.text.len()]).map(Cow::Owned));
        }
    }
    if start.is_some() {
        found.push(Err("an armor block has no end".into()));
    }
    found
}

/// Refuses what is more than armored signatures, one directly after the other, as apt's gpgv method does.
pub(super) fn check_alone(bytes: &[u8]) -> Result<(), SignatureError> {
    let (begin, end) = Kind::Signature.frame();
    let mut is_open = false;
    for (line, number) in clearsign::lines(bytes).zip(1..) {
        let problem = match is_open {
            false if line.is(begin) => {
                is_open = true;
                continue;
            }
            false => "no part of an armored signature",
            true if line.is(end) => {
                is_open = false;
                continue;
            }
            true if line.text.starts_with(b"-") => "a dash within a signature",
            true => continue,
        };
        let problem = problem.into();
        return Err(FormatError::Line { format: "Release.gpg", line: number, problem }.into());
    }
    match is_open || bytes.is_empty() {
        true => Err(SignatureError::Unreadable { problem: "an armor block has no end".to_owned() }),
        false => Ok(()),
    }
}

fn dearmor(block: &[u8]) -> Result<Vec<u8>, String> {
    let block = usual_form(block);
    let mut packets = Vec::with_capacity(block.len());
    let read = Dearmor::new(block.as_slice()).read_to_end(&mut packets);
    // What the crate says besides is the input.
    read.map_err(|_| "it is not base64 between armor lines".to_owned())?;
    Ok(packets)
}

/// gpg takes armor with blanks after its first line, and without the empty line above the data.
fn usual_form(block: &[u8]) -> Vec<u8> {
    let mut lines = block.split_inclusive(|&c| c == b'\n');
    let mut usual = lines.next().unwrap_or_default().trim_ascii_end().to_vec();
    usual.push(b'\n');
    let mut is_header = true;
    for line in lines {
        let is_empty = line.trim_ascii().is_empty();
        if is_header && !is_empty && !line.contains(&b':') {
            usual.push(b'\n');
        }
        is_header &= !is_empty && line.contains(&b':');
        usual.extend_from_slice(line);
    }
    usual
}
