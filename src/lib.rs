//! manyhands: a package-mirror proxy for apt and yum/dnf whose downloads are carried by volunteers.
//!
//! Layers; a module imports only from those above it in this list (`tests/tidy.rs` checks it):
//!
//! | layer | module | what |
//! |---|---|---|
//! | L0 | [`model`] | digests, blobs, volunteers, paths, sizes, time |
//! | L1 | [`formats`], [`config`] | bytes and text to values and back |
//! | L2 | [`catalog`], [`policy`] | what is published; who serves and holds it |
//! | L3 | [`io`] | store, fetcher, sockets, database, clock |
//! | L4 | [`roles`] | one module per subcommand |
//! | L5 | [`cli`] | arguments |
//!
//! L0 to L2 are deterministic: no clock, no randomness of their own, no I/O.
//!
//! # One `GET /debian/pool/main/h/hello.deb`, followed through
//!
//! 1. `io::listen` accepts and reads the request; `roles::serve::http` takes its target apart into a
//!    repository and a [`model::RepoPath`].
//! 2. [`catalog::Snapshot::package`] says what the path must be: size and digest, from the metadata that
//!    `roles::serve::metadata` verified and adopted earlier.
//! 3. `roles::serve::packages` asks [`policy::Policy::decide`] who should answer. `policy::redirect` looks up the
//!    holders and scores them by what `policy::fleet` knows of each; where `policy::demand` says that the file is
//!    wanted, `policy::placement` may order more copies.
//! 4. A volunteer: [`formats::ticket`] signs a URL and the client gets a 302. The volunteer's
//!    `roles::volunteer::http` checks the signature and sends the file from [`io::store`], shaped by
//!    [`io::shaper`].
//! 5. The server: from the cache, or the local tree, or [`io::fetch`] pulls it from upstream into the
//!    verified store while the client already reads. The new blob is placed on a volunteer for the next one
//!    who asks.
//!
//! Of a file that no metadata names, `learnt` and `passed` in `roles::serve::packages` find out in step 2 what it is.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod formats;
pub mod io;
pub mod model;
pub mod policy;
pub mod roles;
