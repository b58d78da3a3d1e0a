//! Packages: their bytes, and who sends them.
//!
//! [`package`] has a file that metadata names sent by a volunteer or from the cache, [`tree`] reads it from a local
//! tree, [`alternatives`] finds out which is meant where metadata names several. [`passthrough`] answers for files
//! that no metadata names, with [`learnt`] and [`passed`], which find out what those are. [`lists`] and [`mirrors`]
//! are for clients that take several URLs. [`representation`] says how a package looks in HTTP, [`serving`] counts
//! the downloads that run, [`aliases`] finds the SHA-256 of files that metadata names otherwise, and [`tree_scrub`]
//! reads local trees again, for bytes that have gone bad.

pub mod aliases;
pub mod alternatives;
pub mod learnt;
pub mod lists;
pub mod mirrors;
pub mod package;
pub mod passed;
pub mod passthrough;
pub mod representation;
pub mod serving;
pub mod tree;
pub mod tree_scrub;
