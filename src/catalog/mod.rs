//! L2: what the repositories promise, as values. Path tables, units, their generations, and how raw
//! metadata becomes one.
//!
//! A *unit* is the smallest part of a repository whose metadata changes in one step: a deb suite, an
//! rpm-md repository, a directory with checksum files. A unit's *generation* is immutable; the snapshot of
//! a repository is the set of its units' current generations. Nothing here fetches, caches or logs.

mod builder;
mod census;
mod dates;
mod diff;
mod draft;
mod error;
mod flaws;
mod index;
mod members;
mod refusals;
mod sink;
mod snapshot;
mod table;
mod trust;
mod unit;
mod warm;

pub use builder::PathTableBuilder;
pub use census::{Census, LARGE, Pair, Totals};
pub use dates::Dates;
pub use diff::{Diff, NewPath};
pub use draft::{Draft, RootFile, Step};
pub use error::IngestError;
pub use flaws::{Bounds, Flaw, Whole, obstacle};
pub use index::{IndexError, decode as decode_unit, encode as encode_unit};
pub use members::Unproven;
pub use snapshot::{Named, Package, Snapshot};
pub use table::{Cursor, PathTable};
pub use trust::{Trust, TrustError, without_stale};
pub use unit::{Root, Unit, UnitKey, UnitKind, by_hash_digest, by_hash_path};
pub use warm::{Needed, Warm, stem_of};
