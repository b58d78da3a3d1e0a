//! Packages: their bytes, and who sends them.
//!
//! [`package`] has a file that metadata names sent by a volunteer or from the cache, [`tree`] reads it from a local
//! tree, [`alternatives`] finds out which is meant where metadata names several. [`passthrough`] answers for files
//! that no metadata names, with [`learnt`] and [`passed`], which find out what those are. [`lists`] and [`mirrors`]
//! are for clients that take several URLs. [`representation`] says how a package looks in HTTP, [`serving`] counts
//! the downloads that run, [`aliases`] finds the SHA-256 of files that metadata names otherwise, and [`tree_scrub`]
//! reads local trees again, for bytes that have gone bad. [`by_hash`] is the way in for volunteers.
//!
//! What these remember stands below them: [`settled`] of alternatives, [`places`] of what was learnt,
//! [`passed_files`] of what was passed through, [`metalink_hold`] of clients with a metalink.

pub mod aliases;
pub mod alternatives;
pub mod by_hash;
pub mod learnt;
pub mod lists;
pub mod metalink_hold;
pub mod mirrors;
pub mod package;
pub mod passed;
pub mod passed_files;
pub mod passthrough;
pub mod places;
pub mod representation;
pub mod serving;
pub mod settled;
pub mod tree;
pub mod tree_scrub;
