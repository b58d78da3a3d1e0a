//! L1: bytes to values and back. No I/O, no clock.
//!
//! Metadata of archives (deb822, Release, Packages, Sources, repomd, primary, checksum files), the HTTP
//! pieces that must behave alike at the server and at every volunteer (ranges, tickets), the control
//! messages between the two, authorities of URLs, and access-log lines. Everything read here may be hostile:
//! parsers return errors or skip and count, never panic, and leave path validation to
//! [`RepoPath`](crate::model::RepoPath).

pub mod access_log;
pub mod authority;
pub mod checksums;
pub mod clearsign;
pub mod compress;
pub mod control;
pub mod deb822;
mod entry;
pub mod packages;
pub mod primary;
pub mod range;
pub mod release;
pub mod repomd;
pub mod sources;
pub mod status;
pub mod ticket;
mod xml;

pub use entry::{Entry, FormatError, Package, Skipped};
