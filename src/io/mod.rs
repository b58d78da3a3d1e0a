//! L3: everything that touches the world. Files, sockets, clock, database. No policy.
//!
//! [`store`] is the only place where blobs come to exist, and [`fetch`] the only one that pulls from
//! upstreams into it. [`respond`] answers GET, HEAD, ranges and conditions alike for server and volunteers.

pub mod access;
pub mod body;
pub mod clock;
pub mod config_file;
pub mod confined;
pub mod db;
pub mod dns;
pub mod endings;
pub mod fetch;
pub mod handover;
pub mod hasher;
pub mod hush;
pub mod index_dir;
pub mod inside;
pub mod listen;
pub mod manager;
pub mod patience;
pub mod regular;
pub mod respond;
pub mod scrub;
pub mod shaper;
pub mod shutdown;
pub mod sockets;
pub mod store;
pub mod tokens;
pub mod tree_hashes;
pub mod tunnel;
pub mod upstream;
pub mod withdrawn;
