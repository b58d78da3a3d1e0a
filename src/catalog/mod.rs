//! L2: what the repositories promise, as values. Path tables, units, their generations, and how raw
//! metadata becomes one.
//!
//! A *unit* is the smallest part of a repository whose metadata changes in one step: a deb suite, an
//! rpm-md repository, a directory with checksum files. A unit's *generation* is immutable; the snapshot of
//! a repository is the set of its units' current generations. Nothing here fetches, caches or logs.

mod draft;
mod snapshot;
mod table;
mod unit;

pub use draft::{Draft, IngestError, RootFile, Step, Warm};
pub use snapshot::{CatalogStats, Named, Snapshot};
pub use table::{PathTable, PathTableBuilder};
pub use unit::{Member, Root, Unit, UnitKey, UnitKind, by_hash_path};
