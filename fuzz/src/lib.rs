//! What the fuzzer and `tests/corpora.rs` feed to the parsers, and what must be so whatever they are fed.
//!
//! Each function takes any bytes, panics where a promise is broken, and gives the number of values that
//! were read: 0 is a refusal. The bytes of most targets are a document as its parser takes it. Where a
//! target takes several documents, [`SEPARATOR`] stands between them.

mod bytes_in;
mod catalog;
mod dns;
mod messages;
mod metadata;
mod requests;
mod signing;

pub use bytes_in::compress;
pub use catalog::{draft, tables};
pub use dns::dns;
pub use messages::{config, control};
pub use metadata::{checksums, deb_indexes, release, rpm_indexes};
pub use requests::{door, http};
pub use signing::{keyring, signature};

/// Feeds one input; see the module's documentation.
pub type Feed = fn(&[u8]) -> usize;

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Feed); 14] = [
    ("checksums", checksums),
    ("compress", compress),
    ("config", config),
    ("control", control),
    ("deb_indexes", deb_indexes),
    ("dns", dns),
    ("door", door),
    ("draft", draft),
    ("http", http),
    ("keyring", keyring),
    ("release", release),
    ("rpm_indexes", rpm_indexes),
    ("signature", signature),
    ("tables", tables),
];

/// A line that stands between the documents of one input.
const SEPARATOR: &[u8] = b"\n%%\n";

/// The first document, and what follows its separator.
fn first_part(data: &[u8]) -> (&[u8], Option<&[u8]>) {
    match data.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        Some(at) => (&data[..at], Some(&data[at + SEPARATOR.len()..])),
        None => (data, None),
    }
}

/// All documents of an input.
fn parts(data: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), Some(data));
    while let Some(data) = rest {
        let (first, more) = first_part(data);
        parts.push(first);
        rest = more;
    }
    parts
}
