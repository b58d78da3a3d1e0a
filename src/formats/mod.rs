//! L1: bytes to values and back. No I/O, no clock.
//!
//! Metadata of archives (deb822, Release, Packages, Sources, diff indexes, repomd, primary, prestodelta,
//! treeinfo, checksum files) and the OpenPGP signatures over it, the HTTP pieces that must behave alike at
//! the server and at every volunteer (ranges, preconditions, tickets), the control messages between the two, authorities
//! of URLs and credentials in them, metalinks, dates of certificates, DNS messages of the failover zone, and
//! access-log lines. Everything read here may be hostile: parsers return errors or skip and count, never panic, and leave path validation to
//! [`RepoPath`](crate::model::RepoPath).

pub mod access_log;
mod apt_date;
pub mod authority;
pub mod byteranges;
pub mod checksums;
pub mod clearsign;
pub mod compress;
pub mod conditions;
pub mod control;
pub mod credentials;
pub mod deb822;
pub mod directory;
mod encoding;
mod entry;
pub mod metalink;
pub mod openpgp;
pub mod packages;
pub mod pdiff;
pub mod prestodelta;
pub mod primary;
pub mod range;
pub mod release;
pub mod repomd;
pub mod sources;
pub mod status;
pub mod ticket;
pub mod treeinfo;
pub mod validity;
mod xml;
pub mod zone;

pub use entry::{Entry, FormatError, Package, Skipped};

#[cfg(test)]
mod hostile_tests;
